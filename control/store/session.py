"""The database: opening it, migrating it, and the only place that commits.

A writing transaction collects what it did (`WriteSession`), and once it is committed hands that to
the subscribers. Writers of one process stand in line at a lock: a database has one writer at a time
anyway (`databases`), and subscribers see changes in the order of their commits.
"""

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from cryptography.fernet import MultiFernet
from sqlalchemy import Connection, Engine, delete, insert, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from control.store import audit
from control.store.changes import Change, IssuedToken, Refreshed, Revoked
from control.store.columns import Undecryptable, attach_keyring
from control.store.databases import open_database, shown
from control.store.faults import HeldElsewhere, StoreError, Unavailable
from control.store.tables import ClusterState, Revocation

_MIGRATIONS = Path(__file__).with_name("migrations")
_WRITER_SECONDS = 10.0  # until a writer gets its turn among those of this process
_CHECK_KEY_BYTES = 32
_REVOCATIONS_DROPPED_MAX = 1000  # in one transaction
_REVOCATION_GRACE_SECONDS = 3600  # clocks of data planes may be behind


# Put together once: it takes longer than to run it, and every token that is issued needs it.
_COUNTERS = (
    ClusterState.__table__.c.config_version,  # type: ignore[attr-defined]
    ClusterState.__table__.c.revocation_seq,  # type: ignore[attr-defined]
)
_STATE = "SELECT config_version, revocation_seq FROM cluster_state"


class GivenUp(Exception):
    """Nobody waits for this transaction any more; it was rolled back."""


# Asked right before a commit, in the thread that commits: whether somebody still waits for it.
wanted: ContextVar[Callable[[], bool]] = ContextVar("wanted", default=lambda: True)


@dataclass(frozen=True)
class RowsOf:
    """Some columns of a table, in the order in which rows of them have their values."""

    table: str
    columns: tuple[str, ...]

    def insert(self, paramstyle: str) -> str:
        """The INSERT of one row, for a driver."""
        values = ", ".join(["?" if paramstyle == "qmark" else "%s"] * len(self.columns))
        columns = ", ".join(self.columns)
        return f"INSERT INTO {self.table} ({columns}) VALUES ({values})"  # noqa: S608 (our names)


class WriteSession(Session):
    """One writing transaction and what it has done so far.

    The functions of `queries` and `rows` call `note_…`; nobody else needs to.
    """

    config_changed: bool = False

    def __init__(self, bind: Engine) -> None:
        super().__init__(bind, expire_on_commit=False)
        self._tokens: dict[bytes, IssuedToken] = {}
        self._refreshed: list[Refreshed] = []
        self._revocations: list[Revoked] = []
        self._checks: dict[Callable[[Session], None], None] = {}
        self._rows: dict[RowsOf, list[tuple[Any, ...]]] = {}
        self.writer = audit.writer.get()  # None: what is written here is nobody's to answer for
        self.written: list[audit.Written] = []

    def insert_later(self, where: RowsOf, row: tuple[Any, ...]) -> None:
        """Insert a row together with the others that go there, at the next flush.

        Its values go to the driver as they are: for rows that come by the thousand, of which
        SQLAlchemy's way costs more than the database.
        """
        self._rows.setdefault(where, []).append(row)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        super().flush(objects)
        if not self._rows:
            return
        rows, self._rows = self._rows, {}
        connection = self.connection()
        for where, values in rows.items():
            connection.exec_driver_sql(where.insert(connection.dialect.paramstyle), values)

    def before_commit(self, check: Callable[[Session], None]) -> None:
        """Have `check` look at all that was written; what it raises rolls the transaction back.

        It runs once, however often it is asked for.
        """
        self._checks[check] = None

    def check(self) -> None:
        """Do what `before_commit` was asked for: look at all that was written so far."""
        self.flush()
        for check in self._checks:
            check(self)

    def note_config(self) -> None:
        """A config entity was written: the config version goes up."""
        self.config_changed = True

    def note_written(self, written: audit.Written) -> None:
        """The writer changed an entity: that goes on record with the change."""
        if self.writer is not None:
            self.written.append(written)

    def note_token(self, token: IssuedToken) -> None:
        """A token was made or changed; its version is filled in at the commit."""
        self._tokens[token.digest] = token

    def note_refreshed(self, old: bytes, token: IssuedToken) -> None:
        """`token`, made in this transaction, takes the place of the one with the digest `old`."""
        self._refreshed.append(Refreshed(old, token))

    def note_revocation(self, kind: str, key: bytes, expires_at: float) -> None:
        """The end of what `kind` and `key` name, as far as it was made before this transaction.

        That of a credential, consumer or plugin raises the config version: by it a data plane tells
        what was made before from what is made after, should the id come back.
        """
        if kind == "token":
            self._tokens.pop(key, None)
        elif kind != "jti":
            self.config_changed = True
        self._revocations.append(Revoked(0, kind, key, expires_at))

    def finish(self) -> Change:
        """Write what the transaction adds up to, as its last statements, and commit.

        The row of ClusterState is locked from its update to the commit, so that versions and
        sequence numbers become visible in their order.
        """
        self.check()
        if self.writer is not None and self.written:
            audit.keep(self, self.writer, self.written)
        state = self._advance()
        successors = {item.old: item.token.digest for item in self._refreshed}
        revocations = tuple(
            replace(
                item,
                seq=state.revocation_seq - len(self._revocations) + place,
                version=state.config_version,
                successor=successors.get(item.key) if item.kind == "token" else None,
            )
            for place, item in enumerate(self._revocations, start=1)
        )
        if revocations:
            self.execute(
                insert(Revocation),
                [asdict(revocation) for revocation in revocations],
            )
            self._drop_expired_revocations()
        version = state.config_version
        tokens = tuple(token._replace(version=version) for token in self._tokens.values())
        refreshed = tuple(
            replace(item, token=item.token._replace(version=version)) for item in self._refreshed
        )
        if not wanted.get()():
            raise GivenUp
        self.commit()
        return Change(version if self.config_changed else None, tokens, revocations, refreshed)

    def _drop_expired_revocations(self) -> None:
        """Each writer of new ones clears some old ones, so that the table does not grow."""
        seq, expires_at = col(Revocation.seq), col(Revocation.expires_at)
        old = select(seq).where(
            expires_at > 0, expires_at < time.time() - _REVOCATION_GRACE_SECONDS
        )
        self.execute(delete(Revocation).where(seq.in_(old.limit(_REVOCATIONS_DROPPED_MAX))))

    def _advance(self) -> Any:
        if not (self.config_changed or self._revocations):
            return self.connection().exec_driver_sql(_STATE).one()
        statement = update(ClusterState).values(
            config_version=ClusterState.config_version + int(self.config_changed),
            revocation_seq=ClusterState.revocation_seq + len(self._revocations),
        )
        return self.execute(statement.returning(*_COUNTERS)).one()


class Store:
    """One database under one keyring."""

    def __init__(self, url: str, keyring: MultiFernet) -> None:
        """Open `url`, of SQLite or PostgreSQL; connects at the first use.

        Raises:
            StoreError: not a URL of a database that is supported.
        """
        self._database = open_database(url)
        self._engine = self._database.readers
        self._writing_engine = self._database.writer
        self._name = shown(self._engine.url)
        self._subscribers: list[Callable[[Change], None]] = []
        self._write_lock = threading.Lock()
        for engine in (self._engine, self._writing_engine):
            attach_keyring(engine.dialect, keyring)

    @property
    def engine(self) -> Engine:
        return self._engine

    def migrate(self) -> None:
        """Bring the tables up to this version; make epoch and check key of a new database.

        Raises:
            StoreError: unreachable, damaged, written by a newer Narthex or under another keyring.
        """
        try:
            with self._turn(), self._database.migrating() as connection:
                _upgrade(connection)
            with self.writing() as session:
                self._seed(session)
        except StoreError as error:
            raise StoreError(f"DATABASE_URL {self._name}: {error}") from None
        except DBAPIError as error:
            raise self.unusable(error) from None
        except Undecryptable:
            raise StoreError(
                f"DATABASE_URL {self._name}: was written under another KEYRING; "
                "give the keyring file that belongs to this database"
            ) from None

    @property
    def shared(self) -> bool:
        """Whether several control planes may be started on this database; one at a time serves."""
        return self._database.shared

    def hold(self) -> bool:
        """Be the one control plane of this database, or still be it; False: another one is.

        Once held, whatever is written while another one is raises HeldElsewhere.

        Raises:
            OperationalError: the database cannot be reached; the hold may be lost with it.
        """
        try:
            with self._turn():
                self._database.hold(self._forget)
        except HeldElsewhere:
            return False
        return True

    def _forget(self, connection: Connection) -> None:
        """Others may have written meanwhile: followers read the configuration anew."""
        self._tell(Change(connection.exec_driver_sql(_STATE).one().config_version, (), ()))

    def unusable(self, error: DBAPIError) -> StoreError:
        """An error of the driver in words that name DATABASE_URL."""
        said = str(error.orig).strip().partition("\n")[0]
        return StoreError(f"DATABASE_URL {self._name}: {said}")

    def _seed(self, session: "WriteSession") -> None:
        state = session.exec(select(ClusterState)).first()
        if state is not None and not state.epoch:  # a copy that was put back: `backup`
            state.epoch = str(uuid.uuid4())
        if state is None:
            key = secrets.token_bytes(_CHECK_KEY_BYTES)
            # Version 0 is what a data plane says that knows nothing: an empty database is 1.
            state = ClusterState(epoch=str(uuid.uuid4()), config_version=1, check_key=key)
            session.add(state)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the database; nothing written in it is kept."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[WriteSession]:
        """One transaction: committed when the block ends normally, else rolled back.

        Subscribers are called after the commit, in this thread, before the next writer starts.
        """
        with self._turn():
            with WriteSession(self._writing_engine) as session:
                yield session
                change = session.finish()
            if change:
                self._tell(change)
        if session.writer is not None and session.written:
            session.writer.tell(session.written)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The turn of one writer of this process."""
        if not self._write_lock.acquire(timeout=_WRITER_SECONDS):
            raise Unavailable(f"writers before this one took more than {_WRITER_SECONDS:g} s")
        try:
            yield
        finally:
            self._write_lock.release()

    def _tell(self, change: Change) -> None:
        for callback in self._subscribers:
            callback(change)

    def subscribe(self, callback: Callable[[Change], None]) -> None:
        """Call `callback` after each commit that changed something; it must not block or raise."""
        self._subscribers.append(callback)

    def close(self) -> None:
        self._engine.dispose()
        self._writing_engine.dispose()


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's settings; `connection` is the one that migrations run on."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    config = alembic_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_heads()
    if not known.issuperset(current):
        raise StoreError(
            f"was written by a newer Narthex (revision {', '.join(current)}); "
            "start that version, or restore a backup made before it"
        )
    command.upgrade(config, "head")
