"""An upstream that echoes, and sessions through a gateway that check every message; one process.

stdout and stdin speak JSON lines: {"upstream": port} out; {"url", "token", "sessions", "group"} in,
any number of times, and "ready" out each time once all these sessions stand; "start" in and "ready"
out, as often, when those that stand are to be busy; "stop" in, and the report out: {"messages",
"problems", "ends"}. Each session keeps a few messages on their way, the n-th of which tells by
its content which it is. On "stop" it waits for what is on its way and closes; whatever else ends
it is a problem, but for 1012: `ends` has the reasons of these, by group.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

IN_FLIGHT = 3  # of a session, 1 where there are more than CROWD: Python is the slow part here
CROWD = 1000
SIZES = (0, 1, 113, 114, 900, 20, 3000, 64, 40, 7)  # of the filling; some frames need longer heads
OPENING_MAX = 20
ANSWER_SECONDS = 30.0  # an echo that takes longer is lost
_NUMBER = struct.Struct("!IQ")
_FILLING = bytes(range(256)) * 13


def message(session: int, number: int) -> bytes | str:
    """The message of this number: binary, or text for every other one."""
    size = SIZES[(session + number) % len(SIZES)]
    start = (session * 31 + number * 7) % 256
    data = _NUMBER.pack(session, number) + _FILLING[start : start + size]
    return data.hex() if number % 2 else data


@dataclass
class Load:
    stopping: bool = False
    messages: int = 0
    in_flight: int = IN_FLIGHT
    problems: list[str] = field(default_factory=list)
    ends: dict[str, list[str]] = field(default_factory=dict)

    async def session(self, number: int, group: str, socket: ClientConnection) -> None:
        """Send and check until told to stop."""
        sent = checked = 0
        try:
            while checked < sent or not self.stopping:
                while sent - checked < self.in_flight and not self.stopping:
                    await socket.send(message(number, sent))
                    sent += 1
                if checked == sent:
                    break
                async with asyncio.timeout(ANSWER_SECONDS):
                    got = await socket.recv()
                if got != message(number, checked):
                    self.problems.append(f"session {number}: message {checked} came as {got!r:.80}")
                    return
                checked += 1
                self.messages += 1
        except (ConnectionClosed, TimeoutError) as error:
            told = error.rcvd if isinstance(error, ConnectionClosed) else None
            if told is not None and told.code == 1012:
                self.ends.setdefault(group, []).append(told.reason)
                return
            self.problems.append(f"session {number}, after {checked} of {sent}: {error!r}")


async def _echo(connection: ServerConnection) -> None:
    async for data in connection:
        await connection.send(data)


async def main() -> None:
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {
            "compression": None,
            "ping_interval": None,
            "close_timeout": ANSWER_SECONDS,
        }
        server = await stack.enter_async_context(serve(_echo, "127.0.0.1", 0, **options))
        say({"upstream": next(iter(server.sockets)).getsockname()[1]})
        load = Load()
        numbers = count()
        waiting: list[tuple[str, ClientConnection]] = []
        async with asyncio.TaskGroup() as tasks:
            while (given := json.loads(await asyncio.to_thread(sys.stdin.readline))) != "stop":
                if given == "start":
                    load.in_flight = 1 if len(waiting) > CROWD else IN_FLIGHT
                    for group, socket in waiting:
                        tasks.create_task(load.session(next(numbers), group, socket))
                    waiting = []
                else:
                    waiting += [(given["group"], s) for s in await opened(stack, given, options)]
                say("ready")
            load.stopping = True
    say({"messages": load.messages, "problems": load.problems, "ends": load.ends})


async def opened(
    stack: AsyncExitStack, given: dict[str, Any], options: dict[str, Any]
) -> list[ClientConnection]:
    """As many sessions as asked for, OPENING_MAX opened at a time."""
    token = given["token"]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    room = asyncio.Semaphore(OPENING_MAX)

    async def one() -> ClientConnection:
        async with room:
            session = connect(given["url"], additional_headers=headers, proxy=None, **options)
            return await stack.enter_async_context(session)

    return list(await asyncio.gather(*(one() for _ in range(given["sessions"]))))


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)


class EchoLoad:
    """This file as a child process, for tests."""

    def __init__(self, popen: Popen[str]) -> None:
        self._popen = popen
        self.upstream: int = self._hear()["upstream"]
        self.ends: dict[str, list[str]] = {}

    def connect(self, url: str, sessions: int, token: str | None, group: str) -> None:
        """Open sessions that stay silent until `start`."""
        self._say({"url": url, "sessions": sessions, "token": token, "group": group})
        assert self._hear() == "ready"

    def start(self) -> None:
        """Make all that stand busy."""
        self._say("start")
        assert self._hear() == "ready"

    def open(self, url: str, sessions: int, token: str | None = None, group: str = "all") -> None:
        """Open the sessions; from then on they are busy."""
        self.connect(url, sessions, token, group)
        self.start()

    def stop(self) -> tuple[int, list[str]]:
        """End the sessions in order.  Returns how many messages came back right, and problems.

        `ends` has, by group, the reason of each session that was closed with 1012.
        """
        self._say("stop")
        report = self._hear()
        self.ends = report["ends"]
        return report["messages"], report["problems"]

    def _say(self, what: Any) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(what) + "\n")
        self._popen.stdin.flush()

    def _hear(self) -> Any:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        assert line, "the load ended"
        return json.loads(line)


@contextmanager
def echo_load() -> Iterator[EchoLoad]:
    popen = Popen([sys.executable, str(Path(__file__))], stdin=PIPE, stdout=PIPE, text=True)
    try:
        yield EchoLoad(popen)
    finally:
        popen.kill()
        popen.communicate(timeout=10)


if __name__ == "__main__":
    asyncio.run(main())
