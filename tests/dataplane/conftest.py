"""Async tests of this folder run on asyncio, by anyio's plugin (`pytest.mark.anyio`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane import logs
from tests.dataplane.engine_kit import Rig
from tests.dataplane.engine_kit import rig as new_rig


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_line_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test before made of it: a stream of pytest's that is closed by now."""
    monkeypatch.setattr(logs, "line_stream", None)


@pytest.fixture(params=[1, 2], ids=["one-worker", "two-workers"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A started engine with raw sockets on both sides, with one worker and with two."""
    with new_rig(request.param) as made:
        yield made
