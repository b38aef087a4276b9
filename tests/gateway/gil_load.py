"""An echo upstream and the clients of `test_gil.py`, in a process of their own.

stdout and stdin speak JSON lines: {"upstream": port} out, {"port", "token", "sessions"} in, "ready"
out once all sessions stand, any line in to stop, and the samples out: [begun, seconds] of every
echo and of every handshake, by the monotonic clock of this machine, and what failed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
import time
from typing import Any

POLL_SECONDS = 0.02  # between two echoes of a session, and between two handshakes of a client
HANDSHAKERS = 4
PAYLOAD = bytes(range(64))
UP = b"\x82" + bytes([0x80 | len(PAYLOAD)]) + bytes(4) + PAYLOAD  # a mask of zeros masks nothing
DOWN = b"\x82" + bytes([len(PAYLOAD)]) + PAYLOAD
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + base64.b64encode(hashlib.sha1(KEY + GUID).digest()) + b"\r\n\r\n"
)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The upstream: takes every handshake, sends every frame back."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHING)
        while await reader.readexactly(2) == UP[:2]:  # anything else is a Close
            await reader.readexactly(len(UP) - 2)
            writer.write(DOWN)
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        pass  # the last when the process ends
    finally:
        writer.close()


class Load:
    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.head = (
            b"GET /anything HTTP/1.1\r\nHost: gateway.test\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY
        ) + f"\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        self.stopping = False
        self.samples: dict[str, list[tuple[float, float]]] = {"echo": [], "handshake": []}
        self.failures: list[str] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(self.head)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(answer.split(b"\r\n")[0].decode())
        return reader, writer

    async def session(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: int
    ) -> None:
        try:
            while not self.stopping:
                begun = time.monotonic()
                writer.write(UP)
                if await reader.readexactly(len(DOWN)) != DOWN:
                    raise ConnectionError("another echo")
                self.samples["echo"].append((begun, time.monotonic() - begun))
                await asyncio.sleep(POLL_SECONDS)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.failures.append(f"session {turn}: {error!r}")
        finally:
            writer.close()

    async def handshakes(self) -> None:
        while not self.stopping:
            begun = time.monotonic()
            try:
                _, writer = await self.connect()
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(f"handshake: {error!r}")
                return
            self.samples["handshake"].append((begun, time.monotonic() - begun))
            writer.close()
            await asyncio.sleep(POLL_SECONDS)


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)


async def hear() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


async def main() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=1024)
    say({"upstream": server.sockets[0].getsockname()[1]})
    given = json.loads(await hear())
    load = Load(given["port"], given["token"])
    pairs = [await load.connect() for _ in range(given["sessions"])]
    async with asyncio.TaskGroup() as tasks:
        for turn, (reader, writer) in enumerate(pairs):
            tasks.create_task(load.session(reader, writer, turn))
        for _ in range(HANDSHAKERS):
            tasks.create_task(load.handshakes())
        say("ready")
        await hear()
        load.stopping = True
    server.close()
    say({"samples": load.samples, "failures": load.failures})


if __name__ == "__main__":
    asyncio.run(main())
