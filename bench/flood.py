"""Handshakes with tokens that nobody knows, each another one, at a steady rate.

    python -m bench.flood PORT PATH RATE SECONDS KIND

KIND `junk`: the token's check characters fail. KIND `unknown`: they hold, under the key that is
the first line of standard input, in hexadecimal; RATE 0: as fast as they are answered. Requests are
pipelined on few connections, so that this process costs little beside what it is answered by.
Prints one JSON object: how many were sent, the answers by status, the seconds that took.
"""

from __future__ import annotations

import asyncio
import json
import random
import string
import sys
import time
from collections import Counter
from collections.abc import Callable

from dataplane.wire import TOKEN_CHECK_CHARS, TOKEN_RANDOM_CHARS, token_check

CONNECTIONS = 32
BATCH = 16  # requests pipelined on a connection
ALPHABET = string.ascii_letters + string.digits
LINE = b"HTTP/1.1 "


class Flood:
    def __init__(self, port: int, path: str, key: bytes | None) -> None:
        self.port = port
        self.head = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer "
        ).encode()
        self.key = key
        self.seed = random.Random()
        self.answers: Counter[str] = Counter()
        self.sent = 0

    def token(self) -> str:
        number = self.seed.getrandbits(62 * 4)
        part = "".join(ALPHABET[(number >> 8 * n & 255) % 62] for n in range(TOKEN_RANDOM_CHARS))
        if self.key is None:
            return part + "!" * TOKEN_CHECK_CHARS  # no such character ends a token of ours
        return part + token_check(self.key, part)

    def batch(self) -> bytes:
        return b"".join(self.head + self.token().encode() + b"\r\n\r\n" for _ in range(BATCH))

    async def client(self, due: Callable[[], float], until: float) -> None:
        """Batch after batch: each when it is due and the one before is answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while (at := due()) < until:
            data = self.batch()
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            writer.write(data)
            self.sent += BATCH
            await self.answered(reader)
        writer.close()

    async def answered(self, reader: asyncio.StreamReader) -> None:
        left, buffer = BATCH, b""
        while left:
            data = await reader.read(65536)
            if not data:
                raise ConnectionError("the gateway ended the connection")
            buffer += data
            while (end := buffer.find(b"\r\n\r\n")) >= 0:
                size = int(buffer.lower().partition(b"content-length:")[2].split(None, 1)[0])
                if len(buffer) < end + 4 + size:
                    break
                self.answers[buffer[len(LINE) : len(LINE) + 3].decode()] += 1
                buffer = buffer[end + 4 + size :]
                left -= 1

    async def run(self, rate: float, seconds: float) -> float:
        began = time.monotonic()
        slots = 0

        def due() -> float:
            nonlocal slots
            slots += 1
            return began + slots * BATCH / rate if rate else time.monotonic()

        until = began + seconds
        await asyncio.gather(*(self.client(due, until) for _ in range(CONNECTIONS)))
        return time.monotonic() - began


def main(port: int, path: str, rate: float, seconds: float, kind: str) -> None:
    key = bytes.fromhex(sys.stdin.readline()) if kind == "unknown" else None
    flood = Flood(port, path, key)
    took = asyncio.run(flood.run(rate, seconds))
    print(json.dumps({"sent": flood.sent, "seconds": took, "answers": flood.answers}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
