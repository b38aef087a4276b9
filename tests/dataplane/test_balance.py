"""Targets of an upstream: the round that they come in, and what requests make of it."""

from __future__ import annotations

import gc
import random
import select
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest

from dataplane import balances, wire
from dataplane._policies import BalanceBox, NameTable
from dataplane.balances import split_port
from dataplane.compile import CompileError, compile_snapshot
from tests.dataplane.engine_kit import (
    Head,
    Line,
    Rig,
    Upstream,
    handshake,
    request,
    rig,
    route,
    service,
    switching,
    until,
)
from tests.dataplane.snapshots import box_of, new_names, snapshot, uid
from tests.dataplane.snapshots import route as plain_route
from tests.dataplane.snapshots import service as plain_service

NO_PEER = "failure to get a peer from the ring-balancer"
UPSTREAM = uid(90)

# --- the round ------------------------------------------------------------------------------------


def box(*weights: int, hosts: Sequence[str] = (), names: NameTable | None = None) -> BalanceBox:
    """Targets of these weights, on addresses unless told otherwise."""
    given = hosts or [f"10.0.{n // 256}.{n % 256}" for n in range(len(weights))]
    targets = [(host, 80, w, b"h", b"h") for host, w in zip(given, weights, strict=True)]
    return BalanceBox(names or new_names()[0], targets)


def picks(balance: BalanceBox, count: int, **options: Any) -> list[int | None]:
    return [balance.pick(**options) for _ in range(count)]


@pytest.mark.parametrize(
    ("weights", "round_"),
    [
        ((5, 1, 1), "aabacaa"),  # nginx's own example
        ((1, 1, 1), "abc"),
        ((100,), "aaa"),
        ((2, 1), "aba"),
        ((3, 3), "ab"),
        ((1, 2, 3), "cbacbc"),
        ((65535, 65535), "ab"),
    ],
)
def test_round_is_smooth_and_begins_anew(weights: tuple[int, ...], round_: str) -> None:
    expected = ["abc".index(letter) for letter in round_]
    assert picks(box(*weights), 3 * len(expected)) == 3 * expected


@pytest.mark.parametrize("seed", range(5))
def test_any_whole_round_holds_each_exactly_by_its_weight(seed: int) -> None:
    weights = [random.Random(seed).randint(1, 9) for _ in range(8)]
    balance, total = box(*weights), sum(weights)
    found = picks(balance, 4 * total)
    for start in range(0, 3 * total, 7):
        shares = Counter(found[start : start + total])
        assert [shares[n] for n in range(8)] == weights, (seed, start)


def test_workers_go_round_by_themselves_and_begin_one_after_the_other() -> None:
    balance = box(1, 1, 1)
    assert [balance.pick(worker=n) for n in range(6)] == [0, 1, 2, 0, 1, 2]
    assert picks(balance, 4, worker=1) == [2, 0, 1, 2]
    assert picks(balance, 3, worker=0) == [1, 2, 0]
    assert balance.pick(worker=63) == 63 % 3


def test_target_that_had_the_request_stands_aside() -> None:
    balance = box(100, 1, 1)
    assert balance.pick() == 0
    assert {balance.pick(tried=[0]), balance.pick(tried=[0])} == {1, 2}
    assert balance.pick(tried=[0, 2]) == 1
    assert balance.pick(tried=[0, 1, 2]) is None
    assert box().pick() is None


def test_target_without_an_address_stands_aside_until_it_has_one() -> None:
    names, _ = new_names()
    balance = box(1, 1, hosts=["10.0.0.1", "up"], names=names)
    assert picks(balance, 3) == [0, 0, 0]
    names.set_addresses("up", [("10.0.0.2", False)])
    assert sorted(n for n in picks(balance, 4) if n is not None) == [0, 0, 1, 1]
    assert box(1, hosts=["down"], names=names).pick() is None


class Model:
    """The round in words: weights are added to all that take part, the sum taken from the first."""

    def __init__(self, weights: list[int]) -> None:
        self.weights = weights
        self.current = [0] * len(weights)

    def pick(self, tried: Sequence[int]) -> int | None:
        there = [n for n in range(len(self.weights)) if n not in tried]
        if not there:
            return None
        for n in there:
            self.current[n] += self.weights[n]
        best = max(there, key=lambda n: (self.current[n], -n))
        self.current[best] -= sum(self.weights[n] for n in there)
        return best


@pytest.mark.parametrize("seed", range(4))
def test_round_is_the_models_whatever_stands_aside(seed: int) -> None:
    chance = random.Random(seed)
    weights = [chance.choice([1, 2, 5, 100, 65535]) for _ in range(chance.randint(2, 12))]
    balance, model = box(*weights), Model(weights)
    for _ in range(2000):
        some = chance.randint(0, len(weights)) if chance.random() < 0.3 else 0
        tried = chance.sample(range(len(weights)), some)
        assert balance.pick(tried=tried) == model.pick(tried), (seed, weights)


def test_largest_upstream_is_gone_round_fairly() -> None:
    balance = box(*[65535] * wire.TARGETS_MAX)
    assert picks(balance, wire.TARGETS_MAX) == list(range(wire.TARGETS_MAX))
    with pytest.raises(ValueError, match="more than 1000 targets"):
        box(*[1] * (wire.TARGETS_MAX + 1))


# --- compiling ------------------------------------------------------------------------------------


def upstream(*targets: wire.Target, **fields: Any) -> wire.Upstream:
    return wire.Upstream(UPSTREAM, **{"name": "up", "targets": list(targets), **fields})


def compiled(*parts: Any, upstreams: list[wire.Upstream], **options: Any) -> Any:
    whole = snapshot(*parts)
    given = {name: getattr(whole, name) for name in whole.__struct_fields__}
    made = wire.Snapshot(**given | {"upstreams": upstreams})
    return compile_snapshot(made, options.get("previous"), options.get("names") or new_names()[0])


def balance_of(protocol: str = "ws", **fields: Any) -> BalanceBox:
    """What a service named `up` goes to."""
    targets = fields.pop("targets", [wire.Target("a.test", 80), wire.Target("::1", 443, 5)])
    made = compiled(
        plain_service(protocol=protocol),
        plain_route(service=uid(1), protocols=[protocol]),
        upstreams=[upstream(*targets, **fields)],
    )
    found = box_of(made).balance
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("protocol", "host_header", "written"),
    [
        ("ws", None, [(b"a.test", b"a.test"), (b"[::1]:443", b"::1")]),
        ("wss", None, [(b"a.test:80", b"a.test"), (b"[::1]", b"::1")]),
        ("https", "Name.test", [(b"Name.test:80", b"Name.test"), (b"Name.test", b"Name.test")]),
        ("http", "b.test:8443", [(b"b.test:8443", b"b.test")] * 2),
        ("http", "b.test:80", [(b"b.test", b"b.test")] * 2),
        ("http", "[::2]:81", [(b"[::2]:81", b"::2")] * 2),
    ],
)
def test_host_is_the_targets_or_the_upstreams_own(
    protocol: str, host_header: str | None, written: list[tuple[bytes, bytes]]
) -> None:
    shown = balance_of(protocol, host_header=host_header).describe()
    assert [(name, port, weight) for name, port, weight, *_ in shown] == [
        ("a.test", 80, 100),
        ("::1", 443, 5),
    ]
    assert [(header, name) for *_, header, name in shown] == written


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a", None)),
        ("a:1", ("a", 1)),
        ("::1", ("::1", None)),
        ("[::1]", ("[::1]", None)),
        ("[::1]:8", ("[::1]", 8)),
    ],
)
def test_port_is_told_from_an_address(text: str, parts: tuple[str, int | None]) -> None:
    assert split_port(text) == parts


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ([upstream(), upstream()], "upstream id is there twice"),
        ([upstream(), wire.Upstream(uid(91), "up")], "two upstreams have the same name"),
        ([upstream(wire.Target("a", 0))], "port 0"),
        ([upstream(wire.Target("a", 80, 0))], "weight 0"),
        ([upstream(wire.Target("a", 80, 65536))], "weight 65536"),
        ([upstream(wire.Target("a b", 80))], "'a b' is not a host"),
        ([upstream(wire.Target("a\r\nX: y", 80))], "is not a host"),
        ([upstream(wire.Target("a", 80), host_header="a\r\nX: y")], "is not a host"),
        ([upstream(wire.Target("a\0b", 80), host_header="a")], "is not a host"),
        ([upstream(*[wire.Target("a", 80)] * 1001)], "more than 1000 targets"),
        ([upstream(client_certificate=uid(7))], "client certificate that is not there"),
    ],
)
def test_upstream_that_cannot_be_is_refused(wrong: list[wire.Upstream], why: str) -> None:
    with pytest.raises(CompileError, match=why):
        compiled(plain_service(), plain_route(service=uid(1)), upstreams=wrong)


def test_upstream_that_did_not_change_keeps_its_place_in_the_round() -> None:
    names, _ = new_names()
    parts = (plain_service(), plain_route(service=uid(1)))
    two = upstream(wire.Target("10.0.0.1", 80), wire.Target("10.0.0.2", 80))
    first = compiled(*parts, upstreams=[two], names=names)
    balance = box_of(first).balance
    assert balance is not None and balance.pick() == 0
    edited = (parts[0], plain_route(service=uid(1), paths=["/edited"]))
    second = compiled(*edited, upstreams=[two], names=names, previous=first)
    assert box_of(second) is not box_of(first)
    assert box_of(second).balance is balance
    one = upstream(wire.Target("10.0.0.1", 80))
    third = compiled(*edited, upstreams=[one], names=names, previous=second)
    assert box_of(third).balance is not balance
    fourth = compiled(*edited, upstreams=[], names=names, previous=third)
    assert box_of(fourth).balance is None


def test_targets_of_many_routes_are_compiled_once_for_each_default_port() -> None:
    parts = [
        part
        for number, protocol in enumerate(["ws", "http", "wss"] * 3)
        for part in (
            plain_service(10 + number, protocol=protocol),
            plain_route(30 + number, service=uid(10 + number), paths=[f"/{number}"]),
        )
    ]
    with mock.patch.object(balances, "_targets", wraps=balances._targets) as targets:
        made = compiled(*parts, upstreams=[upstream(wire.Target("a", 80))])
    assert len({id(box_of(made, 30 + number).balance) for number in range(9)}) == 2
    assert targets.call_count == 2


def test_edit_of_targets_is_nothing_that_sessions_are_held_to() -> None:
    parts = (plain_service(), plain_route(service=uid(1)))
    first = box_of(compiled(*parts, upstreams=[upstream(wire.Target("a", 80))]))
    second = box_of(compiled(*parts, upstreams=[upstream(wire.Target("b", 80))]))
    assert first.content != second.content
    assert first.content[: first.own] == second.content[: second.own]


# --- requests -------------------------------------------------------------------------------------


@pytest.fixture
def one() -> Iterator[Rig]:
    with rig(1) as made:
        yield made


class Site:
    """A route whose service is an upstream's name, and the listeners behind its targets."""

    def __init__(self, rig: Rig, count: int, kind: str = "ws", **service_fields: Any) -> None:
        self.rig = rig
        self.ends = [rig.another_upstream() for _ in range(count)]
        self.kind = kind
        self.service_fields = service_fields

    def publish(self, *targets: wire.Target, **fields: Any) -> None:
        protocols = ["ws", "wss"] if self.kind == "ws" else ["http", "https"]
        route_fields = fields.pop("route_fields", {})
        self.rig.publish(
            service(1, protocol=self.kind, host="up", **self.service_fields),
            route(paths=["/"], oauth2=None, protocols=protocols, **route_fields),
            wire.Upstream(UPSTREAM, "up", list(targets or self.targets()), **fields),
        )

    def targets(self, *weights: int) -> list[wire.Target]:
        given = weights or (100,) * len(self.ends)
        return [
            wire.Target("127.0.0.1", end.port, weight)
            for end, weight in zip(self.ends, given, strict=True)
        ]

    def where(self) -> tuple[int, Line]:
        """Which listener the next connection comes to."""
        ready, _, _ = select.select([end.sock for end in self.ends], [], [], 10)
        assert len(ready) == 1, ready
        at = [end.sock for end in self.ends].index(ready[0])
        return at, self.ends[at].accept()

    def open(self) -> tuple[int, Line]:
        """A WebSocket, and which target it went to."""
        client = self.rig.client(handshake())
        at, line = self.where()
        line.head()
        line.send(switching())
        assert client.head().status == 101
        return at, client

    def refusal(self, sent: bytes | None = None) -> tuple[Head, bytes]:
        return self.rig.client(sent or handshake()).answer()


def test_websockets_go_round_by_weight(one: Rig) -> None:
    site = Site(one, 3)
    site.publish(*site.targets(5, 1, 1))
    assert [site.open()[0] for _ in range(14)] == [0, 0, 1, 0, 2, 0, 0] * 2


def test_exchanges_go_round_by_weight_on_kept_connections(one: Rig) -> None:
    site = Site(one, 2, "http")
    site.publish(*site.targets(2, 1))
    client = one.client()
    lines: dict[int, Line] = {}
    order = []
    for _ in range(6):
        client.send(request())
        expected = [0, 1, 0][len(order) % 3]
        if expected not in lines:
            at, lines[expected] = site.where()
            assert at == expected
        line = lines[expected]
        assert line.head().get("Host") == f"127.0.0.1:{site.ends[expected].port}"
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % expected)
        order.append(client.answer()[1])
    assert order == [b"0", b"1", b"0"] * 2


@pytest.mark.parametrize("kind", ["ws", "http"])
def test_upstream_without_a_target_is_503_in_words(one: Rig, kind: str) -> None:
    site = Site(one, 0, kind)
    site.rig.publish(
        service(1, protocol=kind, host="up"),
        route(paths=["/"], oauth2=None, protocols=[kind]),
        wire.Upstream(UPSTREAM, "up"),
    )
    head, body = site.refusal(handshake() if kind == "ws" else request())
    assert head.status == 503
    assert NO_PEER in body.decode()


@pytest.mark.parametrize("kind", ["ws", "http"])
def test_target_that_refuses_is_followed_by_the_others_first(one: Rig, kind: str) -> None:
    site = Site(one, 4, kind, retries=3)
    site.publish(*site.targets(100, 1, 1, 1))
    for end in site.ends[:3]:
        end.close()
    one.closing = [end for end in one.closing if end not in site.ends[:3]]
    for _ in range(3):
        client = one.client(handshake() if kind == "ws" else request())
        line = site.ends[3].accept()
        head = line.head()
        assert head.get("Host") == f"127.0.0.1:{site.ends[3].port}"
        if kind == "ws":
            line.send(switching())
            assert client.head().status == 101
        else:
            line.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            assert client.head().status == 200


def test_tries_are_bounded_by_the_services_retries(one: Rig) -> None:
    site = Site(one, 3, retries=1)
    site.publish()
    for end in site.ends[:2]:
        end.close()
    one.closing = [end for end in one.closing if end not in site.ends[:2]]
    assert site.refusal()[0].status == 502
    assert site.ends[2].untouched()


def test_targets_that_all_refuse_are_tried_again_in_turn(one: Rig) -> None:
    site = Site(one, 2, retries=4)
    site.publish()
    heads = []
    client = one.client(handshake())
    for _ in range(5):
        at, line = site.where()
        heads.append((at, line.head().get("Host")))
        line.reset()
    assert client.answer()[0].status == 502
    assert [at for at, _ in heads] == [0, 1, 0, 1, 0]
    assert [host for _, host in heads] == [f"127.0.0.1:{site.ends[at].port}" for at, _ in heads]


def test_target_that_answers_nothing_in_time_is_not_asked_again(one: Rig) -> None:
    site = Site(one, 2, retries=5, read_timeout_ms=150)
    site.publish()
    assert site.refusal()[0].status == 504
    assert [len(drain(end)) for end in site.ends] == [1, 1]


def test_silent_target_is_not_asked_again_for_one_without_an_address(one: Rig) -> None:
    site = Site(one, 2, retries=5, read_timeout_ms=150)
    site.publish(*site.targets(), wire.Target("no.test", 80))
    assert site.refusal()[0].status == 504
    assert [len(drain(end)) for end in site.ends] == [1, 1]


def test_every_address_of_a_target_gets_its_try(one: Rig) -> None:
    """Wherever a request begins: only one address of each listens."""
    site = Site(one, 1, retries=3)
    port = site.ends[0].port
    site.publish(wire.Target("a.test", port), wire.Target("b.test", port))
    one.names.set_addresses("a.test", [("127.0.0.1", False), ("127.0.0.2", False)])
    one.names.set_addresses("b.test", [("127.0.0.2", False), ("127.0.0.1", False)])
    for _ in range(12):
        site.open()


def test_targets_that_all_refuse_have_the_same_share_of_tries(one: Rig) -> None:
    site = Site(one, 3, retries=8)
    site.publish(*site.targets(100, 1, 1))
    client = one.client(handshake())
    order = []
    for _ in range(9):
        at, line = site.where()
        order.append(at)
        line.reset()
    assert client.answer()[0].status == 502
    assert [sorted(order[n : n + 3]) for n in (0, 3, 6)] == [[0, 1, 2]] * 3
    assert all(one != other for one, other in pairwise(order))


def drain(end: Upstream) -> list[Line]:
    """The connections that have come."""
    found = []
    while not end.untouched():
        found.append(end.accept())
    return found


def test_one_target_is_tried_as_often_as_a_plain_host(one: Rig) -> None:
    site = Site(one, 1, retries=2)
    site.publish()
    client = one.client(handshake())
    for _ in range(3):
        _, line = site.where()
        line.head()
        line.reset()
    assert client.answer()[0].status == 502


def test_host_header_of_the_upstream_is_sent_to_each_target(one: Rig) -> None:
    site = Site(one, 2, retries=1)
    site.publish(host_header="name.test:81")
    client = one.client(handshake())
    hosts = []
    for _ in range(2):
        _, line = site.where()
        hosts.append(line.head().get("Host"))
        line.reset()
    assert client.answer()[0].status == 502
    assert hosts == ["name.test:81"] * 2


def test_host_that_is_preserved_stays_on_every_try(one: Rig) -> None:
    site = Site(one, 2, retries=1)
    site.publish(route_fields={"preserve_host": True})
    client = one.client(handshake())
    for _ in range(2):
        _, line = site.where()
        assert line.head().get("Host") == "gateway.test"
        line.reset()
    assert client.answer()[0].status == 502


def test_host_that_the_client_did_not_name_is_each_targets(one: Rig) -> None:
    site = Site(one, 2, "http", retries=1)
    site.publish(route_fields={"preserve_host": True})
    client = one.client(b"GET / HTTP/1.0\r\n\r\n")
    for end in site.ends:
        _, line = site.where()
        assert line.head().get("Host") == f"127.0.0.1:{end.port}"
        line.reset()
    assert client.answer()[0].status == 502


def test_next_tries_head_differs_in_its_host_alone(one: Rig) -> None:
    site = Site(one, 2, retries=1)
    site.publish(
        wire.Target("127.0.0.1", site.ends[0].port),
        wire.Target("second.example.test", site.ends[1].port),
    )
    one.names.set_addresses("second.example.test", [("127.0.0.1", False)])
    one.client(handshake(b"/a?b=c", b"X-Mine: 1", b"Sec-WebSocket-Protocol: chat"))
    _, line = site.where()
    first = line.head()
    line.reset()
    _, line = site.where()
    second = line.head()
    assert second.get("Host") == f"second.example.test:{site.ends[1].port}"
    assert (first.line, first.fields[1:]) == (second.line, second.fields[1:])
    assert first.fields[0][0] == "Host"


def test_names_of_targets_are_asked_for_when_no_other_has_an_address(one: Rig) -> None:
    site = Site(one, 1)
    port = site.ends[0].port
    site.publish(wire.Target("first.test", port), wire.Target("second.test", port))
    one.names.mark_failed("first.test")
    client = one.client(handshake())
    kind, ref, host, *_ = one.question()
    assert (kind, host) == ("name", "second.test")
    one.names.set_addresses("second.test", [("127.0.0.1", False)])
    one.engine.answer_name(ref, True)
    _, line = site.where()
    assert line.head().get("Host") == f"second.test:{port}"
    line.send(switching())
    assert client.head().status == 101
    one.names.mark_failed("second.test")  # its last good address stays
    assert site.open()[0] == 0


def test_names_that_all_failed_are_503_in_words(one: Rig) -> None:
    site = Site(one, 0)
    site.publish(wire.Target("first.test", 80), wire.Target("second.test", 80))
    for name in ("first.test", "second.test"):
        one.names.mark_failed(name)
    head, body = site.refusal()
    assert (head.status, "name resolution failed" in body.decode()) == (503, True)


def test_name_of_a_service_that_is_no_upstreams_is_a_host(one: Rig) -> None:
    end = one.another_upstream()
    one.publish(
        service(end.port, host="127.0.0.1"),
        route(paths=["/"], oauth2=None),
        wire.Upstream(UPSTREAM, "up", [wire.Target("127.0.0.1", 9)]),
    )
    one.client(handshake())
    assert end.accept().head().get("Host") == f"127.0.0.1:{end.port}"


def test_session_and_request_in_flight_outlive_their_target(one: Rig) -> None:
    site = Site(one, 2)
    site.publish()
    at, client = site.open()
    assert at == 0
    pending = one.client(handshake())
    assert site.where()[0] == 1
    for weights in ((1, 2), (3, 4), (5, 6)):
        site.publish(*site.targets(*weights))
    site.publish(*site.targets()[:1])
    assert client.silent()
    line = site.ends[1].lines[-1]
    line.head()
    line.send(switching())
    assert pending.head().status == 101  # it began before the edit
    assert [site.open()[0] for _ in range(3)] == [0, 0, 0]


def alive() -> int:
    gc.collect()
    return sum(type(item) is BalanceBox for item in gc.get_objects())


def test_targets_go_when_nobody_uses_them_any_more(one: Rig) -> None:
    before = alive()
    site = Site(one, 2)
    clients = []
    for weight in range(1, 6):
        site.publish(*site.targets(weight, 1))
        clients.append(site.open()[1])
    one.publish(service(1), route(paths=["/"], oauth2=None))
    del one.tables[:-1]
    assert alive() - before >= 5  # those of the sessions
    for client in clients:
        client.close()
    for end in site.ends:
        end.close()
    one.idle()

    def gone() -> bool:
        one.names.sweep()
        one.turns_end()
        return alive() == before

    until(gone)
