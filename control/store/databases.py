"""Which database a URL names, and what the store needs of one: all that differs stands behind it.

`sqlite` and `postgres` each have one class. Tables, migrations and statements are the same on both.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from control.store.faults import StoreError
from control.store.sqlite import Sqlite

EXPECTED = (
    "sqlite:///<path of the file> or postgresql+psycopg://<user>:<password>@<host>/<database>"
)


class Database(Protocol):
    """Engines for readers, who see one state of the database each, and for the only writer.

    A writer's transaction waits at its beginning until no other one runs, in whatever process: what
    it reads stays true until its end, and commits are in the order of what they number.
    """

    readers: Engine
    writer: Engine  # of one connection
    shared: bool  # whether several control planes may be started on it

    def migrating(self) -> AbstractContextManager[Connection]:
        """A writer's transaction that may take long.

        Raises:
            StoreError: the database is not one that can hold our tables.
        """

    def hold(self, regained: Callable[[Connection], None]) -> None:
        """From now on write only as the one control plane of this database.

        `regained` is called in the first transaction after the hold was lost and taken again.

        Raises:
            HeldElsewhere: another one is; later writes say so too.
        """


def open_database(url: str) -> Database:
    """The database that DATABASE_URL names; connects at the first use.

    Raises:
        StoreError: not a URL of a database that is supported.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError(f"DATABASE_URL: expected {EXPECTED}") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return Sqlite(parsed)
    if backend == "postgresql":
        from control.store.postgres import Postgres  # which loads a driver that SQLite needs not

        return Postgres(parsed)
    raise StoreError(f"DATABASE_URL: {backend} is not supported; expected {EXPECTED}")


def shown(url: URL) -> str:
    """The URL as an error or a log may show it: a password may stand in the query too."""
    return url.set(query={}).render_as_string(hide_password=True)
