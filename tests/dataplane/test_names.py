"""Names of upstreams: resolved, refreshed, the last good addresses kept, failures said once."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import structlog

from dataplane import names as module
from dataplane.names import Addresses, Resolver, lookup
from tests.dataplane.fakes import FakeNames, until

pytestmark = pytest.mark.anyio


class Dns:
    """A look-up whose answers the test sets; it runs in the resolver's threads."""

    def __init__(self, **answers: Addresses | Exception) -> None:
        self.answers: dict[str, Addresses | Exception] = dict(answers)
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = self.running_most = 0
        self.lock = threading.Lock()

    def __call__(self, host: str) -> Addresses:
        with self.lock:
            self.asked.append(host)
            self.running += 1
            self.running_most = max(self.running_most, self.running)
        try:
            assert self.gate.wait(10)
            answer = self.answers.get(host, OSError("unknown host"))
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            with self.lock:
                self.running -= 1


def resolver(names: FakeNames, dns: Callable[[str], Addresses]) -> Resolver:
    return Resolver(cast("Any", names), dns)


def test_localhost_is_a_name_with_addresses() -> None:
    found = lookup("localhost")
    assert ("127.0.0.1", False) in found or ("::1", True) in found
    assert len(set(found)) == len(found)


def test_lookup_gives_both_families_once_without_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(host: str, port: None, type: int) -> list[tuple[Any, ...]]:
        v4 = (socket.AF_INET, type, 6, "", ("192.0.2.1", 0))
        v6 = (socket.AF_INET6, type, 6, "", ("fe80::1%eth0", 0, 0, 2))
        other = (socket.AF_UNIX, type, 0, "", "/x")
        return [v6, v4, v4, other]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert lookup("both.example") == [("fe80::1", True), ("192.0.2.1", False)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [])
    with pytest.raises(OSError, match="no address"):
        lookup("none.example")


async def test_resolver_sets_addresses_and_answers_true() -> None:
    names, dns = FakeNames(), Dns(a=[("192.0.2.1", False), ("2001:db8::1", True)])
    assert await resolver(names, dns).resolve("a")
    assert names.boxes["a"].addresses == dns.answers["a"]


async def test_resolver_keeps_the_last_good_addresses_and_says_each_change_once() -> None:
    names, dns = FakeNames(), Dns(a=[("192.0.2.1", False)])
    it = resolver(names, dns)
    with structlog.testing.capture_logs() as logged:
        assert await it.resolve("a")
        dns.answers["a"] = OSError("timed out")
        assert not await it.resolve("a")
        assert not await it.resolve("a")
        assert names.boxes["a"].addresses == [("192.0.2.1", False)]
        assert names.boxes["a"].failed == 2
        dns.answers["a"] = OSError("no such name")
        assert not await it.resolve("a")
        dns.answers["a"] = [("192.0.2.2", False)]
        assert await it.resolve("a")
        assert await it.resolve("a")
    said = [(line["event"], line.get("why")) for line in logged]
    assert said == [
        ("name.failed", "timed out"),
        ("name.failed", "no such name"),
        ("name.resolved", None),
    ]


async def test_name_that_cannot_be_encoded_fails_like_any_other() -> None:
    assert not await resolver(FakeNames(), lookup).resolve("a" * 70 + ".example")


async def test_identical_lookups_in_flight_are_made_once() -> None:
    names, dns = FakeNames(), Dns(a=[("192.0.2.1", False)])
    dns.gate.clear()
    it = resolver(names, dns)
    waiting = [asyncio.create_task(it.resolve("a")) for _ in range(5)]
    await until(lambda: dns.asked)
    waiting[0].cancel()  # one who leaves takes nothing from the others
    dns.gate.set()
    assert await asyncio.gather(*waiting[1:]) == [True] * 4
    assert dns.asked == ["a"]


async def test_lookups_at_a_time_are_bounded() -> None:
    hosts = [f"h{n}" for n in range(3 * module.LOOKUPS_MAX)]
    names = FakeNames()
    dns = Dns(**{host: [("192.0.2.1", False)] for host in hosts})
    dns.gate.clear()
    it = resolver(names, dns)
    waiting = [asyncio.create_task(it.resolve(host)) for host in hosts]
    await until(lambda: dns.running == module.LOOKUPS_MAX)
    dns.gate.set()
    assert all(await asyncio.gather(*waiting))
    assert dns.running_most == module.LOOKUPS_MAX


async def test_run_resolves_names_in_use_new_ones_when_woken_and_refreshes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = FakeNames("a")
    dns = Dns(a=[("192.0.2.1", False)], b=[("192.0.2.2", False)])
    it = resolver(names, dns)
    running = asyncio.create_task(it.run())
    await until(lambda: names.intern("a").addresses)
    names.in_use.append("b")
    it.wake()
    await until(lambda: names.intern("b").addresses)
    assert dns.asked == ["a", "b"]  # a was not asked for again
    running.cancel()
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    running = asyncio.create_task(it.run())
    dns.answers["a"] = [("192.0.2.9", False)]
    await until(lambda: names.intern("a").addresses == [("192.0.2.9", False)])
    await until(lambda: dns.asked.count("b") >= 3)
    running.cancel()


async def test_names_without_address_are_tried_again_before_the_refresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    names = FakeNames("a", "b")
    dns = Dns(a=[("192.0.2.1", False)])
    running = asyncio.create_task(resolver(names, dns).run())
    await until(lambda: dns.asked.count("b") >= 3)
    dns.answers["b"] = [("192.0.2.2", False)]
    await until(lambda: names.intern("b").addresses)
    assert dns.asked.count("a") == 1
    running.cancel()


async def test_session_that_waits_for_a_name_does_not_queue_behind_a_refresh() -> None:
    names = FakeNames(*(f"h{n}" for n in range(100)))
    dns = Dns(wanted=[("192.0.2.1", False)])
    dns.gate.clear()
    it = resolver(names, dns)
    running = asyncio.create_task(it.run())
    await until(lambda: dns.running == module.BACKGROUND_MAX)
    waiting = asyncio.create_task(it.resolve("wanted"))
    await until(lambda: "wanted" in dns.asked)
    assert dns.running == module.BACKGROUND_MAX + 1
    dns.gate.set()
    assert await waiting
    running.cancel()


def test_lookup_that_outlives_the_loop_is_forgotten() -> None:
    dns = Dns(a=[("192.0.2.1", False)])
    dns.gate.clear()
    faults: list[Any] = []

    async def leave() -> None:
        task = asyncio.create_task(resolver(FakeNames(), dns).resolve("a"))
        await until(lambda: dns.asked)
        task.cancel()

    before, threading.excepthook = threading.excepthook, faults.append
    try:
        asyncio.run(leave())  # does not wait for the thread
        thread = next(t for t in threading.enumerate() if t.name == "resolve a")
        assert thread.daemon
        dns.gate.set()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        threading.excepthook = before
    assert faults == []


async def test_answer_for_a_cancelled_wait_is_dropped() -> None:
    dns = Dns(a=[("192.0.2.1", False)])
    dns.gate.clear()
    names = FakeNames()
    it = resolver(names, dns)
    alone = asyncio.create_task(it._in_thread("a"))
    await until(lambda: dns.asked)
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone
    dns.gate.set()
    await until(lambda: not dns.running)
    assert await it.resolve("a")  # the loop goes on
