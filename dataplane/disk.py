"""What a data plane keeps on disk, so that it serves after a restart without a control plane.

Three files in one folder (0700), each 0600 and encrypted under KEYRING:

- `snapshot.a`, `snapshot.b`: two generations of the configuration. A new one replaces the older
  file by rename, so that a crash or a damaged file leaves the other.
- `stream.log`: tokens and revocations in the order they came, appended and synced at most
  LINGER_SECONDS and one fsync late, folded to what still counts at start and past LOG_BYTES_MAX.

A log with a damaged record yields nothing at all: a revocation may be what was lost, and a token
that is forgotten costs one question, where a revoked one that is remembered admits a stranger.
All writing happens in one thread; the methods here only hand over and never wait for the disk.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from dataplane import wire
from dataplane.statelog import Cipher, Damaged, Entry, Fold, decode_entry, frame, parts, unframe

LOG_BYTES_MAX = 64 * 1024 * 1024  # past it the log is folded
PENDING_MAX = 200_000  # tokens and revocations that wait for the disk; past it all are forgotten
LINGER_SECONDS = 0.2  # what comes within this time is written and synced together
FILE_BYTES_MAX = wire.SNAPSHOT_BYTES_MAX * 3 // 2  # more is not read

_GENERATIONS = ("snapshot.a", "snapshot.b")
_LOG = "stream.log"
_NODE = "node.id"

log = structlog.get_logger()


@dataclass(frozen=True)
class Loaded:
    """What was on the disk; `tokens` without those that expired or were revoked.

    `complete`: no revocation that was heard is missing.
    """

    snapshot: wire.Snapshot | None = None
    tokens: list[wire.Token] = field(default_factory=list)
    revocations: list[wire.Revocation] = field(default_factory=list)
    epoch: bytes = b""
    version: int = 0
    revocation_seq: int = 0
    complete: bool = False


class _Generation(msgspec.Struct):
    """A snapshot file: `packed` is zlib of the MessagePack of a wire.Snapshot."""

    number: int
    epoch: bytes
    version: int
    packed: bytes


_generation = msgspec.msgpack.Decoder(_Generation)
_encode = msgspec.msgpack.Encoder().encode


class DiskState:
    """The folder, and the thread that writes to it.  Raises OSError when it cannot be made."""

    def __init__(self, directory: Path, fernet: Cipher) -> None:
        self._dir = directory
        self._cipher = fernet
        self._log_fd = -1  # -1: a fresh log is begun before the next record
        self._lost = False  # the log lacks something that this process was handed
        self._log_bytes = 0
        self._log_chain = 0
        self._epoch = b""
        self._generation = 0  # the number of the newest snapshot file
        self._older = _GENERATIONS[0]  # the file the next snapshot replaces
        self._more = threading.Condition()
        self._entries: list[Entry] = []
        self._items = 0  # tokens and revocations in _entries
        self._snapshot: tuple[bytes, bytes, int] | None = None
        self._accepted = self._written = 0  # calls handed over; calls on the disk
        self._hurry = self._closing = False
        self._thread: threading.Thread | None = None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self.node_id = self._read_node_id()

    # --- reading, at start ---

    def load(self) -> Loaded:
        """What the files hold, folded.  Once, before anything is written."""
        generation, snapshot = self._load_generations()
        epoch = generation.epoch if generation else b""
        self._epoch = epoch
        fold = self._load_log({c.id: c.consumer for c in snapshot.credentials} if snapshot else {})
        complete = fold is not None and fold.epoch == epoch and not fold.lost
        if fold is None or (snapshot is not None and fold.epoch != epoch):
            fold = Fold()
            self._close_log()
        else:
            self._epoch = epoch = fold.epoch
        return Loaded(
            snapshot=snapshot,
            tokens=list(fold.tokens.values()),
            revocations=list(fold.revocations.values()),
            epoch=epoch,
            version=generation.version if generation else 0,
            revocation_seq=0 if fold.lost else fold.seq,  # so that all are sent again
            complete=complete,
        )

    def _load_generations(self) -> tuple[_Generation | None, wire.Snapshot | None]:
        found: list[tuple[_Generation, wire.Snapshot, str]] = []
        for name in _GENERATIONS:
            try:
                records, filled, _ = unframe(self._cipher, data := self._read(name))
                if len(records) != 1 or filled != len(data):
                    raise Damaged("it does not hold one whole snapshot")
                generation = _generation.decode(records[0])
                snapshot = wire.unpack_snapshot(zlib.decompress(generation.packed))
                found.append((generation, snapshot, name))
            except FileNotFoundError:
                continue
            except (OSError, Damaged, msgspec.MsgspecError, zlib.error) as error:
                log.warning("state.unreadable", file=str(self._dir / name), why=str(error))
        if not found:
            return None, None
        generation, snapshot, name = max(found, key=lambda item: item[0].number)
        self._generation = generation.number
        self._older = _GENERATIONS[1 - _GENERATIONS.index(name)]
        return generation, snapshot

    def _load_log(self, consumers: dict[bytes, bytes]) -> Fold | None:
        """The folded log, opened for appending; None when there is none that can be trusted."""
        try:
            data = self._read(_LOG)
            records, filled, chain = unframe(self._cipher, data)
            fold = Fold(decode_entry(record) for record in records)
        except FileNotFoundError:
            return None
        except (OSError, Damaged, msgspec.MsgspecError) as error:
            log.warning("state.unreadable", file=str(self._dir / _LOG), why=str(error))
            return None
        if not records:
            return None
        dropped = fold.settle(consumers, time.time())
        if filled != len(data) or dropped > len(fold.tokens):
            self._begin_log(fold)
        else:
            self._log_fd = os.open(self._dir / _LOG, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._log_bytes, self._log_chain = filled, chain
        return fold

    def _read(self, name: str) -> bytes:
        path = self._dir / name
        if path.stat().st_size > FILE_BYTES_MAX:
            raise Damaged(f"it is larger than {FILE_BYTES_MAX} bytes")
        return path.read_bytes()

    def _read_node_id(self) -> bytes:
        """Who this data plane is, over restarts: 16 random bytes; no secret."""
        try:
            node_id = (self._dir / _NODE).read_bytes()
        except FileNotFoundError:
            node_id = b""
        if len(node_id) != 16:
            node_id = secrets.token_bytes(16)
            self._replace(_NODE, node_id)
        return node_id

    # --- handing over, from any thread ---

    def save_snapshot(self, packed: bytes, epoch: bytes, version: int) -> None:
        """Keep this snapshot as the newest generation; only the last one handed over is written."""
        with self._more:
            self._snapshot = (packed, epoch, version)
            self._hand_over()

    def append_tokens(self, tokens: Sequence[wire.Token]) -> None:
        self._append([Entry(tokens=part) for part in parts(tokens)], len(tokens))

    def append_revocations(self, revocations: Sequence[wire.Revocation]) -> None:
        """On the disk at most one second later (one fsync and LINGER_SECONDS)."""
        self._append([Entry(revocations=part) for part in parts(revocations)], len(revocations))

    def forget(self, epoch: bytes) -> None:
        """Drop all tokens and revocations: those of another epoch say nothing about this one."""
        with self._more:
            self._epoch = epoch
            self._entries, self._items = [Entry(epoch=epoch)], 0
            self._hand_over()

    def note_whole(self) -> None:
        """All revocations that matter were handed over since `load`."""
        self._append([Entry(whole=True)], 0)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until what was handed over before this call is on the disk; False: too late."""
        with self._more:
            until = self._accepted
            self._hurry = True
            self._more.notify_all()
            return self._more.wait_for(lambda: self._written >= until, timeout)

    def close(self) -> None:
        """Write what was handed over and end the thread."""
        with self._more:
            self._closing = True
            self._more.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._close_log()

    def _append(self, entries: list[Entry], items: int) -> None:
        with self._more:
            self._items += items
            if self._items > PENDING_MAX:
                log.error("state.overrun", waiting=self._items, effect="tokens are not kept")
                self._entries, self._items = [Entry(epoch=self._epoch, lost=True)], 0
            else:
                self._entries += entries
            self._hand_over()

    def _hand_over(self) -> None:
        self._accepted += 1
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._write_for_ever, name="state", daemon=True)
            self._thread.start()
        if self._accepted == self._written + 1:  # else it is awake and lingers
            self._more.notify_all()

    # --- writing, in the thread ---

    def _write_for_ever(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._accepted > self._written or self._closing)
                self._more.wait_for(lambda: self._hurry or self._closing, LINGER_SECONDS)
                entries, self._entries, self._items = self._entries, [], 0
                snapshot, self._snapshot = self._snapshot, None
                taken, last, self._hurry = self._accepted, self._closing, False
                epoch = self._epoch  # theirs; another may be entered while they are written
            self._write_entries(entries, epoch)
            if snapshot is not None:
                self._write_snapshot(*snapshot)
            with self._more:
                self._written = taken
                self._more.notify_all()
                if last and taken == self._accepted:
                    return

    def _write_entries(self, entries: list[Entry], epoch: bytes) -> None:
        """Append and sync; a log that cannot be written is removed, lest it outlive its truth."""
        try:
            for entry in entries:
                if entry.epoch is not None:
                    self._lost = entry.lost
                if entry.whole and self._lost:
                    continue
                if entry.epoch is not None or self._log_fd < 0:
                    fold = Fold([entry], epoch=epoch)
                    fold.lost = fold.lost or not (entry.whole or entry.epoch is not None)
                    self._begin_log(fold)
                else:
                    self._append_record(entry)
            if entries and self._log_fd >= 0:
                os.fdatasync(self._log_fd)
            if self._log_bytes > LOG_BYTES_MAX:
                self._fold_log()
        except Exception as error:  # whatever it was, the thread has more to write
            self._lost = True
            self._drop_log()
            log.error("state.unwritable", file=str(self._dir / _LOG), why=str(error))

    def _append_record(self, entry: Entry) -> None:
        data, self._log_chain = frame(self._cipher, _encode(entry), self._log_chain)
        _write_all(self._log_fd, data)
        self._log_bytes += len(data)

    def _fold_log(self) -> None:
        records, _, _ = unframe(self._cipher, self._read(_LOG))
        fold = Fold(decode_entry(record) for record in records)
        fold.settle({}, time.time())
        self._begin_log(fold)

    def _begin_log(self, fold: Fold) -> None:
        """Write a new log that says what `fold` says, put it in place and go on with it."""
        pieces, chain = [], 0
        for entry in fold.entries():
            data, chain = frame(self._cipher, _encode(entry), chain)
            pieces.append(data)
        whole = b"".join(pieces)
        self._replace(_LOG, whole)
        self._close_log()
        self._log_fd = os.open(self._dir / _LOG, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._log_bytes, self._log_chain = len(whole), chain

    def _close_log(self) -> None:
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1

    def _drop_log(self) -> None:
        self._close_log()
        try:
            (self._dir / _LOG).unlink(missing_ok=True)
        except OSError as error:
            log.error("state.unremovable", file=str(self._dir / _LOG), why=str(error))

    def _write_snapshot(self, packed: bytes, epoch: bytes, version: int) -> None:
        number, name = self._generation + 1, self._older
        try:
            squeezed = zlib.compress(packed, 1)
            plain = _encode(_Generation(number, epoch, version, squeezed))
            self._replace(name, frame(self._cipher, plain, 0)[0])
        except Exception as error:  # out of memory, say; the thread has more to write
            log.error("state.unwritable", file=str(self._dir / name), why=str(error))
            return
        self._generation = number
        self._older = _GENERATIONS[1 - _GENERATIONS.index(name)]

    def _replace(self, name: str, data: bytes) -> None:
        """Write aside, sync, rename, sync the folder: the file is the old one or the new one."""
        path, aside = self._dir / name, self._dir / f"{name}.new"
        aside.unlink(missing_ok=True)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        aside.rename(path)
        folder = os.open(self._dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
