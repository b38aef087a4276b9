"""The database of a test: a new SQLite file, or with `pytest --database postgres` a new database of
a PostgreSQL server that this process starts.

Migrated once a process, then copied: to migrate takes longer than most tests.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet, MultiFernet
from sqlalchemy import inspect

from control.store import Store
from tests.postgres import Server, find_binaries, running_server

KINDS = ("sqlite", "postgres")
KEYRING = MultiFernet([Fernet(Fernet.generate_key())])  # what is copied was written under it

kind = "sqlite"  # of this run
at_end = contextlib.ExitStack()  # of this process
_numbers = itertools.count()
_made: list[str] = []  # names of databases, those used last at the end
_KEPT = 5  # of them: no test uses more at a time without a connection to each

# For tests that start a server whatever the run is on.
needs_postgres = pytest.mark.skipif(
    find_binaries() is None, reason="needs PostgreSQL: apt-get install postgresql"
)
only_sqlite = pytest.mark.skipif("config.option.database != 'sqlite'", reason="about SQLite")


@cache
def server() -> Server:
    """This process's PostgreSQL server."""
    return at_end.enter_context(running_server())


def empty_url(folder: Path) -> str:
    """The URL of a new database without any tables, in `folder` if it is a file."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'narthex.db'}"
    return _created("template0")


def new_store(folder: Path) -> Store:
    """A store on a new database that has been migrated, under KEYRING."""
    return Store(new_url(folder), KEYRING)


def new_url(folder: Path) -> str:
    if kind == "sqlite":
        path = folder / "narthex.db"
        shutil.copy(_migrated_file(), path)
        return f"sqlite:///{path}"
    return new_postgres_url()


def new_postgres_url() -> str:
    """A migrated database on PostgreSQL, whatever the run is on."""
    return _emptied() or _created(_migrated_database())


def _created(template: str) -> str:
    """The URL of a new database."""
    _made.append(f"test_{next(_numbers)}")
    return server().create(_made[-1], template)


def _emptied() -> str | None:
    """The URL of a database that earlier tests made and left as a migrated one; none may be."""
    with server().connect() as session:
        in_use = "SELECT datname FROM pg_stat_activity WHERE datname IS NOT NULL"
        busy = {name for (name,) in session.execute(in_use)}
    for name in [name for name in _made[:-_KEPT] if name not in busy]:
        _made.remove(name)
        if _empty(name):
            _made.append(name)
            return server().url(name)
    return None


def _empty(name: str) -> bool:
    """Put a database back to what migrating made; False when it is not such a one any more.

    Takes a tenth of the time of another one.
    """
    first, columns, values = _migrated_state()
    with server().connect(name) as session:
        if _tables(session) != first:
            return False
        deletes = "; ".join(f"DELETE FROM {table}" for table, _ in first)
        session.execute(f"SET session_replication_role = replica; {deletes}")
        session.execute(
            "SELECT setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences "
            "WHERE schemaname = 'public'"
        )
        places = ", ".join(["%s"] * len(values))
        session.execute(f"INSERT INTO cluster_state ({columns}) VALUES ({places})", values)
    return True


def _tables(session: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    """Every table but alembic's, with the revision that the database is at; sorted."""
    query = (
        "SELECT tablename, version_num FROM pg_tables, alembic_version "
        "WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1"
    )
    try:
        return session.execute(query).fetchall()
    except psycopg.errors.UndefinedTable:
        return []


@cache
def _migrated_state() -> tuple[list[tuple[str, str]], str, tuple[Any, ...]]:
    """The tables of a migrated database, and its one row: columns and values."""
    with server().connect(_migrated_database()) as session:
        row = session.execute("SELECT * FROM cluster_state")
        columns = ", ".join(column.name for column in row.description or ())
        return _tables(session), columns, row.fetchall()[0]


def again(store: Store) -> Store:
    """Another store on the same database, as another process would have it."""
    return Store(store.engine.url.render_as_string(hide_password=False), KEYRING)


@cache
def settings_of(folder: Path) -> dict[str, str]:
    """What a control plane with this DATA_DIR must be told of its database: nothing for SQLite."""
    return {} if kind == "sqlite" else {"DATABASE_URL": empty_url(folder)}


def execute(settings: Mapping[str, str], folder: Path, statement: str) -> None:
    """Change the database of a control plane behind its back."""
    url = settings.get("DATABASE_URL") or f"sqlite:///{folder / 'narthex.db'}"
    store = Store(url, KEYRING)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    store.close()


def stored_bytes(store: Store) -> bytes:
    """All that the database holds, as it holds it."""
    if kind == "sqlite":
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        place = Path(str(store.engine.url.database))
        return b"".join(path.read_bytes() for path in place.parent.glob(f"{place.name}*"))
    found = []
    with store.engine.connect() as connection:
        for table in inspect(store.engine).get_table_names():
            found.append(table.encode())
            for row in connection.exec_driver_sql(f"SELECT * FROM {table}"):
                found += [v if isinstance(v, bytes) else json.dumps(v).encode() for v in row]
    return b"\n".join(found)


@cache
def _migrated_file() -> Path:
    folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="narthex-test-")))
    _migrate(f"sqlite:///{folder / 'migrated.db'}")
    return folder / "migrated.db"


@cache
def _migrated_database() -> str:
    _migrate(server().create("migrated"))
    return "migrated"


def _migrate(url: str) -> None:
    store = Store(url, KEYRING)
    store.migrate()
    store.close()
