"""control/waiting.py: a listener is not full of clients that ask for nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from control import waiting
from control.main import _server
from control.startup import Listen, bind

HEAD_SECONDS = 0.2
ANSWER_SECONDS = 3 * HEAD_SECONDS  # longer than a head may take
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


async def slow_app(_scope: Scope, _receive: Receive, send: Send) -> None:
    due = asyncio.Event()
    asyncio.get_running_loop().call_later(ANSWER_SECONDS, due.set)
    await due.wait()
    head = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to what serves `slow_app` as ADMIN_LISTEN is served."""
    sock = bind("ADMIN_LISTEN", Listen("127.0.0.1", 0))
    server = _server(slow_app)
    serving = asyncio.create_task(server.serve([sock]))
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


async def until_end(reader: asyncio.StreamReader) -> tuple[bytes, float]:
    """What is read until the server ends the connection, and how long that took."""
    began, found = time.monotonic(), b""
    try:
        async with asyncio.timeout(5):
            found = await reader.read()
    except ConnectionError:
        pass
    return found, time.monotonic() - began


@pytest.mark.parametrize(
    "sent", [b"", b"GET", HEAD + b"Kong-Admin-Token: "], ids=["nothing", "a word", "half a head"]
)
def test_a_head_that_does_not_come_ends_the_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "HEAD_SECONDS", HEAD_SECONDS)

    async def main() -> None:
        async with connected() as (reader, writer):
            writer.write(sent)
            found, took = await until_end(reader)
            assert found == b"" and took < 2

    asyncio.run(main())


def test_a_second_head_byte_by_byte_ends_it_too_and_a_slow_answer_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "HEAD_SECONDS", HEAD_SECONDS)

    async def main() -> None:
        async with connected() as (reader, writer):
            for _ in range(2):  # an answer takes longer than HEAD_SECONDS, and the next one is due
                writer.write(HEAD + b"\r\n")
                assert b"200 OK" in await reader.readuntil(b"ok")
            writer.write(b"G")
            ending = asyncio.create_task(until_end(reader))
            while not ending.done() and not writer.is_closing():
                writer.write(b"E")  # would put off a timer that begins again with each byte
                await asyncio.wait([ending], timeout=HEAD_SECONDS / 4)
            found, took = await ending
            assert found == b"" and took < 2

    asyncio.run(main())
