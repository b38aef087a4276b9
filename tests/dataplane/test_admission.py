"""Who may: tokens found, judged and refused in the words of oauth2.md §6.  _admission.pyx."""

from __future__ import annotations

import json
import time

import pytest

from dataplane import wire
from tests.dataplane.engine_kit import (
    CONSUMER,
    CREDENTIAL,
    ROUTE,
    SERVICE,
    Head,
    Rig,
    handshake,
    plugin,
    request,
    route,
    service,
    switching,
    text_id,
)
from tests.dataplane.snapshots import uid

MISSING = b'{"error":"invalid_request","error_description":"The access token is missing"}'
INVALID = (
    b'{"error":"invalid_token","error_description":"The access token is invalid or has expired"}'
)
GLOBAL = (
    b'{"error":"invalid_token","error_description":"The access token is global, but the '
    b"current plugin is configured without 'global_credentials'\"}"
)
CHALLENGE = 'error="invalid_token", error_description="The access token is invalid or has expired"'


def refused(rig: Rig, target: bytes = b"/", *fields: bytes) -> tuple[Head, bytes]:
    """The 401 that a handshake gets; the upstream hears nothing of it."""
    head, body = rig.client(handshake(target, *fields)).answer()
    assert head.line == "HTTP/1.1 401 Unauthorized"
    assert head.get("Content-Type") == "application/json; charset=utf-8"
    assert head.get("Cache-Control") is None
    assert rig.upstream.untouched()
    record = rig.record("refused")
    assert (record["status"], record["route"]) == (401, text_id(ROUTE))
    return head, body


def admitted(rig: Rig, target: bytes = b"/", *fields: bytes) -> Head:
    """What the upstream sees of a handshake that is let through."""
    client = rig.client(handshake(target, *fields))
    upstream = rig.upstream.accept()
    head = upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    return head


def bearer(token: bytes) -> bytes:
    return b"Authorization: Bearer " + token


# --- the 401s, to the byte ------------------------------------------------------------------------


@pytest.mark.parametrize("realm", [None, "my realm", 'a"b\\c'])
def test_missing_token_is_said_so(rig: Rig, realm: str | None) -> None:
    rig.guarded_route({"realm": realm})
    for fields in ((), (b"Authorization:",), (b"Authorization:  ", bearer(rig.token()))):
        head, body = refused(rig, b"/", *fields)
        assert body == MISSING
        quoted = (realm or "").replace("\\", "\\\\").replace('"', '\\"')
        expected = "Bearer" if realm is None else f'Bearer realm="{quoted}"'
        assert head.get("WWW-Authenticate") == expected


@pytest.mark.parametrize("realm", [None, "my realm"])
@pytest.mark.parametrize("what", ["unknown", "expired", "other service", "credential gone"])
def test_bad_token_is_said_so_and_not_why(rig: Rig, what: str, realm: str | None) -> None:
    rig.guarded_route({"realm": realm})
    token = b"unknown"
    if what == "expired":
        token = rig.token(expires_at=time.time() - 1)
    elif what == "other service":
        token = rig.token(service=uid(77))
    elif what == "credential gone":
        token = rig.token(credential=uid(78), version=0)
    head, body = refused(rig, b"/", bearer(token))
    assert body == INVALID
    assert head.get("WWW-Authenticate") == (
        f"Bearer {CHALLENGE}" if realm is None else f'Bearer realm="{realm}", {CHALLENGE}'
    )


def test_global_token_is_refused_by_a_plugin_that_takes_none(rig: Rig) -> None:
    """S12; also where an anonymous consumer is configured (oauth2.md §6.2)."""
    for anonymous in (None, CONSUMER):
        rig.guarded_route({"global_credentials": False, "anonymous": anonymous})
        head, body = refused(rig, b"/", bearer(rig.token()))
        assert body == GLOBAL
        assert json.loads(body)["error"] == "invalid_token"
        assert head.get("WWW-Authenticate") == f"Bearer {CHALLENGE}"


@pytest.mark.parametrize("takes_global", [True, False])
def test_token_of_the_service_is_good_whatever_the_plugin_takes(
    rig: Rig, takes_global: bool
) -> None:
    rig.guarded_route({"global_credentials": takes_global})
    admitted(rig, b"/", bearer(rig.token(service=SERVICE)))


def test_s13_same_token_gives_each_route_its_own_answer_in_either_order(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port),
        service(rig.upstream.port, id=uid(21)),
        route(paths=["/a"]),
        route(id=uid(8), paths=["/b"], service=uid(21)),
        plugin(),
    )
    mine = bearer(rig.token(service=SERVICE))
    for target, good in ((b"/a", True), (b"/b", False), (b"/a", True), (b"/b", False)):
        if good:
            admitted(rig, target, mine)
        else:
            assert rig.client(handshake(target, mine)).answer()[1] == INVALID


def test_token_is_good_up_to_its_expiry_and_not_after(rig: Rig) -> None:
    """S08."""
    rig.guarded_route()
    rig.engine.sweep()  # looks at the clock
    admitted(rig, b"/", bearer(rig.token(1, expires_at=time.time() + 5)))
    refused(rig, b"/", bearer(rig.token(2, expires_at=time.time() - 0.01)))
    admitted(rig, b"/", bearer(rig.token(3, expires_at=0.0)))  # never


def test_removed_token_is_asked_for_again(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token()
    admitted(rig, b"/", bearer(token))
    rig.engine.tokens.remove(wire.token_digest(token.decode()))
    client = rig.client(handshake(b"/", bearer(token)))
    rig.engine.answer_token(rig.question()[1], "unknown")
    assert client.answer()[1] == INVALID


def test_credential_deleted_takes_its_tokens_along(rig: Rig) -> None:
    """S37: no message for each token is needed."""
    rig.guarded_route()
    token = rig.token()
    admitted(rig, b"/", bearer(token))
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/"]),
        plugin(),
        wire.Consumer(CONSUMER, "alex"),
        wire.Credential(uid(55), "another", CONSUMER),
    )
    refused(rig, b"/", bearer(token))


def test_consumer_that_was_renamed_is_named_anew(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token()
    assert admitted(rig, b"/", bearer(token)).get("X-Consumer-Username") == "alex"
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/"]),
        plugin(),
        wire.Consumer(CONSUMER, "sascha"),
        wire.Credential(CREDENTIAL, "client-2", CONSUMER),
    )
    head = admitted(rig, b"/", bearer(token))
    assert head.get("X-Consumer-Username") == "sascha"
    assert head.get("X-Credential-Identifier") == "client-2"


def test_token_newer_than_the_tables_waits_for_them(rig: Rig) -> None:
    """Issued for a credential that this data plane has not heard of yet: 401 would be wrong."""
    rig.guarded_route()
    token = rig.token(credential=uid(66), version=100)
    client = rig.client(handshake(b"/", bearer(token)))
    kind, ref, *_ = rig.question()
    assert kind == "token"
    rig.engine.answer_token(ref, "known")
    head, _ = client.answer()
    assert (head.status, head.get("Retry-After")) == (503, "1")
    client.send(handshake(b"/", bearer(token)))
    ref = rig.question()[1]
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/"]),
        plugin(),
        wire.Consumer(CONSUMER, "alex"),
        wire.Credential(uid(66), "new", CONSUMER),
    )
    rig.engine.answer_token(ref, "known")
    upstream = rig.upstream.accept()
    assert upstream.head().get("X-Credential-Identifier") == "new"
    upstream.send(switching())
    assert client.head().status == 101


# --- where the token is, §6.1 ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", [b"Bearer %s", b"bearer %s", b"BEARER\t%s", b"token %s", b"Token   %s", b"%s"]
)
def test_token_is_found_in_the_header_in_these_forms(rig: Rig, form: bytes) -> None:
    rig.guarded_route()
    admitted(rig, b"/", b"AUTHORIZATION: " + form % rig.token())


@pytest.mark.parametrize("form", [b"Basic %s", b"Bearer %s x", b"Bearer", b"Bearer=%s", b"%s,%s"])
def test_any_other_form_is_taken_whole_and_unknown(rig: Rig, form: bytes) -> None:
    rig.guarded_route()
    value = form.replace(b"%s", rig.token())
    assert refused(rig, b"/", b"Authorization: " + value)[1] == INVALID


def test_first_header_counts_and_rules_out_the_query(rig: Rig) -> None:
    rig.guarded_route()
    good = rig.token()
    admitted(rig, b"/?access_token=bad", bearer(good))
    assert refused(rig, b"/?access_token=" + good, bearer(b"bad"))[1] == INVALID
    assert refused(rig, b"/?access_token=" + good, b"Authorization:")[1] == MISSING
    admitted(rig, b"/", bearer(good), bearer(b"bad"))
    assert refused(rig, b"/", bearer(b"bad"), bearer(good))[1] == INVALID


@pytest.mark.parametrize(
    ("query", "body"),
    [
        (b"?access_token", MISSING),
        (b"?access_token=", MISSING),
        (b"?Access_Token=%s", MISSING),
        (b"?access_token=bad&access_token=%s", MISSING),  # a list is no token
        (b"?access_token=%s%%00", INVALID),
        (b"?access_token=%s+", INVALID),
    ],
)
def test_query_that_holds_no_good_token_is_refused(rig: Rig, query: bytes, body: bytes) -> None:
    rig.guarded_route()
    asked = query % rig.token() if b"%s" in query else query
    assert refused(rig, b"/" + asked)[1] == body


def test_token_is_read_from_the_configured_header_alone(rig: Rig) -> None:
    rig.guarded_route({"auth_header_name": "X-Api-Token"})
    good = rig.token()
    assert refused(rig, b"/", bearer(good))[1] == MISSING
    admitted(rig, b"/", b"x-api-TOKEN: bearer " + good)
    admitted(rig, b"/?access_token=" + good, bearer(b"not looked at"))


def test_s10_token_over_8_kib_is_refused_unread(rig: Rig) -> None:
    rig.guarded_route()
    long = b"A" * 8100
    assert refused(rig, b"/", b"Authorization: " + long)[1] == INVALID
    assert rig.count("token_misses") == 1


# --- anonymous, §6.5 ------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [(), (bearer(b"bad"),)])
def test_anonymous_consumer_stands_in_for_a_token(rig: Rig, fields: tuple[bytes, ...]) -> None:
    rig.guarded_route({"anonymous": CONSUMER})
    head = admitted(rig, b"/", *fields)
    assert head.get("X-Anonymous-Consumer") == "true"
    assert head.get("X-Credential-Identifier") is None
    head = admitted(rig, b"/", bearer(rig.token()))
    assert head.get("X-Anonymous-Consumer") is None
    assert head.get("X-Credential-Identifier") == "client-1"


@pytest.mark.parametrize(
    ("accept", "shown"),
    [
        (b"text/html", b"&lt;b&gt;&amp;"),
        (b"application/xml", b"&lt;b&gt;&amp;"),
        (b"text/plain", b"<b>&"),
    ],
)
def test_configured_name_in_an_error_body_is_text_and_never_markup(
    rig: Rig, accept: bytes, shown: bytes
) -> None:
    rig.guarded_route({"anonymous_missing": "<b>&"})
    head, body = rig.client(handshake(b"/", b"Accept: " + accept)).answer()
    assert head.status == 500
    assert b"anonymous consumer " + shown + b" is configured" in body


def test_anonymous_consumer_that_does_not_exist_is_a_500(rig: Rig) -> None:
    rig.guarded_route({"anonymous_missing": 'no"body\\'})
    client = rig.client(handshake())
    head, body = client.answer()
    assert head.status == 500
    assert json.loads(body)["message"] == (
        "anonymous consumer no\"body\\ is configured but doesn't exist"
    )
    client.send(handshake(b"/", bearer(rig.token())))
    rig.upstream.accept().head()


# --- the order of the checks ----------------------------------------------------------------------


def test_checks_are_made_in_the_order_of_the_contract(rig: Rig) -> None:
    """route → TLS → handshake → token → is there somewhere to go."""
    rig.publish(
        service(1),
        route(paths=["/tls"], protocols=["wss"]),
        route(id=uid(8), paths=["/ws"]),
        route(id=uid(9), paths=["/nowhere"], service=None),
        plugin(),
    )
    good = bearer(rig.token())

    def status(sent: bytes) -> int:
        return rig.client(sent).answer()[0].status

    assert status(request(b"/none")) == 404
    assert status(request(b"/tls", method=b"POST")) == 426
    assert status(request(b"/ws", method=b"POST")) == 400
    assert status(handshake(b"/ws")) == 401
    assert status(handshake(b"/nowhere")) == 401
    assert status(handshake(b"/nowhere", good)) == 503
    assert status(handshake(b"/ws", good)) == 502


def test_token_endpoint_is_no_part_of_a_ws_route(rig: Rig) -> None:
    """routing-and-proxy.md §12.1: refused as a handshake before plugins run."""
    rig.guarded_route()
    head, body = rig.client(
        request(b"/oauth2/token", b"Content-Length: 0", method=b"POST")
    ).answer()
    assert head.status == 400
    assert json.loads(body)["message"] == "invalid WebSocket handshake: bad method"
    assert rig.engine.questions() == []


# --- routing through the engine -------------------------------------------------------------------


def test_routes_are_chosen_by_host_port_method_header_and_prefix(rig: Rig) -> None:
    names = {
        uid(30): {"hosts": ["a.test"]},
        uid(31): {"hosts": ["*.b.test"]},
        uid(32): {"hosts": [f"c.test:{rig.port}"]},
        uid(33): {"paths": ["/p"], "headers": {"X-Kind": ["one", "two"]}},
        uid(34): {"paths": ["/p"]},
        uid(35): {"paths": ["/p/longer"]},
        uid(36): {"hosts": ["a.test"], "paths": ["/p"]},
        uid(37): {"hosts": ["d.test:81"]},
    }
    rig.publish(*[route(id=i, service=None, oauth2=None, **how) for i, how in names.items()])

    def chosen(target: bytes, *fields: bytes) -> str | None:
        rig.client(handshake(target, *fields)).answer()
        found: str | None = rig.record("refused")["route"]
        return found

    for target, fields, expected in (
        (b"/", [b"Host: a.test"], uid(30)),
        (b"/", [b"Host: A.TEST:99"], uid(30)),
        (b"/", [b"Host: x.b.test"], uid(31)),
        (b"/", [b"Host: b.test"], None),
        (b"/", [b"Host: c.test"], uid(32)),
        (b"/", [b"Host: c.test:81"], None),
        (b"/", [b"Host: d.test:81"], uid(37)),
        (b"/", [b"Host: d.test"], None),
        (b"/p", [], uid(34)),
        (b"/pq", [], uid(34)),
        (b"/p/longer/x", [], uid(35)),
        (b"/p/longer", [b"x-kind: TWO"], uid(33)),
        (b"/p", [b"X-Kind: three", b"X-Kind: one"], uid(33)),
        (b"/p", [b"X-Kind: three"], uid(34)),
        (b"/p", [b"Host: a.test"], uid(36)),
    ):
        assert chosen(target, *fields) == (None if expected is None else text_id(expected)), target
