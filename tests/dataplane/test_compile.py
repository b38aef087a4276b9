"""Snapshots compiled: every field of a policy, what is kept, what is refused, memory."""

from __future__ import annotations

import gc
from typing import Any

import msgspec
import pytest

from dataplane import wire
from dataplane._policies import CHANGES as ON_CHANGE
from dataplane._policies import FLAGS, SESSION_DEFAULTS
from dataplane._tables import Tables
from dataplane.compile import CompileError, compile_snapshot
from tests.dataplane.memory import rss_kib
from tests.dataplane.snapshots import box_of, new_names, route, service, snapshot, tables_of, uid

PLUGIN = wire.OAuth2(uid(50))
ALEX = wire.Consumer(uid(60), "alex", "c-1")
CREDENTIAL = wire.Credential(uid(70), "client", uid(60))


def policy_of(*parts: Any, number: int = 1) -> dict[str, Any]:
    return box_of(tables_of(*parts), number).describe()


def with_plugin(**fields: Any) -> dict[str, Any]:
    """The policy of a route that has an oauth2 plugin with these fields."""
    plugin = wire.OAuth2(uid(50), **fields)
    return policy_of(route(1, paths=["/"], oauth2=uid(50)), plugin, ALEX)


def with_service(**fields: Any) -> dict[str, Any]:
    return policy_of(service(5, **fields), route(1, paths=["/"], service=uid(5)))


def flags_of(policy: dict[str, Any]) -> set[str]:
    return {name for name, bit in FLAGS.items() if policy["flags"] & bit}


def how_to() -> wire.Snapshot:
    """The how-to: a ws route with a service, a token route without one, one consumer."""
    return snapshot(
        service(1, host="echo", port=9000),
        service(2, host="other", port=9001),
        route(10, paths=["/anything"], service=uid(1), oauth2=uid(50)),
        route(11, protocols=["https"], methods=["POST"], paths=["/token-route"], oauth2=uid(51)),
        route(12, paths=["/free"], service=uid(2), size_limit=uid(80), session=uid(90)),
        wire.SizeLimit(uid(80)),
        wire.SessionRules(uid(90)),
        wire.OAuth2(uid(50), global_credentials=True, anonymous=uid(60)),
        wire.OAuth2(uid(51), global_credentials=True),
        ALEX,
        CREDENTIAL,
    )


# --- policies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"protocols": ["ws", "wss"]}, {"ws", "strip_path"}),
        ({"protocols": ["wss"]}, {"ws", "tls_only", "strip_path"}),
        ({"protocols": ["ws"], "strip_path": False}, {"ws"}),
        ({"protocols": ["http", "https"]}, {"strip_path"}),
        ({"protocols": ["http"]}, {"strip_path"}),
        (
            {"protocols": ["https"], "preserve_host": True},
            {"tls_only", "strip_path", "preserve_host"},
        ),
    ],
)
def test_route_becomes_flags(fields: dict[str, Any], expected: set[str]) -> None:
    assert flags_of(policy_of(route(1, paths=["/"], **fields))) == expected


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("ws", set()),
        ("wss", {"upstream_tls"}),
        ("http", {"upstream_http"}),
        ("https", {"upstream_http", "upstream_tls"}),
    ],
)
def test_service_becomes_flags(protocol: str, expected: set[str]) -> None:
    assert flags_of(with_service(protocol=protocol)) == {"ws", "strip_path", "service"} | expected


def test_plugin_becomes_flags() -> None:
    basic = {"ws", "strip_path", "oauth2", "carrier_header", "carrier_query"}
    basic |= {"endpoints"}  # without a service
    assert flags_of(with_plugin()) == basic
    assert flags_of(with_plugin(global_credentials=True)) == basic | {"global_credentials"}
    assert flags_of(with_plugin(hide_credentials=True)) == basic | {"hide_credentials"}


@pytest.mark.parametrize(
    ("carriers", "cookie_name", "expected"),
    [
        (("header",), None, {"carrier_header"}),
        (("query", "ticket"), None, {"carrier_query", "carrier_ticket"}),
        (("subprotocol",), None, {"carrier_subprotocol"}),
        (("header", "cookie"), None, {"carrier_header"}),
        (("header", "cookie"), "session", {"carrier_header", "carrier_cookie"}),
        ((), "session", set()),
    ],
)
def test_plugin_says_where_tokens_are_looked_for(
    carriers: tuple[str, ...], cookie_name: str | None, expected: set[str]
) -> None:
    policy = with_plugin(carriers=carriers, cookie_name=cookie_name)
    assert {flag for flag in flags_of(policy) if flag.startswith("carrier")} == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"subprotocol_prefix": "shop.token."}, (b"shop.token.", b"")),
        ({"cookie_name": "__Host-shop"}, (b"", b"__Host-shop")),
    ],
)
def test_plugin_names_its_prefix_and_cookie(
    fields: dict[str, Any], expected: tuple[bytes, bytes]
) -> None:
    assert with_plugin(**fields)["carriers"] == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"carriers": ("header", "body")},
        {"subprotocol_prefix": ""},
        {"subprotocol_prefix": "a b"},
        {"subprotocol_prefix": "a,"},
        {"cookie_name": "a=b"},
        {"cookie_name": "a\r\n"},
        {"cookie_name": "a" * 257},
    ],
)
def test_carrier_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CompileError):
        with_plugin(**fields)


@pytest.mark.parametrize(
    ("said", "expected"), [("http", set()), ("close", {"refuse_close"}), ("auto", {"refuse_auto"})]
)
def test_session_plugin_says_how_handshakes_are_refused(said: str, expected: set[str]) -> None:
    rules = wire.SessionRules(uid(60), on_auth_failure=said)
    policy = policy_of(route(1, paths=["/"], session=uid(60)), rules)
    assert {flag for flag in flags_of(policy) if flag.startswith("refuse")} == expected


def test_other_way_to_refuse_is_no_configuration() -> None:
    rules = wire.SessionRules(uid(60), on_auth_failure="ignore")
    with pytest.raises(CompileError):
        tables_of(route(1, paths=["/"], session=uid(60)), rules)


@pytest.mark.parametrize(
    ("endpoints", "has_service", "expected"),
    [("kong", True, False), ("kong", False, True), ("all", True, True), ("all", False, True)],
)
def test_plugin_answers_all_endpoints_where_it_says_so_or_no_service_is(
    endpoints: str, has_service: bool, expected: bool
) -> None:
    given = route(1, paths=["/"], oauth2=uid(50), service=uid(5) if has_service else None)
    policy = policy_of(service(5), given, wire.OAuth2(uid(50), endpoints=endpoints))
    assert ("endpoints" in flags_of(policy)) is expected


def test_policy_has_the_ids_port_times_and_texts() -> None:
    policy = policy_of(
        service(
            5,
            host="Up.Example",
            port=81,
            path="/base",
            connect_timeout_ms=1,
            write_timeout_ms=2,
            read_timeout_ms=2**31 - 2,
            retries=32767,
        ),
        route(1, paths=["/"], service=uid(5), oauth2=uid(50), https_redirect_status_code=308),
        wire.OAuth2(uid(50), auth_header_name="X-Token"),
    )
    name = policy.pop("name")
    assert name.host == "up.example"
    assert {k: v for k, v in policy.items() if k != "flags"} == {
        "route": uid(1),
        "service": uid(5),
        "plugin": uid(50),
        "redirect_status": 308,
        "port": 81,
        "connect_timeout_ms": 1,
        "write_timeout_ms": 2,
        "read_timeout_ms": 2**31 - 2,
        "retries": 32767,
        "host_header": b"Up.Example:81",
        "host_name": b"Up.Example",
        "service_path": b"/base",
        "auth_header": b"x-token",
        "challenge_missing": b"Bearer",
        "challenge_invalid": b'Bearer error="invalid_token", error_description='
        b'"The access token is invalid or has expired"',
        "anonymous_missing": b"",
        "origins": b"",
        "carriers": (b"", b""),
        "anonymous": None,
        "session": SESSION_DEFAULTS,
        "parting": 0,
        "issuer": bytes(16),
        "audience": bytes(16),
        "drain_ms": (0, 0),
        "max_age_ms": 0,
    }


def test_policy_without_service_and_plugin_has_none_of_theirs() -> None:
    policy = policy_of(route(1, paths=["/"]))
    assert policy["service"] == policy["plugin"] == bytes(16)
    assert policy["name"] is None
    assert policy["redirect_status"] == 426
    assert policy["host_header"] == policy["auth_header"] == policy["challenge_missing"] == b""


@pytest.mark.parametrize(
    ("protocol", "host", "port", "header"),
    [
        ("http", "up", 80, b"up"),
        ("ws", "up", 80, b"up"),
        ("https", "up", 443, b"up"),
        ("wss", "up", 443, b"up"),
        ("http", "up", 443, b"up:443"),
        ("ws", "up", 8080, b"up:8080"),
        ("https", "up", 80, b"up:80"),
        ("wss", "up", 80, b"up:80"),
        ("ws", "10.0.0.1", 9000, b"10.0.0.1:9000"),
        ("ws", "::1", 80, b"[::1]"),
        ("wss", "[::1]", 9000, b"[::1]:9000"),
        ("ws", "[127.0.0.1]", 9000, b"127.0.0.1:9000"),
    ],
)
def test_host_header_names_the_port_unless_it_is_the_protocols_own(
    protocol: str, host: str, port: int, header: bytes
) -> None:
    policy = with_service(protocol=protocol, host=host, port=port)
    assert policy["host_header"] == header


def test_ip_address_of_a_service_is_resolved() -> None:
    assert with_service(host="[::1]")["name"].addresses == ["::1"]
    assert with_service(host="127.0.0.1")["name"].addresses == ["127.0.0.1"]
    assert with_service(host="localhost")["name"].addresses == []


@pytest.mark.parametrize(
    ("path", "escaped"),
    [
        (None, b""),
        ("/", b"/"),
        ("/a/b;c=d:@!$&'()*+,~-._%20", b"/a/b;c=d:@!$&'()*+,~-._%20"),
        ('/a b\r\nX: y\x00?q#f"\\', b"/a%20b%0D%0AX:%20y%00%3Fq%23f%22%5C"),
        ("/ü", b"/%C3%BC"),
    ],
)
def test_service_path_is_escaped(path: str | None, escaped: bytes) -> None:
    assert with_service(path=path)["service_path"] == escaped


@pytest.mark.parametrize(
    ("realm", "quoted"),
    [("gate", b"gate"), ("", b""), ('a"b\\c', b'a\\"b\\\\c'), ("ü", "ü".encode())],
)
def test_challenges_name_the_realm(realm: str, quoted: bytes) -> None:
    policy = with_plugin(realm=realm)
    assert policy["challenge_missing"] == b'Bearer realm="%s"' % quoted
    assert policy["challenge_invalid"] == (
        b'Bearer realm="%s", error="invalid_token", error_description='
        b'"The access token is invalid or has expired"' % quoted
    )


# --- what holds for sessions ---------------------------------------------------------------------

NO_LIMIT = 2**32 - 1
RULES = wire.SessionRules(uid(90), 1, 2, 3, 4, 5, True, "close", "keep", deflate="refuse")
RULED = (1, 2, 3, 4, 5, ON_CHANGE["close"], ON_CHANGE["keep"])


def session_of(*plugins: Any, protocols: list[str]) -> Any:
    """The session rules of a route of these protocols that has these plugins."""
    limits = [p.plugin_id for p in plugins if isinstance(p, wire.SizeLimit)]
    rules = [p.plugin_id for p in plugins if isinstance(p, wire.SessionRules)]
    policy = policy_of(
        service(5, read_timeout_ms=777, write_timeout_ms=888),
        route(
            1,
            protocols=protocols,
            paths=["/"],
            service=uid(5),
            size_limit=limits[0] if limits else None,
            session=rules[0] if rules else None,
        ),
        *plugins,
    )
    assert ({"validate_utf8", "refuse_deflate"} <= set(flags_of(policy))) == bool(rules)
    return policy["session"]


def test_websocket_route_without_plugins_has_the_defaults() -> None:
    assert session_of(protocols=["ws", "wss"]) == SESSION_DEFAULTS
    assert SESSION_DEFAULTS[:2] == (1048576, 16777216)
    defaults = wire.SessionRules(uid(90))
    assert SESSION_DEFAULTS[2:7] == (
        defaults.ping_interval_ms,
        defaults.ping_timeout_ms,
        defaults.idle_timeout_ms,
        defaults.stall_timeout_ms,
        defaults.buffered_max,
    )
    assert SESSION_DEFAULTS[7:] == (ON_CHANGE[defaults.on_edit], ON_CHANGE[defaults.on_delete])


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        ({"client_max_payload": 9}, (9, 16777216)),
        ({"upstream_max_payload": 33554432}, (1048576, 33554432)),
        ({"client_max_payload": 1, "upstream_max_payload": 2}, (1, 2)),
    ],
)
def test_size_limit_becomes_the_limits_of_a_policy(
    fields: dict[str, int], limits: tuple[int, int]
) -> None:
    found = session_of(wire.SizeLimit(uid(80), **fields), protocols=["ws"])
    assert found == (*limits, *SESSION_DEFAULTS[2:])


def test_session_rules_become_those_of_a_policy() -> None:
    assert session_of(RULES, protocols=["wss"]) == (1048576, 16777216, *RULED)
    both = session_of(RULES, wire.SizeLimit(uid(80), 7, 8), protocols=["ws"])
    assert both == (7, 8, *RULED)


def test_opaque_route_has_no_limits_no_pings_and_its_services_timeouts() -> None:
    found = session_of(protocols=["http", "https"])
    assert found == (NO_LIMIT, NO_LIMIT, 0, 0, 777, 888, *SESSION_DEFAULTS[6:])


def test_opaque_route_has_what_its_plugin_says() -> None:
    assert session_of(RULES, protocols=["https"]) == (NO_LIMIT, NO_LIMIT, *RULED)


def test_allowed_origins_become_lines() -> None:
    rules = wire.SessionRules(uid(90), allowed_origins=["https://a.test", "https://*.b.test:8443"])
    policy = policy_of(route(1, paths=["/"], session=uid(90)), rules)
    assert policy["origins"] == b"https://a.test\nhttps://*.b.test:8443\n"


@pytest.mark.parametrize(
    ("origins", "said"),
    [
        (["https://a.test\nhttps://b.test"], "is not an origin"),
        (["https://*.*.test"], "is not an origin"),
        (["*"], "is not an origin"),
        (["https://ü.test"], "is not an origin"),
        ([""], "'' is not an origin"),
        (["https://" + "a" * 65536], "are longer than 65536"),
    ],
)
def test_allowed_origins_that_are_none_are_refused(origins: list[str], said: str) -> None:
    with pytest.raises(CompileError, match=said):
        policy_of(
            route(1, paths=["/"], session=uid(90)),
            wire.SessionRules(uid(90), allowed_origins=origins),
        )


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (wire.SizeLimit(uid(80), client_max_payload=0), "message limits"),
        (wire.SizeLimit(uid(80), upstream_max_payload=2**32), "message limits"),
        (wire.SessionRules(uid(90), ping_interval_ms=-1), "session times"),
        (wire.SessionRules(uid(90), idle_timeout_ms=2**32), "session times"),
        (wire.SessionRules(uid(90), stall_timeout_ms=0), "write timeout"),
        (wire.SessionRules(uid(90), buffered_max=0), "buffer"),
        (wire.SessionRules(uid(90), on_edit="stop"), "'stop' is not keep, drain or close"),
        (wire.SessionRules(uid(90), deflate="inflate"), "'inflate' is not pass or refuse"),
    ],
)
def test_session_rules_out_of_bounds_are_refused(plugin: Any, said: str) -> None:
    with pytest.raises(CompileError, match=f"route 00000000.*{said}"):
        session_of(plugin, protocols=["ws"])


# --- who is calling ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("username", "custom_id", "lines"),
    [
        ("alex", "c-1", b"X-Consumer-Custom-ID: c-1\r\nX-Consumer-Username: alex\r\n"),
        ("alex", None, b"X-Consumer-Username: alex\r\n"),
        (None, "c-1", b"X-Consumer-Custom-ID: c-1\r\n"),
        ("Älex", None, "X-Consumer-Username: Älex\r\n".encode()),
    ],
)
def test_principal_has_the_lines_of_its_consumer_and_credential(
    username: str | None, custom_id: str | None, lines: bytes
) -> None:
    tables = tables_of(wire.Consumer(uid(60), username, custom_id), CREDENTIAL)
    first = b"X-Consumer-ID: 00000000-0000-0000-0000-00000000003c\r\n"
    last = b"X-Credential-Identifier: client\r\n"
    assert tables.principal(uid(70)) == (uid(60), first + lines + last)


def test_anonymous_consumer_has_no_credential() -> None:
    assert with_plugin(anonymous=uid(60))["anonymous"] == (
        uid(60),
        b"X-Consumer-ID: 00000000-0000-0000-0000-00000000003c\r\n"
        b"X-Consumer-Custom-ID: c-1\r\nX-Consumer-Username: alex\r\n"
        b"X-Anonymous-Consumer: true\r\n",
    )


def test_anonymous_consumer_that_is_not_there_is_named() -> None:
    by_id = with_plugin(anonymous=uid(61))
    assert by_id["anonymous"] is None
    assert by_id["anonymous_missing"] == b"00000000-0000-0000-0000-00000000003d"
    by_name = with_plugin(anonymous_missing="nobody\n")
    assert by_name["anonymous_missing"] == b"nobody%0A"
    assert with_plugin(anonymous=uid(60))["anonymous_missing"] == b""


@pytest.mark.parametrize("control", [chr(n) for n in [*range(32), 127]])
def test_s57_no_value_can_make_a_header_line(control: str) -> None:
    evil = f"a{control}X-Evil: 1"
    safe = b"a%%%02XX-Evil: 1" % ord(control)
    tables = tables_of(
        service(5, path=f"/{evil}"),
        route(1, paths=["/"], service=uid(5), oauth2=uid(50)),
        wire.OAuth2(uid(50), realm=evil, anonymous=uid(60)),
        wire.Consumer(uid(60), evil, evil),
        wire.Credential(uid(70), evil, uid(60)),
    )
    policy: dict[str, Any] = box_of(tables).describe()
    principal = tables.principal(uid(70))
    assert principal is not None
    assert principal[1].split(b"\r\n")[1:] == [
        b"X-Consumer-Custom-ID: " + safe,
        b"X-Consumer-Username: " + safe,
        b"X-Credential-Identifier: " + safe,
        b"",
    ]
    assert policy["anonymous"][1].count(b"\r\n") == 4
    assert policy["challenge_missing"] == b'Bearer realm="%s"' % safe
    for text in (*principal[1].split(b"\r\n"), policy["challenge_invalid"], policy["service_path"]):
        assert not any(byte < 32 or byte == 127 for byte in text)


# --- what is kept --------------------------------------------------------------------------------


def boxes(tables: Tables) -> dict[bytes, object]:
    return {box.route: box for box in tables.boxes.values()}


def recompiled(change: Any) -> tuple[dict[bytes, object], dict[bytes, object]]:
    """The boxes of the how-to, before and after a change to its snapshot."""
    names, _ = new_names()
    first = compile_snapshot(how_to(), None, names)
    # Through the wire, as it comes: nothing is equal by identity.
    again = wire.unpack_snapshot(wire.pack_snapshot(change(how_to())))
    return boxes(first), boxes(compile_snapshot(again, first, names))


def test_nothing_changed_keeps_every_policy() -> None:
    before, after = recompiled(lambda s: msgspec.structs.replace(s, version=2))
    assert len(before) == 3
    assert all(after[key] is box for key, box in before.items())


CHANGES: dict[str, tuple[Any, set[int]]] = {
    "a route": (lambda s: [*s.routes[:2], route(12, paths=["/freed"], service=uid(2))], {12}),
    "a service": (lambda s: [service(1, host="moved"), s.services[1]], {10}),
    "a plugin": (lambda s: [s.oauth2[0], wire.OAuth2(uid(51), realm="r")], {11}),
    "a size limit": (lambda s: [wire.SizeLimit(uid(80), 7)], {12}),
    "session rules": (lambda s: [wire.SessionRules(uid(90), on_edit="close")], {12}),
    "the anonymous consumer": (lambda s: [wire.Consumer(uid(60), "alexa")], {10}),
    "a credential": (lambda s: [wire.Credential(uid(71), "new", uid(60))], set()),
}
FIELD = {
    "a route": "routes",
    "a service": "services",
    "a plugin": "oauth2",
    "a size limit": "size_limits",
    "session rules": "sessions",
    "the anonymous consumer": "consumers",
    "a credential": "credentials",
}


@pytest.mark.parametrize("what", CHANGES)
def test_change_replaces_only_the_policies_it_concerns(what: str) -> None:
    change, concerned = CHANGES[what]
    before, after = recompiled(lambda s: msgspec.structs.replace(s, **{FIELD[what]: change(s)}))
    replaced = {key for key, box in before.items() if after.get(key) is not box}
    assert replaced == {uid(number) for number in concerned}


def test_refused_snapshot_leaves_the_tables_before_as_they_were() -> None:
    names, _ = new_names()
    first = compile_snapshot(how_to(), None, names)
    broken = msgspec.structs.replace(how_to(), routes=[route(10, paths=["~/x"])])
    with pytest.raises(CompileError):
        compile_snapshot(broken, first, names)
    assert first.match(b"h", 80, b"GET", b"/anything") == (uid(10), 9)
    assert compile_snapshot(how_to(), first, names).boxes == first.boxes


def test_tables_carry_the_version() -> None:
    names, _ = new_names()
    assert compile_snapshot(snapshot(version=2**63 - 1), None, names).version == 2**63 - 1


# --- what is refused -----------------------------------------------------------------------------

ROUTED = route(1, paths=["/"], service=uid(5))
REFUSED: dict[str, tuple[list[Any], str]] = {
    "service missing": ([ROUTED], "names a service that is not there"),
    "plugin missing": ([route(1, oauth2=uid(50))], "names an oauth2 plugin that is not there"),
    "size limit missing": ([route(1, size_limit=uid(80))], "websocket-size-limit plugin that is"),
    "session missing": ([route(1, session=uid(90))], "names a websocket-session plugin that is"),
    "consumer missing": ([CREDENTIAL], "names a consumer that is not there"),
    "many missing": ([route(n, service=uid(5)) for n in range(1, 9)], "; and 3 more"),
    "route id": ([wire.Route(b"x" * 15, ["ws"])], "route id '7878.*' is not 16 bytes long"),
    "empty id": ([wire.Route(b"", ["ws"])], "route id '' is not 16 bytes long"),
    "service id": ([wire.Service(b"x", "ws", "up", 1)], "service id '78' is not 16 bytes"),
    "plugin id": ([wire.OAuth2(b"x" * 17)], "oauth2 plugin id"),
    "size limit id": ([wire.SizeLimit(b"x")], "websocket-size-limit plugin id"),
    "session id": ([wire.SessionRules(b"x")], "websocket-session plugin id"),
    "consumer id": ([wire.Consumer(b"x")], "consumer id"),
    "credential id": ([ALEX, wire.Credential(b"x", "c", uid(60))], "credential id"),
    "route twice": ([route(1), route(1)], "a route id is there twice"),
    "service twice": ([service(1), service(1)], "a service id is there twice"),
    "consumer twice": ([ALEX, ALEX], "a consumer id is there twice"),
    "no protocol": ([route(1, protocols=[])], "protocols"),
    "mixed protocols": ([route(1, protocols=["http", "ws"])], "not http, https or ws, wss"),
    "grpc route": ([route(1, protocols=["grpc"])], "not http, https or ws, wss"),
    "tcp service": ([ROUTED, service(5, protocol="tcp")], "protocol 'tcp' is not supported"),
    "redirect status": ([route(1, https_redirect_status_code=303)], "status_code 303"),
    "regex path": ([route(1, paths=["~/x"])], "regular expression is not supported yet"),
    "regex header": ([route(1, headers={"x": ["~*y"]})], "regular expression is not supported"),
    "relative path": ([route(1, paths=["x"])], "does not start with '/'"),
    "long path": ([route(1, paths=["/" + "p" * 8192])], "longer than 8192"),
    "long header": ([route(1, headers={"x": ["v" * 8193]})], "longer than 8192"),
    "created_at": ([route(1, created_at=2**63)], "created_at is out of range"),
    "service port": ([ROUTED, service(5, port=65536)], "port 65536 is out of range"),
    "service retries": ([ROUTED, service(5, retries=-1)], "retries -1 are out of range"),
    "service timeout": ([ROUTED, service(5, read_timeout_ms=0)], "are out of range"),
    "service timeout big": ([ROUTED, service(5, connect_timeout_ms=2**31)], "are out of range"),
    "service path": ([ROUTED, service(5, path="x")], "does not start with '/'"),
    "service path long": ([ROUTED, service(5, path="/" + "ü" * 700)], "longer than 4096"),
    "auth header": (
        [route(1, oauth2=uid(50)), wire.OAuth2(uid(50), auth_header_name="a:b")],
        "'a:b' is not a header name",
    ),
    "realm long": (
        [route(1, oauth2=uid(50)), wire.OAuth2(uid(50), realm="\n" * 1366)],
        "longer than 4096",
    ),
    "username long": ([wire.Consumer(uid(60), "u" * 4097), CREDENTIAL], "consumer 0000.*longer"),
    "client id long": (
        [ALEX, wire.Credential(uid(70), "c" * 4097, uid(60))],
        "credential 0000.*longer",
    ),
    "surrogate in a route": ([route(1, paths=["/\ud800"])], "lone surrogate"),
    "surrogate in a name": ([wire.Consumer(uid(60), "\ud800"), CREDENTIAL], "lone surrogate"),
    "surrogate in a client id": (
        [ALEX, wire.Credential(uid(70), "\ud800", uid(60))],
        "lone surrogate",
    ),
    "methods": ([route(1, methods=["M" * n for n in range(1, 66)])], "more than 64 different"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_unfit_snapshot_is_refused_in_words(what: str) -> None:
    parts, message = REFUSED[what]
    with pytest.raises(CompileError, match=message):
        tables_of(*parts)


@pytest.mark.parametrize(
    "host",
    [
        *("", "*", "*.", ".*", "a.*.b", "*.a.*", "*a.com", "a b", "a/b", "a.com:", "a.com:x"),
        *("a.com:0", "a.com:65536", "a.com:123456", "a.com:٣", "ü.com", ".a.com", "h" * 254),
        *("[::1", "[::1]x", "[::1]:x"),
    ],
)
def test_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(CompileError, match=r"route 00000000-.*0001: "):
        tables_of(route(1, hosts=[host]))


@pytest.mark.parametrize("host", ["", "a b", "a\r\nX: y", "a/b", "a:80", "ü", "[up]", "h" * 254])
def test_service_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(CompileError, match="is not a host"):
        tables_of(service(5, host=host), ROUTED)


def test_check_key_and_version_are_checked() -> None:
    names, _ = new_names()
    with pytest.raises(CompileError, match="the check key is not 32 bytes long"):
        compile_snapshot(wire.Snapshot(b"", 1, b"k" * 31), None, names)
    with pytest.raises(CompileError, match="version is out of range"):
        compile_snapshot(wire.Snapshot(b"", 2**63, b"k" * 32), None, names)


def test_hosts_times_paths_are_bounded() -> None:
    crowd = route(1, hosts=[f"h{n}" for n in range(513)], paths=[f"/{n}" for n in range(512)])
    with pytest.raises(CompileError, match="more than 262144 pairs"):
        tables_of(crowd)


# --- memory --------------------------------------------------------------------------------------


def owners() -> int:
    gc.collect()
    kinds = {"Tables", "PolicyBox", "NameBox", "_Orphan"}
    return sum(type(item).__name__ in kinds for item in gc.get_objects())


def test_ten_thousand_swaps_leave_memory_as_it_was() -> None:
    names, reclaimer = new_names()
    before_all = owners()
    first = how_to()
    second = msgspec.structs.replace(
        first, routes=[*first.routes[:2], route(12, paths=["/changed"], service=uid(1))]
    )
    live = compile_snapshot(first, None, names)

    def swap(rounds: int) -> None:
        nonlocal live
        for turn in range(rounds):
            fresh = compile_snapshot(second if turn % 2 else first, live, names)
            reclaimer.retire_object(live)
            live = fresh
            reclaimer.sweep()

    swap(1000)
    owned, resident = owners(), rss_kib()
    swap(9000)
    assert owners() == owned
    assert rss_kib() - resident < 1024
    del live
    reclaimer.sweep()
    assert owners() == before_all
    assert len(reclaimer) == 0
    assert names.hosts_in_use() == []


def test_compiles_dropped_at_once_leave_memory_as_it_was() -> None:
    def use(rounds: int) -> None:
        names, reclaimer = new_names()
        routes = [route(n, hosts=[f"h{n}.com"], paths=[f"/{n}"]) for n in range(1, 500)]
        for _ in range(rounds):
            compile_snapshot(snapshot(*routes), None, names)
            reclaimer.sweep()

    use(5)
    before = rss_kib()
    use(30)
    assert rss_kib() - before < 1024
