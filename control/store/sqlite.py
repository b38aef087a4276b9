"""SQLite: a file in WAL mode, many readers beside one writer."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Connection, Engine, create_engine, event

from control.store.columns import dump_json
from control.store.faults import StoreError

_POOL_SIZE = 40  # Starlette runs that many endpoints at a time
_BUSY_TIMEOUT_MS = 5000
_WRITER_CACHE_KIB = 16 * 1024
_CHECKPOINT_PAGES = 16384  # of 4 KiB: how long the write-ahead log gets, 64 MiB


class Sqlite:
    """One file.  A lock in DATA_DIR keeps a second control plane out."""

    shared = False

    def __init__(self, url: URL) -> None:
        if url.database in (None, "", ":memory:"):
            raise StoreError(
                "DATABASE_URL: a file is needed; expected sqlite:///<path of the file>"
            )
        self.readers = _engine(url, _POOL_SIZE, _POOL_SIZE)
        event.listen(self.readers, "begin", _begin_reading)
        # What one connection has read stays good in its cache as long as no other process writes.
        self.writer = _engine(url, 1, 0)
        event.listen(self.writer, "connect", _prepare_writer)
        event.listen(self.writer, "begin", _begin_writing)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        with self.writer.begin() as connection:
            yield connection

    def hold(self, regained: Callable[[Connection], None]) -> None:
        """Nothing to do: see the class."""


def _engine(url: URL, pool_size: int, overflow: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=overflow,
        json_serializer=dump_json,
        hide_parameters=True,  # an error's text goes to the log, a statement's values must not
    )
    event.listen(engine, "connect", _prepare)
    return engine


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we send BEGIN ourselves
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _prepare_writer(connection: sqlite3.Connection, _record: object) -> None:
    """Tokens change pages all over their indexes: keep those, and move them seldom."""
    connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")


def _begin_writing(connection: Connection) -> None:
    """A writer takes the write lock at once: a deferred one may fail half-way with `busy`."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
