"""A process that guesses secrets over TLS at a steady rate and says how it was answered.

    python -m tests.gateway.hash_load PORT RATE

sends RATE guesses a second, each of another address (X-Real-IP: the gateway has to trust
127.0.0.1) and on another client, until its input ends, and prints one JSON object: the seconds that
took, and how many answers there were of each status, "late" for those that had no connection free.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

from tests.harness import insecure_tls

PATH = "/token-route/oauth2/token"
CONNECTIONS = 160
POLL_SECONDS = 0.002  # between two looks at the clock: what is due goes then
HEAD_END = b"\r\n\r\n"


class Guesser:
    def __init__(self, port: int) -> None:
        self.port = port
        self.free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )
        self.answers: Counter[str] = Counter()
        self.number = 0

    async def connect(self) -> None:
        pair = await asyncio.open_connection("127.0.0.1", self.port, ssl=insecure_tls())
        self.free.put_nowait(pair)

    def guess(self) -> bytes:
        self.number += 1
        n = self.number
        body = json.dumps(
            {"grant_type": "client_credentials", "client_id": f"c{n}", "client_secret": "guess"}
        ).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"X-Real-IP: 10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.guess())
        head = (await reader.readuntil(HEAD_END)).decode()
        size = int(head.lower().partition("content-length:")[2].split()[0])
        await reader.readexactly(size)
        self.answers[head.split()[1]] += 1
        self.free.put_nowait((reader, writer))

    async def run(self, rate: float) -> float:
        await asyncio.gather(*(self.connect() for _ in range(CONNECTIONS)))
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        print("ready", flush=True)
        began = time.monotonic()
        due = began
        async with asyncio.TaskGroup() as tasks:
            while not ended.done():
                while due <= time.monotonic():
                    due += 1 / rate
                    if self.free.empty():
                        self.answers["late"] += 1
                    else:
                        tasks.create_task(self.ask(*self.free.get_nowait()))
                await asyncio.sleep(POLL_SECONDS)
            took = time.monotonic() - began
        while not self.free.empty():
            self.free.get_nowait()[1].close()
        return took


async def main(port: int, rate: float) -> None:
    guesser = Guesser(port)
    seconds = await guesser.run(rate)
    print(json.dumps({"seconds": seconds, **guesser.answers}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
