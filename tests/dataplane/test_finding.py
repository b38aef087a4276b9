"""Browsers' carriers at the engine: what is found, what goes on, what is answered.

spec/oauth2.md §14, §6.4; S58, S60, S61.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from dataplane import wire
from tests.dataplane.engine_kit import (
    CONSUMER,
    CREDENTIAL,
    Head,
    Line,
    Rig,
    handshake,
    plugin,
    request,
    route,
    service,
    switching,
    text_id,
    until,
)
from tests.dataplane.snapshots import uid

ORIGIN, FOREIGN = b"Origin: https://app.example", b"Origin: https://evil.example"
RULES = wire.SessionRules(uid(60), allowed_origins=["https://app.example"])
ALL = ("header", "query", "subprotocol", "ticket", "cookie")
K8S = b"base64url.bearer.authorization.k8s.io."
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def guard(rig: Rig, *carriers: str, protocols: str = "ws", **fields: Any) -> None:
    """A route that looks for tokens there, and lists one origin."""
    given = {"carriers": carriers or ALL, "cookie_name": "tok", **fields}
    scheme = "ws" if protocols == "ws" else "http"
    rig.publish(
        service(rig.upstream.port, protocol=scheme),
        route(paths=["/"], protocols=[scheme, scheme + "s"], session=uid(60)),
        plugin(**given),
        RULES,
    )


def protocol(*elements: bytes) -> bytes:
    return b"Sec-WebSocket-Protocol: " + b", ".join(elements)


def encoded(token: bytes) -> bytes:
    return K8S + base64.urlsafe_b64encode(token).rstrip(b"=")


def upstream_of(rig: Rig, target: bytes, *fields: bytes) -> tuple[Line, Line, Head]:
    client = rig.client(handshake(target, *fields))
    upstream = rig.upstream.accept()
    return client, upstream, upstream.head()


def admitted(
    rig: Rig, target: bytes, *fields: bytes, chosen: bytes | None = None
) -> tuple[Head, Head]:
    """What the upstream sees of a handshake that is let through, and what the client gets."""
    client, upstream, head = upstream_of(rig, target, *fields)
    assert head.get("X-Consumer-ID") == text_id(CONSUMER)
    upstream.send(switching(*([protocol(chosen)] if chosen is not None else [])))
    answer = client.head()
    assert answer.status == 101
    return head, answer


def refused(rig: Rig, status: int, *fields: bytes, target: bytes = b"/") -> dict[str, Any]:
    """The JSON of a refusal; the upstream hears nothing."""
    head, body = rig.client(handshake(target, *fields)).answer()
    assert head.status == status
    assert rig.upstream.untouched()
    return dict(json.loads(body))


# --- subprotocols ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "goes_on"),
    [
        ([b"bearer", b"T"], None),
        ([b"bearer", b"T", b"chat"], "chat"),
        ([b"chat", b"bearer", b"T", b"v2"], "chat, v2"),
        ([b"E", b"chat"], "chat"),
        ([b"chat", b"E"], "chat"),
        ([b"shop.T"], None),
        ([b"shop.T", b"chat"], "chat"),
    ],
)
def test_s58_token_of_a_subprotocol_admits_and_never_goes_on(
    rig: Rig, offered: list[bytes], goes_on: str | None
) -> None:
    guard(rig, subprotocol_prefix="shop.")
    token = rig.token()
    forms = {b"T": token, b"E": encoded(token), b"shop.T": b"shop." + token}
    elements = [forms.get(element, element) for element in offered]
    chosen = goes_on.split(", ")[-1].encode() if goes_on else None
    head, answer = admitted(rig, b"/", protocol(*elements), chosen=chosen)
    assert head.get("Sec-WebSocket-Protocol") == goes_on
    assert token.decode() not in str(head)
    if chosen is not None:
        assert answer.get("Sec-WebSocket-Protocol") == chosen.decode()
    assert token.decode() not in str(answer)


def test_s58_marker_is_the_answer_where_the_upstream_chooses_nothing(rig: Rig) -> None:
    guard(rig)
    token = rig.token()
    for elements in ([b"bearer", token], [b"chat", b"bearer", token]):
        _, answer = admitted(rig, b"/", protocol(*elements))
        assert answer.get("Sec-WebSocket-Protocol") == "bearer"
    _, answer = admitted(rig, b"/", protocol(encoded(token), b"chat"))
    assert answer.get("Sec-WebSocket-Protocol") is None


def test_s58_upstream_cannot_choose_what_was_taken_out(rig: Rig) -> None:
    guard(rig)
    token = rig.token()
    for chosen in (b"bearer", token):
        client, upstream, _ = upstream_of(rig, b"/", protocol(b"bearer", token, b"chat"))
        upstream.send(switching(protocol(chosen)))
        assert client.answer()[0].status == 502


def test_subprotocols_in_two_fields_are_one_list(rig: Rig) -> None:
    guard(rig)
    head, answer = admitted(rig, b"/", protocol(b"chat", b"bearer"), protocol(rig.token(), b"v2"))
    assert head.all("Sec-WebSocket-Protocol") == ["chat", "v2"]
    assert answer.get("Sec-WebSocket-Protocol") == "bearer"


def test_two_tokens_are_a_400(rig: Rig) -> None:
    guard(rig, subprotocol_prefix="shop.")
    one, two = rig.token(1), rig.token(2)
    for elements in (
        [b"bearer", one, b"bearer", two],
        [b"bearer", one, b"shop." + one],
        [encoded(one), b"shop." + two, b"chat"],
    ):
        assert refused(rig, 400, protocol(*elements))["error"] == "invalid_request"


def test_encoded_token_needs_another_protocol_and_the_encoding(rig: Rig) -> None:
    guard(rig)
    token = rig.token()
    good = encoded(token)
    for elements in ([good], [good, b"bearer"], [good + b"=", b"chat"], [K8S, b"chat"]):
        assert refused(rig, 400, protocol(*elements))["error"] == "invalid_request"
    admitted(rig, b"/", protocol(good, b"chat"), chosen=b"chat")


@pytest.mark.parametrize("elements", [[b"bearer"], [b"chat"], [b"Bearer", b"T"], [b"shop."]])
def test_subprotocols_without_a_token_are_a_missing_one(rig: Rig, elements: list[bytes]) -> None:
    guard(rig, subprotocol_prefix="shop.")
    named = [rig.token() if element == b"T" else element for element in elements]
    assert refused(rig, 401, protocol(*named))["error"] == "invalid_request"


def test_subprotocol_that_is_not_listed_is_the_ends_own(rig: Rig) -> None:
    guard(rig, "header", "query")
    token = rig.token()
    assert refused(rig, 401, protocol(b"bearer", token))["error"] == "invalid_request"
    head, _ = admitted(rig, b"/?access_token=" + token, protocol(b"bearer", b"x"))
    assert head.get("Sec-WebSocket-Protocol") == "bearer, x"


@pytest.mark.parametrize("where", ["header", "query"])
def test_other_carriers_are_not_looked_at_beside_header_and_query(rig: Rig, where: str) -> None:
    """They never go on all the same."""
    guard(rig)
    token = rig.token()
    fields = [protocol(b"bearer", b"junk", b"bearer", b"more", b"chat"), b"Cookie: a=1; tok=junk"]
    target = b"/?ticket=junk&b=2"
    if where == "header":
        fields.append(b"Authorization: Bearer " + token)
    else:
        target += b"&access_token=" + token
    head, _ = admitted(rig, target, *fields)
    assert head.get("Sec-WebSocket-Protocol") == "chat"
    assert head.get("Cookie") == "a=1"
    assert head.target == "/?b=2" + ("" if where == "header" else f"&access_token={token.decode()}")


def test_bad_token_of_the_header_is_not_made_good_by_another(rig: Rig) -> None:
    guard(rig)
    fields = (b"Authorization: Bearer junk", protocol(b"bearer", rig.token()))
    assert refused(rig, 401, *fields)["error"] == "invalid_token"


def test_empty_header_leaves_the_word_to_the_others(rig: Rig) -> None:
    guard(rig)
    head, _ = admitted(rig, b"/", b"Authorization:", protocol(b"bearer", rig.token()))
    assert head.get("Sec-WebSocket-Protocol") is None


@pytest.mark.parametrize("carrier", ["header", "query"])
def test_token_where_the_plugin_lists_none_is_a_missing_one(rig: Rig, carrier: str) -> None:
    token = rig.token()
    guard(rig, "subprotocol")
    target = b"/?access_token=" + token if carrier == "query" else b"/"
    fields = [b"Authorization: Bearer " + token] if carrier == "header" else []
    assert refused(rig, 401, *fields, target=target)["error"] == "invalid_request"


def test_subprotocol_carries_on_an_http_route_too(rig: Rig) -> None:
    guard(rig, protocols="http")
    token = rig.token()
    head, answer = admitted(rig, b"/", protocol(b"bearer", token, b"chat"))
    assert head.get("Sec-WebSocket-Protocol") == "chat"
    assert answer.get("Sec-WebSocket-Protocol") == "bearer"
    client = rig.client(request(b"/", protocol(b"bearer", token)))
    assert client.answer()[0].status == 401  # of a WebSocket alone


# --- cookies --------------------------------------------------------------------------------------


def test_s60_cookie_admits_a_listed_origin_and_stays_here(rig: Rig) -> None:
    guard(rig)
    token = rig.token()
    head, _ = admitted(rig, b"/", ORIGIN, b"Cookie: a=1; tok=" + token + b"; b=2")
    assert head.get("Cookie") == "a=1; b=2"
    head, _ = admitted(rig, b"/", ORIGIN, b"Cookie: tok=" + token)
    assert head.get("Cookie") is None


def test_s60_cookie_without_an_origin_or_from_a_foreign_one_is_refused(rig: Rig) -> None:
    guard(rig)
    cookie = b"Cookie: tok=" + rig.token()
    assert refused(rig, 401, cookie)["error"] == "invalid_request"
    assert refused(rig, 403, cookie, FOREIGN)["message"] == "Origin not allowed"
    assert refused(rig, 403, cookie, ORIGIN, FOREIGN)["message"] == "Origin not allowed"


def test_s60_cookie_is_nothing_where_no_origin_is_listed(rig: Rig) -> None:
    rig.guarded_route({"carriers": ALL, "cookie_name": "tok"})
    assert refused(rig, 401, b"Cookie: tok=" + rig.token(), ORIGIN)["error"] == "invalid_request"


@pytest.mark.parametrize("carriers", [("header", "query"), ("header", "subprotocol", "ticket")])
def test_s60_cookie_that_is_not_listed_is_the_upstreams(
    rig: Rig, carriers: tuple[str, ...]
) -> None:
    guard(rig, *carriers)
    token = rig.token()
    cookie = b"Cookie: tok=" + token
    assert refused(rig, 401, cookie, ORIGIN)["error"] == "invalid_request"
    head, _ = admitted(rig, b"/", cookie, b"Authorization: Bearer " + token)
    assert head.get("Cookie") == "tok=" + token.decode()


def test_two_cookies_of_the_name_are_a_400(rig: Rig) -> None:
    guard(rig)
    token = rig.token()
    assert refused(rig, 400, ORIGIN, b"Cookie: tok=" + token + b"; tok=x")
    assert refused(rig, 400, ORIGIN, b"Cookie: tok=" + token, b"Cookie: tok=x")


def test_s60_page_of_a_foreign_origin_gets_nothing_by_a_plain_request(rig: Rig) -> None:
    guard(rig, protocols="http")
    cookie = b"Cookie: tok=" + rig.token()
    for fields in ((cookie,), (cookie, FOREIGN), (cookie, ORIGIN, ORIGIN)):
        assert rig.client(request(b"/", *fields)).answer()[0].status == 401
    rig.client(request(b"/", cookie, ORIGIN))
    upstream = rig.upstream.accept()
    assert upstream.head().get("Cookie") is None
    upstream.send(OK)


# --- nothing is left, S61 -------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ALL)
@pytest.mark.parametrize("form", ["bearer", "token", "bare"])
def test_s61_hidden_token_leaves_no_trace(rig: Rig, carrier: str, form: str) -> None:
    guard(rig, hide_credentials=True)
    token = rig.token()
    ticket = rig.token(2, put=False)
    fields = [b"Referer: https://app.example/?access_token=" + token, ORIGIN]
    target = b"/p?x=1"
    if carrier == "header":
        word = {"bearer": b"Bearer ", "token": b"token ", "bare": b""}[form]
        fields.append(b"Authorization: " + word + token)
        target += b"&access_token=" + token  # the same once more
    elif carrier == "query":
        target = b"/p?access_token=" + token + b"&x=1"
    elif carrier == "subprotocol":
        fields.append(protocol(b"bearer", token))
    elif carrier == "cookie":
        fields.append(b"Cookie: tok=" + token)
    else:
        target += b"&ticket=" + ticket
        fields[0] = b"Referer: https://app.example/?t=" + ticket
    client = rig.client(handshake(target, *fields))
    if carrier == "ticket":
        rig.engine.answer_ticket(rig.question()[1], "known", wire.token_digest(token.decode()))
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.target == "/p?x=1"
    assert token.decode() not in str(head) and ticket.decode() not in str(head)
    assert head.get("Referer") is None and head.get("Cookie") is None
    upstream.send(switching())
    assert client.head().status == 101


def test_query_goes_on_as_it_came_beside_a_header(rig: Rig) -> None:
    """§6.4, Kong: with the header present, an access_token of the query is passed through."""
    guard(rig, "header", "query", hide_credentials=True)
    target = b"/?&a=1&access_token=other&&b=%20&"
    head, _ = admitted(rig, target, b"Authorization: Bearer " + rig.token())
    assert head.target == target.decode()


# --- tickets --------------------------------------------------------------------------------------


def ask(rig: Rig, target: bytes, *fields: bytes) -> tuple[Line, Any]:
    client = rig.client(handshake(target, *fields))
    kind, *asked = rig.question()
    assert kind == "ticket"
    return client, asked


@pytest.mark.parametrize("where", ["query", "subprotocol", "escaped"])
def test_ticket_is_asked_for_once_and_admits_as_its_token(rig: Rig, where: str) -> None:
    guard(rig)
    token, ticket = rig.token(1, scope="email", user_id="u7"), rig.token(2, put=False)
    target = {
        "query": b"/a/%62?x=1&ticket=" + ticket,
        "escaped": b"/a/%62?ticke%74=" + ticket + b"&x=1",
        "subprotocol": b"/a/b?x=1",
    }[where]
    fields = [protocol(b"ticket." + ticket, b"chat")] if where == "subprotocol" else []
    client, (ref, digest, host, path, origin) = ask(rig, target, ORIGIN, *fields)
    assert digest == wire.token_digest(ticket.decode())
    assert (host, path, origin) == ("gateway.test", "/a/b", "https://app.example")
    rig.engine.answer_ticket(ref, "known", wire.token_digest(token.decode()))
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.target.endswith("b?x=1")
    assert head.get("X-Authenticated-UserId") == "u7"
    assert head.get("X-Consumer-ID") == text_id(CONSUMER)
    assert head.get("Sec-WebSocket-Protocol") == ("chat" if where == "subprotocol" else None)
    assert ticket.decode() not in str(head)
    upstream.send(switching())
    answer = client.head()
    assert answer.status == 101 and ticket.decode() not in str(answer)
    assert not rig.engine.questions()


def test_ticket_is_never_remembered(rig: Rig) -> None:
    guard(rig)
    token, ticket = rig.token(1), rig.token(2, put=False)
    target = b"/?ticket=" + ticket
    client, (ref, *_) = ask(rig, target)
    rig.engine.answer_ticket(ref, "known", wire.token_digest(token.decode()))
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    client, (ref, *_) = ask(rig, target)
    rig.engine.answer_ticket(ref, "unknown")
    head, body = client.answer()
    assert (head.status, json.loads(body)["error"]) == (401, "invalid_token")
    client, (ref, *_) = ask(rig, target)  # nor that it was no good
    rig.engine.answer_ticket(ref, "unavailable")
    head, _ = client.answer()
    assert (head.status, head.get("Retry-After")) == (503, "1")
    assert rig.upstream.untouched()


def test_ticket_is_redeemed_once_though_its_head_is_judged_twice(rig: Rig) -> None:
    guard(rig)
    token, ticket = rig.token(1), rig.token(2, put=False)
    rig.publish(
        service(rig.upstream.port, host="up.test"),
        route(paths=["/"], session=uid(60)),
        plugin(carriers=ALL, cookie_name="tok"),
        RULES,
    )
    _, (ref, *_) = ask(rig, b"/?ticket=" + ticket)
    rig.engine.answer_ticket(ref, "known", wire.token_digest(token.decode()))
    kind, ref, host = rig.question()
    assert (kind, host) == ("name", "up.test")
    rig.names.set_addresses("up.test", [("127.0.0.1", False)])
    rig.engine.answer_name(ref, True)
    assert rig.upstream.accept().head().get("X-Consumer-ID") == text_id(CONSUMER)


@pytest.mark.parametrize("ended", ["revoked", "expired", "unheard of"])
def test_ticket_is_good_for_as_long_as_its_token(rig: Rig, ended: str) -> None:
    guard(rig)
    token = rig.token(1, put=ended != "unheard of", expires_at=1.0 if ended == "expired" else 0.0)
    digest = wire.token_digest(token.decode())
    client, (ref, *_) = ask(rig, b"/?ticket=" + rig.token(2, put=False))
    if ended == "revoked":
        rig.engine.tokens.remove(digest)
        rig.engine.tokens.put_negative(digest, 1e12)
    rig.engine.answer_ticket(ref, "known", digest)
    assert client.answer()[0].status == (503 if ended == "unheard of" else 401)
    assert rig.upstream.untouched()


def test_ticket_that_cannot_be_one_is_not_asked_for(rig: Rig) -> None:
    guard(rig)
    assert refused(rig, 401, target=b"/?ticket=junk")["error"] == "invalid_token"
    assert refused(rig, 401, protocol(b"ticket.junk"))["error"] == "invalid_token"
    assert refused(rig, 401, target=b"/?ticket=")["error"] == "invalid_request"
    assert not rig.engine.questions()


def test_two_tickets_are_a_400(rig: Rig) -> None:
    guard(rig)
    ticket = rig.token(2, put=False)
    refused(rig, 400, target=b"/?ticket=" + ticket + b"&ticket=" + ticket)
    refused(rig, 400, protocol(b"ticket." + ticket), target=b"/?ticket=" + ticket)
    refused(rig, 400, protocol(b"ticket." + ticket, b"ticket.x"))


def test_ticket_that_is_not_listed_is_the_upstreams(rig: Rig) -> None:
    guard(rig, "header")
    ticket = rig.token(2, put=False)
    assert refused(rig, 401, target=b"/?ticket=" + ticket)["error"] == "invalid_request"
    fields = (b"Authorization: Bearer " + rig.token(), protocol(b"ticket.x"))
    head, _ = admitted(rig, b"/?ticket=1", *fields)
    assert head.target == "/?ticket=1"
    assert head.get("Sec-WebSocket-Protocol") == "ticket.x"


def test_refused_ticket_goes_on_as_the_anonymous_consumer(rig: Rig) -> None:
    guard(rig, anonymous=CONSUMER)
    client, (ref, *_) = ask(rig, b"/?ticket=" + rig.token(2, put=False))
    rig.engine.answer_ticket(ref, "unknown")
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.get("X-Anonymous-Consumer") == "true"
    assert head.target == "/"
    upstream.send(switching())
    assert client.head().status == 101


def test_ticket_of_a_client_that_left_is_nobodys(rig: Rig) -> None:
    guard(rig)
    token = rig.token(1)
    client, (ref, *_) = ask(rig, b"/?ticket=" + rig.token(2, put=False))
    client.reset()
    until(lambda: rig.count("connections") == 0)
    rig.engine.answer_ticket(ref, "known", wire.token_digest(token.decode()))
    assert rig.upstream.untouched()


def test_answer_to_a_ticket_says_whose_it_is() -> None:
    """A `known` without a token, and a token with another verdict, are faults of ours."""
    made = Rig(1)
    for verdict, token in (("known", None), ("known", b"short"), ("unknown", bytes(32))):
        with pytest.raises(ValueError, match="digest"):
            made.engine.answer_ticket(0, verdict, token)
    made.close_lines()


def test_session_by_ticket_is_its_tokens(rig: Rig) -> None:
    """The record of its end names the token's credential."""
    guard(rig)
    token = rig.token(1)
    client, (ref, *_) = ask(rig, b"/?ticket=" + rig.token(2, put=False))
    rig.engine.answer_ticket(ref, "known", wire.token_digest(token.decode()))
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    client.close()
    assert rig.record("ended")["credential"] == text_id(CREDENTIAL)
