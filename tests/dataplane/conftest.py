"""Async tests of this folder run on asyncio, by anyio's plugin (`pytest.mark.anyio`)."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
