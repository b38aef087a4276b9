"""Host names of upstreams: resolved off the workers, refreshed, the last good addresses kept.

A name's first address is asked for when it appears in the configuration, or when a session needs it
before that. Each lookup runs in a daemon thread of its own, for getaddrinfo cannot be
interrupted and must not hold up the end of the process; at most LOOKUPS_MAX run at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from dataplane._policies import NameTable

REFRESH_SECONDS = 30.0
RETRY_SECONDS = 5.0  # for names that have no address
LOOKUPS_MAX = 8  # at the same time
BACKGROUND_MAX = 4  # of them for refreshing: sessions that wait for a name find a slot
ADDRESSES_MAX = 16  # of one name

Addresses = list[tuple[str, bool]]  # IP without zone, whether it is IPv6

log = structlog.get_logger()


def lookup(host: str) -> Addresses:
    """The A and AAAA addresses of a name, in the system's order. Raises OSError. Blocks."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = {
        str(place[0]).partition("%")[0]: family == socket.AF_INET6
        for family, _, _, _, place in found
        if family in (socket.AF_INET, socket.AF_INET6)
    }
    if not addresses:
        raise OSError("it has no address")
    return list(addresses.items())[:ADDRESSES_MAX]


class Resolver:
    """Keeps the addresses in the engine's name table fresh; lives in the asyncio thread."""

    def __init__(self, table: NameTable, look_up: Callable[[str], Addresses] = lookup) -> None:
        self._table = table
        self._look_up = look_up
        self._slots = asyncio.Semaphore(LOOKUPS_MAX)
        self._background = asyncio.Semaphore(BACKGROUND_MAX)
        self._in_flight: dict[str, asyncio.Task[bool]] = {}
        self._failing: dict[str, str] = {}  # host → why, as it was logged
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """For ever: all names every REFRESH_SECONDS, those without address sooner, new ones now."""
        clock = asyncio.get_running_loop().time
        refresh_at = clock()
        while True:
            self._changed.clear()
            if clock() >= refresh_at:
                await self._all(self._table.hosts_in_use())
                refresh_at = clock() + REFRESH_SECONDS
            else:
                await self._all(self._table.unresolved())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._changed.wait()

    def wake(self) -> None:
        """To be called when the configuration changed: it may have brought new names."""
        self._changed.set()

    async def resolve(self, host: str) -> bool:
        """Resolve a name now and set its addresses; False when that failed. Never raises."""
        task = self._in_flight.get(host)
        if task is None:
            task = asyncio.create_task(self._resolve(host))
            self._in_flight[host] = task
            task.add_done_callback(lambda _: self._in_flight.pop(host, None))
        return await asyncio.shield(task)

    async def _all(self, hosts: Iterable[str]) -> None:
        async def one(host: str) -> None:
            async with self._background:
                await self.resolve(host)

        await asyncio.gather(*(one(host) for host in list(hosts)))

    async def _resolve(self, host: str) -> bool:
        async with self._slots:
            try:
                addresses = await self._in_thread(host)
            except (OSError, UnicodeError) as error:
                self._table.intern(host).mark_failed()
                self._note_failure(host, str(error))
                return False
        self._table.intern(host).set_addresses(addresses)
        if self._failing.pop(host, None) is not None:
            log.info("name.resolved", host=host, addresses=len(addresses))
        return True

    def _note_failure(self, host: str, why: str) -> None:
        """One line for each change, not one for each try."""
        if self._failing.get(host) != why:
            self._failing[host] = why
            log.warning("name.failed", host=host, why=why, effect="its last addresses stay")

    async def _in_thread(self, host: str) -> Addresses:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Addresses] = loop.create_future()

        def settle(addresses: Addresses | None, error: Exception | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(addresses or [])

        def work() -> None:
            addresses, failed = None, None
            try:
                addresses = self._look_up(host)
            except Exception as error:  # handed to whoever waits
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, addresses, failed)

        threading.Thread(target=work, name=f"resolve {host}", daemon=True).start()
        return await done
