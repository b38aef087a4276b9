"""One connected data plane: what is queued for it, in what order it goes, and what it reported.

Two queues and one task that sends. Tokens, revocations, answers and heartbeats wait in `_urgent`;
a snapshot's chunks go only while that is empty, so that nothing waits behind more than one chunk
and what the kernel has taken. A new snapshot is begun only when the one before was acked or
refused, and of those that came meanwhile only the newest.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from websockets.asyncio.server import ServerConnection

from dataplane import wire

ROOM_BYTES = 1024 * 1024  # no more than this waits before a replay goes on
URGENT_BYTES_MAX = 16 * 1024 * 1024  # a data plane that takes no more than this is dropped
ACK_SECONDS_MAX = 60.0  # from a snapshot's first chunk to its ack
TOKENS_BYTES_MAX = wire.MESSAGE_BYTES_MAX // 2  # estimated, in one message
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # Linux; missing in Python 3.11

log = structlog.get_logger()


@dataclass(frozen=True)
class Built:
    """A snapshot ready to send: made once, shared by all connections."""

    epoch: bytes
    version: int
    chunks: Sequence[bytes]  # encoded wire.Chunk messages


@dataclass
class DataPlane:
    """A row of `GET /dataplanes`; only its own connection changes it."""

    node_id: bytes
    identity: str  # first name of the certificate; empty without one
    name: str = ""
    ip: str = ""
    software: str = ""
    connected: bool = False
    last_seen: float = 0.0
    version: int = 0
    refused_version: int | None = None
    refused_reason: str | None = None
    counters: wire.Counters | None = None

    def shown(self, config_version: int) -> dict[str, object]:
        """As the Admin API shows it; `config_version` is what the control plane has."""
        if not self.connected:
            status = "disconnected"
        elif self.refused_reason is not None:
            status = "refused"
        else:
            status = "normal" if self.version == config_version else "pending"
        counters = self.counters or wire.Counters(0, 0, 0.0)
        return {
            "id": _uuid(self.node_id),
            "hostname": self.name,
            "ip": self.ip,
            "version": self.software,
            "certificate": self.identity or None,
            "connected": self.connected,
            "last_seen": int(self.last_seen),
            "sync_status": status,
            "config_version": self.version,
            "refused_version": self.refused_version,
            "refused_reason": self.refused_reason,
            "sessions": counters.sessions,
            "handshakes": counters.handshakes,
            "uptime": int(counters.uptime_s),
        }


class Peer:
    """The sending side of one connection.  All methods: from the event loop's thread."""

    def __init__(self, connection: ServerConnection, hello: wire.Hello, row: DataPlane) -> None:
        self.connection = connection
        self.row = row
        self.offered = (hello.epoch, hello.version)  # the newest snapshot it has or was offered
        self.cursor = hello.revocation_seq  # the last revocation that was queued for it
        self.catching_up = False  # revocations are being read for it
        self.slow = False  # too much waited for it; its connection was cut
        self.requests_in_flight = 0
        self.redeems_in_flight = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self._urgent: deque[bytes] = deque()
        self._urgent_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._in_flight: int | None = None  # the version that is being sent or not yet acked
        self._in_flight_since = 0.0
        self._next: Built | None = None
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._replies: list[wire.TokenReply] = []
        sock = connection.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # What the kernel holds unsent goes before anything urgent: keep it short.
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, 2 * wire.CHUNK_BYTES)

    def send(self, data: bytes) -> None:
        """Queue an encoded message ahead of any chunk; drop a peer that takes too little.

        A message that no data plane takes is left out: it would end the link, now and at each
        reconnect. Only what was written by hand can be so large, as a user id of a megabyte.
        """
        if self.slow:
            return
        if len(data) > wire.MESSAGE_BYTES_MAX:
            log.error("link.message_too_large", dataplane=self.row.name, bytes=len(data))
            return
        self._urgent.append(data)
        self._urgent_bytes += len(data)
        self._wake.set()
        if self._urgent_bytes > ROOM_BYTES:
            self._room.clear()
        if self._urgent_bytes > URGENT_BYTES_MAX:
            self.slow = True
            self._urgent.clear()
            self.connection.transport.abort()

    async def wait_for_room(self) -> None:
        """Until it has taken most of what waits for it: before much is sent that can wait."""
        await self._room.wait()

    def reply(self, reply: wire.TokenReply) -> None:
        """Send this reply with all others of this turn of the loop.

        In the next one, so that the token it speaks of, which a thread committed, goes before it.
        """
        if not self._replies:
            asyncio.get_running_loop().call_soon(self._send_replies)
        self._replies.append(reply)

    def _send_replies(self) -> None:
        replies, self._replies = self._replies, []
        for message in reply_messages(replies):
            self.send(message)

    def offer(self, built: Built) -> None:
        """Send this snapshot, at once or after the one in flight."""
        if self.offered == (built.epoch, built.version):
            return
        self.offered = (built.epoch, built.version)
        if self._in_flight is None:
            self._begin(built)
        else:
            self._next = built

    def settle(self, version: int) -> bool:
        """The snapshot in flight was acked or refused; False when it was not this one."""
        if version != self._in_flight:
            return False
        self._in_flight = None
        built, self._next = self._next, None
        if built is not None:
            self._begin(built)
        return True

    def overdue(self) -> bool:
        """Neither ack nor refusal for ACK_SECONDS_MAX."""
        waited = time.monotonic() - self._in_flight_since
        return self._in_flight is not None and waited > ACK_SECONDS_MAX

    def _begin(self, built: Built) -> None:
        self._in_flight, self._in_flight_since = built.version, time.monotonic()
        self._chunks.extend(built.chunks)
        self._wake.set()

    async def send_for_ever(self) -> None:
        """Send what is queued, urgent first."""
        while True:
            if self._urgent:
                data = self._urgent.popleft()
                self._urgent_bytes -= len(data)
                if self._urgent_bytes <= ROOM_BYTES:
                    self._room.set()
            elif self._chunks:
                data = self._chunks.popleft()
            else:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self.connection.send(data)


def reply_messages(replies: Sequence[wire.TokenReply]) -> list[bytes]:
    """Encoded replies, as many together as a message takes."""
    found: list[bytes] = []
    part: list[wire.TokenReply] = []
    size = 0
    for reply in replies:
        if part and size + len(reply.body) > wire.TOGETHER_BYTES:
            found.append(_together(part))
            part, size = [], 0
        part.append(reply)
        size += len(reply.body) + 512
    return [*found, _together(part)] if part else found


def _together(replies: list[wire.TokenReply]) -> bytes:
    return wire.encode(replies[0] if len(replies) == 1 else wire.TokenReplies(replies))


def token_messages(tokens: Sequence[wire.Token]) -> list[bytes]:
    """Encoded `Tokens`, each within the bounds of one message; a token beyond them is left out."""
    found: list[bytes] = []
    part: list[wire.Token] = []
    size = 0
    for token in tokens:
        weight = token_bytes(token)
        if weight > TOKENS_BYTES_MAX:
            continue
        if part and (len(part) == wire.TOKENS_PER_MESSAGE or size + weight > TOKENS_BYTES_MAX):
            found.append(wire.encode(wire.Tokens(part)))
            part, size = [], 0
        part.append(token)
        size += weight
    return [*found, wire.encode(wire.Tokens(part))] if part else found


def token_bytes(token: wire.Token) -> int:
    """An upper bound of what a token takes in a message."""
    texts = (token.scope or "", token.user_id or "", *token.audience)
    return 240 + sum(8 + 4 * len(text) for text in texts)


def revocation_messages(revocations: Sequence[wire.Revocation]) -> list[bytes]:
    """Encoded `Revocations`, each within the bounds of one message."""
    step = wire.TOKENS_PER_MESSAGE
    return [
        wire.encode(wire.Revocations(list(revocations[start : start + step])))
        for start in range(0, len(revocations), step)
    ]


def _uuid(id_: bytes) -> str:
    text = id_.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
