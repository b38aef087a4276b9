"""The status listener answers over a real socket, beside whatever else the loop does."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from dataplane.settings import Listener
from dataplane.startup import bind
from dataplane.status import Readiness, Sources, serve, status_app

pytestmark = pytest.mark.anyio


class Plane:
    """What the status listener shows, set by the test."""

    def __init__(self) -> None:
        self.readiness = Readiness()
        self.fault: Exception | None = None

    def status(self) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        return {"plane": "data", "sessions": 3}


@asynccontextmanager
async def listener(plane: Plane) -> AsyncIterator[tuple[httpx.AsyncClient, asyncio.Task[None]]]:
    sources = Sources(plane.status, lambda: plane.readiness, lambda: b"narthex_link_up 1.0\n")
    with bind("STATUS_LISTEN", Listener("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        task = asyncio.create_task(serve(status_app(sources), bound))
        transport = httpx.AsyncHTTPTransport(retries=20)
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, transport=transport) as client:
            yield client, task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_status_metrics_and_readiness_are_answered() -> None:
    async with listener(Plane()) as (client, _):
        status = await client.get("/status")
        assert (status.status_code, status.json()) == (200, {"plane": "data", "sessions": 3})
        scrape = await client.get("/metrics")
        assert scrape.text == "narthex_link_up 1.0\n"
        assert scrape.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        ready = await client.get("/status/ready")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
        assert "server" not in ready.headers
        assert (await client.get("/other")).status_code == 404
        assert (await client.post("/status")).status_code == 405


async def test_not_ready_is_503_with_its_reasons() -> None:
    plane = Plane()
    plane.readiness = Readiness(["no configuration", "draining"], ["the link is down"])
    async with listener(plane) as (client, _):
        ready = await client.get("/status/ready")
        assert ready.status_code == 503
        assert ready.json() == {
            "ready": False,
            "reasons": ["no configuration", "draining"],
            "notes": ["the link is down"],
        }


async def test_a_note_alone_leaves_it_ready() -> None:
    plane = Plane()
    plane.readiness = Readiness([], ["configuration refused: no"])
    async with listener(plane) as (client, _):
        ready = await client.get("/status/ready")
        assert (ready.status_code, ready.json()["notes"]) == (200, ["configuration refused: no"])


async def test_a_fault_is_500_without_a_word_of_it() -> None:
    plane = Plane()
    plane.fault = RuntimeError("inner secret")
    async with listener(plane) as (client, _):
        answer = await client.get("/status")
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text


async def test_listener_ends_when_cancelled_and_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with listener(Plane()) as (client, task):
        await client.get("/status")
        assert signal.getsignal(signal.SIGTERM) is before
        port = client.base_url.port
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port or 0)) != 0
