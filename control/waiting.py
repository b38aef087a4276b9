"""How long a client of our HTTP listeners may take to say what it wants.

Uvicorn waits for ever: a thousand connections that ask for nothing would be all that a listener
takes (CONNECTIONS_MAX), and lock out whoever has a token.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # from the first byte of a request's head, or the connection, to its last one


class Waiting(H11Protocol):
    """HTTP/1.1 whose request heads come in time, or the connection ends."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._limit is None and not self._answering:
            self._limit = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        super().data_received(data)
        if self._answering:
            self._forget_limit()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_limit()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        """Whether a request's head is complete, and its answer is not."""
        return self.cycle is not None and not self.cycle.response_complete

    def _forget_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
