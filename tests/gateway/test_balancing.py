"""A service whose host is an upstream's name: real processes, real targets, edits under way."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.gateway import howto
from tests.gateway.test_readme import Shell, tools  # noqa: F401  (a fixture)
from tests.harness import (
    ROOT,
    START_SECONDS,
    Gateway,
    RecordingUpstream,
    eventually,
    free_ports,
    running_gateway,
)

TARGETS = "/upstreams/ws.upstream/targets"
NO_PEER = "failure to get a peer from the ring-balancer"


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One worker: the shares of the targets are exact."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), WORKERS="1") as gateway:
        gateway.start()
        howto.post(gateway, "/services", name="balanced", host="ws.upstream", protocol="ws")
        howto.post(
            gateway, "/services/balanced/routes", name="r", paths=["/"], protocols=["ws", "wss"]
        )
        yield gateway


def echoes(ws: Any) -> None:
    """One message there and back; an upstream has noted the handshake by then."""
    ws.send("hello")
    assert ws.recv(timeout=10) == "hello"


class Site:
    """The gateway, and three targets that tell what came to them."""

    def __init__(self, gateway: Gateway, ends: list[RecordingUpstream]) -> None:
        self.gateway = gateway
        self.ends = ends
        self.places = [end.url.removeprefix("ws://").removesuffix("/") for end in ends]

    def call(self, method: str, path: str, **body: Any) -> httpx.Response:
        answer = self.gateway.admin.request(method, path, json=body or None)
        assert answer.status_code < 300, answer.text
        self.gateway.wait_carried()
        return answer

    def use(self, *weights: int, **fields: Any) -> None:
        """The upstream has these targets and no other."""
        self.gateway.admin.delete("/upstreams/ws.upstream")
        howto.post(self.gateway, "/upstreams", name="ws.upstream", **fields)
        for place, weight in zip(self.places, weights, strict=False):
            howto.post(self.gateway, TARGETS, target=place, weight=weight)
        self.gateway.wait_carried()

    def seen(self) -> list[int]:
        return [len(end.requests) for end in self.ends]

    def shares(self, handshakes: int) -> list[int]:
        """How many of so many handshakes each target gets."""
        before = self.seen()
        for _ in range(handshakes):
            with self.gateway.websocket("/x") as ws:
                echoes(ws)
        return [now - then for now, then in zip(self.seen(), before, strict=True)]

    def refusal(self) -> tuple[int, str]:
        with pytest.raises(InvalidStatus) as refused, self.gateway.websocket("/x"):
            pass
        answer = refused.value.response
        body = (answer.body or b"").decode()
        is_json = answer.headers["Content-Type"].startswith("application/json")
        return answer.status_code, str(json.loads(body)["message"]) if is_json else body


@pytest.fixture
def site(one_worker: Gateway) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(one_worker, [stack.enter_context(RecordingUpstream()) for _ in range(3)])


def test_handshakes_go_to_targets_by_their_weights(site: Site) -> None:
    site.use(5, 1, 1)
    assert site.shares(14) == [10, 2, 2]
    hosts = {request.headers["Host"] for end in site.ends for request in end.requests}
    assert hosts == set(site.places)
    site.call("PATCH", f"{TARGETS}/{site.places[1]}", weight=0)
    assert site.shares(12) == [10, 0, 2]
    site.call("DELETE", f"{TARGETS}/{site.places[0]}")
    assert site.shares(3) == [0, 0, 3]


def test_edits_of_targets_close_no_session(site: Site) -> None:
    site.use(1, 1)
    with site.gateway.websocket("/x") as first, site.gateway.websocket("/x") as second:
        echoes(first)
        echoes(second)
        assert site.seen() == [1, 1, 0]
        site.call("PATCH", f"{TARGETS}/{site.places[0]}", weight=7)
        site.call("PATCH", "/upstreams/ws.upstream", host_header="other.test")
        site.call("POST", TARGETS, target=site.places[2])
        site.call("PUT", f"{TARGETS}/{site.places[0]}/unhealthy")
        site.call("DELETE", f"{TARGETS}/{site.places[1]}")
        for ws in (first, second):
            echoes(ws)
        assert site.shares(3) == [0, 0, 3]
        assert site.ends[2].requests[-1].headers["Host"].startswith("other.test:")
        site.call("DELETE", "/upstreams/ws.upstream")
        for ws in (first, second):
            echoes(ws)
            with pytest.raises(TimeoutError):
                ws.recv(timeout=0.05)


def test_mark_by_hand_takes_a_target_out_until_it_is_taken_back(site: Site) -> None:
    site.use(1, 1)
    site.call("PUT", f"{TARGETS}/{site.places[0]}/unhealthy")
    assert site.shares(4) == [0, 4, 0]
    site.call("PUT", f"{TARGETS}/{site.places[1]}/unhealthy")
    assert site.refusal() == (503, NO_PEER)
    site.call("PUT", f"{TARGETS}/{site.places[0]}/healthy")
    assert site.shares(2) == [2, 0, 0]


def test_upstream_without_targets_is_503_and_without_itself_a_name(site: Site) -> None:
    site.use()
    assert site.refusal() == (503, NO_PEER)
    site.call("DELETE", "/upstreams/ws.upstream")
    assert site.refusal() == (503, "name resolution failed")
    site.use(1)
    assert site.shares(1) == [1, 0, 0]


def test_target_that_is_down_costs_no_handshake(site: Site) -> None:
    with socket.socket() as closed:  # bound and not listening: it refuses
        closed.bind(("127.0.0.1", 0))
        site.places[0] = f"127.0.0.1:{closed.getsockname()[1]}"
        site.use(100, 1, 1)
        assert site.shares(6) == [0, 3, 3]
        site.call("PATCH", "/services/balanced", retries=0)
        assert site.refusal()[0] == 502
        site.call("PATCH", "/services/balanced", retries=5)


def test_names_of_targets_are_resolved(site: Site) -> None:
    site.places[0] = site.places[0].replace("127.0.0.1", "localhost")
    site.use(1, 1)
    assert eventually(lambda: site.shares(2) == [1, 1, 0])


def test_websockets_of_an_http_service_go_round_as_well(site: Site) -> None:
    site.use(2, 1)
    howto.post(site.gateway, "/services", name="api", host="ws.upstream", protocol="http")
    howto.post(site.gateway, "/services/api/routes", name="api", paths=["/x"], hosts=["127.0.0.1"])
    site.gateway.wait_carried()
    assert site.shares(6) == [4, 2, 0]
    site.call("DELETE", "/routes/api")
    site.call("DELETE", "/services/api")


# --- a target dies, two workers -------------------------------------------------------------------


def test_target_that_dies_takes_its_own_sessions_and_no_new_one(
    new_gateway: Callable[..., Gateway],
) -> None:
    gateway = new_gateway(WORKERS="2")
    gateway.start()
    ports = free_ports(2)
    ends = [gateway.narthex("echo", "--port", str(port)) for port in ports]
    for echo in ends:
        eventually(lambda echo=echo: "echo upstream on" in echo.output(), START_SECONDS)  # type: ignore[misc]
    howto.post(gateway, "/upstreams", name="echo.upstream")
    for port in ports:
        howto.post(gateway, "/upstreams/echo.upstream/targets", target=f"127.0.0.1:{port}")
    howto.post(gateway, "/services", name="s", host="echo.upstream", protocol="ws")
    howto.post(gateway, "/services/s/routes", name="r", paths=["/"], protocols=["ws"])
    gateway.wait_carried()
    with ExitStack() as stack:
        held = [stack.enter_context(gateway.websocket("/x")) for _ in range(8)]
        ends[0].kill()
        alive = 0
        for ws in held:
            try:
                ws.send("there?")
                alive += ws.recv(timeout=10) == "there?"
            except ConnectionClosed:
                pass
        assert 2 <= alive <= 6  # one each at the least, for each worker
        for _ in range(12):
            with gateway.websocket("/x") as ws:
                echoes(ws)


# --- README ---------------------------------------------------------------------------------------


def blocks() -> list[str]:
    part = (ROOT / "README.md").read_text().partition("## Several targets behind a service")[2]
    return re.findall(r"```sh\n(.*?)```", part.partition("\n## ")[0], re.DOTALL)


def test_readme_chapter_on_targets_works_as_written(
    one_worker: Gateway,
    tools: Path,  # noqa: F811
) -> None:
    gateway = one_worker
    with RecordingUpstream() as first, RecordingUpstream() as second:
        ports = [int(end.url.rstrip("/").rpartition(":")[2]) for end in (first, second)]
        name = "example-websocket-service"
        howto.post(gateway, "/services", name=name, url=f"ws://localhost:{ports[0]}/")
        howto.post(gateway, f"/services/{name}/routes", paths=["/anything"], protocols=["ws"])
        shell = Shell(gateway, tools, ports[0])

        def run(block: str) -> None:
            shell.run(block.replace("localhost:8010", f"localhost:{ports[1]}"))

        def shares(handshakes: int) -> tuple[int, int]:
            gateway.wait_carried()
            before = len(first.requests), len(second.requests)
            for _ in range(handshakes):
                with gateway.websocket("/anything") as ws:
                    echoes(ws)
            return len(first.requests) - before[0], len(second.requests) - before[1]

        make, out, back = blocks()
        run(make)
        assert shares(4) == (3, 1)
        run(out)
        assert shares(4) == (4, 0)
        run(back)
        assert shares(4) == (3, 1)
