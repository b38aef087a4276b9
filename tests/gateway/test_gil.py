"""The GIL is never on the path of a byte, nor on that of a handshake that hits the cache."""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dataplane.engine_kit import plugin, route, service
from tests.dataplane.engine_kit import rig as new_rig
from tests.harness import ROOT

SESSIONS = 200
HELD_SECONDS = 3
P99_SECONDS = 0.3


class Loader:
    """`gil_load.py` as a child; ended with its test."""

    def __init__(self) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "gateway" / "gil_load.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> Any:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, "the load ended"
        return json.loads(line)

    def say(self, what: Any) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(what) + "\n")
        self.popen.stdin.flush()


@pytest.fixture
def loader() -> Iterator[Loader]:
    made = Loader()
    try:
        yield made
    finally:
        made.popen.kill()
        made.popen.communicate(timeout=10)


def hold_the_gil() -> tuple[float, float]:
    """Stay in C without letting go of the GIL.  Returns when that began and ended.

    Another thread shows that nothing of Python ran meanwhile.
    """
    ran: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ran.append(time.monotonic())
            stop.wait(0.01)

    ticker = threading.Thread(target=tick)
    ticker.start()
    begun = time.monotonic()
    ctypes.PyDLL(None).sleep(HELD_SECONDS)  # PyDLL keeps the GIL
    ended = time.monotonic()
    stop.set()
    ticker.join()
    assert not [at for at in ran if begun + 0.1 < at < begun + HELD_SECONDS - 0.1]
    return begun, ended


@pytest.mark.alone
@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_waits_while_a_c_loop_holds_the_gil(loader: Loader, workers: int) -> None:
    with new_rig(workers, max_sessions=4096) as rig:
        port = loader.hear()["upstream"]
        rig.publish(service(port), route(paths=["/anything"]), plugin())
        given = {"port": rig.port, "token": rig.token().decode(), "sessions": SESSIONS}
        loader.say(given)
        assert loader.hear() == "ready"
        begun, ended = hold_the_gil()
        loader.say("stop")
        heard = loader.hear()
        assert heard["failures"] == []
        assert ended - begun >= HELD_SECONDS
        for kind, fewest in (("echo", SESSIONS * 10), ("handshake", 100)):
            waits = [w for at, w in heard["samples"][kind] if begun < at + w and at < ended - 0.1]
            assert len(waits) >= fewest
            p99 = statistics.quantiles(waits, n=100)[98]
            assert p99 <= P99_SECONDS, f"{kind}: p99 {p99:.3f} s, longest {max(waits):.3f} s"
            print(f"{kind}: {len(waits)}, p99 {p99 * 1000:.1f} ms, max {max(waits) * 1000:.1f} ms")
        assert rig.count("token_misses") == 0
