"""What the suite shares: free ports, real gateways, an echo upstream.  See `tests/harness.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.server import ServerConnection, serve

from tests.harness import ROOT, Gateway, free_ports, running_gateway


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(params=["1", "2"], ids=["one-worker", "two-workers"])
def workers(request: pytest.FixtureRequest) -> str:
    """WORKERS for tests that must hold with one worker and with several."""
    return str(request.param)


@pytest.fixture
def new_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways that are not started yet; keywords are settings (`WORKERS="2"`)."""
    with ExitStack() as stack:

        def make(**settings: str) -> Gateway:
            folder = tmp_path / f"gateway-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(running_gateway(folder, **settings))

        yield make


@pytest.fixture
def gateway(new_gateway: Callable[..., Gateway], workers: str) -> Gateway:
    """Both planes, started by `narthex start`, with WORKERS=1 and again with 2."""
    made = new_gateway(WORKERS=workers)
    made.start()
    return made


@pytest.fixture(scope="session")
def echo_url() -> Iterator[str]:
    """The ws:// URL of an upstream that sends every message back."""

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        server.shutdown()
        thread.join(10)


SIZES = {".py": 400, ".pyx": 700, ".pxd": 200}  # lines; past these a file deserves a second look


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the sources that have grown past the sizes we aim at; nothing fails for it."""
    folders = ("control", "dataplane", "narthex", "tests")
    for path in sorted(p for top in folders for p in (ROOT / top).rglob("*.p*")):
        lines = len(path.read_text().splitlines()) if path.suffix in SIZES else 0
        if lines > SIZES.get(path.suffix, 0):
            terminalreporter.write_line(f"long file: {path.relative_to(ROOT)}, {lines} lines")
