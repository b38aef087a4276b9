"""Making tokens; comparing client secrets, verifying hashes in threads.  spec/oauth2.md §1, §9.

Nothing here logs, and every comparison of a secret takes the same time wherever it differs (S26).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from control.oauth2.errors import Overloaded
from control.store.secrets import (
    CHARACTERS,
    VERIFIABLE,
    hash_client_secret,
    random_text,
    secret_bytes,
    verify_hash,
)

RANDOM_CHARS = 26  # 154 bits
CHECK_CHARS = 6

_PHC_PREFIX = "$pbkdf2-sha512$i=10000,l=32$"
_REMEMBERED_SECONDS = 60.0
_REMEMBERED_MAX = 4096
HASHES_WAITING_MAX = 64  # a thread: half a second's work
_NICE = 10  # of the threads that hash: whoever else wants a CPU goes first

T = TypeVar("T")

# Verified by failed attempts that have no hash of their own to check: equal cost.
DECOY = _PHC_PREFIX + "A" * 22 + "$" + "A" * 43


def same(left: str, right: str) -> bool:
    """Whether two secrets are equal, in time that does not tell where they differ."""
    return hmac.compare_digest(secret_bytes(left), secret_bytes(right))


def make_token(check_key: bytes) -> str:
    """A new opaque access token: 26 random characters and 6 that check them.

    The check is the one data planes apply, so that junk dies there without a question.
    """
    random_part = random_text(RANDOM_CHARS)
    return random_part + check_chars(check_key, random_part)


def check_chars(check_key: bytes, random_part: str) -> str:
    """The first six bytes of HMAC-SHA-256, each modulo 62 into the alphabet."""
    mac = _keyed(check_key).copy()
    mac.update(random_part.encode())
    return mac.digest()[:CHECK_CHARS].translate(CHARACTERS).decode()


@lru_cache(maxsize=4)
def _keyed(check_key: bytes) -> hmac.HMAC:
    """To be copied: `hmac.digest` would let go of the GIL, and a busy process waits to get it."""
    return hmac.new(check_key, digestmod="sha256")


def needs_rehash(phc: str) -> bool:
    """Whether a hash was made with other parameters than today's.  §9."""
    return not phc.startswith(_PHC_PREFIX)


class HashVerifier:
    """Verifies hashes in threads of its own: one CPU fewer than there are, one at the least.

    They give way to every other thread of the machine, so that a flood of wrong secrets holds up
    neither the event loop nor the threads that issue tokens. At most HASHES_WAITING_MAX a thread
    wait; more are refused. A secret found right is known for a minute by its HMAC, with the hash it
    was right for, under a key of this process: busy clients do not pay 8 ms for each token, and a
    changed secret is another hash. `count` is how many hashes were verified.
    """

    def __init__(
        self, threads: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        self._pool = ThreadPoolExecutor(threads, "hash", initializer=_give_way)
        self._room = threading.BoundedSemaphore(threads * (1 + HASHES_WAITING_MAX))
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, float] = {}  # HMAC of hash and secret → when it is forgotten
        self.count = 0

    async def verify(self, secret: str, phc: str) -> bool:
        """As `verify_hash`; what is not right costs one hash whatever `phc` is.

        Raises:
            Overloaded: too many wait; nothing was hashed.
        """
        mark = hmac.digest(self._key, secret_bytes(f"{phc}\0{secret}"), "sha256")
        if self._right.get(mark, 0.0) > self._clock():
            return True
        usable = VERIFIABLE.fullmatch(phc) is not None
        right = await self._run(verify_hash, secret, phc if usable else DECOY) and usable
        if right:
            self._remember(mark)
        return right

    def _remember(self, mark: bytes) -> None:
        self._right.pop(mark, None)  # so that it becomes the youngest
        if len(self._right) >= _REMEMBERED_MAX:
            del self._right[next(iter(self._right))]
        self._right[mark] = self._clock() + _REMEMBERED_SECONDS

    async def hash(self, secret: str) -> str:
        """The hash to store for a secret; raises Overloaded."""
        return await self._run(hash_client_secret, secret)

    async def _run(self, work: Callable[..., T], *args: str) -> T:
        if not self._room.acquire(blocking=False):
            raise Overloaded
        self.count += 1
        future = self._pool.submit(work, *args)
        # One that is given up leaves the line at once; one that is being hashed, at its end.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _future: Future[T]) -> None:
        self._room.release()


def _give_way() -> None:
    """Lower the priority of this thread alone, which Linux can do."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
