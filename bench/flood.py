"""Handshakes at a steady rate: with tokens that nobody knows, each another one, or with a good one.

    python -m bench.flood PORT PATH RATE SECONDS KIND

KIND `junk`: the token's check characters fail. `unknown`: they hold, under the key that is the
first line of standard input, in hexadecimal. Requests are pipelined on few connections, so that
this process costs little beside what it is answered by. `known`: the token of that line, a
connection each. RATE 0: as fast as they are answered. Prints one JSON object: `sent`, `seconds`,
`answers` by status, `p50_ms` and `p99_ms` of what is written at once.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from dataplane.wire import TOKEN_ALPHABET, TOKEN_RANDOM_CHARS

BATCH = 16  # requests pipelined on a connection
# One whose token is asked for waits, and what is pipelined behind it.
CONNECTIONS = {"junk": 32, "unknown": 256, "known": 32}
CHARACTERS = bytes(TOKEN_ALPHABET[n % len(TOKEN_ALPHABET)].encode()[0] for n in range(256))
HEAD_END = b"\r\n\r\n"


class Flood:
    """The load of one run; what it found is in its counters."""

    def __init__(self, port: int, path: str, kind: str, secret: str) -> None:
        self.port = port
        self.kind = kind
        self.head = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer "
        ).encode()
        self.secret = secret
        self.key = bytes.fromhex(secret) if kind == "unknown" else b""
        self.size = 1 if kind == "known" else BATCH
        self.answers: Counter[str] = Counter()
        self.took: list[float] = []  # seconds of each batch
        self.sent = 0

    def batch(self) -> bytes:
        """The requests of one write."""
        if self.kind == "known":
            return self.head + self.secret.encode() + HEAD_END
        letters = os.urandom(TOKEN_RANDOM_CHARS * BATCH).translate(CHARACTERS)
        parts = (letters[n : n + TOKEN_RANDOM_CHARS] for n in range(0, len(letters), 26))
        return b"".join(self.head + part + self.check(part) + HEAD_END for part in parts)

    def check(self, part: bytes) -> bytes:
        """`wire.token_check`, in a hurry; for junk what never ends a token of ours."""
        if not self.key:
            return b"......"
        return hmac.digest(self.key, part, "sha256")[:6].translate(CHARACTERS)

    async def pipelining(self, due: Callable[[], float], until: float) -> None:
        """Batch after batch: each when it is due and the one before is answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while (at := due()) < until:
            data = self.batch()
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            await self.ask(reader, writer, data)
        writer.close()

    async def connecting(self, due: Callable[[], float], until: float) -> None:
        """A connection for each request."""
        while (at := due()) < until:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            await self.ask(reader, writer, self.batch())
            writer.transport.abort()

    async def ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes
    ) -> None:
        began = time.monotonic()
        writer.write(data)
        self.sent += self.size
        left, buffer = self.size, b""
        while left:
            data = await reader.read(65536)
            if not data:
                raise ConnectionError("the gateway ended the connection")
            buffer += data
            while left and (end := buffer.find(HEAD_END)) >= 0:
                head = buffer[:end].lower()
                _, named, rest = head.partition(b"content-length:")
                size = int(rest.split(None, 1)[0]) if named else 0
                if len(buffer) < end + 4 + size:
                    break
                self.answers[head.split()[1].decode()] += 1
                buffer = buffer[end + 4 + size :]
                left -= 1
        self.took.append(time.monotonic() - began)

    async def run(self, rate: float, seconds: float) -> dict[str, object]:
        began = time.monotonic()
        turn = 0

        def due() -> float:
            nonlocal turn
            turn += 1
            return began + turn * self.size / rate if rate else time.monotonic()

        client: Callable[[Callable[[], float], float], Awaitable[None]] = (
            self.connecting if self.kind == "known" else self.pipelining
        )
        clients = (client(due, began + seconds) for _ in range(CONNECTIONS[self.kind]))
        await asyncio.gather(*clients)
        cuts = statistics.quantiles(self.took, n=100)
        return {
            "sent": self.sent,
            "seconds": time.monotonic() - began,
            "answers": self.answers,
            "p50_ms": cuts[49] * 1000,
            "p99_ms": cuts[98] * 1000,
        }


def main(port: int, path: str, rate: float, seconds: float, kind: str) -> None:
    flood = Flood(port, path, kind, sys.stdin.readline().strip())
    print(json.dumps(asyncio.run(flood.run(rate, seconds))))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
