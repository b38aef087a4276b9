"""The route matcher: each rule of its spec (§2) obeyed and broken, precedence, a model."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from dataplane import wire
from dataplane._tables import Tables
from dataplane.patterns import rank_key
from tests.dataplane.snapshots import route, tables_of, uid

Fields = list[tuple[str, str]]


@dataclass
class Request:
    host: str = "a.com"
    port: int = 80
    method: str = "GET"
    path: str = "/"
    fields: Fields = field(default_factory=list)


def match(tables: Tables, request: Request) -> tuple[int, int] | None:
    """(number of the route, prefix length), or None."""
    found = tables.match(
        request.host.encode(),
        request.port,
        request.method.encode(),
        request.path.encode(),
        [(name.encode(), value.encode()) for name, value in request.fields],
    )
    return None if found is None else (int.from_bytes(found[0], "big"), found[1])


# --- one route, one rule -------------------------------------------------------------------------

OBEYED: list[tuple[dict[str, Any], Request]] = [
    ({}, Request()),
    ({"paths": ["/"]}, Request(path="/anything")),
    ({"paths": ["/rou"]}, Request(path="/routereq")),
    ({"paths": ["/a", "/b/c"]}, Request(path="/b/c")),
    ({"paths": ["/ünïcode"]}, Request(path="/ünïcode/x")),
    ({"hosts": ["a.com"]}, Request()),
    ({"hosts": ["A.Com"]}, Request()),
    ({"hosts": ["b.com", "a.com"]}, Request()),
    ({"hosts": ["a.com:8000"]}, Request(port=8000)),
    ({"hosts": ["a.com:8000", "a.com:80"]}, Request(port=80)),
    ({"hosts": ["*.com"]}, Request()),
    ({"hosts": ["*.a.com"]}, Request(host="x.y.a.com")),
    ({"hosts": ["*.com:81"]}, Request(port=81)),
    ({"hosts": ["a.*"]}, Request()),
    ({"hosts": ["a.*"]}, Request(host="a.b.c")),
    ({"hosts": ["a.*:443"]}, Request(port=443)),
    ({"hosts": ["x.org", "*.com"]}, Request()),
    ({"hosts": ["[::1]"]}, Request(host="[::1]")),
    ({"hosts": ["::1"]}, Request(host="[::1]")),
    ({"hosts": ["[::1]:81"]}, Request(host="[::1]", port=81)),
    ({"methods": ["GET"]}, Request()),
    ({"methods": ["POST", "GET"]}, Request()),
    ({"headers": {"X-Kind": ["One"]}}, Request(fields=[("x-kind", "oNE")])),
    ({"headers": {"x-kind": ["one", "two"]}}, Request(fields=[("X-KIND", "two")])),
    ({"headers": {"x": ["1"]}}, Request(fields=[("x", "0"), ("y", "1"), ("X", "1")])),
    ({"headers": {"x": ["1"], "y": ["2"]}}, Request(fields=[("y", "2"), ("x", "1")])),
    ({"headers": {"x": [""]}}, Request(fields=[("x", "")])),
    (
        {"hosts": ["a.com"], "paths": ["/p"], "methods": ["PUT"], "headers": {"x": ["1"]}},
        Request(method="PUT", path="/p", fields=[("x", "1")]),
    ),
]

BROKEN: list[tuple[dict[str, Any], Request]] = [
    ({"paths": ["/b"]}, Request(path="/a/b")),
    ({"paths": ["/abc"]}, Request(path="/ab")),
    ({"paths": ["/A"]}, Request(path="/a")),
    ({"paths": ["/a/"]}, Request(path="/a")),
    ({"hosts": ["b.com"]}, Request()),
    ({"hosts": ["a.com"]}, Request(host="xa.com")),
    ({"hosts": ["a.com"]}, Request(host="a.com.x")),
    ({"hosts": ["a.com"]}, Request(host="")),
    ({"hosts": ["a.com:8000"]}, Request(port=80)),
    ({"hosts": ["*.com"]}, Request(host="com")),
    ({"hosts": ["*.a.com"]}, Request(host="a.com")),
    ({"hosts": ["*.a.com"]}, Request(host="xa.com")),
    ({"hosts": ["*.com:81"]}, Request(port=80)),
    ({"hosts": ["a.*"]}, Request(host="ab.com")),
    ({"hosts": ["a.*"]}, Request(host="x.a.com")),
    ({"hosts": ["a.*:443"]}, Request(port=80)),
    ({"hosts": ["[::1]"]}, Request(host="[::2]")),
    ({"methods": ["POST"]}, Request()),
    ({"methods": ["GETS"]}, Request()),
    ({"methods": ["GET"]}, Request(method="get")),
    ({"headers": {"x": ["1"]}}, Request()),
    ({"headers": {"x": ["1"]}}, Request(fields=[("x", "2")])),
    ({"headers": {"x": ["1"]}}, Request(fields=[("x", "11")])),
    ({"headers": {"x": ["1"]}}, Request(fields=[("xx", "1")])),
    ({"headers": {"x": ["1"], "y": ["2"]}}, Request(fields=[("x", "1")])),
    ({"headers": {"x": ["1"], "y": ["2"]}}, Request(fields=[("x", "2"), ("y", "1")])),
    ({"hosts": ["a.com"], "paths": ["/p"]}, Request(path="/q")),
    ({"hosts": ["a.com"], "paths": ["/p"]}, Request(host="b.com", path="/p")),
    ({"paths": ["/p"], "methods": ["PUT"]}, Request(path="/p")),
]


@pytest.mark.parametrize(("fields", "request_"), OBEYED)
def test_route_takes_a_request_that_obeys_it(fields: dict[str, Any], request_: Request) -> None:
    found = match(tables_of(route(7, **fields)), request_)
    assert found is not None
    assert found[0] == 7


@pytest.mark.parametrize(("fields", "request_"), BROKEN)
def test_route_leaves_a_request_that_breaks_it(fields: dict[str, Any], request_: Request) -> None:
    assert match(tables_of(route(7, **fields)), request_) is None


def test_no_routes_match_nothing() -> None:
    assert match(tables_of(), Request()) is None


def test_prefix_len_is_that_of_the_path_that_matched() -> None:
    tables = tables_of(route(1, paths=["/", "/long", "/long/er"]), route(2, hosts=["b.com"]))
    assert match(tables, Request(path="/x")) == (1, 1)
    assert match(tables, Request(path="/longest")) == (1, 5)
    assert match(tables, Request(path="/long/er")) == (1, 8)
    assert match(tables, Request(host="b.com", path="")) == (2, 0)


def test_every_prefix_length_is_found() -> None:
    """Lengths below, at and past the words that hashes are made of."""
    path = "/" + "".join(random.Random(3).choices("abcdefgh/", k=99))
    tables = tables_of(*(route(n, paths=[path[:n]]) for n in range(1, 100)))
    for size in range(1, 100):
        assert match(tables, Request(path=path[:size] + "Z")) == (size, size)
    assert match(tables, Request(path="")) is None


def test_longest_allowed_path_and_host_match() -> None:
    path, host = "/" + "p" * 8191, "h" * 253
    tables = tables_of(route(1, paths=[path], hosts=[host]))
    assert match(tables, Request(host=host, path=path)) == (1, 8192)
    assert match(tables, Request(host=host, path=path[:-1])) is None
    assert match(tables, Request(host=host[:-1], path=path)) is None


def test_fields_are_wanted_only_when_a_route_has_headers() -> None:
    assert tables_of(route(1, paths=["/"])).wants_fields is False
    assert tables_of(route(1, headers={"x": ["1"]})).wants_fields is True


def test_values_longer_than_any_asked_for_are_passed_over() -> None:
    tables = tables_of(route(1, headers={"x": ["1"]}))
    fields = [("x", "1" * 30_000), *[("x", "2")] * 98, ("x", "1")]
    assert match(tables, Request(fields=fields)) == (1, 0)


# --- precedence: §2.1 ----------------------------------------------------------------------------

# The winner has the later creation and the lower id, so that nothing but the rule decides.
EVERYTHING = Request("a.b.com", 80, "GET", "/path/to", [("x", "1"), ("y", "2")])
PRECEDENCE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "more kinds beat a longer path": (
        {"methods": ["GET"], "paths": ["/"]},
        {"paths": ["/path/to"]},
    ),
    "more kinds beat more headers": (
        {"methods": ["GET"], "paths": ["/"]},
        {"headers": {"x": ["1"], "y": ["2"]}},
    ),
    "more kinds beat a plain host": (
        {"hosts": ["*.com"], "methods": ["GET"]},
        {"hosts": ["a.b.com"]},
    ),
    "three kinds beat two": (
        {"hosts": ["*.com"], "methods": ["GET"], "paths": ["/"]},
        {"hosts": ["a.b.com"], "paths": ["/path/to"]},
    ),
    "four kinds beat three": (
        {"hosts": ["*.com"], "methods": ["GET"], "paths": ["/"], "headers": {"x": ["1"]}},
        {"hosts": ["a.b.com"], "paths": ["/path/to"], "headers": {"x": ["1"], "y": ["2"]}},
    ),
    "a plain host beats a wildcard": ({"hosts": ["a.b.com"]}, {"hosts": ["*.b.com"]}),
    "all plain beats plain and wildcard": (
        {"hosts": ["a.b.com", "z.com"]},
        {"hosts": ["a.b.com", "*.com"]},
    ),
    "a plain host beats no host of as many kinds": (
        {"hosts": ["a.b.com"]},
        {"paths": ["/path/to"]},
    ),
    "a plain host beats more headers": (
        {"hosts": ["a.b.com"], "headers": {"x": ["1"]}},
        {"hosts": ["*.com"], "headers": {"x": ["1"], "y": ["2"]}},
    ),
    "a plain host beats a longer path": (
        {"hosts": ["a.b.com"], "paths": ["/"]},
        {"hosts": ["*.com"], "paths": ["/path/to"]},
    ),
    "more headers beat fewer": (
        {"headers": {"x": ["1"], "y": ["2"]}},
        {"headers": {"x": ["1"]}},
    ),
    "headers beat a wildcard host": ({"headers": {"x": ["1"]}}, {"hosts": ["*.com"]}),
    "more headers beat a longer path": (
        {"headers": {"x": ["1"], "y": ["2"]}, "paths": ["/"]},
        {"headers": {"x": ["1"]}, "paths": ["/path/to"]},
    ),
    "a longer path beats a shorter": ({"paths": ["/path/"]}, {"paths": ["/path"]}),
    "a path beats a wildcard host": ({"paths": ["/path"]}, {"hosts": ["*.com"]}),
    "a path beats a method": ({"paths": ["/"]}, {"methods": ["GET"]}),
}


@pytest.mark.parametrize("rule", PRECEDENCE)
def test_precedence_decides_between_two_routes(rule: str) -> None:
    winner, loser = PRECEDENCE[rule]
    routes = [route(1, created_at=9, **winner), route(2, created_at=1, **loser)]
    for order in itertools.permutations(routes):
        found = match(tables_of(*order), EVERYTHING)
        assert found is not None
        assert found[0] == 1
    only = match(tables_of(routes[1]), EVERYTHING)
    assert only is not None, "the loser must be a route that would have matched"


def test_older_route_wins_a_tie() -> None:
    routes = [route(1, paths=["/p"], created_at=5), route(2, paths=["/p"], created_at=6)]
    assert match(tables_of(*routes), Request(path="/p")) == (1, 2)
    assert match(tables_of(*reversed(routes)), Request(path="/p")) == (1, 2)


def test_greater_id_wins_a_tie_of_age() -> None:
    routes = [route(1, paths=["/p"]), route(2, paths=["/p"])]
    assert match(tables_of(*routes), Request(path="/p")) == (2, 2)
    assert match(tables_of(*reversed(routes)), Request(path="/p")) == (2, 2)


def test_creation_before_1970_and_far_away_keep_their_order() -> None:
    ages = [-(2**63), -1, 0, 1, 2**63 - 1]
    routes = [route(n + 1, paths=["/p"], created_at=age) for n, age in enumerate(ages)]
    for n in range(len(ages)):
        assert match(tables_of(*reversed(routes[n:])), Request(path="/p")) == (n + 1, 2)


def test_each_length_of_a_route_has_its_own_rank() -> None:
    """A route's short path does not win by its long one."""
    tables = tables_of(route(1, paths=["/", "/very/long"]), route(2, paths=["/mid"]))
    assert match(tables, Request(path="/middle")) == (2, 4)
    assert match(tables, Request(path="/very/long")) == (1, 10)
    assert match(tables, Request(path="/other")) == (1, 1)


def test_poorer_route_wins_when_every_richer_one_fails() -> None:
    tables = tables_of(
        route(1, hosts=["a.com"], methods=["POST"], paths=["/p"]),
        route(2, hosts=["a.com"], paths=["/p/q"]),
        route(3, paths=["/"]),
    )
    assert match(tables, Request(path="/p/q", method="POST")) == (1, 2)
    assert match(tables, Request(path="/p/q")) == (2, 4)
    assert match(tables, Request(path="/p")) == (3, 1)


def test_more_than_255_headers_count_as_255() -> None:
    many, most, fewer = (route(1, headers={f"h{n}": [""] for n in range(k)}) for k in (300, 255, 9))
    assert rank_key(many, 0) == rank_key(most, 0) < rank_key(fewer, 0)


# --- crowded tables ------------------------------------------------------------------------------


def test_one_bucket_of_routes_that_differ_by_header() -> None:
    routes = [route(n, paths=["/p"], headers={"x-shard": [str(n)]}) for n in range(1, 5001)]
    tables = tables_of(*routes)
    for number in [1, 2, 2500, 4999, 5000]:
        fields = [("a", "b")] * 98 + [("X-Shard", str(number))]
        assert match(tables, Request(path="/p/x", fields=fields)) == (number, 2)
    assert match(tables, Request(path="/p", fields=[("x-shard", "5001")])) is None


def test_one_bucket_of_routes_that_differ_by_wildcard_host() -> None:
    routes = [route(n, hosts=[f"*.t{n}.com"]) for n in range(1, 5001)]
    tables = tables_of(*routes)
    for number in [1, 2500, 5000]:
        assert match(tables, Request(host=f"www.t{number}.com")) == (number, 0)
    assert match(tables, Request(host="www.t5001.com")) is None


def test_five_thousand_hosts_and_paths_are_each_found() -> None:
    routes = [
        route(n, hosts=[f"h{n % 70}.com"], paths=[f"/route-{n}/", f"/r{n}"]) for n in range(1, 5001)
    ]
    tables = tables_of(*routes)
    for number in range(1, 5001, 7):
        host = f"h{number % 70}.com"
        assert match(tables, Request(host=host, path=f"/route-{number}/x")) == (
            number,
            len(f"/route-{number}/"),
        )
        assert match(tables, Request(host="h99.com", path=f"/route-{number}/x")) is None


@pytest.mark.parametrize("seed", range(4))
def test_keys_with_the_same_hash_are_told_apart(seed: int) -> None:
    """Hosts, prefixes, header names, values and credentials: nothing but the key itself decides."""
    words = ["one", "two", "six", "ten"]
    routes = [
        route(
            100 * i + 10 * k + n,
            hosts=[f"{host}.com"],
            paths=[f"/{path}"],
            headers={f"x-{name}": [name], "y": [path]},
        )
        for (i, host), (k, path), (n, name) in itertools.product(enumerate(words, 1), repeat=3)
        if i != k
    ]
    consumers = [wire.Consumer(uid(n)) for n in range(1, 9)]
    whole = tables_of(*routes)
    tables = Tables(
        1,
        bytes(32),
        seed,
        whole.boxes,
        [(uid(50 + n), consumer.id, b"%d" % n) for n, consumer in enumerate(consumers)],
        hash_bits=1,
    )
    for (i, host), (k, path), (n, name) in itertools.product(enumerate(words, 1), repeat=3):
        request = Request(f"{host}.com", 80, "GET", f"/{path}", [(f"x-{name}", name), ("y", path)])
        assert match(tables, request) == (None if i == k else (100 * i + 10 * k + n, 4))
        request.fields[1] = ("y", "two" if path == "six" else "six")
        assert match(tables, request) is None
    for host in words:
        request = Request(f"{host}.net", 80, "GET", "/two", [("x-one", "one"), ("y", "two")])
        assert match(tables, request) is None
    for n, consumer in enumerate(consumers):
        assert tables.principal(uid(50 + n)) == (consumer.id, b"%d" % n)
        assert tables.principal(uid(70 + n)) is None


# --- a model -------------------------------------------------------------------------------------


def host_fits(pattern: str, host: str, port: int) -> bool:
    name, colon, wanted = pattern.partition(":")
    if colon and int(wanted) != port:
        return False
    if name.startswith("*"):
        return host.endswith(name[1:].lower())
    if name.endswith("*"):
        return host.startswith(name[:-1].lower())
    return host == name.lower()


def fits(candidate: wire.Route, request: Request) -> bool:
    """All kinds of matchers but paths."""
    for name, values in candidate.headers.items():
        wanted = {value.lower() for value in values}
        sent = {value.lower() for key, value in request.fields if key.lower() == name.lower()}
        if not wanted & sent:
            return False
    if candidate.methods and request.method not in candidate.methods:
        return False
    return not candidate.hosts or any(
        host_fits(pattern, request.host, request.port) for pattern in candidate.hosts
    )


def model_match(routes: list[wire.Route], request: Request) -> tuple[int, int] | None:
    """§2 and §2.1 as they are written: every virtual route tried, the best one taken."""
    found = []
    for candidate in routes:
        if not fits(candidate, request):
            continue
        for size in {len(path) for path in candidate.paths} or {0}:
            ways = [path for path in candidate.paths if len(path) == size]
            if ways and not any(request.path.startswith(path) for path in ways):
                continue
            kinds = [candidate.methods, candidate.hosts, candidate.headers, candidate.paths]
            plain = bool(candidate.hosts) and all("*" not in host for host in candidate.hosts)
            number = int.from_bytes(candidate.id, "big")
            rank = (
                sum(map(bool, kinds)),
                plain,
                len(candidate.headers),
                size,
                -candidate.created_at,
                number,
            )
            found.append((rank, number, size))
    return max(found)[1:] if found else None


HOSTS = ["a.com", "b.com", "x.a.com", "A.org", "*.com", "*.a.com", "a.*", "x.*", "*.org"]
HOSTS += ["a.com:80", "a.com:81", "*.com:81", "a.*:80", "b.com:82"]
PATHS = ["/", "/a", "/b", "/a/", "/a/b", "/a/b/c", "/abcdefg", "/abcdefgh", "/abcdefghi/jklmnop"]
REQUEST_HOSTS = ["a.com", "b.com", "x.a.com", "a.org", "y.x.a.com", "a.net", "com", "", "x.y"]
VALUES = ["1", "2", "Three", ""]


def some(rng: random.Random, pool: list[str], most: int) -> list[str]:
    """Nothing half of the time, else a few."""
    return rng.sample(pool, rng.randrange(1, most + 1)) if rng.random() < 0.5 else []


def random_route(rng: random.Random, number: int) -> wire.Route:
    names = some(rng, ["x", "X-Kind", "y"], 3)
    return route(
        number,
        created_at=rng.randrange(3),
        methods=some(rng, ["GET", "POST", "PUT"], 2) if rng.random() < 0.6 else [],
        hosts=some(rng, HOSTS, 3),
        paths=some(rng, PATHS, 4),
        headers={n: rng.sample(VALUES, rng.randrange(1, 3)) for n in names}
        if rng.random() < 0.5
        else {},
    )


def random_request(rng: random.Random) -> Request:
    fields = [
        (rng.choice(["x", "X", "x-kind", "X-KIND", "y", "z"]), rng.choice([*VALUES, "three", "9"]))
        for _ in range(rng.randrange(6))
    ]
    return Request(
        rng.choice(REQUEST_HOSTS),
        rng.choice([80, 81, 82]),
        rng.choice(["GET", "POST", "DELETE"]),
        rng.choice(PATHS) + rng.choice(["", "/", "b", "bcdefgh", "/b/c/d", "jk"]),
        fields,
    )


@pytest.mark.parametrize("seed", range(60))
def test_matcher_agrees_with_the_model(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    routes = [random_route(rng, n) for n in range(1, rng.choice([2, 5, 30, 120]))]
    tables = tables_of(*routes)
    hits = 0
    for _ in range(100):
        request = random_request(rng)
        expected = model_match(routes, request)
        assert match(tables, request) == expected, request
        hits += expected is not None
    assert hits > 0 or len(routes) < 5


# --- principals ----------------------------------------------------------------------------------


def test_principal_is_found_by_its_credential_and_by_no_other() -> None:
    consumers = [wire.Consumer(uid(n), f"user{n}") for n in range(1, 11)]
    credentials = [wire.Credential(uid(1000 + n), f"c{n}", uid(n % 10 + 1)) for n in range(3000)]
    tables = tables_of(*consumers, *credentials)
    for n in range(0, 3000, 11):
        found = tables.principal(uid(1000 + n))
        assert found is not None
        assert found[0] == uid(n % 10 + 1)
        assert b"X-Credential-Identifier: c%d\r\n" % n in found[1]
    assert tables.principal(uid(999)) is None
    assert tables.principal(uid(4000)) is None
    assert tables.principal(uid(1)) is None
    assert tables_of().principal(uid(1)) is None
