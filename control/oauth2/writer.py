"""New tokens into the store, those that wait together in one transaction.

A commit costs many times what a row costs, and the store has one writer at a time anyway: while one
transaction is written, the tokens of the next one gather. Each is committed before its client
hears of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial

from sqlalchemy.exc import IntegrityError

from control.oauth2.issuing import Issuing, Made
from control.oauth2.requests import StoreThreads

TOGETHER_MAX = 128


class TokenWriter:
    """Stores what `Issuing.make` made.  Used from one event loop."""

    def __init__(self, issuing: Issuing, threads: StoreThreads) -> None:
        self._issuing = issuing
        self._threads = threads
        self._waiting: deque[tuple[Made, asyncio.Future[None]]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def insert(self, made: Made) -> None:
        """Store a token; committed, and on its way to the data planes.

        Raises:
            IntegrityError: what it refers to is gone.
        """
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        self._waiting.append((made, stored))
        if self._writing is None:
            self._writing = loop.create_task(self._write_all())
        await stored

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                mades = [made for made, _ in batch]
                outcomes = await self._threads.run(partial(self._write, mades))
                for (_, stored), error in zip(batch, outcomes, strict=True):
                    _settle(stored, error)
        finally:
            self._writing = None

    def _next(self) -> list[tuple[Made, asyncio.Future[None]]]:
        """Those that wait the longest; nothing is stored for a request that was given up."""
        count = min(len(self._waiting), TOGETHER_MAX)
        taken = [self._waiting.popleft() for _ in range(count)]
        return [(made, stored) for made, stored in taken if not stored.done()]

    def _write(self, mades: Sequence[Made]) -> list[Exception | None]:
        """Write them in one transaction; one by one where that fails.  What became of each."""
        try:
            with self._issuing.store.writing() as session:
                for made in mades:
                    self._issuing.insert(session, made)
        except IntegrityError as error:
            return [error] if len(mades) == 1 else [self._write([made])[0] for made in mades]
        except Exception as error:
            return [error] * len(mades)
        return [None] * len(mades)


def _settle(stored: asyncio.Future[None], error: Exception | None) -> None:
    if stored.done():  # the request was given up
        return
    if error is None:
        stored.set_result(None)
    else:
        stored.set_exception(error)
