"""A strict WebSocket endpoint that echoes: the far side of the gateway while it is judged.

It keeps RFC 6455 to the letter and notices each violation at the first byte that shows it, so what
a test sees amiss through the gateway is the gateway's, and a violation that arrives here has come
through it.  Frames on one side, no sockets: `feed` takes bytes, `send` is called with bytes.
"""

from __future__ import annotations

import codecs
import os
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
OPCODES = (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
SYNC_TAIL = b"\0\0\xff\xff"  # what a compressed message leaves out at its end, RFC 7692 §7.2.1

Wanting = Generator[None, None, bytes]


class Violation(Exception):
    """The peer broke a rule; the connection fails with this code."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code


class _Closed(Exception):
    """The peer's Close came and was answered."""


@dataclass(frozen=True)
class Deflate:
    """What of permessage-deflate was agreed, as one side sees it.  RFC 7692 §7.1."""

    own_bits: int = 15
    own_fresh: bool = False  # each message of ours starts with an empty window
    peer_fresh: bool = False


def choose(offers: str) -> tuple[Deflate, str] | None:
    """A server's answer to Sec-WebSocket-Extensions: the first offer that zlib can meet."""
    for offer in parse_extensions(offers):
        bits = offer.pop("server_max_window_bits", "15")
        offer.pop("client_max_window_bits", None)
        flags = {"server_no_context_takeover", "client_no_context_takeover"} & offer.keys()
        if offer.keys() - flags or bits not in {str(n) for n in range(9, 16)}:
            continue  # zlib has no window of 8 bits without a header
        said = ["permessage-deflate", *sorted(flags)]
        if bits != "15":
            said.append(f"server_max_window_bits={bits}")
        own, peer = (f"{side}_no_context_takeover" in flags for side in ("server", "client"))
        return Deflate(int(bits), own, peer), "; ".join(said)
    return None


def agreed(answer: str) -> Deflate | None:
    """What the server's Sec-WebSocket-Extensions means for the client."""
    for chosen in parse_extensions(answer):
        own, peer = (f"{side}_no_context_takeover" in chosen for side in ("client", "server"))
        return Deflate(int(chosen.get("client_max_window_bits") or 15), own, peer)
    return None


def parse_extensions(value: str) -> list[dict[str, str]]:
    """The parameters of each permessage-deflate in the value of a header."""
    found = []
    for entry in value.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        if name.lower() == "permessage-deflate":
            pairs = (parameter.partition("=") for parameter in parameters)
            found.append({key.strip().lower(): text.strip(' "') for key, _, text in pairs})
    return found


def unmask(data: bytes, key: bytes) -> bytes:
    wide = (key * (len(data) // 4 + 1))[: len(data)]
    whole = int.from_bytes(data, "big") ^ int.from_bytes(wide, "big")
    return whole.to_bytes(len(data), "big")


def may_be_sent(code: int) -> bool:
    """Close codes that may stand in a frame.  RFC 6455 §7.4, and 1012-1014 of the registry."""
    return code in (1000, 1001, 1002, 1003) or 1007 <= code <= 1014 or 3000 <= code <= 4999


class Endpoint:
    """One side of a connection; `closed` once its Close is out, and then it hears nothing more."""

    def __init__(
        self, send: Callable[[bytes], object], *, client: bool, deflate: Deflate | None = None
    ) -> None:
        self._send_bytes = send
        self._client = client
        self._deflate = deflate
        self._input = bytearray()
        self._compress = self._new_compressor()
        self._decompress = zlib.decompressobj(-15)
        self._message: _Message | None = None
        self._reading = self._read()
        self.messages = 0
        self.violation: str | None = None
        self.closed = False
        next(self._reading)

    def feed(self, data: bytes) -> None:
        if self.closed:
            return
        self._input += data
        try:
            next(self._reading)
        except Violation as found:
            self.violation = str(found)
            self.close(found.code, str(found))
        except _Closed:
            pass

    def close(self, code: int, reason: str = "") -> None:
        self._send(CLOSE, code.to_bytes(2, "big") + reason.encode()[:123])
        self.closed = True

    def _new_compressor(self) -> zlib._Compress | None:
        return self._deflate and zlib.compressobj(1, wbits=-self._deflate.own_bits)

    def _send(self, opcode: int, payload: bytes) -> None:
        first = 0x80 | opcode
        if self._compress and self._deflate and opcode in (TEXT, BINARY):
            first |= 0x40
            payload = self._compress.compress(payload) + self._compress.flush(zlib.Z_SYNC_FLUSH)
            payload = payload.removesuffix(SYNC_TAIL) or b"\0"
            if self._deflate.own_fresh:
                self._compress = self._new_compressor()
        size, masked = len(payload), 0x80 if self._client else 0
        if size < 126:
            head = bytes((first, masked | size))
        elif size < 65536:
            head = bytes((first, masked | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((first, masked | 127)) + size.to_bytes(8, "big")
        if self._client:
            key = os.urandom(4)
            head, payload = head + key, unmask(payload, key)
        self._send_bytes(head + payload)

    # Reading: a generator that rests where bytes are missing.

    def _take(self, size: int) -> Wanting:
        while len(self._input) < size:
            yield
        taken = bytes(self._input[:size])
        del self._input[:size]
        return taken

    def _read(self) -> Generator[None, None, None]:
        while True:
            first, second = yield from self._take(2)
            self._check(first, second)
            size = second & 127
            if size > 125:
                wide = 2 if size == 126 else 8
                size = int.from_bytes((yield from self._take(wide)), "big")
                if size < (126 if wide == 2 else 65536) or size >> 63:
                    raise Violation(1002, "length not in its shortest form, or over 63 bits")
            key = (yield from self._take(4)) if second & 0x80 else bytes(4)
            opcode = first & 15
            if opcode >= CLOSE:
                self._control(opcode, unmask((yield from self._take(size)), key))
                continue
            if opcode != CONTINUATION:
                self._message = _Message(opcode, bool(first & 0x40))
            yield from self._payload(size, key)
            if first & 0x80:
                self._end_message()

    def _check(self, first: int, second: int) -> None:
        """All that the first two bytes of a frame can break."""
        opcode, size = first & 15, second & 127
        rsv_allowed = 0x40 if self._deflate and opcode in (TEXT, BINARY) else 0
        broken = {
            "reserved bit": first & 0x70 & ~rsv_allowed,
            "reserved opcode": opcode not in OPCODES,
            "masked by a server": self._client and second & 0x80,
            "not masked by a client": not self._client and not second & 0x80,
            "fragmented control frame": opcode >= CLOSE and not first & 0x80,
            "control frame over 125 bytes": opcode >= CLOSE and size > 125,
            "nothing to continue": opcode == CONTINUATION and self._message is None,
            "message within a message": opcode in (TEXT, BINARY) and self._message is not None,
        }
        for what, is_so in broken.items():
            if is_so:
                raise Violation(1002, what)

    def _payload(self, size: int, key: bytes) -> Generator[None, None, None]:
        """Bytes of a data frame, judged as they come."""
        while size:
            while not self._input:
                yield
            part = bytes(self._input[:size])
            del self._input[:size]
            size -= len(part)
            self._add(unmask(part, key))
            turn = len(part) % 4
            key = key[turn:] + key[:turn]

    def _add(self, data: bytes, last: bool = False) -> None:
        message = self._message
        assert message is not None
        if message.compressed:
            try:
                data = self._decompress.decompress(data)
            except zlib.error:
                raise Violation(1007, "compressed data is corrupt") from None
        try:
            if message.text is not None:
                message.text.decode(data, last)
        except UnicodeDecodeError:
            raise Violation(1007, "text is not UTF-8") from None
        message.parts.append(data)

    def _end_message(self) -> None:
        message, deflate = self._message, self._deflate
        assert message is not None
        self._add(SYNC_TAIL if message.compressed else b"", last=True)
        if message.compressed and deflate and (deflate.peer_fresh or self._decompress.eof):
            self._decompress = zlib.decompressobj(-15)
        self._message = None
        self.messages += 1
        self._send(message.opcode, b"".join(message.parts))

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._send(PONG, payload)
        if opcode != CLOSE:
            return
        if len(payload) == 1:
            raise Violation(1002, "Close of one byte")
        if payload and not may_be_sent(int.from_bytes(payload[:2], "big")):
            raise Violation(1002, "Close code that may not be sent")
        try:
            payload[2:].decode()
        except UnicodeDecodeError:
            raise Violation(1007, "reason is not UTF-8") from None
        self._send(CLOSE, payload[:2])
        self.closed = True
        raise _Closed


class _Message:
    def __init__(self, opcode: int, compressed: bool) -> None:
        self.opcode, self.compressed = opcode, compressed
        self.parts: list[bytes] = []
        self.text = codecs.getincrementaldecoder("utf-8")() if opcode == TEXT else None
