"""Answers to "who is this token?", read from the database in batches.

A token that was changed or revoked between its reading and its answer is read again: what the data
plane hears last about a token has to be the last that happened to it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from control.push.peer import TOKENS_BYTES_MAX, Peer, token_bytes
from control.store import IssuedToken, Revoked
from dataplane import wire

BATCH_MAX = 64
QUESTIONS_MAX = 20_000  # waiting, from all data planes; more get no answer, which they count as 503
RECENT_MAX = 100_000

log = structlog.get_logger()

Lookup = Callable[[Sequence[bytes]], Awaitable[list[wire.Token | None]]]


class Recent:
    """Which tokens were changed and what was revoked while somebody reads, in moments of ours."""

    def __init__(self) -> None:
        self.moment = 0
        self._readers = 0
        self._keys: OrderedDict[bytes, int] = OrderedDict()  # oldest first
        self._floor = 0  # up to here, everything counts as touched

    @contextmanager
    def reading(self) -> Iterator[int]:
        """The moment since when, until this ends, `touched` and `told` can tell."""
        self._readers += 1
        try:
            yield self.moment
        finally:
            self._readers -= 1
            if not self._readers:
                self._keys.clear()

    def note(self, revocations: Iterable[Revoked] = (), tokens: Iterable[IssuedToken] = ()) -> None:
        """What one transaction revoked, and the tokens that it made or changed."""
        self.moment += 1
        if not self._readers:
            return
        for revocation in revocations:
            if revocation.kind == "consumer":  # its tokens do not name it
                self._floor = self.moment
            self._note(revocation.key)
        for token in tokens:
            self._note(token.digest)

    def _note(self, key: bytes) -> None:
        self._keys[key] = self.moment
        self._keys.move_to_end(key)
        while len(self._keys) > RECENT_MAX:
            self._floor = max(self._floor, self._keys.popitem(last=False)[1])

    def touched(self, token: wire.Token, since: int) -> bool:
        """Whether `token` may have been changed or revoked after the moment `since`."""
        keys = (token.digest, token.credential, token.plugin or b"")
        return max(self._floor, *(self._keys.get(key, 0) for key in keys)) > since

    def told(self, token: wire.Token, since: int) -> bool:
        """Whether what was done to this very token was pushed after the moment `since`."""
        return self._keys.get(token.digest, 0) > since


class Questions:
    """The questions that wait, and the task that answers them."""

    def __init__(self, lookup: Lookup, recent: Recent) -> None:
        self._lookup = lookup
        self._recent = recent
        self._waiting: deque[tuple[Peer, wire.Question]] = deque()
        self._some = asyncio.Event()

    def put(self, peer: Peer, question: wire.Question) -> None:
        if len(self._waiting) < QUESTIONS_MAX:
            self._waiting.append((peer, question))
            self._some.set()

    async def answer_for_ever(self) -> None:
        while True:
            await self._some.wait()
            count = min(BATCH_MAX, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            if not self._waiting:
                self._some.clear()
            await self._answer(batch)

    async def _answer(self, batch: list[tuple[Peer, wire.Question]]) -> None:
        with self._recent.reading() as since:
            try:
                tokens = await self._lookup([question.digest for _, question in batch])
            except Exception as error:  # no answer is an answer: the data plane says 503
                log.error("link.questions_unanswered", count=len(batch), why=type(error).__name__)
                return
            for (peer, question), token in zip(batch, tokens, strict=True):
                if token is not None and self._recent.touched(token, since):
                    self.put(peer, question)
                    continue
                if token is not None and token_bytes(token) > TOKENS_BYTES_MAX:
                    token = None
                peer.send(wire.encode(wire.Answer(question.id, token)))
