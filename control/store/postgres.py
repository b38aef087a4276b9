"""PostgreSQL: how long anything may take there, and the two locks that writers hold.

**The write lock** is an advisory one, from the beginning of a writer's transaction to its end, as
SQLite has one. Each statement of a writer (READ COMMITTED) sees all that was committed before it,
and nobody commits meanwhile. Readers see one state each (REPEATABLE READ) and wait for nobody.

**The hold** says which control plane serves the database; a second one waits for it. It is held by
the very session that writes, the only one that this process has for that. So the two are lost
together: who lost the hold has written nothing since, and the next transaction, in a new session,
takes it first, or learns that another control plane has it.

Nothing waits for ever: the server ends what takes too long, and a server that answers nothing (a
stopped one, a lost network) is given up by `_Connection`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import OperationalError

from control.store.columns import dump_json
from control.store.faults import HeldElsewhere, StoreError

CONNECT_SECONDS = 5  # for each address of the server's name
LOCK_SECONDS = 5  # for another writer, as long as SQLite's busy timeout
STATEMENT_SECONDS = 15
ANSWER_SECONDS = 20  # the client's end of it: no answer of any kind
IDLE_SECONDS = 30  # inside a transaction: a process that was stopped keeps the write lock as long
POOL_SIZE = 20  # readers at a time, and connections of them; one more writes
POOL_SECONDS = 5  # until a reader gets one of them

# Of the protocol's keep-alive, on both ends: a machine that is gone is noticed after 11 seconds.
_KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
_SESSION = {
    "lock_timeout": f"{LOCK_SECONDS}s",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    **{f"tcp_{name}": value for name, value in _KEEPALIVE.items()},
}

# Advisory locks belong to a database, so that these numbers need only differ from other programs'.
WRITE_KEY, HOLD_KEY = 0x6E61727468657801, 0x6E61727468657802
_TAKE_WRITE_LOCK = f"SELECT pg_advisory_xact_lock({WRITE_KEY})"
_TRY_HOLD = f"SELECT pg_try_advisory_lock({HOLD_KEY})"
_HELD = "narthex.held"  # in the `info` of a session that holds it

# A server that took over, or one in recovery, or a session that was ended for idling: our statement
# was right, and another connection may do.
_PASSING = (errors.ReadOnlySqlTransaction, errors.IdleInTransactionSessionTimeout)


class Postgres:
    """One database of a PostgreSQL server."""

    shared = True

    def __init__(self, url: URL) -> None:
        self.readers = _engine(
            url, POOL_SIZE, isolation_level="REPEATABLE READ", pool_timeout=POOL_SECONDS
        )
        self.writer = _engine(url, 1, isolation_level="READ COMMITTED")
        event.listen(self.writer, "begin", self._begin_writing)
        self._regained: Callable[[Connection], None] | None = None  # set: hold before any write
        self._was_held = False

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        with self.writer.begin() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
            if encoding != "UTF8":
                raise StoreError(
                    f"the database's encoding is {encoding}, UTF8 was expected: make one with "
                    "createdb --encoding=UTF8 --template=template0"
                )
            session = connection.connection.driver_connection
            assert isinstance(session, _Connection)
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            session.answer_seconds = None
            try:
                yield connection
            finally:
                del session.answer_seconds

    def hold(self, regained: Callable[[Connection], None]) -> None:
        self._regained = regained
        with self.writer.begin():
            pass

    def _begin_writing(self, connection: Connection) -> None:
        if self._regained is not None and not connection.info.get(_HELD):
            self._take_hold(connection, self._regained)
        connection.exec_driver_sql(_TAKE_WRITE_LOCK)

    def _take_hold(self, connection: Connection, regained: Callable[[Connection], None]) -> None:
        if not connection.exec_driver_sql(_TRY_HOLD).scalar_one():
            raise HeldElsewhere("another control plane serves this database")
        if self._was_held:
            regained(connection)
        # Only now: should followers not have been told, the next transaction tells them.
        connection.info[_HELD] = True
        self._was_held = True


class _Connection(psycopg.Connection[Any]):
    """A connection that is closed when the server does not answer."""

    answer_seconds: float | None = ANSWER_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except errors._WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"the server did not answer within {self.answer_seconds} s"
            ) from None


def _engine(url: URL, pool_size: int, **options: Any) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,  # one that ended while nobody used it is replaced, not an error
        use_native_hstore=False,  # else each first connection asks for it
        json_serializer=dump_json,
        hide_parameters=True,  # an error's text goes to the log, a statement's values must not
        **options,
    )
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "handle_error", _say_passing, retval=True)
    return engine


def _connect(_dialect: object, _record: object, args: list[Any], given: dict[str, Any]) -> Any:
    """Connect with our bounds, where the URL's query says nothing else."""
    ours = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    options = {
        "application_name": "narthex",
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": ANSWER_SECONDS * 1000,
        **_KEEPALIVE,
        **given,
        "options": f"{ours} {given.get('options', '')}",
    }
    return _Connection.connect(*args, **options)


def _say_passing(context: ExceptionContext) -> OperationalError | None:
    error = context.original_exception
    if not isinstance(error, _PASSING):
        return None
    context.is_disconnect = True
    return OperationalError(None, None, error)
