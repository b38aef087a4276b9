"""Copies of the SQLite database: taken while a gateway writes to it, and put back.

A copy is one state of the database, checked, without what was deleted from it, and without an
epoch: whoever starts on it is another database than the one it was taken from, and gets an epoch
of its own (`Store.migrate`). So no data plane takes a version of the one for a version of the
other, however often a copy is put back. Secrets stay as they are, encrypted under KEYRING.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography.fernet import InvalidToken, MultiFernet
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

_BUSY_SECONDS = 30.0
_PROBLEMS_SHOWN = 3
_SIDE_FILES = ("", "-wal", "-shm", "-journal")  # what makes up a SQLite database


class BackupError(Exception):
    """There is no copy; the text says why and what to do.  What was there before still is."""


class Copied(NamedTuple):
    path: Path
    size: int  # bytes
    config_version: int
    moved: Path | None = None  # where the database that stood there is now


def back_up(url: str, keyring: MultiFernet, target: Path) -> Copied:
    """Copy the database to a new file, mode 0600, while whoever uses it goes on.

    Raises:
        BackupError: `target` exists or cannot be written, or there is no sound database.
    """
    source = database_file(url)
    if not source.is_file():
        raise BackupError(f"{source}: there is no database yet")
    try:
        # Ours from now on; empty until the copy takes its place, so that no half of one stands.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise BackupError(f"{target}: exists already; name a file that does not") from None
    except OSError as error:
        raise BackupError(f"{target}: cannot be written: {error.strerror}") from None
    try:
        return _put(source, target, keyring)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def restore(source: Path, url: str, keyring: MultiFernet, *, replace: bool = False) -> Copied:
    """Put a copy into the place of the database, which nobody may use meanwhile.

    A database that is there is moved aside with `replace`, and kept.

    Raises:
        BackupError: one is there, or `source` is no sound copy that this keyring opens.
    """
    target = database_file(url)
    if not source.is_file():
        raise BackupError(f"{source}: there is no such file")
    there = [path for path in _files(target) if path.exists()]
    if there and not replace:
        raise BackupError(
            f"{there[0]}: a database is there already; --replace moves it aside, or choose another "
            "DATA_DIR"
        )
    with _aside(target) as aside:
        made = _checked_copy(source, aside, keyring)
        moved = _move_aside(target) if there else None
        aside.replace(target)
        _sync_folder(target)
    return made._replace(path=target, moved=moved)


def database_file(url: str) -> Path:
    """The file of a SQLite URL.

    Raises:
        BackupError: another database, which has tools of its own.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise BackupError("DATABASE_URL: expected sqlite:///<path of the file>") from None
    if parsed.get_backend_name() != "sqlite":
        raise BackupError(
            "DATABASE_URL names no SQLite file: use the tools of that database (pg_dump and "
            "pg_restore for PostgreSQL), and keep KEYRING too. Before a gateway starts on what "
            "was restored: UPDATE cluster_state SET epoch = ''"
        )
    return Path(parsed.database or "").absolute()


def _files(database: Path) -> list[Path]:
    return [database.with_name(database.name + suffix) for suffix in _SIDE_FILES]


def _put(source: Path, target: Path, keyring: MultiFernet) -> Copied:
    with _aside(target) as aside:
        made = _checked_copy(source, aside, keyring)
        aside.replace(target)
        _sync_folder(target)
    return made._replace(path=target.absolute())


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """An empty file of ours beside `target`; gone at the end unless it was renamed."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        aside.unlink(missing_ok=True)  # of a process with our pid that was killed here
        os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield aside
    except OSError as error:
        raise BackupError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            for path in _files(aside):
                path.unlink(missing_ok=True)


def _checked_copy(source: Path, aside: Path, keyring: MultiFernet) -> Copied:
    try:
        with contextlib.closing(_connect(source, "ro")) as database:
            # One state, and writers go on; free pages, where deleted rows may stand, stay behind.
            database.execute("VACUUM INTO ?", (str(aside),))
        with contextlib.closing(_connect(aside, "rw")) as copy:
            _check(copy, source, keyring)
            copy.execute("UPDATE cluster_state SET epoch = ''")
            (version,) = copy.execute("SELECT config_version FROM cluster_state").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{source}: cannot be copied: {error}") from None
    _sync(aside)
    return Copied(aside, aside.stat().st_size, version)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _check(copy: sqlite3.Connection, source: Path, keyring: MultiFernet) -> None:
    found = [str(row[0]) for row in copy.execute("PRAGMA integrity_check(10)")]
    found = [] if found == ["ok"] else found
    found += [f"{row[0]} refers to a missing {row[2]}" for row in copy.execute(_ORPHANS)]
    if found:
        raise BackupError(f"{source}: is damaged: {'; '.join(found[:_PROBLEMS_SHOWN])}")
    known = "SELECT 1 FROM sqlite_master WHERE name = 'cluster_state'"
    state = copy.execute(known).fetchone() and copy.execute(_CHECK_KEY).fetchone()
    if state is None:
        raise BackupError(f"{source}: is not a database of Narthex")
    try:
        keyring.decrypt(state[0])
    except InvalidToken:
        raise BackupError(
            f"{source}: was written under another KEYRING; give the keyring file that belongs to it"
        ) from None


_ORPHANS = "PRAGMA foreign_key_check"
_CHECK_KEY = "SELECT check_key FROM cluster_state"


def _move_aside(database: Path) -> Path:
    """Rename a database and what belongs to it, so that it stays one."""
    stem = moved = database.with_name(f"{database.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    number = 1
    while any(path.exists() for path in _files(moved)):  # of a restore in the same second
        number += 1
        moved = stem.with_name(f"{stem.name}-{number}")
    for path, to in zip(_files(database), _files(moved), strict=True):
        if path.exists():
            path.rename(to)
    return moved


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    _sync(path.absolute().parent)
