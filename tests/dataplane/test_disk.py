"""The data plane's state on disk: what comes back after a restart, a crash, damage."""

import errno
import itertools
import os
import secrets
import stat
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet, MultiFernet

from dataplane import disk, statelog, wire
from dataplane.disk import DiskState, Loaded
from dataplane.statelog import CLOCK_GRACE_SECONDS, Damaged, frame, unframe

EPOCH = b"e" * 16
CREDENTIAL = b"c" * 16
CONSUMER = b"u" * 16
LATER = time.time() + 3600


def new_key() -> Fernet:
    return Fernet(Fernet.generate_key())


KEY = new_key()


def snapshot(version: int = 3, epoch: bytes = EPOCH) -> wire.Snapshot:
    return wire.Snapshot(
        epoch,
        version,
        b"k" * 32,
        consumers=[wire.Consumer(CONSUMER)],
        credentials=[wire.Credential(CREDENTIAL, "client", CONSUMER)],
    )


def token(credential: bytes = CREDENTIAL, expires_at: float = LATER) -> wire.Token:
    return wire.Token(secrets.token_bytes(32), credential, expires_at, scope="email")


def end_of(of: wire.Token, seq: int = 1, expires_at: float = LATER) -> wire.Revocation:
    return wire.Revocation(seq, "token", of.digest, expires_at)


class Disk:
    """A state folder that is written, closed and opened again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state"

    def write(self, *work: Any, key: Any = KEY) -> None:
        """Load, do `work` with the state, close."""
        state = DiskState(self.folder, key)
        state.load()
        for step in work:
            step(state)
            assert state.flush(10)
        state.close()

    def begin(self, *tokens: wire.Token, versions: tuple[int, ...] = (3,)) -> None:
        """A state of EPOCH with these snapshots, oldest first, and these tokens."""
        self.write(lambda s: s.forget(EPOCH), lambda s: s.append_tokens(tokens))
        for version in versions:
            self.write(saving(version))

    def load(self, key: Any = KEY) -> Loaded:
        state = DiskState(self.folder, key)
        try:
            return state.load()
        finally:
            state.close()

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


def saving(version: int, epoch: bytes = EPOCH) -> Any:
    packed = wire.pack_snapshot(snapshot(version, epoch))
    return lambda state: state.save_snapshot(packed, epoch, version)


@pytest.fixture
def kept(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_state_is_empty_at_first(kept: Disk) -> None:
    assert kept.load() == Loaded()


def test_state_comes_back(kept: Disk) -> None:
    one, two, gone = token(), token(), token()
    kept.begin(one, two, gone)
    end = end_of(gone, seq=7)
    kept.write(lambda s: s.append_revocations([end]))
    assert kept.load() == Loaded(snapshot(), [one, two], [end], EPOCH, 3, 7, complete=True)


def test_state_goes_on_where_it_was_after_each_start(kept: Disk) -> None:
    kept.begin()
    tokens = [token() for _ in range(5)]
    for one in tokens:
        kept.write(lambda s, one=one: s.append_tokens([one]))
    assert kept.load().tokens == tokens


def test_state_keeps_its_node_id(kept: Disk) -> None:
    first = DiskState(kept.folder, KEY).node_id
    assert len(first) == 16
    assert DiskState(kept.folder, new_key()).node_id == first
    (kept.folder / "node.id").write_bytes(b"short")
    assert len(DiskState(kept.folder, KEY).node_id) == 16


def test_state_says_why_its_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        DiskState(tmp_path / "file" / "state", KEY)


# --- tokens and revocations -----------------------------------------------------------------------


def test_fold_forgets_expired_tokens_and_revocations(kept: Disk) -> None:
    endless = token(expires_at=0.0)
    kept.begin(token(expires_at=time.time() - 1), endless)
    past = time.time() - CLOCK_GRACE_SECONDS - 1
    old, lasting = end_of(token(), 1, past), end_of(token(), 2, 0.0)
    kept.write(lambda s: s.append_revocations([old, lasting]))
    loaded = kept.load()
    assert (loaded.tokens, loaded.revocations, loaded.revocation_seq) == ([endless], [lasting], 2)


def test_fold_keeps_a_token_made_anew_after_its_revocation(kept: Disk) -> None:
    one = token()
    kept.begin(one)
    kept.write(lambda s: s.append_revocations([end_of(one)]), lambda s: s.append_tokens([one]))
    assert kept.load().tokens == [one]


@pytest.mark.parametrize(("kind", "key"), [("credential", CREDENTIAL), ("consumer", CONSUMER)])
def test_fold_ends_tokens_with_their_credential_or_consumer(
    kept: Disk, kind: str, key: bytes
) -> None:
    other, later = token(credential=b"o" * 16), token()
    kept.begin(token(), other)
    kept.write(lambda s: s.append_revocations([wire.Revocation(1, kind, key)]))
    kept.write(lambda s: s.append_tokens([later]))
    assert kept.load().tokens == [other, later]


def test_forget_begins_anew_under_another_epoch(kept: Disk) -> None:
    kept.begin(token())
    kept.write(lambda s: s.append_revocations([end_of(token(), 9)]))
    one = token()
    kept.write(
        lambda s: s.forget(b"E" * 16), lambda s: s.append_tokens([one]), saving(1, b"E" * 16)
    )
    loaded = kept.load()
    assert (loaded.epoch, loaded.version, loaded.revocation_seq) == (b"E" * 16, 1, 0)
    assert (loaded.tokens, loaded.revocations) == ([one], [])


def test_load_takes_no_token_of_another_epoch_than_the_snapshot(kept: Disk) -> None:
    kept.begin(token())
    kept.write(lambda s: s.forget(b"E" * 16), lambda s: s.append_tokens([token()]))
    loaded = kept.load()
    assert (loaded.epoch, loaded.version, loaded.tokens) == (EPOCH, 3, [])
    one = token()
    kept.write(lambda s: s.append_tokens([one]))
    assert kept.load().tokens == [one]


def test_load_gives_tokens_without_a_snapshot(kept: Disk) -> None:
    one = token()
    kept.begin(one, versions=())
    assert kept.load() == Loaded(None, [one], [], EPOCH, 0, 0)


def test_fold_keeps_the_newest_within_its_bounds(
    kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statelog, "TOKENS_MAX", 3)
    monkeypatch.setattr(statelog, "REVOCATIONS_MAX", 2)
    monkeypatch.setattr(statelog, "ENTRY_ITEMS_MAX", 2)
    tokens = [token(b"%016d" % n) for n in range(5)]
    ends = [end_of(token(), seq) for seq in range(1, 5)]
    kept.begin(*tokens)
    kept.write(lambda s: s.append_revocations(ends))
    loaded = kept.load()
    assert (loaded.tokens, loaded.revocations) == (tokens[2:], ends[2:])


def test_fold_over_its_bounds_takes_no_risk_with_consumers(
    kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose tokens ended with the consumer that is dropped from the list, nobody can tell later."""
    monkeypatch.setattr(statelog, "REVOCATIONS_MAX", 1)
    before, after = token(b"x" * 16), token(b"x" * 16)
    kept.begin(before)
    kept.write(lambda s: s.append_revocations([wire.Revocation(1, "consumer", b"w" * 16)]))
    kept.write(lambda s: s.append_tokens([after]))
    kept.write(lambda s: s.append_revocations([end_of(token(), 2)]))
    assert kept.load().tokens == [after]


def test_log_is_folded_when_it_grows(kept: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LOG_BYTES_MAX", 20_000)
    consumer_end = wire.Revocation(1, "consumer", CONSUMER)
    early, other = token(), token(b"o" * 16)
    kept.begin(early, other)
    kept.write(lambda s: s.append_revocations([consumer_end]))
    lasting = token()
    kept.write(lambda s: s.append_tokens([lasting]))
    sizes = []
    with_fold = DiskState(kept.folder, KEY)
    with_fold.load()
    for _ in range(60):
        short = token()
        with_fold.append_tokens([short] * 5)
        with_fold.append_revocations([end_of(short, 2)])
        assert with_fold.flush(10)
        sizes.append((kept.folder / "stream.log").stat().st_size)
    with_fold.close()
    assert max(sizes) < 40_000
    assert any(later < before for before, later in itertools.pairwise(sizes))
    # The fold knew no consumers, and yet their tokens did not outlive them.
    assert kept.load().tokens == [other, lasting]


def test_load_writes_a_shorter_log_when_most_of_it_is_void(kept: Disk) -> None:
    tokens = [token() for _ in range(100)]
    kept.begin(*tokens)
    kept.write(lambda s: s.append_revocations([end_of(t, n) for n, t in enumerate(tokens, 1)]))
    # Expired revocations go as well as the tokens.
    before = (kept.folder / "stream.log").stat().st_size
    loaded = kept.load()
    assert loaded.tokens == [] and len(loaded.revocations) == 100
    assert (kept.folder / "stream.log").stat().st_size < before
    assert kept.load() == loaded


def test_state_forgets_when_the_disk_cannot_follow(
    kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.begin(token())
    monkeypatch.setattr(disk, "PENDING_MAX", 10)
    monkeypatch.setattr(disk, "LINGER_SECONDS", 60)
    state = DiskState(kept.folder, KEY)
    state.load()
    state.append_tokens([token() for _ in range(8)])
    one = token()
    state.append_revocations([end_of(token(), 4) for _ in range(3)])
    state.append_tokens([one])
    assert state.flush(10)
    state.close()
    loaded = kept.load()
    assert (loaded.tokens, loaded.revocations, loaded.revocation_seq) == ([one], [], 0)


# --- snapshots ------------------------------------------------------------------------------------


def test_two_generations_of_the_snapshot_are_kept(kept: Disk) -> None:
    kept.begin(versions=(3, 4, 5))
    assert {"snapshot.a", "snapshot.b"} <= kept.files()
    assert kept.load().version == 5
    newest = max(
        (kept.folder / name for name in ("snapshot.a", "snapshot.b")),
        key=lambda path: path.stat().st_mtime_ns,
    )
    newest.write_bytes(b"")
    assert kept.load().version == 4


def test_only_the_last_snapshot_handed_over_is_written(
    kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LINGER_SECONDS", 60)
    state = DiskState(kept.folder, KEY)
    for version in (3, 4, 5):
        saving(version)(state)
    assert state.flush(10)
    state.close()
    assert kept.load().version == 5
    assert "snapshot.b" not in kept.files()


def test_close_writes_what_was_handed_over(kept: Disk) -> None:
    state = DiskState(kept.folder, KEY)
    state.load()
    one = token()
    state.forget(EPOCH)
    state.append_tokens([one])
    saving(3)(state)
    state.close()
    assert kept.load() == Loaded(snapshot(), [one], [], EPOCH, 3, 0, complete=True)


def test_flush_says_when_it_is_too_late(kept: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    state = DiskState(kept.folder, KEY)
    writing = state._write_entries
    state.append_tokens([token()])
    monkeypatch.setattr(state, "_write_entries", lambda entries: state.flush(0.01) or None)
    assert state.flush(0) is False
    monkeypatch.setattr(state, "_write_entries", writing)
    state.close()


@pytest.mark.parametrize("kind", ["jti", "credential", "consumer", "plugin"])
def test_revocation_dropped_for_want_of_room_leaves_word_that_it_was(
    kept: Disk, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JWT that one of them was about must be asked for, which `ended.FORGOTTEN` says."""
    monkeypatch.setattr(statelog, "REVOCATIONS_MAX", 3)
    kept.begin()
    ends = [wire.Revocation(n, kind, bytes([n]) * 16, LATER, version=10 + n) for n in range(1, 6)]
    kept.write(lambda s: s.append_revocations(ends))
    expected = [*ends[2:], wire.Revocation(0, "forgotten", b"", version=12)]
    assert kept.load().revocations == expected
    more = [wire.Revocation(n, kind, bytes([n]) * 16, LATER, version=10 + n) for n in range(6, 9)]
    kept.write(lambda s: s.append_revocations(more))
    assert kept.load().revocations == [*more, wire.Revocation(0, "forgotten", b"", version=15)]
    assert kept.load().revocation_seq == 8


def test_token_dropped_for_want_of_room_needs_no_word(
    kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statelog, "REVOCATIONS_MAX", 1)
    kept.begin()
    ends = [end_of(token(), seq) for seq in (1, 2)]
    kept.write(lambda s: s.append_revocations(ends))
    assert kept.load().revocations == ends[1:]


def test_fold_ends_tokens_with_the_plugin_that_issued_them(kept: Disk) -> None:
    plugin = b"p" * 16
    old, other = (wire.Token(bytes([n]) * 32, CREDENTIAL, LATER, plugin=p) for n, p in
                  ((1, plugin), (2, b"q" * 16)))  # fmt: skip
    new = wire.Token(b"n" * 32, CREDENTIAL, LATER, plugin=plugin)
    kept.begin(old, other)
    kept.write(
        lambda s: s.append_revocations([wire.Revocation(1, "plugin", plugin, LATER)]),
        lambda s: s.append_tokens([new]),
    )
    assert kept.load().tokens == [other, new]


# --- crashes, damage, secrecy ---------------------------------------------------------------------


def test_load_takes_what_is_whole_of_a_log_cut_anywhere(kept: Disk) -> None:
    first, second = token(), token()
    kept.begin(first)
    log = kept.folder / "stream.log"
    before = log.stat().st_size
    kept.write(lambda s: s.append_tokens([second]))
    whole = log.read_bytes()
    for end in range(before, len(whole)):
        log.write_bytes(whole[:end])
        assert kept.load().tokens == [first]
        # and the log is fit for more
        assert unframe(KEY, log.read_bytes())[1] == log.stat().st_size
    log.write_bytes(whole)
    assert kept.load().tokens == [first, second]


def test_s90_flipped_byte_in_a_snapshot_brings_the_one_before(kept: Disk) -> None:
    kept.begin(versions=(3, 4))
    newest = kept.folder / "snapshot.b"
    whole = newest.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        newest.write_bytes(damaged)
        loaded = kept.load()
        assert (loaded.version, loaded.snapshot) == (3, snapshot(3)), place
    newest.write_bytes(whole)
    assert kept.load().version == 4


def test_s90_flipped_byte_in_the_log_forgets_every_token(kept: Disk) -> None:
    """A revocation may be what the damage hid: none of its tokens is good any more."""
    one, gone = token(), token()
    kept.begin(one, gone)
    kept.write(lambda s: s.append_revocations([end_of(gone)]))
    log = kept.folder / "stream.log"
    whole = log.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        log.write_bytes(damaged)
        loaded = kept.load()
        assert (loaded.tokens, loaded.revocation_seq, loaded.version) == ([], 0, 3), place
    kept.write(lambda s: s.append_tokens([one]))
    assert kept.load().tokens == [one]


def test_s90_record_taken_out_of_the_log_is_noticed(kept: Disk) -> None:
    gone = token()
    kept.begin(gone)
    log = kept.folder / "stream.log"
    before = log.read_bytes()
    kept.write(lambda s: s.append_revocations([end_of(gone)]))
    between = log.stat().st_size
    kept.write(lambda s: s.append_tokens([token()]))
    log.write_bytes(before + log.read_bytes()[between:])
    assert kept.load().tokens == []


def test_s92_token_revoked_before_the_stop_stays_revoked(kept: Disk) -> None:
    """The process is gone without a goodbye once the revocation is one second old."""
    one, gone = token(), token()
    kept.begin(one, gone)
    state = DiskState(kept.folder, KEY)
    state.load()
    before = (kept.folder / "stream.log").stat().st_size
    began = time.monotonic()
    state.append_revocations([end_of(gone)])
    while (kept.folder / "stream.log").stat().st_size == before:
        assert time.monotonic() - began < 1.0
    # Another process would read this now: nothing waits in `state` for a proper end.
    assert kept.load().tokens == [one]
    state.close()


def test_s92_revocation_is_synced_not_only_written(
    kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.begin(token())
    synced: list[int] = []
    monkeypatch.setattr(disk.os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_size))
    kept.write(lambda s: s.append_revocations([end_of(token())]))
    assert synced == [(kept.folder / "stream.log").stat().st_size]


def test_s94_files_are_ours_alone(kept: Disk) -> None:
    kept.folder.mkdir(mode=0o755)
    old = os.umask(0)
    try:
        kept.begin(token(), versions=(3, 4))
    finally:
        os.umask(old)
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700
    assert kept.files() == {"snapshot.a", "snapshot.b", "stream.log", "node.id"}
    for path in kept.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_s94_nothing_is_readable_without_the_key(kept: Disk) -> None:
    marked = wire.Token(b"\xfe" * 32, b"\xfd" * 16, LATER, scope="readable-scope")
    kept.begin(marked)
    kept.write(lambda s: s.append_revocations([wire.Revocation(1, "token", b"\xfc" * 32)]))
    written = b"".join(p.read_bytes() for p in kept.folder.iterdir() if p.name != "node.id")
    for secret in (b"\xfe" * 8, b"\xfd" * 8, b"\xfc" * 8, b"readable-scope", b"k" * 8, EPOCH):
        assert secret not in written


def test_s94_wrong_key_means_no_cache(kept: Disk) -> None:
    one = token()
    kept.begin(one)
    other = new_key()
    assert kept.load(other) == Loaded()
    assert kept.load().tokens == [one]  # looking did no harm
    assert kept.load(MultiFernet([other, KEY])).tokens == [one]
    kept.write(lambda s: s.forget(EPOCH), lambda s: s.append_tokens([one]), key=other)
    assert kept.load(other).tokens == [one]


def test_load_reads_no_file_beyond_its_bound(kept: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.begin(token())
    monkeypatch.setattr(disk, "FILE_BYTES_MAX", 10)
    assert kept.load() == Loaded()


@pytest.mark.parametrize("name", ["snapshot.a", "stream.log"])
def test_load_refuses_what_our_key_sealed_but_is_no_state(kept: Disk, name: str) -> None:
    kept.begin(token())
    (kept.folder / name).write_bytes(frame(KEY, b"\xc1 no message", 0)[0])
    loaded = kept.load()
    assert (loaded.snapshot is None) is (name == "snapshot.a")
    assert (loaded.tokens == []) is (name == "stream.log")


def test_load_takes_an_empty_log_for_none(kept: Disk) -> None:
    kept.begin(token())
    (kept.folder / "stream.log").write_bytes(b"")
    assert kept.load() == Loaded(snapshot(), epoch=EPOCH, version=3)


def test_unframe_refuses_another_magic() -> None:
    head = struct.pack(">4sII", b"nope", 0, 0)
    with pytest.raises(Damaged, match="header"):
        unframe(KEY, head + struct.pack(">I", zlib.crc32(head)))


# --- a disk that fails ----------------------------------------------------------------------------


def no_space(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_log_that_cannot_be_written_is_removed(kept: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens would otherwise outlive the revocation that found no room."""
    gone = token()
    kept.begin(gone)
    state = DiskState(kept.folder, KEY)
    state.load()
    with monkeypatch.context() as full:
        full.setattr(disk.os, "write", no_space)
        state.append_revocations([end_of(gone)])
        assert state.flush(10)
        assert "stream.log" not in kept.files()
    one = token()
    state.append_tokens([one])
    assert state.flush(10)
    state.close()
    assert kept.load().tokens == [one]


@pytest.mark.parametrize("trouble", ["full", "overrun", "damage"])
def test_log_that_lost_revocations_has_all_of_them_sent_again(
    trouble: str, kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came after the loss says nothing of what went before: a JWT lives by what is missing."""
    ends = [wire.Revocation(seq, "jti", secrets.token_bytes(16), LATER) for seq in range(1, 5)]
    kept.begin()
    kept.write(lambda s: s.append_revocations(ends[:1]))
    if trouble == "damage":
        (kept.folder / "stream.log").write_bytes(b"x" * 50)
    state = DiskState(kept.folder, KEY)
    state.load()
    with monkeypatch.context() as troubled:
        if trouble == "full":
            troubled.setattr(disk.os, "write", no_space)
        elif trouble == "overrun":
            troubled.setattr(disk, "PENDING_MAX", 0)
        state.append_revocations(ends[1:3])
        assert state.flush(10)
    state.append_revocations(ends[3:])
    assert state.flush(10)
    if trouble != "damage":
        state.note_whole()  # of what it heard since its start: not true of the log any more
        assert state.flush(10)
    state.close()
    loaded = kept.load()
    assert (loaded.epoch, loaded.revocation_seq, loaded.complete) == (EPOCH, 0, False)

    kept.write(lambda s: s.append_revocations(ends[:2]))  # all are on their way
    assert kept.load().revocation_seq == 0
    kept.write(lambda s: s.append_revocations(ends[2:]), lambda s: s.note_whole())
    loaded = kept.load()
    assert (loaded.revocation_seq, loaded.complete) == (4, True)
    assert {r.key for r in loaded.revocations} == {r.key for r in ends}


def test_log_begun_by_what_says_that_nothing_is_missing_is_whole(kept: Disk) -> None:
    kept.begin()
    (kept.folder / "stream.log").unlink()
    kept.write(lambda s: s.note_whole())
    assert kept.load().complete
    kept.write(lambda s: s.append_tokens([token()]))
    assert kept.load().complete


def test_log_that_cannot_even_be_removed_ends_no_thread(
    kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.begin()
    state = DiskState(kept.folder, KEY)
    state.load()
    with monkeypatch.context() as full:
        full.setattr(disk.os, "write", no_space)
        full.setattr(Path, "unlink", no_space)
        state.append_tokens([token()])
        assert state.flush(10)
    one = token()
    state.append_tokens([one])
    assert state.flush(10)
    state.close()
    assert kept.load().tokens == [one]


def test_snapshot_that_cannot_be_written_leaves_the_one_before(
    kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.begin(versions=(3, 4))
    state = DiskState(kept.folder, KEY)
    state.load()
    with monkeypatch.context() as full:
        full.setattr(disk.os, "write", no_space)
        saving(5)(state)
        assert state.flush(10)
    state.close()
    assert kept.load().version == 4
    kept.write(saving(6))
    assert kept.load().version == 6


def test_snapshot_that_memory_does_not_suffice_for_ends_no_thread(
    kept: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.begin(versions=(3, 4))
    state = DiskState(kept.folder, KEY)
    state.load()

    def too_much(_data: bytes, _level: int) -> bytes:
        raise MemoryError

    with monkeypatch.context() as full:
        full.setattr(disk.zlib, "compress", too_much)
        saving(5)(state)
        assert state.flush(10)
    saving(6)(state)
    assert state.flush(10)
    state.close()
    assert kept.load().version == 6
