"""The data plane's log on disk: how records are framed, and what they come to when read again.

A frame is a 16-byte header (magic, length, CRC of the payload chained to the frame before, CRC of
the header) and a Fernet token. The checksums find a flipped byte and a frame that is missing or
out of place; Fernet finds what was made on purpose. A file cut short inside its last frame is what
a crash leaves and is no damage: what the cut frame held was never promised to be on the disk.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec
from cryptography.fernet import InvalidToken

from dataplane import wire
from dataplane.ended import ALL_VERSIONS, FORGOTTEN

TOKENS_MAX = 131_072  # kept by a fold, newest first
REVOCATIONS_MAX = 131_072  # kept by a fold, newest first
ENTRY_ITEMS_MAX = 5_000  # tokens or revocations in one record
CLOCK_GRACE_SECONDS = 3600  # our clock may be before the one that a revocation expires by

_FORGOTTEN_KEY = (FORGOTTEN, b"")

_T = TypeVar("_T")

_HEADER = struct.Struct(">4sIII")
_MAGIC = b"nxs1"


class Cipher(Protocol):
    """`Fernet` or `MultiFernet`."""

    def encrypt(self, msg: bytes) -> bytes: ...
    def decrypt(self, msg: bytes | str) -> bytes: ...


class Damaged(Exception):
    """The file is not what was written, or was written under another key."""


def frame(cipher: Cipher, plain: bytes, chain: int) -> tuple[bytes, int]:
    """`plain` as one frame, and the chain value that the next frame of the file needs."""
    payload = cipher.encrypt(plain)
    chain = zlib.crc32(payload, chain)
    head = struct.pack(">4sII", _MAGIC, len(payload), chain)
    return head + struct.pack(">I", zlib.crc32(head)) + payload, chain


def unframe(cipher: Cipher, data: bytes) -> tuple[list[bytes], int, int]:
    """The records in `data`, the bytes they fill, and the chain value for the next one.

    Fewer bytes filled than `data` has: the last frame was cut short.

    Raises:
        Damaged: anything else that `frame` did not write.
    """
    plains: list[bytes] = []
    chain = offset = 0
    while offset + _HEADER.size <= len(data):
        magic, length, check, head_check = _HEADER.unpack_from(data, offset)
        if zlib.crc32(data[offset : offset + _HEADER.size - 4]) != head_check or magic != _MAGIC:
            raise Damaged(f"the record at byte {offset} has a broken header")
        end = offset + _HEADER.size + length
        if end > len(data):
            break
        payload = data[offset + _HEADER.size : end]
        chain = zlib.crc32(payload, chain)
        if chain != check:
            raise Damaged(f"the record at byte {offset} was changed")
        try:
            plains.append(cipher.decrypt(payload))
        except InvalidToken:
            raise Damaged("it was not written under a key of KEYRING") from None
        offset = end
    return plains, offset, chain


class Entry(msgspec.Struct, omit_defaults=True):
    """One record of the log: a fresh start when `epoch` is set, then tokens or revocations."""

    epoch: bytes | None = None  # all before is void; `revocation_seq` counts from here
    revocation_seq: int = 0
    lost: bool = False  # with `epoch`: revocations of it that were heard are missing
    whole: bool = False  # from here on none is
    tokens: list[wire.Token] = []
    revocations: list[wire.Revocation] = []


decode_entry = msgspec.msgpack.Decoder(Entry).decode


class Fold:
    """What a log comes to: its entries played in order.

    A token counts when it came after every revocation that covers it. Which consumer a credential
    belongs to the log does not know: `settle` is told, or leaves those tokens in place, behind the
    revocations they came after.
    """

    def __init__(self, entries: Iterable[Entry] = (), epoch: bytes = b"") -> None:
        self.epoch = epoch
        self.seq = 0  # the highest; where `lost`, there may be holes below
        self.lost = False
        self.tokens: dict[bytes, wire.Token] = {}  # by digest, oldest first
        self.revocations: dict[tuple[str, bytes], wire.Revocation] = {}
        self._born: dict[bytes, int] = {}  # digest → place in the log
        self._ended: dict[tuple[str, bytes], int] = {}  # (kind, key) → place in the log
        self._place = 0
        self._dropped = 0
        for entry in entries:
            self._play(entry)

    def _play(self, entry: Entry) -> None:
        if entry.epoch is not None:
            self._dropped += len(self.tokens) + len(self.revocations)
            self.tokens, self.revocations, self._born, self._ended = {}, {}, {}, {}
            self.epoch, self.seq = entry.epoch, entry.revocation_seq
            self.lost = entry.lost
        if entry.whole:
            self.lost = False
        for token in entry.tokens:
            self._place += 1
            self._dropped += self.tokens.pop(token.digest, None) is not None
            self.tokens[token.digest] = token
            self._born[token.digest] = self._place
        for revocation in entry.revocations:
            self._place += 1
            key = (revocation.kind, revocation.key)
            self.seq = max(self.seq, revocation.seq)
            self._dropped += self.revocations.pop(key, None) is not None
            self.revocations[key] = revocation
            self._ended[key] = self._place
            if revocation.kind == "token":
                self._dropped += self.tokens.pop(revocation.key, None) is not None

    def settle(self, consumers: dict[bytes, bytes], now: float) -> int:
        """Drop what has ended or expired and what is over the bounds; how many went in all.

        `consumers` names the consumer of each credential, as far as it is known.
        """
        before = len(self.tokens) + len(self.revocations)
        past = now - CLOCK_GRACE_SECONDS
        forgotten = self.revocations.pop(_FORGOTTEN_KEY, None)
        ends = [r for r in self.revocations.values() if not r.expires_at or r.expires_at > past]
        ends.sort(key=lambda r: r.seq)
        over = ends[: max(0, len(ends) - REVOCATIONS_MAX)]
        lost = [r for r in over if r.kind != "token"] + ([forgotten] if forgotten else [])
        # The tokens of a consumer whose end is dropped here may still be among ours.
        since = max((self._ended[r.kind, r.key] for r in over if r.kind == "consumer"), default=0)
        tokens = [t for t in self.tokens.values() if self._counts(t, consumers, since, now)]
        self.tokens = {token.digest: token for token in tokens[-TOKENS_MAX:]}
        self.revocations = {(r.kind, r.key): r for r in ends[len(over) :]}
        if lost:  # a JWT that one of them was about must be asked for
            version = max(r.version or ALL_VERSIONS for r in lost)
            self.revocations[_FORGOTTEN_KEY] = wire.Revocation(0, *_FORGOTTEN_KEY, version=version)
        return self._dropped + before - len(self.tokens) - len(self.revocations)

    def _counts(
        self, token: wire.Token, consumers: dict[bytes, bytes], since: int, now: float
    ) -> bool:
        if token.expires_at and token.expires_at <= now:
            return False
        consumer = consumers.get(token.credential, b"")
        covered = max(
            since,
            self._ended.get(("credential", token.credential), 0),
            self._ended.get(("consumer", consumer), 0),
            self._ended.get(("plugin", token.plugin or b""), 0),
        )
        return self._born[token.digest] > covered

    def entries(self) -> Iterable[Entry]:
        """The shortest log that says the same."""
        yield Entry(epoch=self.epoch, revocation_seq=self.seq, lost=self.lost)
        settled = [r for r in self.revocations.values() if r.kind != "consumer"]
        for revocations in parts(settled):
            yield Entry(revocations=revocations)
        waiting = list(self.tokens.values())
        for revocation in self.revocations.values():
            if revocation.kind == "consumer":
                place = self._ended[revocation.kind, revocation.key]
                older = [t for t in waiting if self._born[t.digest] < place]
                waiting = waiting[len(older) :]
                yield from (Entry(tokens=tokens) for tokens in parts(older))
                yield Entry(revocations=[revocation])
        yield from (Entry(tokens=tokens) for tokens in parts(waiting))


def parts(items: Sequence[_T]) -> Iterable[list[_T]]:
    """`items` in pieces that fit one record."""
    for start in range(0, len(items), ENTRY_ITEMS_MAX):
        yield list(items[start : start + ENTRY_ITEMS_MAX])
