"""Tokens that are asked for while others are being written share the next transaction.

Most of what issuing a token costs is its transaction and the way to a thread and back. Both are
paid once for all that came meanwhile: the busier, the cheaper. Each is told when its own is
committed, as if it had had a transaction to itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.exc import IntegrityError

from control.oauth2.requests import StoreThreads
from control.store.session import Store, WriteSession

SHARED_MAX = 64  # in one transaction

T = TypeVar("T")


class Together(Generic[T]):
    """Writes of one kind in one store.  Used from one event loop."""

    def __init__(
        self, store: Store, threads: StoreThreads, insert: Callable[[WriteSession, T], None]
    ) -> None:
        self._store = store
        self._threads = threads
        self._insert = insert
        self._waiting: list[tuple[Callable[[], T], asyncio.Future[T]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, make: Callable[[], T]) -> T:
        """What `make` gives, made in a thread before the transaction, written and committed.

        Raises:
            Whatever `make`, the insertion or the commit raises; nothing of it is kept then.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((make, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await future

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:SHARED_MAX]
                del self._waiting[:SHARED_MAX]
                await self._write_batch(batch)
        finally:
            self._writing = None

    async def _write_batch(self, batch: list[tuple[Callable[[], T], asyncio.Future[T]]]) -> None:
        makes = [make for make, _ in batch]
        outcomes = await self._threads.run(lambda: self._outcomes(makes))
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():  # who asked has given up
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _outcomes(self, makes: Sequence[Callable[[], T]]) -> list[T | Exception]:
        """What came of each; in a thread."""
        outcomes: list[T | Exception] = [_made(make) for make in makes]
        good = [place for place, made in enumerate(outcomes) if not isinstance(made, Exception)]
        for place, error in self._commit(good, outcomes).items():
            outcomes[place] = error
        return outcomes

    def _commit(self, places: list[int], rows: list[T | Exception]) -> dict[int, Exception]:
        """The errors of those that could not be committed, by place.

        Where the row of one cannot be, each is written in a transaction of its own.
        """
        if not places:
            return {}
        try:
            with self._store.writing() as session:
                for place in places:
                    self._insert(session, rows[place])  # type: ignore[arg-type]
        except IntegrityError as error:
            if len(places) == 1:
                return {places[0]: error}
            return {p: e for place in places for p, e in self._commit([place], rows).items()}
        except Exception as error:  # the database is locked, say: that is so for all
            return dict.fromkeys(places, error)
        return {}


def _made(make: Callable[[], T]) -> T | Exception:
    try:
        return make()
    except Exception as error:
        return error
