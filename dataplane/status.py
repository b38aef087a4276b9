"""The status listener: `/status`, `/status/ready` and `/metrics`, in the asyncio thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dataplane import metrics

CONCURRENCY_MAX = 64  # connections; more are answered 503 by uvicorn
TICK_SECONDS = 0.9  # between two looks of uvicorn, which adds 0.1
GRACE_SECONDS = 1  # for requests under way when the process ends


@dataclass(frozen=True)
class Readiness:
    """Whether to send traffic here. `reasons` say why not; `notes` what else an operator must know.

    A refused configuration is a note while the last good one serves: all data planes refuse the
    same one, and turning all of them red would take the service down with it.
    """

    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sources:
    """Where the three answers come from."""

    status: Callable[[], dict[str, Any]]
    readiness: Callable[[], Readiness]
    metrics: Callable[[], bytes]


def status_app(sources: Sources) -> Starlette:
    """The ASGI app of the status listener."""

    async def status(_: Request) -> Response:
        return JSONResponse(sources.status())

    async def ready(_: Request) -> Response:
        found = sources.readiness()
        body: dict[str, Any] = {"ready": not found.reasons, "reasons": found.reasons}
        if found.notes:
            body["notes"] = found.notes
        return JSONResponse(body, 503 if found.reasons else 200)

    async def scrape(_: Request) -> Response:
        return Response(sources.metrics(), headers={"content-type": metrics.CONTENT_TYPE})

    return Starlette(
        routes=[
            Route("/status", status),
            Route("/status/ready", ready),
            Route("/metrics", scrape),
        ]
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, as SIGTERM drains the engine first, and without its ten
    looks a second at whether to stop: most of what an idle data plane would cost."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    async def on_tick(self, counter: int) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK_SECONDS if counter else 0):
                await self._stopping.wait()
        return await super().on_tick(0)  # a Date of now


async def serve(app: Starlette, listener: socket.socket) -> None:
    """Answer on a bound socket until cancelled."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONCURRENCY_MAX,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.stop()
        await serving
        raise
