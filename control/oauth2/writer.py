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

from sqlalchemy.exc import OperationalError

from control.oauth2.issuing import Issuing, Made
from control.oauth2.requests import StoreThreads
from control.store.session import wanted

TOGETHER_MAX = 128

Waiting = tuple[Made, asyncio.Future[None]]  # done when it is stored, or given up


class TokenWriter:
    """Stores what `Issuing.make` made.  Used from one event loop."""

    def __init__(self, issuing: Issuing, threads: StoreThreads) -> None:
        self._issuing = issuing
        self._threads = threads
        self._waiting: deque[Waiting] = deque()
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
                outcomes = await self._threads.run(partial(self._write, batch))
                for (_, stored), error in zip(batch, outcomes, strict=True):
                    _settle(stored, error)
        finally:
            self._writing = None

    def _next(self) -> list[Waiting]:
        """Those that wait the longest; nothing is stored for a request that was given up."""
        count = min(len(self._waiting), TOGETHER_MAX)
        taken = [self._waiting.popleft() for _ in range(count)]
        return [(made, stored) for made, stored in taken if not stored.done()]

    def _write(self, batch: Sequence[Waiting]) -> list[Exception | None]:
        """Write them in one transaction; one by one where that fails.  What became of each."""
        before = wanted.set(lambda: not any(stored.cancelled() for _, stored in batch))
        try:
            with self._issuing.store.writing() as session:
                for made, _ in batch:
                    self._issuing.insert(session, made)
        except OperationalError as error:  # the database's: each would wait for it alone
            return [error] * len(batch)
        except Exception as error:
            return [error] if len(batch) == 1 else [self._write([one])[0] for one in batch]
        finally:
            wanted.reset(before)
        return [None] * len(batch)


def _settle(stored: asyncio.Future[None], error: Exception | None) -> None:
    if stored.done():  # the request was given up
        return
    if error is None:
        stored.set_result(None)
    else:
        stored.set_exception(error)
