"""Heads to the upstream and back: routing-and-proxy.md §3, §7, §8.  _forward.pyx."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane import wire
from tests.dataplane.engine_kit import (
    CONSUMER,
    CREDENTIAL,
    KEY,
    PLUGIN,
    Head,
    Rig,
    handshake,
    plugin,
    route,
    service,
    switching,
    text_id,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.snapshots import uid

LOOPBACK = (bytes(10) + b"\xff\xff\x7f\x00\x00\x00", 104)
ALWAYS = [
    "host",
    "connection",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-path",
    "via",
    "x-kong-request-id",
]


def seen(rig: Rig, target: bytes = b"/", *fields: bytes) -> Head:
    """The handshake that the upstream sees of this one."""
    rig.client(handshake(target, *fields))
    return rig.upstream.accept().head()


# --- the path, §3 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "path", "strip", "target", "expected"),
    [
        ("/", "/route", True, "/routereq", "/req"),
        ("/srv", "/rou", False, "/roureq", "/srv/roureq"),
        ("/srv/", "/rou", True, "/rou", "/srv"),
        ("/service", "/route", True, "/route/", "/service/"),
        ("/service", "/route/", True, "/route/req", "/service/req"),
        ("/service/", "/", True, "/route", "/service/route"),
        ("/service", None, True, "/route/", "/service/route/"),
        ("/service", "/route", True, "/route%2E%2E/req", "/service/req"),
        ("/service", "/route", False, "/route%2e/req", "/service/route./req"),
        # the table of §3, row by row
        ("/", "/a", True, "/a", "/"),
        (None, "/a", True, "/a", "/"),
        ("/b/", "/a/", True, "/a/", "/b/"),
        ("/b/", "/a", True, "/a", "/b"),
        ("/b/", "/a", True, "/a/x", "/b/x"),
        ("/b/", "/a", True, "/ax", "/b/x"),
        ("/b/", "/a", False, "/a/x", "/b/a/x"),
        ("/b", "/a", True, "/a", "/b"),
        ("/b", "/a/", True, "/a/", "/b/"),
        ("/b", "/a", True, "/a/x", "/b/x"),
        ("/b", "/a", True, "/ax", "/b/x"),
        ("/b", "/", False, "/", "/b"),
        ("/b", "/a", False, "/a", "/b/a"),
        ("/b", "/", True, "/", "/b"),
        # dots at the start of what is left
        ("/s", "/a", True, "/a./x", "/s/x"),
        ("/s", "/a", True, "/a../x", "/s/x"),
        ("/s", "/a", True, "/a.", "/s"),
        ("/s", "/a", True, "/a.../x", "/s/.../x"),
        # escapes
        ("/", "/a", False, "/a/%7Eb%41", "/a/~bA"),
        ("/", "/a", False, "/a/%2fb%3F%23", "/a/%2Fb%3F%23"),
        ("/", "/a", False, "/a/%20%22%3c%7b", "/a/%20%22%3C%7B"),
        ("/", "/a", False, "/a/%c3%a9", "/a/%C3%A9"),
        ("/", "/a", False, "/a;b=c,d'(e)*!$&+@:", "/a;b=c,d'(e)*!$&+@:"),
        ("/é x", "/a", True, "/a/b", "/%C3%A9%20x/b"),
        # the query
        ("/", "/a", True, "/a?x=%zz&&y=/../", "/?x=%zz&&y=/../"),
        ("/b", "/a", True, "/a?", "/b?"),
        ("/b", "/a", True, "/a?a?b", "/b?a?b"),
    ],
)
def test_upstream_gets_the_path_that_the_contract_gives(
    base: str | None, path: str | None, strip: bool, target: str, expected: str
) -> None:
    with new_rig(1) as rig:
        matcher: dict[str, Any] = {"paths": [path]} if path else {"hosts": ["gateway.test"]}
        rig.publish(
            service(rig.upstream.port, path=base), route(strip_path=strip, oauth2=None, **matcher)
        )
        assert seen(rig, target.encode()).target == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/open/../secret/x", "/secret/x"),
        ("/open/%2e%2e/secret/x", "/secret/x"),
        ("/open/.%2E/secret/x", "/secret/x"),
        ("//secret//x", "/secret/x"),
        ("/./secret/./x", "/secret/x"),
        ("/secret/a/..", "/secret/"),
        ("/secret/a/../../secret", "/secret"),
        ("/%73ecret", "/secret"),
        ("/secret;v=1/x", "/secret;v=1/x"),
        ("http://gateway.test/open/../secret?q", "/secret?q"),
    ],
)
def test_s55_path_that_is_authorised_is_the_path_that_goes_on(
    rig: Rig, target: str, expected: str
) -> None:
    """`/secret` asks for a token, `/` does not: what reaches it in any spelling is asked."""
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/"], oauth2=None, strip_path=False),
        route(id=uid(8), paths=["/secret"], strip_path=False),
        plugin(),
    )
    assert rig.client(handshake(target.encode())).answer()[0].status == 401
    assert rig.upstream.untouched()
    head = seen(rig, target.encode(), b"Authorization: Bearer " + rig.token())
    assert head.target == expected


@pytest.mark.parametrize("target", ["/open%2fsecret", "/open/..%2fsecret", "/%2e%2e%2fsecret"])
def test_s55_escaped_slash_is_no_slash_here_and_stays_escaped(rig: Rig, target: str) -> None:
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/"], oauth2=None, strip_path=False),
        route(id=uid(8), paths=["/secret"], strip_path=False),
        plugin(),
    )
    assert "%2Fsecret" in seen(rig, target.encode()).target


# --- fields, §7 -----------------------------------------------------------------------------------


def test_upstream_sees_exactly_these_fields(rig: Rig) -> None:
    rig.open_route(paths=["/chat"])
    client = rig.client(
        handshake(
            b"/chat/x%2e?q=1",
            b"Origin: https://a.test",
            b"Cookie: a=b",
            b"Sec-WebSocket-Protocol: chat",
            b"X-Own:  spaced  ",
        )
    )
    head = rig.upstream.accept().head()
    fields = dict(head.fields)
    assert sorted(head.names()) == sorted(
        [
            *ALWAYS,
            "origin",
            "cookie",
            "sec-websocket-protocol",
            "x-own",
            "x-forwarded-prefix",
        ]
    )
    assert head.line == "GET /x.?q=1 HTTP/1.1"
    assert fields["Host"] == f"127.0.0.1:{rig.upstream.port}"
    assert (fields["Connection"], fields["Upgrade"]) == ("Upgrade", "websocket")
    assert fields["Sec-WebSocket-Key"] == KEY.decode()
    assert fields["Sec-WebSocket-Version"] == "13"
    assert (fields["Origin"], fields["Cookie"]) == ("https://a.test", "a=b")
    assert fields["X-Own"] == "spaced"
    assert fields["X-Real-IP"] == fields["X-Forwarded-For"] == "127.0.0.1"
    assert fields["X-Forwarded-Proto"] == "http"
    assert fields["X-Forwarded-Host"] == "gateway.test"
    assert fields["X-Forwarded-Port"] == str(rig.port)
    assert fields["X-Forwarded-Path"] == "/chat/x%2e"
    assert fields["X-Forwarded-Prefix"] == "/chat"
    assert fields["Via"] == "1.1 narthex/test"
    assert len(bytes.fromhex(fields["X-Kong-Request-Id"])) == 16
    rig.upstream.lines[0].send(switching(b"Sec-WebSocket-Protocol: chat"))
    assert client.head().get("X-Kong-Request-Id") == fields["X-Kong-Request-Id"]


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [("up.test", 80, "up.test"), ("up.test", 81, "up.test:81"), ("UP.test", 443, "UP.test:443")],
)
def test_host_is_the_services_with_its_port_unless_that_is_the_protocols(
    host: str, port: int, expected: str
) -> None:
    """Read from the compiled policy, as port 80 is not a test's to listen on."""
    with new_rig(1) as rig:
        tables = rig.publish(service(port, host=host), route(paths=["/"], oauth2=None))
        [box] = tables.boxes.values()
        assert box.describe()["host_header"] == expected.encode()


@pytest.mark.parametrize(
    ("host", "forwarded"),
    [
        (b"gateway.test", "gateway.test"),
        (b"Gateway.TEST:8000", "Gateway.TEST"),
        (b"[::1]:9", "[::1]"),
    ],
)
def test_preserve_host_keeps_the_clients(rig: Rig, host: bytes, forwarded: str) -> None:
    rig.open_route(preserve_host=True)
    head = seen(rig, b"/", b"Host: " + host)
    assert head.get("Host") == host.decode()
    assert head.get("X-Forwarded-Host") == forwarded


FORWARDED = (
    b"X-Forwarded-For: 10.0.0.1",
    b"x-forwarded-FOR: 10.0.0.2",
    b"X-Real-IP: 10.0.0.3",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: evil.test",
    b"X-Forwarded-Port: 1",
    b"X-Forwarded-Path: /evil",
    b"X-Forwarded-Prefix: /pre",
)


def test_untrusted_peer_says_nothing_about_the_client(rig: Rig) -> None:
    rig.open_route()
    head = seen(rig, b"/x", *FORWARDED, b"X_Forwarded_Proto: https", b"X_REAL_IP: 10.0.0.3")
    assert head.get("X-Forwarded-For") == "10.0.0.1, 10.0.0.2, 127.0.0.1"
    assert head.get("X-Real-IP") == "127.0.0.1"
    assert head.get("X-Forwarded-Proto") == "http"
    assert head.get("X-Forwarded-Host") == "gateway.test"
    assert head.get("X-Forwarded-Port") == str(rig.port)
    assert head.get("X-Forwarded-Path") == "/x"
    assert head.get("X-Forwarded-Prefix") is None
    assert not [name for name in head.names() if "_" in name]


def test_trusted_peer_is_believed() -> None:
    with new_rig(1, trusted=[LOOPBACK]) as rig:
        rig.open_route()
        head = seen(rig, b"/x", *FORWARDED)
        assert head.get("X-Forwarded-For") == "10.0.0.1, 10.0.0.2, 127.0.0.1"
        assert head.get("X-Forwarded-Proto") == "https"
        assert head.get("X-Forwarded-Host") == "evil.test"
        assert head.get("X-Forwarded-Port") == "1"
        assert head.get("X-Forwarded-Path") == "/evil"
        assert head.get("X-Forwarded-Prefix") == "/pre"
        plain = seen(rig, b"/x")
        assert plain.get("X-Forwarded-Proto") == "http"
        assert plain.get("X-Forwarded-Prefix") is None


@pytest.mark.parametrize("bits", [96, 103, 104, 127, 128])
def test_trusted_network_is_compared_bit_by_bit(bits: int) -> None:
    """127.0.0.1 against a network that differs from it in its last bit."""
    near = bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 0])
    with new_rig(1, trusted=[(near, bits)]) as rig:
        rig.open_route()
        head = seen(rig, b"/", b"X-Forwarded-Proto: https")
        assert head.get("X-Forwarded-Proto") == ("http" if bits == 128 else "https")


def test_via_is_added_to(rig: Rig) -> None:
    rig.open_route()
    head = seen(rig, b"/", b"Via: 1.0 fred", b"via: 1.1 p.test (x)")
    assert head.get("Via") == "1.0 fred, 1.1 p.test (x), 1.1 narthex/test"


def test_hop_by_hop_fields_do_not_go_on(rig: Rig) -> None:
    rig.open_route()
    head = seen(
        rig,
        b"/",
        b"Keep-Alive: timeout=5",
        b"Proxy: x",
        b"Proxy-Connection: keep-alive",
        b"Connection: X-Mine, x-OTHER ,close",
        b"X-Mine: 1",
        b"X-Other: 2",
        b"X-Third: 3",
        b"TE: gzip",
        b"Expect: 100-continue",
        b"Proxy-Authorization: kept",
        b"X-Kong-Request-Id: " + b"0" * 32,
        b"Keep_Alive: x",
        b"Transfer_Encoding: chunked",
        b"Content_Length: 5",
    )
    assert sorted(head.names()) == sorted([*ALWAYS, "x-third", "proxy-authorization"])
    assert head.get("X-Kong-Request-Id") != "0" * 32


# --- who, oauth2.md §6.3 --------------------------------------------------------------------------

IDENTITY = {
    "x-consumer-id",
    "x-consumer-custom-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-authenticated-scope",
    "x-authenticated-userid",
    "x-anonymous-consumer",
}


def identity(head: Head) -> dict[str, str]:
    found = [(name, value) for name, value in head.fields if name.lower() in IDENTITY]
    assert len(dict(found)) == len(found)
    return dict(found)


FORGED = [
    spelling.encode() + b": forged"
    for name in sorted(IDENTITY)
    for spelling in (name, name.upper(), name.title(), name.replace("-", "_"))
] + [
    b"X_Consumer-ID: forged",
    b"x-consumer_ID: forged",
    b"X-Consumer-Groups: forged",
    b"X-Credential-New: forged",
]


def test_s54_identity_is_the_gateways_word_alone(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token(scope="email profile", user_id="user 1")
    head = seen(rig, b"/", b"Authorization: Bearer " + token, *FORGED)
    assert identity(head) == {
        "X-Consumer-ID": text_id(CONSUMER),
        "X-Consumer-Custom-ID": "custom-7",
        "X-Consumer-Username": "alex",
        "X-Credential-Identifier": "client-1",
        "X-Authenticated-Scope": "email profile",
        "X-Authenticated-UserId": "user 1",
    }
    assert not [value for _, value in head.fields if "forged" in value]
    assert head.get("Authorization") == f"Bearer {token.decode()}"


def test_s54_forged_identity_does_not_pass_where_nobody_is_asked_for(rig: Rig) -> None:
    rig.open_route()
    head = seen(rig, b"/", *FORGED)
    assert identity(head) == {}
    assert not [value for _, value in head.fields if "forged" in value]


def test_what_is_not_known_of_a_principal_is_not_said(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/"]),
        plugin(),
        wire.Consumer(CONSUMER, None, "only-custom"),
        wire.Credential(CREDENTIAL, "client-1", CONSUMER),
    )
    head = seen(rig, b"/", b"Authorization: Bearer " + rig.token(), *FORGED[:10])
    assert set(identity(head)) == {
        "X-Consumer-ID",
        "X-Consumer-Custom-ID",
        "X-Credential-Identifier",
    }


def test_anonymous_consumer_is_named_as_such(rig: Rig) -> None:
    rig.guarded_route({"anonymous": CONSUMER})
    head = seen(rig, b"/", b"Authorization: Bearer wrong", *FORGED)
    assert identity(head) == {
        "X-Consumer-ID": text_id(CONSUMER),
        "X-Consumer-Custom-ID": "custom-7",
        "X-Consumer-Username": "alex",
        "X-Anonymous-Consumer": "true",
    }


def test_s48_connection_cannot_take_away_what_the_gateway_sets(rig: Rig) -> None:
    rig.guarded_route()
    names = [*sorted(IDENTITY), "x-forwarded-for", "x-real-ip", "via", "host", "upgrade"]
    token = rig.token(scope="email")
    head = seen(
        rig,
        b"/",
        b"Authorization: Bearer " + token,
        b"Connection: " + ", ".join(names[:12]).encode(),
        b"Connection: X-Kong-Request-Id, X-Forwarded-Proto",
        b"X-Consumer-ID: forged",
    )
    assert head.get("X-Consumer-ID") == text_id(CONSUMER)
    assert head.get("X-Credential-Identifier") == "client-1"
    assert head.get("X-Authenticated-Scope") == "email"
    for name in ("X-Forwarded-For", "X-Real-IP", "Via", "Host", "Upgrade", "X-Kong-Request-Id"):
        assert head.get(name)
    assert head.get("Connection") == "Upgrade"


@pytest.mark.parametrize("bad", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "a\rb", "é\x7f"])
def test_s57_no_value_of_ours_makes_a_line_of_its_own(rig: Rig, bad: str) -> None:
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/"]),
        plugin(realm=bad),
        wire.Consumer(CONSUMER, bad, bad),
        wire.Credential(CREDENTIAL, bad, CONSUMER),
    )
    refused = rig.client(handshake()).head()
    assert refused.get("X-Evil") is None
    assert (
        refused.get(
            "WWW-Authenticate",
        )
        is not None
    )
    text = rig.token(put=False).decode()
    try:
        rig.put(text, scope=bad, user_id=bad)
    except ValueError:  # the cache holds no such claims at all
        rig.put(text)
    head = seen(rig, b"/", b"Authorization: Bearer " + text.encode())
    assert head.get("X-Evil") is None
    assert head.get("X-Consumer-ID") == text_id(CONSUMER)
    assert not any(set(value) & set("\r\n\0\x7f") for _, value in head.fields)


def test_hidden_token_leaves_no_trace_in_a_header(rig: Rig) -> None:
    """S61: every copy of the header goes."""
    rig.guarded_route({"hide_credentials": True})
    token = rig.token()
    for value in (b"Bearer " + token, b"token\t" + token, token):
        head = seen(
            rig, b"/?access_token=kept", b"authorization: " + value, b"AUTHORIZATION: " + value
        )
        assert head.get("Authorization") is None
        assert token.decode() not in str(head)
        assert head.target == "/?access_token=kept"  # §6.4: with the header, the query stays


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (b"?access_token=%s", ""),
        (b"?a=1&access_token=%s", "?a=1"),
        (b"?access_token=%s&b=2", "?b=2"),
        (b"?a=1&access_token=%s&b=2&&access", "?a=1&b=2&&access"),
        (b"?%%61ccess_token=%s&&c", "?&c"),
        (b"?access%%5ftoken=%s&xaccess_token=y", "?xaccess_token=y"),
    ],
)
@pytest.mark.parametrize("hide", [True, False])
def test_token_in_the_query_is_found_and_hidden(
    rig: Rig, query: bytes, left: str, hide: bool
) -> None:
    rig.guarded_route({"hide_credentials": hide})
    asked = query % rig.token()
    head = seen(rig, b"/" + asked)
    assert head.target == "/" + (left if hide else asked.decode())
    assert head.get("X-Consumer-ID") == text_id(CONSUMER)


def test_token_in_another_header_is_found_and_hidden(rig: Rig) -> None:
    rig.guarded_route({"auth_header_name": "X-Api-Token", "hide_credentials": True})
    head = seen(rig, b"/", b"x-API-token: Bearer " + rig.token(), b"Authorization: Basic abc")
    assert head.get("X-Api-Token") is None
    assert head.get("Authorization") == "Basic abc"


def test_head_that_grows_too_large_is_still_sent_whole(rig: Rig) -> None:
    """Escaping may triple a path: the limit is on what came in."""
    rig.open_route({"path": "/" + "p" * 4000})
    big = [b"X-%d: " % n + b"v" * 7000 for n in range(3)]
    head = seen(rig, b"/" + b"%22" * 2500, *big)
    assert head.target == "/" + "p" * 4000 + "/" + "%22" * 2500
    assert [head.get(f"X-{n}") for n in range(3)] == ["v" * 7000] * 3


# --- back to the client, §8 -----------------------------------------------------------------------


def test_client_sees_the_upstreams_fields_and_ours(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(
        switching(
            b"Server: far/1",
            b"Via: 1.1 far",
            b"Set-Cookie: a=1",
            b"Set-Cookie: b=2",
            b"Keep-Alive: timeout=1",
            b"X-Kong-Request-Id: forged",
            b"X-Kong-Upstream-Latency: -1",
            b"x-kong-proxy-latency: -1",
            b"X-Far: yes",
            b"Content-Length: 0",
        ).replace(b"Connection: Upgrade", b"Connection: Upgrade, X-Far-Hop")
    )
    head = client.head()
    assert head.all("Set-Cookie") == ["a=1", "b=2"]
    assert head.get("Server") == "far/1"
    assert head.get("Via") == "1.1 far, 1.1 narthex/test"
    assert head.get("X-Far") == "yes"
    assert head.get("Keep-Alive") is None
    assert head.get("Content-Length") is None
    assert head.get("Connection") == "Upgrade"
    assert head.get("X-Kong-Request-Id") != "forged"
    for latency in ("X-Kong-Upstream-Latency", "X-Kong-Proxy-Latency"):
        (only,) = head.all(latency)
        assert int(only) >= 0
    assert head.get("X-Kong-Response-Latency") is None


def test_server_is_ours_when_the_upstream_names_none(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().get("Server") == "narthex/test"


def test_plugin_of_one_route_is_not_anothers(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/a"]),
        route(id=uid(8), paths=["/b"], oauth2=uid(9)),
        plugin(hide_credentials=True),
        plugin(id=uid(9)),
    )
    assert uid(9) != PLUGIN
    bearer = b"Authorization: Bearer " + rig.token()
    assert seen(rig, b"/a", bearer).get("Authorization") is None
    assert seen(rig, b"/b", bearer).get("Authorization") is not None
