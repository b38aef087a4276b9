"""Snapshots: rows in, what a data plane needs out, and nothing else."""

import random
import time
import uuid
from typing import Any

import pytest

from control.snapshot import Builder, build, id_bytes
from control.store.queries import (
    CACertificateRow,
    CertificateRow,
    ConfigRows,
    ConsumerRow,
    CredentialRow,
    PluginRow,
    RouteRow,
    ServiceRow,
    TargetRow,
    UpstreamRow,
)
from dataplane import wire

EPOCH = str(uuid.uuid4())


def ident(name: str) -> str:
    """A stable id for a name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def raw(name: str) -> bytes:
    return uuid.UUID(ident(name)).bytes


def service(name: str, **changed: Any) -> ServiceRow:
    row = ServiceRow(
        id=ident(name),
        name=name,
        protocol="ws",
        host="up.test",
        port=8080,
        path="/base",
        connect_timeout=1,
        write_timeout=2,
        read_timeout=3,
        retries=4,
        enabled=True,
        updated_at=9,
    )
    return row._replace(**changed)


def route(name: str, of: str | None = None, **changed: Any) -> RouteRow:
    row = RouteRow(
        id=ident(name),
        name=name,
        protocols=["ws", "wss"],
        methods=None,
        hosts=None,
        paths=["/anything"],
        headers=None,
        https_redirect_status_code=426,
        strip_path=True,
        preserve_host=False,
        path_handling="v0",
        service_id=None if of is None else ident(of),
        created_at=7,
    )
    return row._replace(**changed)


def plugin(label: str, **changed: Any) -> PluginRow:
    row = PluginRow(
        id=ident(label),
        name="oauth2",
        service_id=None,
        route_id=None,
        consumer_id=None,
        config={},
        protocols=["http", "https", "ws", "wss"],
        enabled=True,
    )
    return row._replace(**changed)


def snapshot(**rows: Any) -> wire.Snapshot:
    empty: dict[str, Any] = {
        "services": [],
        "routes": [],
        "plugins": [],
        "consumers": [],
        "credentials": [],
    }
    return build(ConfigRows(epoch=EPOCH, version=5, check_key=b"k" * 32, **{**empty, **rows}))


def rows_of(seed: random.Random, known: list[list[Any]]) -> ConfigRows:
    """The rows `known` with some of them made anew, changed or left out."""

    def some(kind: Any, make: Any, names: list[str]) -> list[Any]:
        held = {row.id: row for row in known[kind]}
        rows = [held.get(ident(n)) or make(n) for n in names if seed.random() < 0.9]
        known[kind] = [make(row.name or "") if seed.random() < 0.2 else row for row in rows]
        return known[kind]

    def a_route(name: str) -> RouteRow:
        of = seed.choice([None, "s0", "s1", "s2"])
        return route(name, of, protocols=seed.choice([["ws"], ["https"], ["tcp"]]))

    def a_plugin(name: str) -> PluginRow:
        scope = {"service_id": ident("s1")} if name == "p1" else {}
        return plugin(name, config={"realm": str(seed.random())}, **scope)._replace(name="oauth2")

    services = some(0, lambda n: service(n, port=seed.randrange(9), enabled=n != "s3"), SERVICES)
    there = {row.id for row in services}
    routes = some(1, a_route, [f"r{n}" for n in range(6)])
    found = [row for row in routes if row.service_id is None or row.service_id in there]
    plugins = [a_plugin(n) for n in ("p0", "p1") if seed.random() < 0.5]
    return ConfigRows(EPOCH, seed.randrange(1 << 30), b"k" * 32, services, found, plugins, [], [])


SERVICES = ["s0", "s1", "s2", "s3"]


def test_builder_gives_what_a_fresh_one_gives_after_any_edits() -> None:
    number = random.randrange(1 << 30)
    print(f"seed {number}")
    seed, builder, known = random.Random(number), Builder(), [[], []]
    for _ in range(300):
        rows = rows_of(seed, known)
        assert builder.build(rows) == build(rows)


def test_builder_keeps_the_structs_of_rows_that_are_the_same() -> None:
    services, routes = [service("s"), service("t")], [route("r", "s"), route("q", "t")]
    builder = Builder()

    def built(*plugins: PluginRow) -> wire.Snapshot:
        rows = ConfigRows(EPOCH, 1, b"k" * 32, services, routes, [*plugins], [], [])
        return builder.build(rows)

    first = built()
    services[1], routes[1] = service("t", port=9), route("q", "t", paths=["/other"])
    second = built()
    assert second.services[0] is first.services[0]
    assert second.routes[0] is first.routes[0]
    assert second.services[1].port == 9
    assert second.routes[1].paths == ["/other"]
    assert built(plugin("p")).routes[0].oauth2 == raw("p")


def chosen(*plugins: PluginRow, of: RouteRow | None = None) -> bytes | None:
    """The id of the plugin that runs on route `r` of service `s`."""
    found = snapshot(services=[service("s")], routes=[of or route("r", "s")], plugins=[*plugins])
    return found.routes[0].oauth2


NAMES = {
    "oauth2": "oauth2",
    "websocket-size-limit": "size_limit",
    "websocket-session": "session",
}


@pytest.mark.parametrize("name", NAMES)
def test_build_chooses_the_instance_of_each_plugin_by_itself(name: str) -> None:
    others = [plugin(f"{other} of all", name=other) for other in NAMES]
    mine = plugin("mine", name=name, route_id=ident("r"))
    found = snapshot(routes=[route("r"), route("q")], plugins=[*others, mine])
    for made, expected in zip(found.routes, ["mine", f"{name} of all"], strict=True):
        for other, field in NAMES.items():
            wanted = expected if other == name else f"{other} of all"
            assert getattr(made, field) == raw(wanted)
    in_use = {
        "oauth2": found.oauth2,
        "websocket-size-limit": found.size_limits,
        "websocket-session": found.sessions,
    }
    for other, records in in_use.items():
        ids = {raw(f"{other} of all")} | ({raw("mine")} if other == name else set())
        assert {record.plugin_id for record in records} == ids


def test_build_carries_the_config_of_size_limits_and_sessions() -> None:
    limit = plugin("l", name="websocket-size-limit", config={"client_max_payload": 5})
    rules = {
        "ping_interval_ms": 1,
        "ping_timeout_ms": 2,
        "idle_timeout_ms": 3,
        "stall_timeout_ms": 4,
        "buffered_max": 5,
        "validate_utf8": True,
        "on_edit": "drain",
        "on_delete": "close",
        "allowed_origins": ["https://a.test"],
        "deflate": "refuse",
    }
    session = plugin("s", name="websocket-session", config=rules)
    found = snapshot(routes=[route("r")], plugins=[limit, session])
    assert found.size_limits == [wire.SizeLimit(raw("l"), 5, 16777216)]
    assert found.sessions == [
        wire.SessionRules(
            raw("s"), 1, 2, 3, 4, 5, True, "drain", "close", ["https://a.test"], "refuse"
        ),
    ]


def test_build_leaves_out_a_size_limit_of_the_other_family() -> None:
    limit = plugin("l", name="websocket-size-limit", config={"client_max_payload": 5})
    limit = limit._replace(protocols=["ws", "wss"])
    found = snapshot(routes=[route("r", protocols=["http"])], plugins=[limit])
    assert found.routes[0].size_limit is None and found.size_limits == []


def test_build_carries_every_field_of_a_service_and_a_route() -> None:
    busy = route(
        "r",
        "s",
        methods=["GET"],
        hosts=["a.test"],
        headers={"x-v": ["1"]},
        https_redirect_status_code=301,
        strip_path=False,
        preserve_host=True,
        path_handling="v1",
    )
    found = snapshot(services=[service("s")], routes=[busy])
    assert (found.epoch, found.version) == (uuid.UUID(EPOCH).bytes, 5)
    assert found.check_key == b"k" * 32
    assert found.services == [
        wire.Service(raw("s"), "ws", "up.test", 8080, "s", "/base", 1, 2, 3, 4)
    ]
    assert found.routes == [
        wire.Route(
            id=raw("r"),
            protocols=["ws", "wss"],
            name="r",
            created_at=7,
            methods=["GET"],
            hosts=["a.test"],
            paths=["/anything"],
            headers={"x-v": ["1"]},
            https_redirect_status_code=301,
            strip_path=False,
            preserve_host=True,
            path_handling="v1",
            service=raw("s"),
        )
    ]


def test_build_survives_packing() -> None:
    found = snapshot(services=[service("s")], routes=[route("r", "s")], plugins=[plugin("p")])
    assert wire.unpack_snapshot(wire.pack_snapshot(found)) == found


def test_build_leaves_out_disabled_services_and_their_routes() -> None:
    found = snapshot(
        services=[service("off", enabled=False), service("on")],
        routes=[route("of-off", "off"), route("of-on", "on"), route("alone")],
    )
    assert [s.name for s in found.services] == ["on"]
    assert [r.name for r in found.routes] == ["of-on", "alone"]


@pytest.mark.parametrize("protocol", ["tcp", "grpc", "tls_passthrough"])
def test_build_leaves_out_protocols_that_are_not_carried(protocol: str) -> None:
    found = snapshot(
        services=[service("s", protocol=protocol), service("on")],
        routes=[route("of-s", "s"), route("r", "on", protocols=[protocol]), route("of-on", "on")],
        plugins=[plugin("p", route_id=ident("r"), protocols=[protocol])],
    )
    assert [s.name for s in found.services] == ["on"]
    assert [r.name for r in found.routes] == ["of-on"] and found.oauth2 == []


def test_build_keeps_null_lists_as_empty_ones() -> None:
    (found,) = snapshot(routes=[route("r", paths=None)]).routes
    assert (found.methods, found.hosts, found.paths, found.headers) == ([], [], [], {})


SCOPES = {
    "route+service": {"route_id": ident("r"), "service_id": ident("s")},
    "route": {"route_id": ident("r")},
    "service": {"service_id": ident("s")},
    "global": {},
}


@pytest.mark.parametrize("level", range(4))
def test_build_takes_the_most_specific_plugin(level: int) -> None:
    names = list(SCOPES)[level:]
    plugins = [plugin(name, **SCOPES[name]) for name in reversed(names)]
    assert chosen(*plugins) == raw(names[0])


def test_build_takes_a_service_plugin_for_its_own_routes_only() -> None:
    other = plugin("p", service_id=ident("other"))
    assert chosen(other) is None
    assert chosen(plugin("p", service_id=ident("s")), of=route("r")) is None


def test_build_takes_a_global_plugin_for_a_route_without_service() -> None:
    assert chosen(plugin("p"), of=route("r")) == raw("p")


def test_build_passes_over_disabled_plugins() -> None:
    assert chosen(plugin("off", route_id=ident("r"), enabled=False), plugin("on")) == raw("on")


def test_build_passes_over_plugins_of_a_consumer() -> None:
    assert chosen(plugin("p", consumer_id=ident("c"))) is None


def test_build_passes_over_other_plugins() -> None:
    assert chosen(plugin("p")._replace(name="key-auth")) is None


@pytest.mark.parametrize(
    ("plugins", "routes", "runs"),
    [
        (["http", "https"], ["ws", "wss"], False),
        (["ws"], ["http"], False),
        (["https"], ["http"], True),  # one family
        (["wss"], ["ws"], True),
    ],
)
def test_build_matches_the_family_of_protocols(
    plugins: list[str], routes: list[str], runs: bool
) -> None:
    of = route("r", "s", protocols=routes)
    assert (chosen(plugin("p", protocols=plugins), of=of) is not None) is runs


def test_build_goes_on_to_a_less_specific_plugin_of_the_right_family() -> None:
    narrow = plugin("narrow", route_id=ident("r"), protocols=["http"])
    assert chosen(narrow, plugin("wide")) == raw("wide")


def test_build_sends_plugins_in_use_only() -> None:
    found = snapshot(
        services=[service("s")],
        routes=[route("r", "s"), route("r2", "s")],
        plugins=[plugin("used"), plugin("unused", service_id=ident("gone"))],
    )
    assert [p.plugin_id for p in found.oauth2] == [raw("used")]


CONSUMERS = [ConsumerRow(ident("ghost"), "ghost", None), ConsumerRow(ident("no-name"), None, "c")]


def policy(**config: Any) -> wire.OAuth2:
    found = snapshot(routes=[route("r")], plugins=[plugin("p", config=config)], consumers=CONSUMERS)
    return found.oauth2[0]


def test_build_compiles_a_plugin() -> None:
    made = policy(
        global_credentials=True, hide_credentials=True, auth_header_name="x-auth", realm="here"
    )
    assert made == wire.OAuth2(raw("p"), True, True, "x-auth", "here")
    assert policy() == wire.OAuth2(raw("p"))


@pytest.mark.parametrize("named", [ident("ghost"), "ghost"])
def test_build_finds_the_anonymous_consumer_by_id_or_username(named: str) -> None:
    made = policy(anonymous=named)
    assert (made.anonymous, made.anonymous_missing) == (raw("ghost"), None)


def test_build_names_an_anonymous_consumer_that_is_not_there() -> None:
    made = policy(anonymous="nobody")
    assert (made.anonymous, made.anonymous_missing) == (None, "nobody")


@pytest.mark.parametrize("config", [{}, {"anonymous": None}, {"anonymous": ""}])
def test_build_sees_no_anonymous_consumer_in_nothing(config: dict[str, Any]) -> None:
    made = policy(**config)
    assert (made.anonymous, made.anonymous_missing) == (None, None)


def test_build_sends_credentials_without_secrets() -> None:
    sealed = {"provision_key": {"$sealed": "sealed-provision-key"}}
    found = snapshot(
        routes=[route("r")],
        plugins=[plugin("p", config=sealed)],
        consumers=CONSUMERS,
        credentials=[CredentialRow(ident("cred"), "client", ident("ghost"))],
    )
    assert found.consumers == [
        wire.Consumer(raw("ghost"), "ghost"),
        wire.Consumer(raw("no-name"), None, "c"),
    ]
    assert found.credentials == [wire.Credential(raw("cred"), "client", raw("ghost"))]
    assert b"sealed" not in wire.pack_snapshot(found)


def test_build_refuses_a_reference_to_nothing() -> None:
    with pytest.raises(ValueError, match="consumer that is not there"):
        snapshot(credentials=[CredentialRow(ident("cred"), "client", ident("nobody"))])


def test_id_bytes_are_those_of_the_uuid() -> None:
    assert id_bytes(EPOCH) == uuid.UUID(EPOCH).bytes


def test_build_of_many_rows_is_quick() -> None:
    """Ten times what was measured, so that only a wrong kind of work fails here."""
    services = [service(f"s{n}") for n in range(5000)]
    routes = [route(f"r{n}", f"s{n}") for n in range(5000)]
    plugins = [plugin("p")]
    took = []
    for _ in range(3):
        began = time.process_time()
        snapshot(services=services, routes=routes, plugins=plugins)
        took.append(time.process_time() - began)
    assert min(took) < 0.5


# --- TLS ------------------------------------------------------------------------------------------


def pair_row(name: str, *snis: str) -> CertificateRow:
    return CertificateRow(ident(name), f"{name} cert", f"{name} key", None, None, list(snis))


def test_snapshot_has_the_certificates_that_somebody_shows_or_trusts() -> None:
    found = snapshot(
        services=[
            service(
                "s",
                protocol="wss",
                tls_verify=True,
                tls_verify_depth=2,
                client_certificate_id=ident("shown"),
                ca_certificates=[ident("ca"), ident("gone")],
            ),
            service("off", enabled=False, client_certificate_id=ident("unused")),
        ],
        certificates=[pair_row("named", "A.Example", "*"), pair_row("shown"), pair_row("unused")],
        ca_certificates=[
            CACertificateRow(ident("ca"), "ca cert"),
            CACertificateRow(ident("other"), "other cert"),
        ],
    )
    (made,) = found.services
    assert (made.tls_verify, made.tls_verify_depth) == (True, 2)
    assert (made.client_certificate, made.ca_certificates) == (raw("shown"), [raw("ca")])
    assert {c.id: c.snis for c in found.certificates} == {
        raw("named"): ["*", "a.example"],
        raw("shown"): [],
    }
    assert [c.cert for c in found.ca_certificates] == ["ca cert"]
    assert "key" not in repr(found.certificates) and "key" not in repr(pair_row("named"))


def test_service_that_lists_no_authority_that_is_there_trusts_nobody() -> None:
    """And not the system's store, which it was told not to trust."""
    tls: dict[str, Any] = {"protocol": "wss"}
    rows = [
        service("a", **tls, ca_certificates=[ident("gone")]),
        service("b", **tls, ca_certificates=[]),
        service("c", **tls),
    ]
    assert [made.ca_certificates for made in snapshot(services=rows).services] == [[], None, None]


def test_authority_that_comes_changes_the_service_that_lists_it() -> None:
    builder, listing = Builder(), service("a", protocol="wss", ca_certificates=[ident("ca")])
    rows: dict[str, Any] = {"services": [listing], "routes": [], "plugins": [], "consumers": []}

    def trusted(*authorities: CACertificateRow) -> list[bytes] | None:
        config = ConfigRows(
            EPOCH, 1, b"k" * 32, **rows, credentials=[], ca_certificates=[*authorities]
        )
        return builder.build(config).services[0].ca_certificates

    assert trusted() == []
    assert trusted(CACertificateRow(ident("ca"), "text")) == [raw("ca")]
    assert trusted() == []


# --- upstreams ------------------------------------------------------------------------------------


def upstream(name: str, **changed: Any) -> UpstreamRow:
    row = UpstreamRow(id=ident(name), name=name, host_header=None, client_certificate_id=None)
    return row._replace(**changed)


def target(name: str, of: str, **changed: Any) -> TargetRow:
    row = TargetRow(ident(name), ident(of), name, weight=5, down=False, created_at=1.5)
    return row._replace(**changed)


def test_build_carries_the_targets_that_may_have_traffic_oldest_first() -> None:
    found = snapshot(
        services=[service("s", host="up")],
        upstreams=[upstream("up", host_header="a.test")],
        targets=[
            target("second.test:80", "up", created_at=2.25),
            target("[::1]:8000", "up", weight=1, created_at=1.25),
            target("off.test:80", "up", weight=0),
            target("down.test:80", "up", down=True),
            target("elsewhere.test:80", "other"),
        ],
    )
    targets = [wire.Target("::1", 8000, 1), wire.Target("second.test", 80, 5)]
    assert found.upstreams == [wire.Upstream(raw("up"), "up", targets, "a.test")]


def test_build_leaves_out_upstreams_that_no_enabled_service_names() -> None:
    services = [service("s", host="Up"), service("t", host="up", enabled=False)]
    found = snapshot(services=services, upstreams=[upstream("up"), upstream("other")])
    assert found.upstreams == []
    services.append(service("u", host="up"))
    assert snapshot(services=services, upstreams=[upstream("up")]).upstreams[0].targets == []


def test_build_carries_the_certificate_of_an_upstream_in_use() -> None:
    pairs = [pair_row("a"), pair_row("b")]
    ups = [
        upstream("up", client_certificate_id=ident("a")),
        upstream("no", client_certificate_id=ident("b")),
    ]
    found = snapshot(services=[service("s", host="up")], certificates=pairs, upstreams=ups)
    assert [pair.id for pair in found.certificates] == [raw("a")]
    assert found.upstreams[0].client_certificate == raw("a")
