"""Backups of the SQLite store: one state, checked, without an epoch; and how one is put back."""

import sqlite3
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, MultiFernet

from control.store import Store, queries
from control.store.backup import BackupError, back_up, database_file, restore
from control.store.tables import Consumer
from tests.databases import KEYRING
from tests.harness import eventually


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'narthex.db'}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(url_of(tmp_path), KEYRING)
    made.migrate()
    yield made
    made.close()


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """The database of a folder, as a gateway that starts there opens it."""
    store = Store(url_of(folder), KEYRING)
    try:
        store.migrate()
        yield store
    finally:
        store.close()


def epoch(store: Store) -> str:
    with store.reading() as session:
        return queries.cluster_state(session).epoch


def add_pair(store: Store, number: int) -> None:
    """Two consumers in one transaction."""
    with store.writing() as session:
        for half in ("a", "b"):
            name = f"{number}-{half}"
            session.add(Consumer(id=str(uuid.uuid4()), username=name, created_at=1, updated_at=1))
        session.note_config()


def usernames(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {row[0] for row in database.execute("SELECT username FROM consumers")}


def new_folder(tmp_path: Path, name: str = "restored") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_backup_under_writes_is_one_state_of_the_database(store: Store, tmp_path: Path) -> None:
    written, stop = [0], threading.Event()

    def write() -> None:
        while not stop.is_set():
            add_pair(store, written[0])
            written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            eventually(lambda goal=20 * (number + 1): written[0] > goal)
            before = written[0]
            copy = back_up(url_of(tmp_path), KEYRING, tmp_path / f"{number}.backup").path
            # All that was committed before, nothing by half, and without a hole.
            names = usernames(copy)
            count = len(names) // 2
            assert before <= count <= written[0] + 1
            assert names == {f"{n}-{half}" for n in range(count) for half in "ab"}
    finally:
        stop.set()
        writer.join(10)
    assert written[0] > before


def test_backup_is_ours_alone_and_never_takes_the_place_of_a_file(
    store: Store, tmp_path: Path
) -> None:
    target = tmp_path / "a.backup"
    made = back_up(url_of(tmp_path), KEYRING, target)
    assert made.path == target and made.size == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    kept = target.read_bytes()
    with pytest.raises(BackupError, match="exists already"):
        back_up(url_of(tmp_path), KEYRING, target)
    assert target.read_bytes() == kept
    assert {path.name for path in tmp_path.iterdir()} - {"narthex.db-wal", "narthex.db-shm"} == {
        "narthex.db",
        "a.backup",
    }


def test_s93_backup_lacks_what_was_deleted(store: Store, tmp_path: Path) -> None:
    add_pair(store, 987_654)  # no id has this in it by chance, as it may have `1-a`
    with store.writing() as session:
        consumer = session.get(Consumer, _id_of(tmp_path, "987654-a"))
        assert consumer is not None
        session.delete(consumer)
    with closing(sqlite3.connect(tmp_path / "narthex.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = back_up(url_of(tmp_path), KEYRING, tmp_path / "a.backup").path.read_bytes()
    assert b"987654-b" in copy and b"987654-a" not in copy


def _id_of(folder: Path, username: str) -> str:
    with closing(sqlite3.connect(folder / "narthex.db")) as database:
        select = "SELECT id FROM consumers WHERE username = ?"
        return str(database.execute(select, (username,)).fetchone()[0])


def test_each_restored_database_has_an_epoch_of_its_own(store: Store, tmp_path: Path) -> None:
    before = epoch(store)
    copy = back_up(url_of(tmp_path), KEYRING, tmp_path / "a.backup").path
    epochs = {before, epoch(store)}
    for name in ("first", "second"):
        folder = new_folder(tmp_path, name)
        restore(copy, url_of(folder), KEYRING)
        for _ in range(2):  # it keeps the one that it got
            with opened(folder) as restored:
                epochs.add(epoch(restored))
    assert len(epochs) == 3
    # Without the command: the file alone, put into place.
    folder = new_folder(tmp_path, "third")
    (folder / "narthex.db").write_bytes(copy.read_bytes())
    with opened(folder) as restored:
        assert uuid.UUID(epoch(restored)) and epoch(restored) not in epochs


def test_restore_gives_a_plain_copy_another_epoch_too(store: Store, tmp_path: Path) -> None:
    add_pair(store, 1)
    before = epoch(store)
    store.close()
    plain = tmp_path / "copied-by-cp.db"
    plain.write_bytes((tmp_path / "narthex.db").read_bytes())
    folder = new_folder(tmp_path)
    restore(plain, url_of(folder), KEYRING)
    with opened(folder) as restored:
        assert epoch(restored) != before
    assert usernames(folder / "narthex.db") == {"1-a", "1-b"}


def test_restore_leaves_a_database_alone_unless_told_to_move_it(
    store: Store, tmp_path: Path
) -> None:
    add_pair(store, 1)
    copy = back_up(url_of(tmp_path), KEYRING, tmp_path / "a.backup").path
    add_pair(store, 2)  # stands in the write-ahead log alone
    with pytest.raises(BackupError, match="--replace moves it aside"):
        restore(copy, url_of(tmp_path), KEYRING)
    made = restore(copy, url_of(tmp_path), KEYRING, replace=True)
    assert usernames(tmp_path / "narthex.db") == {"1-a", "1-b"}
    assert stat.S_IMODE((tmp_path / "narthex.db").stat().st_mode) == 0o600
    assert made.moved is not None
    assert usernames(made.moved) == {"1-a", "1-b", "2-a", "2-b"}


def test_databases_that_are_moved_aside_in_one_second_are_all_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    copy = back_up(url_of(tmp_path), KEYRING, tmp_path / "a.backup").path
    add_pair(store, 1)
    made = [restore(copy, url_of(tmp_path), KEYRING, replace=True) for _ in range(3)]
    found = [usernames(one.moved) for one in made if one.moved is not None]
    assert found == [{"1-a", "1-b"}, set(), set()]


def test_restore_does_not_take_a_left_over_log_for_the_copy(store: Store, tmp_path: Path) -> None:
    """SQLite would replay a log that lies beside a database, whoever it belongs to."""
    copy = back_up(url_of(tmp_path), KEYRING, tmp_path / "a.backup").path
    folder = new_folder(tmp_path)
    (folder / "narthex.db-wal").write_bytes(b"of a database that was deleted")
    with pytest.raises(BackupError, match=r"narthex\.db-wal: a database is there already"):
        restore(copy, url_of(folder), KEYRING)
    assert not (folder / "narthex.db").exists()


@pytest.mark.parametrize("damage", ["cut", "page", "empty"])
def test_damaged_copy_is_refused_and_leaves_nothing(
    store: Store, tmp_path: Path, damage: str
) -> None:
    for number in range(50):
        add_pair(store, number)
    copy = back_up(url_of(tmp_path), KEYRING, tmp_path / "a.backup").path
    data = bytearray(copy.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "page":
        at = data.index(b"49-a")
        data[at : at + 4] = b"none"  # its index still says otherwise
    else:
        data.clear()
    copy.write_bytes(data)
    folder = new_folder(tmp_path)
    with pytest.raises(BackupError, match=r"a\.backup: "):
        restore(copy, url_of(folder), KEYRING)
    assert not list(folder.iterdir())


def test_copy_of_another_program_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE t (x)")
    with pytest.raises(BackupError, match="is not a database of Narthex"):
        restore(other, url_of(new_folder(tmp_path)), KEYRING)
    with pytest.raises(BackupError, match="there is no such file"):
        restore(tmp_path / "absent", url_of(tmp_path), KEYRING)


def test_backup_is_refused_under_another_keyring(store: Store, tmp_path: Path) -> None:
    other = MultiFernet([Fernet(Fernet.generate_key())])
    with pytest.raises(BackupError, match="written under another KEYRING"):
        back_up(url_of(tmp_path), other, tmp_path / "a.backup")
    assert not (tmp_path / "a.backup").exists()
    copy = back_up(url_of(tmp_path), KEYRING, tmp_path / "a.backup").path
    folder = new_folder(tmp_path)
    with pytest.raises(BackupError, match="written under another KEYRING"):
        restore(copy, url_of(folder), other)
    assert not list(folder.iterdir())


def test_backup_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="there is no database yet"):
        back_up(url_of(tmp_path), KEYRING, tmp_path / "a.backup")
    with opened(tmp_path), pytest.raises(BackupError, match="cannot be written: No such file"):
        back_up(url_of(tmp_path), KEYRING, tmp_path / "absent" / "a.backup")
    assert not (tmp_path / "a.backup").exists()


def test_other_databases_are_left_to_their_own_tools() -> None:
    with pytest.raises(BackupError) as refused:
        database_file("postgresql+psycopg://user:hidden@host/narthex")
    assert "pg_dump" in str(refused.value) and "hidden" not in str(refused.value)
    with pytest.raises(BackupError, match="expected sqlite:///"):
        database_file("no url")
