"""Tokens that nobody knows, by the ten thousand a second and by the million.  S16, S75."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import storm
from bench.target import Gateway
from bench.tools import compile_programs, free_ports
from tests.gateway.test_scale import crowding
from tests.harness import ROOT, eventually

SECONDS = 2.5
LOST_PERCENT_MAX = 20.0
COUNTED = 10_000  # bad tokens a second that may take so much of a worker
JUNK = 1_000_000
GROWTH_KIB_MAX = 1024
WARMING = 4  # floods until the heap has room for as many questions as are ever in flight


@pytest.fixture(scope="module")
def target() -> Iterator[tuple[Gateway, str]]:
    echo = compile_programs(ROOT / "build" / "bench")["echo"]
    (port,) = free_ports(1)
    with subprocess.Popen([str(echo), str(port)]) as upstream:
        try:
            with storm.gateway(port) as made:
                yield made
        finally:
            upstream.terminate()


@pytest.mark.alone
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["junk", "unknown"])
def test_s75_storm_of_bad_tokens_leaves_known_ones_their_handshakes(
    target: tuple[Gateway, str], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway, key = target
    crowded = crowding()
    verified = storm.verify_rate(gateway, key, SECONDS)
    rate = storm.TIMES * verified if kind == "junk" else 0
    found = storm.storm(gateway, kind, key, SECONDS, rate)
    crowded = max(crowded, crowding())
    with capsys.disabled():
        print(f"\n  {verified:,.0f} a second verified, {kind}: {found}")
        print(f"  work takes {crowded:.1f} times as long as alone")
    assert found.lost_percent <= LOST_PERCENT_MAX * crowded
    # The worker has the rest of its core for others, on however busy a machine: CPU is counted.
    assert found.worker_percent * COUNTED / found.rate <= LOST_PERCENT_MAX
    if kind == "junk":
        assert found.rate >= 0.9 * rate / crowded


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_s16_a_million_wrong_tokens_leave_memory_as_it_was(
    target: tuple[Gateway, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway, key = target
    port = gateway.port

    def send(kind: str, count: int) -> int:
        sent = 0
        while sent < count:
            found = storm.Flood(port, kind, key, 0, SECONDS).result()
            storm.check_refused(found)  # none is accepted
            sent += found["sent"]
        return sent

    send("junk", 1)
    for _ in range(WARMING):
        send("unknown", 1)
    before = rss_kib(gateway.pid)
    junk, unknown = send("junk", JUNK), send("unknown", 1)
    # What is in flight is let go of; that takes the Python side a moment.
    after = eventually(lambda: settled(gateway.pid, before), 30, f"RSS as before: {before} KiB")
    with capsys.disabled():
        print(f"\n  {junk} and {unknown} tokens: RSS {before} → {after} KiB")


def settled(pid: int, before: int) -> int:
    """The resident memory once it is within the bound of what it was; 0 until then."""
    now = rss_kib(pid)
    return now if now - before < GROWTH_KIB_MAX else 0


def rss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])
