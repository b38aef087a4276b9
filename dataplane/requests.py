"""Token requests on their way over the link, and what came of them.

Those that come in one turn of the event loop go together, and so do their replies: a message of the
link costs more than what most requests need of it. Nothing here waits: who asks is called back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from dataplane import wire

REPLY_SECONDS = wire.TOKEN_REQUEST_SECONDS + 0.5  # the control plane gives up first, in words
SWEEP_SECONDS = 0.25  # how much later than that one may be given up

Send = Callable[[bytes], Awaitable[None]]
Done = Callable[["wire.TokenReply | LinkDown"], None]


class LinkDown(Exception):
    """The control plane cannot be asked now, or did not answer in time."""


class LinkBusy(Exception):
    """As much is in flight as is allowed."""


class Requests:
    """The token requests of one data plane.  Used by the asyncio thread."""

    def __init__(self) -> None:
        self._send: Send | None = None
        self._sending: asyncio.Task[None] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._last_id = 0
        self._outbox: deque[wire.TokenRequest] = deque()
        # By id, and so the oldest first: until when, by the loop's clock.
        self._waiting: dict[int, tuple[float, Done]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def attach(self, send: Send) -> None:
        """From now on requests go to this connection."""
        self._send = send

    def detach(self) -> None:
        """The connection was lost: whoever waits hears of it."""
        self._send = None
        self._outbox.clear()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        for id_ in list(self._waiting):
            self._fail(id_, "the link was lost")

    def ask(self, message: wire.TokenRequest, done: Done) -> None:
        """Have `done` called, once, with the issuer's answer; `message.id` becomes ours.

        Or with LinkDown: the link was lost, or no answer within REPLY_SECONDS. It must not raise.

        Raises:
            LinkDown: there is no link.
            LinkBusy: TOKEN_REQUESTS_IN_FLIGHT_MAX requests wait.
        """
        if self._send is None:
            raise LinkDown("the control plane cannot be reached")
        if len(self._waiting) >= wire.TOKEN_REQUESTS_IN_FLIGHT_MAX:
            raise LinkBusy("too many token requests in flight")
        loop = asyncio.get_running_loop()
        self._last_id += 1
        self._waiting[self._last_id] = (loop.time() + REPLY_SECONDS, done)
        message.id = self._last_id
        self._outbox.append(message)
        if self._sending is None:
            self._sending = loop.create_task(self._send_all(self._send))
        if self._sweep is None:
            self._sweep = loop.call_later(REPLY_SECONDS, self._give_up)

    def replied(self, reply: wire.TokenReply) -> None:
        waiting = self._waiting.pop(reply.id, None)
        if waiting is not None:
            waiting[1](reply)

    async def _send_all(self, send: Send) -> None:
        """Send what waits, as much together as one message takes; a new task sends what comes."""
        try:
            while self._outbox:
                await send(wire.encode(self._next_message()))
        except LinkDown:
            pass  # whoever lost it tells those that wait
        finally:
            if self._send is send:
                self._sending = None

    def _next_message(self) -> wire.TokenRequest | wire.TokenRequests:
        taken = [self._outbox.popleft()]
        size = _weight(taken[0])
        while self._outbox and len(taken) < wire.TOKEN_REQUESTS_PER_MESSAGE:
            size += _weight(self._outbox[0])
            if size > wire.TOGETHER_BYTES:
                break
            taken.append(self._outbox.popleft())
        return taken[0] if len(taken) == 1 else wire.TokenRequests(taken)

    def _give_up(self) -> None:
        """Fail what waited for too long, and look again while anything waits."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for id_, (until, _) in list(self._waiting.items()):
            if until > now:
                break
            self._fail(id_, f"no answer in {REPLY_SECONDS:g} s")
        self._sweep = loop.call_later(SWEEP_SECONDS, self._give_up) if self._waiting else None

    def _fail(self, id_: int, why: str) -> None:
        _, done = self._waiting.pop(id_)
        done(LinkDown(why))


def _weight(request: wire.TokenRequest) -> int:
    """About the bytes that it takes in a message."""
    return len(request.body) + len(request.query) + 64 * len(request.headers) + 512
