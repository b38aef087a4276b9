"""An edit elsewhere closes nothing and loses no frame, a deletion closes its own sessions only.

And editing costs no memory.  `EDIT_SESSIONS=9000` has the first test run with as many sessions.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dataplane import wire
from dataplane._engine import Engine
from dataplane._policies import NameTable
from dataplane._tables import Tables
from dataplane.compile import compile_snapshot
from tests.dataplane.memory import rss_kib
from tests.dataplane.snapshots import route, service, snapshot, uid
from tests.gateway import howto
from tests.gateway.echo_load import echo_load
from tests.harness import Gateway, eventually

SESSIONS = int(os.environ.get("EDIT_SESSIONS") or 500)  # on the route that is deleted in the end
SESSIONS_A_LOAD = 3000  # of one process of echo_load
BYSTANDERS = 20  # sessions on another route
ROUNDS = 67  # of fifteen edits each
DRAIN_SECONDS = 3 + SESSIONS // 1000
SWAPS = 10_000
SWAP_SESSIONS = 50
NEIGHBOURS = 20  # routes beside the one with sessions; half of them change at each swap
GROWTH_KIB_MAX = 1024  # 100 bytes a swap: one policy kept of every ten swaps would show


# --- edits through the Admin API ---------------------------------------------------------------


def edit_elsewhere(gateway: Gateway, number: int) -> int:
    """Make, change and delete what no session uses.  Returns how many edits that were."""
    name = f"other-{number}"
    edits = [
        ("POST", "/services", {"name": name, "url": "ws://127.0.0.1:9/"}),
        ("POST", f"/services/{name}/routes", {"name": name, "paths": [f"/other/{number}"], **WS}),
        ("POST", "/consumers", {"username": name}),
        ("POST", f"/consumers/{name}/oauth2", {"name": name}),
        ("POST", f"/services/{name}/plugins", {"name": "oauth2", "config": howto.OAUTH2}),
        ("PATCH", f"/routes/{name}", {"paths": [f"/moved/{number}"], "hosts": ["other.test"]}),
        ("PATCH", f"/services/{name}", {"port": 10, "retries": 1}),
        ("PUT", f"/routes/{name}", {"paths": ["/"], "service": {"name": name}, **WS}),
        ("PATCH", f"/consumers/{name}", {"custom_id": f"id-{number}"}),
        ("PATCH", f"/services/{name}", {"enabled": False}),
        ("PATCH", f"/services/{name}", {"enabled": True}),
        ("DELETE", f"/routes/{name}", None),
        ("DELETE", f"/services/{name}", None),
        ("DELETE", f"/consumers/{name}", None),
        ("PUT", f"/consumers/{name}", {"tags": ["again"]}),
    ]
    for method, path, body in edits:
        answer = gateway.admin.request(method, path, json=body)
        assert answer.status_code in (200, 201, 204), (method, path, answer.text)
    return len(edits)


WS = {"protocols": ["ws", "wss"]}


def metric(gateway: Gateway, name: str) -> float:
    """The sum of a metric's samples."""
    families = text_string_to_metric_families(gateway.status("/metrics").text)
    return sum(s.value for family in families for s in family.samples if s.name == name)


def closes(gateway: Gateway) -> dict[tuple[str, str], float]:
    """Close frames sent so far, by side and code."""
    families = text_string_to_metric_families(gateway.status("/metrics").text)
    return {
        (s.labels["side"], s.labels["code"]): s.value
        for family in families
        for s in family.samples
        if s.name == "narthex_closes_total" and s.value
    }


def bystanders(gateway: Gateway, upstream: int) -> None:
    """Another service and route, `/beside`, open to everybody."""
    howto.post(gateway, "/services", name="beside", url=f"ws://127.0.0.1:{upstream}/")
    howto.post(gateway, "/services/beside/routes", name="beside", paths=["/beside"], **WS)
    gateway.wait_carried()


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_1000_edits_elsewhere_close_nothing_and_a_deletion_closes_all_of_its_own(
    new_gateway: Callable[..., Gateway], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = new_gateway(WORKERS="2", DRAIN_SECONDS=str(DRAIN_SECONDS))
    process = gateway.start()
    with ExitStack() as stack:
        loads = [stack.enter_context(echo_load()) for _ in range(-(-SESSIONS // SESSIONS_A_LOAD))]
        made = howto.set_up(gateway, f"ws://127.0.0.1:{loads[0].upstream}/")
        bystanders(gateway, loads[0].upstream)
        url = f"ws://127.0.0.1:{gateway.ports.proxy}"
        loads[0].connect(f"{url}/beside", BYSTANDERS, None, "beside")
        for number, load in enumerate(loads):
            share = SESSIONS * (number + 1) // len(loads) - SESSIONS * number // len(loads)
            load.connect(f"{url}{howto.PATH}", share, made.token(), "all")
        for load in loads:
            load.start()
        before = metric(gateway, "narthex_messages_total")
        version = gateway.status().json()["config"]["version"]
        swaps = process.output().count("link.applied")
        edits = sum(edit_elsewhere(gateway, number) for number in range(ROUNDS))
        last = version + edits
        eventually(lambda: gateway.status().json()["config"]["version"] == last, 10)
        swaps = process.output().count("link.applied") - swaps
        # Sessions were busy all the while, and are on the newest tables too.
        during = metric(gateway, "narthex_messages_total") - before
        assert during > 2 * SESSIONS
        assert metric(gateway, "narthex_live_sessions") == SESSIONS + BYSTANDERS
        assert closes(gateway) == {}
        began = time.monotonic()
        assert gateway.admin.delete("/routes/ws-route").status_code == 204
        wait_live(gateway, BYSTANDERS, "the drain")
        took = time.monotonic() - began
        assert closes(gateway) == {("client", "1012"): SESSIONS, ("upstream", "1001"): SESSIONS}
        reports = [load.stop() for load in loads]
        ends = [end for load in loads for end in load.ends.pop("all")]
    assert [problem for _, problems in reports for problem in problems] == []
    assert sum(messages for messages, _ in reports) > during / 2
    assert [load.ends for load in loads] == [{}] * len(loads)
    assert ends == ["route or service is gone"] * SESSIONS
    with capsys.disabled():
        print(
            f"\n  {SESSIONS} sessions, {during:.0f} messages, {edits} edits in {swaps} swaps; "
            f"drained in {took:.1f} s"
        )
    # Each has its own moment in that time; of hundreds, the last is near its end.
    assert took > DRAIN_SECONDS / 2
    assert edits >= 1000
    assert swaps >= 5  # coalesced, but not all into one


# --- edits of their own, through the Admin API ---------------------------------------------------

CHANGED, GONE = "configuration changed", "route or service is gone"
RULES = "/plugins/{rules}"
# What websocket-session says, what is done to {name}'s entities, why sessions end; "": they stay.
CHANGES: list[tuple[dict[str, str], str, str, Any, str]] = [
    ({}, "PATCH", "/routes/{name}", {"strip_path": False}, ""),
    ({}, "PATCH", "/services/{name}", {"retries": 1}, ""),
    ({}, "PATCH", RULES, {"config": {"ping_interval": 5}}, ""),
    ({}, "PATCH", "/services/{name}", {"enabled": False}, GONE),
    ({}, "DELETE", RULES, None, CHANGED),
    ({"on_edit": "close"}, "PATCH", "/routes/{name}", {"hosts": ["x.test"]}, CHANGED),
    ({"on_edit": "drain"}, "PATCH", "/services/{name}", {"read_timeout": 5}, CHANGED),
    ({"on_delete": "close"}, "DELETE", "/routes/{name}", None, GONE),
    ({"on_delete": "close"}, "PATCH", RULES, {"enabled": False}, CHANGED),
    ({"on_delete": "keep", "on_edit": "close"}, "DELETE", "/routes/{name}", None, ""),
]


def own_route(gateway: Gateway, name: str, upstream: int, config: dict[str, str]) -> str:
    """A service and route `/{name}` with websocket-session; the plugin's id."""
    howto.post(gateway, "/services", name=name, url=f"ws://127.0.0.1:{upstream}/")
    howto.post(gateway, f"/services/{name}/routes", name=name, paths=[f"/{name}"], **WS)
    given = {"name": "websocket-session", "config": config}
    rules = howto.post(gateway, f"/services/{name}/plugins", **given)
    gateway.wait_carried()
    return str(rules["id"])


def wait_busy(gateway: Gateway) -> None:
    """Until a hundred more messages were relayed."""
    echoed = metric(gateway, "narthex_messages_total")
    eventually(lambda: metric(gateway, "narthex_messages_total") > echoed + 100)


def wait_live(gateway: Gateway, sessions: int, what: str) -> None:
    eventually(lambda: metric(gateway, "narthex_live_sessions") == sessions, 60, what)


def test_change_ends_the_sessions_of_its_route_as_websocket_session_says_and_no_other(
    new_gateway: Callable[..., Gateway], workers: str
) -> None:
    gateway = new_gateway(WORKERS=workers, DRAIN_SECONDS="0.5")
    gateway.start()
    live, expected = 0, {}
    with echo_load() as load:
        for number, (config, method, path, body, why) in enumerate(CHANGES):
            name = f"case-{number}"
            rules = own_route(gateway, name, load.upstream, config)
            load.open(f"ws://127.0.0.1:{gateway.ports.proxy}/{name}", 5, group=name)
            answer = gateway.admin.request(method, path.format(name=name, rules=rules), json=body)
            assert answer.status_code in (200, 204), answer.text
            gateway.wait_carried()
            if why:
                expected[name] = [why] * 5
            else:
                live += 5
                wait_busy(gateway)
            wait_live(gateway, live, name)
        assert metric(gateway, "narthex_closes_total") == 2 * 5 * len(expected)
        _, problems = load.stop()
    assert problems == []
    assert load.ends == expected


# --- table swaps in one process ----------------------------------------------------------------


@contextmanager
def running_engine() -> Iterator[tuple[Engine, int]]:
    """An engine of one worker in this process, and its port."""
    engine = Engine(
        workers=1,
        token_cache=1024,
        max_sessions=1000,
        server_token="narthex/test",
        seed=secrets.token_bytes(16),
    )
    port = engine.listen("127.0.0.1", 0, False)
    engine.start()
    try:
        yield engine, port
    finally:
        engine.stop()
        assert engine.join(10)


def swapped(version: int, upstream: int) -> wire.Snapshot:
    """The configuration of this version: the route with the sessions, and restless neighbours."""
    parts = [
        service(1, host="127.0.0.1", port=upstream),
        route(1, paths=["/echo"], service=uid(1)),
    ]
    for number in range(2, 2 + NEIGHBOURS):
        state = version if number % 2 else version // 100
        parts.append(service(number, host="127.0.0.1", port=1 + state % 60000))
        parts.append(
            route(
                number,
                service=uid(number),
                paths=[f"/{number}", f"/{number}/{state}"],
                hosts=[f"{state % 50}.test"] if number % 3 else [],
            )
        )
    return snapshot(*parts, version=version)


class Swapper:
    def __init__(self, engine: Engine, upstream: int) -> None:
        self.engine, self.upstream = engine, upstream
        self.names = NameTable(engine.reclaimer)
        self.tables: Tables | None = None
        self.version = 0

    def swap(self, times: int) -> None:
        for _ in range(times):
            self.version += 1
            self.publish(swapped(self.version, self.upstream))

    def publish(self, found: wire.Snapshot) -> None:
        self.tables = compile_snapshot(found, self.tables, self.names)
        self.engine.publish(self.tables)
        self.engine.sweep()

    def settle(self) -> None:
        """Wait until nothing is left that a worker could still be reading."""

        def settled() -> bool:
            self.names.sweep()
            self.engine.sweep()
            return len(self.engine.reclaimer) == 0

        eventually(settled, 10)


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_10000_table_swaps_under_traffic_leave_memory_flat(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_engine() as (engine, port), echo_load() as load:
        swapper = Swapper(engine, load.upstream)
        swapper.swap(1)
        load.open(f"ws://127.0.0.1:{port}/echo", SWAP_SESSIONS)
        swapper.swap(SWAPS // 10)  # buffers and free lists have their size from here on
        swapper.settle()
        before, echoed = rss_kib(), engine.counters()["messages_out"]
        swapper.swap(SWAPS)
        swapper.settle()
        grown = rss_kib() - before
        echoed = engine.counters()["messages_out"] - echoed
        assert engine.live_sessions() == SWAP_SESSIONS
        _, problems = load.stop()
    with capsys.disabled():
        print(f"\n  {SWAPS} swaps during {echoed} echoes: {grown:+} KiB")
    assert problems == []
    assert echoed > 10 * SWAP_SESSIONS
    assert grown < GROWTH_KIB_MAX


def test_policies_of_dead_snapshots_go_with_their_last_session() -> None:
    with running_engine() as (engine, port), echo_load() as load:
        swapper = Swapper(engine, load.upstream)
        swapper.swap(1)
        load.open(f"ws://127.0.0.1:{port}/echo", SWAP_SESSIONS)
        swapper.publish(snapshot(version=2))  # the route is gone; its sessions are not
        swapper.settle()
        assert swapper.names.sweep() == 1
        assert engine.live_sessions() == SWAP_SESSIONS
        messages, problems = load.stop()
        assert problems == []
        assert messages > SWAP_SESSIONS
        eventually(lambda: engine.live_sessions() == 0, 10)
        assert swapper.names.sweep() == 0
        swapper.settle()
