"""Sessions that a client has moved from one token to another, on every data plane.  §14.

A data plane answers as soon as its workers have said; one that does not in time is named in the log
and not counted. It does what it was told all the same, or, when it was not connected, does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from control.push.peer import Peer
from dataplane import wire

MOVED_SECONDS = 1.0

log = structlog.get_logger()


class Moves:
    """The questions that are out.  All methods: from the event loop's thread."""

    def __init__(self) -> None:
        self._last_id = 0
        self._waiting: dict[tuple[Peer, int], asyncio.Future[int]] = {}

    async def ask(self, peers: Collection[Peer], old: bytes, token: wire.Token) -> int:
        """How many sessions went over, of the data planes that said so within MOVED_SECONDS."""
        self._last_id += 1
        id_, loop = self._last_id, asyncio.get_running_loop()
        message = wire.encode(wire.Superseded(old, token, id_))
        futures = {peer: loop.create_future() for peer in peers}
        for peer, future in futures.items():
            self._waiting[peer, id_] = future
            peer.send(message)
        try:
            if futures:
                await asyncio.wait(futures.values(), timeout=MOVED_SECONDS)
        finally:
            for peer in futures:
                del self._waiting[peer, id_]
        silent = [peer.row.name for peer, future in futures.items() if not future.done()]
        if silent:
            log.warning("link.move_unanswered", dataplanes=silent)
        return sum(future.result() for future in futures.values() if future.done())

    def answered(self, peer: Peer, message: wire.Moved) -> None:
        future = self._waiting.get((peer, message.id))
        if future is not None and not future.done():
            future.set_result(message.sessions)
