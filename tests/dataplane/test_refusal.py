"""Refusals that a script can read: 101, then a Close that says why.  oauth2.md §14."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dataplane import wire
from tests.dataplane.engine_kit import (
    ACCEPT,
    CLOSE,
    CONSUMER,
    KEY,
    TEXT,
    Head,
    Line,
    Rig,
    handshake,
    plugin,
    request,
    route,
    service,
    switching,
    until,
    up,
)
from tests.dataplane.engine_kit import (
    rig as new_rig,
)
from tests.dataplane.snapshots import uid

ORIGIN, FOREIGN = b"Origin: https://app.example", b"Origin: https://evil.example"
FETCH = b"Sec-Fetch-Mode: websocket"
REFUSALS_MAX = 1000  # as _refusal.pxd has it
REASON_MAX = 123


def guard(rig: Rig, how: str = "close", protocols: str = "ws", **fields: Any) -> None:
    given = {"carriers": ("header", "query", "subprotocol", "ticket"), **fields}
    rules = wire.SessionRules(uid(60), on_auth_failure=how, allowed_origins=["https://app.example"])
    rig.publish(
        service(rig.upstream.port, protocol=protocols),
        route(paths=["/"], protocols=[protocols, protocols + "s"], session=uid(60)),
        plugin(**given),
        rules,
    )


def told(client: Line) -> tuple[Head, int | None, dict[str, Any]]:
    """The 101, and code and reason of the Close behind it; then the end of the stream."""
    head = client.head()
    assert head.status == 101, head
    assert head.get("Sec-WebSocket-Accept") == ACCEPT.decode()
    assert (head.get("Upgrade"), head.get("Connection")) == ("websocket", "Upgrade")
    close = client.frame()
    assert close.opcode == CLOSE and not close.masked
    reason = close.payload[2:]
    assert len(reason) <= REASON_MAX
    assert client.rest() == b""
    return head, close.code, dict(json.loads(reason))


# --- what is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocols", ["ws", "http"])
def test_missing_and_invalid_token_are_a_close_4401(rig: Rig, protocols: str) -> None:
    guard(rig, protocols=protocols)
    _, code, reason = told(rig.client(handshake()))
    assert (code, reason["error"]) == (4401, "invalid_request")
    assert reason["error_description"] == "The access token is missing"
    _, code, reason = told(rig.client(handshake(b"/?access_token=junk")))
    assert (code, reason["error"]) == (4401, "invalid_token")
    assert rig.upstream.untouched()


def test_long_error_is_told_by_its_code_alone(rig: Rig) -> None:
    guard(rig, global_credentials=False)
    _, code, reason = told(rig.client(handshake(b"/?access_token=" + rig.token())))
    assert (code, reason) == (4401, {"error": "invalid_token"})


def test_foreign_origin_is_a_close_4403(rig: Rig) -> None:
    """S59: no upstream hears of it."""
    guard(rig)
    _, code, reason = told(rig.client(handshake(b"/", FOREIGN)))
    assert code == 4403
    assert reason == {"error": "access_denied", "error_description": "Origin not allowed"}
    assert rig.upstream.untouched()


def test_limit_that_was_met_is_a_close_4429() -> None:
    with new_rig(1, max_consumer_sessions=1) as rig:
        guard(rig)
        target = b"/?access_token=" + rig.token()
        client, _ = rig.session(target=target)
        _, code, reason = told(rig.client(handshake(target)))
        assert (code, reason["error"]) == (4429, "temporarily_unavailable")
        client.close()


def test_refusal_is_counted_and_logged_as_what_it_is(rig: Rig) -> None:
    guard(rig)
    told(rig.client(handshake()))
    record = rig.record("refused")
    assert (record["status"], record["why"]) == (401, "token missing")
    counters = rig.counters()
    assert counters["handshakes"] == {401: 1}
    assert counters["closes"] == {(4401, "client"): 1}
    assert counters["live_sessions"] == 0


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        (b"chat, v2", "chat"),
        (b"bearer, T, chat", "bearer"),
        (b"ticket.T, chat", "chat"),
        (b"base64url.bearer.authorization.k8s.io.VA, v1", "v1"),
        (b"ticket.T", None),
        (b"base64url.bearer.authorization.k8s.io.VA", None),
    ],
)
@pytest.mark.parametrize("carriers", [("header",), ("header", "subprotocol", "ticket")])
def test_s58_first_protocol_without_a_token_is_answered(
    rig: Rig, offered: bytes, answered: str | None, carriers: tuple[str, ...]
) -> None:
    """Also where the carrier is not listed: what looks like a token is not sent back."""
    guard(rig, carriers=carriers)
    client = rig.client(handshake(b"/", b"Sec-WebSocket-Protocol: " + offered))
    if b"k8s" in offered and answered is None and "subprotocol" in carriers:
        assert client.answer()[0].status == 400  # it is alone
        return
    head, code, _ = told(client)
    assert code == 4401
    assert head.get("Sec-WebSocket-Protocol") == answered
    assert b"T" not in (head.get("Sec-WebSocket-Protocol") or "").encode()


def test_refused_ticket_is_a_close_4401(rig: Rig) -> None:
    guard(rig)
    client = rig.client(handshake(b"/?ticket=" + rig.token(2, put=False)))
    kind, ref, *_ = rig.question()
    assert kind == "ticket"
    rig.engine.answer_ticket(ref, "unknown")
    _, code, reason = told(client)
    assert (code, reason["error"]) == (4401, "invalid_token")


def test_over_tls_it_is_the_same(rig: Rig, self_signed: tuple[Path, Path]) -> None:
    rig.use_tls(self_signed)
    guard(rig)
    _, code, _ = told(rig.secure(handshake()))
    assert code == 4401


# --- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "fields", "readable"),
    [
        ("http", (ORIGIN, FETCH), False),
        ("close", (), True),
        ("auto", (), False),
        ("auto", (ORIGIN,), True),
        ("auto", (FETCH,), True),
        ("auto", (b"Sec-Fetch-Mode: navigate",), False),
        ("auto", (b"sec-fetch-mode: websockets",), False),
    ],
)
def test_policy_says_who_gets_a_close(
    rig: Rig, how: str, fields: tuple[bytes, ...], readable: bool
) -> None:
    guard(rig, how)
    client = rig.client(handshake(b"/", *fields))
    if readable:
        assert told(client)[1] == 4401
    else:
        assert client.answer()[0].status == 401


def test_other_refusals_stay_http(rig: Rig) -> None:
    guard(rig)
    token = rig.token(put=False)
    two = b"Sec-WebSocket-Protocol: bearer, x, bearer, y"
    assert rig.client(handshake(b"/", two)).answer()[0].status == 400
    client = rig.client(handshake(b"/", b"Authorization: Bearer " + token))
    rig.engine.answer_token(rig.question()[1], "unavailable")
    assert client.answer()[0].status == 503
    rig.publish()
    assert rig.client(handshake()).answer()[0].status == 404


@pytest.mark.parametrize(
    "missing", [b"Sec-WebSocket-Key: " + KEY, b"Sec-WebSocket-Version: 13", b"Connection: Upgrade"]
)
def test_what_is_no_handshake_stays_http(rig: Rig, missing: bytes) -> None:
    guard(rig, protocols="http")
    whole = handshake()
    assert missing in whole
    assert rig.client(whole.replace(missing + b"\r\n", b"")).answer()[0].status == 401
    assert rig.client(request()).answer()[0].status == 401
    assert rig.client(request(method=b"POST")).answer()[0].status == 401


def test_token_that_ends_while_the_upstream_answers_stays_http(rig: Rig) -> None:
    """The upstream was asked by then."""
    guard(rig)
    token = rig.token()
    client = rig.client(handshake(b"/?access_token=" + token))
    upstream = rig.upstream.accept()
    upstream.head()
    digest = wire.token_digest(token.decode())
    rig.engine.tokens.remove(digest)
    rig.engine.tokens.put_negative(digest, 1e12)
    upstream.send(switching())
    assert client.answer()[0].status == 401


# --- bounds ---------------------------------------------------------------------------------------


def test_nothing_that_the_client_sends_is_answered(rig: Rig) -> None:
    guard(rig)
    client = rig.client(handshake() + up(TEXT, b"hello") + request())
    told(client)


def test_client_that_stays_is_cut_after_two_seconds(rig: Rig) -> None:
    guard(rig)
    began = time.monotonic()
    client = rig.client(handshake())
    told(client)  # our end of it comes at once
    for _ in range(5):
        client.send(up(TEXT, b"still here"))
    until(lambda: rig.engine.counters()["connections"] == 0)
    assert time.monotonic() - began > 1.5


def test_client_that_answers_the_close_is_gone_at_once(rig: Rig) -> None:
    guard(rig)
    client = rig.client(handshake())
    told(client)
    client.send(up(CLOSE, b"\x11\x31"))
    client.close()
    until(lambda: rig.engine.counters()["connections"] == 0, seconds=1.9)


def test_over_a_thousand_at_a_time_the_next_gets_http() -> None:
    with new_rig(1, max_sessions=4096) as rig:
        guard(rig)

        def all_within_two_seconds() -> bool:
            """Whoever is refused makes room after that."""
            began = time.monotonic()
            clients = [rig.client(handshake()) for _ in range(REFUSALS_MAX + 1)]
            statuses = [client.head().status for client in clients]
            in_time = time.monotonic() - began < 1.9
            if in_time:
                assert statuses == [101] * REFUSALS_MAX + [401]
            for client in clients:
                client.close()
            until(lambda: rig.engine.counters()["connections"] == 0)
            return in_time

        until(all_within_two_seconds, seconds=120)
        assert told(rig.client(handshake()))[1] == 4401


def test_anonymous_consumer_is_let_in(rig: Rig) -> None:
    guard(rig, anonymous=CONSUMER)
    rig.session()
