"""control/oauth2/ticket_endpoint.py: tickets, for whom and for what.  oauth2.md §14."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from sqlmodel import select

from control.oauth2.dispatch import normalise
from control.oauth2.ticket_endpoint import Place, place_of
from control.store import queries, signing_keys
from control.store.secrets import token_digest
from control.store.tables import OAuth2Credential, OAuth2Token, Plugin, Ticket
from dataplane import wire
from dataplane._http import HttpRefused, normalise_path
from tests.control.issuing import CONTEXT, JSON, ON_SERVICE, SERVICE_ID, Answer, Issuing, refused

PATH = "/x/oauth2/ticket"
URI = "wss://gateway.example/chat"
MISSING = {"error": "invalid_request", "error_description": "The access token is missing"}
INVALID = {
    "error": "invalid_token",
    "error_description": "The access token is invalid or has expired",
}


def token(issuer: Issuing, client: OAuth2Credential, text: str = "tok", **fields: Any) -> str:
    given = {"expires_in": 7200, **fields}
    with issuer.store.writing() as session:
        queries.insert_token(
            session, credential_id=client.id, access_token_digest=token_digest(text), **given
        )
    return text


def ask(issuer: Issuing, bearer: str | None = "tok", uri: object = URI, **given: Any) -> Answer:
    headers = {**JSON, **({} if bearer is None else {"authorization": f"Bearer {bearer}"})}
    headers |= given.pop("headers", {})
    body = json.dumps({"uri": uri}).encode()
    return issuer.post(**{"headers": headers, "body": body, "path": PATH, **given})


def rows(issuer: Issuing) -> list[Ticket]:
    with issuer.store.reading() as session:
        return list(session.exec(select(Ticket)))


def test_ticket_stands_for_the_token_at_one_place_for_half_a_minute(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    shown = token(issuer, app)
    began = time.time()
    answer = ask(issuer, shown, headers={"origin": "https://app.example"})
    assert answer.status == 201
    assert answer.json.keys() == {"ticket", "expires_in"} and answer.json["expires_in"] == 30
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    (row,) = rows(issuer)
    assert row.digest == token_digest(answer.json["ticket"])
    assert row.token_digest == token_digest(shown)
    assert (row.host, row.path, row.origin) == ("gateway.example", "/chat", "https://app.example")
    assert began + 30 <= row.expires_at <= time.time() + 30


def test_ticket_has_the_form_of_a_token(issuer: Issuing, app: OAuth2Credential) -> None:
    """So that data planes tell junk by its check characters."""
    token(issuer, app)
    made = {ask(issuer).json["ticket"] for _ in range(5)}
    assert len(made) == 5
    with issuer.store.reading() as session:
        key = queries.cluster_state(session).check_key
    for ticket in made:
        assert len(ticket) == 32
        assert ticket[26:] == wire.token_check(key, ticket[:26])


def test_ticket_of_a_caller_without_origin_is_bound_to_none(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    token(issuer, app)
    assert ask(issuer).status == 201
    assert [row.origin for row in rows(issuer)] == [None]


def test_form_names_the_uri_as_well(issuer: Issuing, app: OAuth2Credential) -> None:
    headers = {"authorization": f"Bearer {token(issuer, app)}"}
    assert issuer.post({"uri": URI}, headers=headers, path=PATH).status == 201


@pytest.mark.parametrize("bearer", [None, "", "unknown", "x" * 9000])
def test_token_has_to_be_there_and_good(
    issuer: Issuing, app: OAuth2Credential, bearer: str | None
) -> None:
    token(issuer, app)
    answer = ask(issuer, bearer)
    refused(answer, MISSING if bearer is None else INVALID, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert rows(issuer) == []


@pytest.mark.parametrize("why", ["expired", "other service", "global", "audience"])
def test_token_that_is_not_good_on_the_route_gets_no_ticket(
    issuer: Issuing, app: OAuth2Credential, why: str
) -> None:
    fields: dict[str, Any] = {}
    if why == "expired":
        fields = {"created_at": time.time() - 10, "expires_in": 5}
    elif why == "other service":
        fields = {"service_id": SERVICE_ID}
    elif why == "global":
        issuer.configure(global_credentials=False)
    token(issuer, app, **fields)
    if why == "audience":
        with issuer.store.writing() as session:
            (row,) = session.exec(select(OAuth2Token)).all()
            row.audience = ["https://elsewhere.example"]
            session.add(row)
    refused(ask(issuer), INVALID, 401)
    assert rows(issuer) == []


def test_token_of_the_routes_service_gets_one(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(global_credentials=False, endpoints="all")
    token(issuer, app, service_id=SERVICE_ID)
    assert ask(issuer, context=ON_SERVICE).status == 201


def test_route_with_a_service_has_it_where_endpoints_says_all(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    token(issuer, app)
    assert ask(issuer, context=ON_SERVICE).status == 404
    issuer.configure(endpoints="all")
    assert ask(issuer, context=ON_SERVICE).status == 201


def test_plugin_that_is_gone_is_no_route(issuer: Issuing, app: OAuth2Credential) -> None:
    token(issuer, app)
    with issuer.store.writing() as session:
        plugin = session.get_one(Plugin, CONTEXT.plugin_id)
        plugin.enabled = False
        session.add(plugin)
    assert ask(issuer).status == 404


@pytest.mark.parametrize("uri", [None, "", 7, ["wss://h/"], {"a": 1}, True, "a\0b"])
def test_request_without_a_uri_is_invalid(
    issuer: Issuing, app: OAuth2Credential, uri: object
) -> None:
    token(issuer, app)
    text = "The parameter uri names the WebSocket that the ticket is for"
    refused(ask(issuer, uri=uri), {"error": "invalid_request", "error_description": text})


@pytest.mark.parametrize(
    "uri",
    [
        "https://gateway.example/chat",
        "wss:/gateway.example/chat",
        "wss:///chat",
        "/chat",
        "gateway.example/chat",
        "wss://user@gateway.example/chat",
        "wss://user:pw@gateway.example/",
        "wss://gateway.example/chat#x",
        "wss://gateway.example/a b",
        "wss://gateway.example/a\r\nb",
        "wss://gateway.example/%00",
        "wss://gateway.example/%0a",
        "wss://gateway.example:port/",
        "wss://gateway.example:123456/",
        "wss://g\u00e4teway.example/",
        "wss://gateway.example/\u00e4",
        "wss://[::1/",
        "wss://" + "a" * 256 + "/",
        "wss://gateway.example/" + "a" * 8192,
        " wss://gateway.example/",
    ],
)
def test_uri_that_no_websocket_has_is_an_invalid_target(
    issuer: Issuing, app: OAuth2Credential, uri: str
) -> None:
    token(issuer, app)
    text = "The uri has to be as wss://host/path, without a user or fragment"
    refused(ask(issuer, uri=uri), {"error": "invalid_target", "error_description": text})
    assert rows(issuer) == []


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("wss://gateway.example/chat", ("gateway.example", "/chat")),
        ("WSS://Gateway.EXAMPLE:8443/Chat", ("gateway.example", "/Chat")),
        ("ws://127.0.0.1:8000", ("127.0.0.1", "/")),
        ("wss://[::1]:8443/a", ("[::1]", "/a")),
        ("wss://h?x=1", ("h", "/")),
        ("wss://h/a?x=1&y=/b", ("h", "/a")),
        ("wss://h/a/../b/./c//d", ("h", "/b/c/d")),
        ("wss://h/%61%2f%C3%A4", ("h", "/a%2F\u00c3\u00a4")),
        ("wss://h/a/", ("h", "/a/")),
        ("wss://h/a;b=1,c:d@e", ("h", "/a;b=1,c:d@e")),
    ],
)
def test_place_is_told_as_data_planes_tell_it(uri: str, place: tuple[str, str]) -> None:
    assert place_of(uri) == Place(*place)
    raw = "/" + uri.partition("://")[2].partition("?")[0].partition("/")[2]
    assert normalise_path(raw.encode()).decode("latin-1") == place[1]


def test_both_planes_normalise_paths_alike() -> None:
    seed = random.randrange(2**32)
    choose = random.Random(seed)
    parts = [b"/", b"//", b".", b"..", b"/./", b"/../", b"a", b"b", b"%41", b"%2f", b"%2E", b"%"]
    parts += [b"%2", b"%zz", b"%e4", b"%25", b"~", b"%7E", b";", b"=", b"%3b", b"+", b"%20", b":"]
    for _ in range(20000):
        path = b"/" + b"".join(choose.choices(parts, k=choose.randrange(12)))
        try:
            expected = normalise_path(path)
        except HttpRefused:
            continue  # no request gets that far
        assert normalise(path) == expected, (seed, path)


JWTS = {"token_format": "jwt", "issuer": "https://auth.example", "audience": "https://a.example"}


def test_ticket_of_a_jwt_says_what_the_jwt_says_of_itself(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    """Its row does not: nobody asked for an audience."""
    issuer.configure(**JWTS)
    assert ask(issuer, issuer.grant().json["access_token"]).status == 201
    (row,) = rows(issuer)
    with issuer.store.reading() as session:
        (key,) = signing_keys.all_keys(session)
    assert (row.issuer, row.kid, row.audience) == (JWTS["issuer"], key.kid, [JWTS["audience"]])


@pytest.mark.parametrize(
    "config",
    [
        {"audience": "https://b.example"},
        {"issuer": "https://other.example"},
        {"token_format": "opaque"},
    ],
)
def test_jwt_that_no_data_plane_would_take_there_gets_no_ticket(
    issuer: Issuing, app: OAuth2Credential, config: dict[str, str]
) -> None:
    issuer.configure(**JWTS)
    token = issuer.grant().json["access_token"]
    issuer.configure(**config)
    refused(ask(issuer, token), INVALID, 401)
    assert rows(issuer) == []


def test_jwt_of_a_key_that_was_ended_gets_no_ticket(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(**JWTS)
    token = issuer.grant().json["access_token"]
    with issuer.store.writing() as session:
        (key,) = signing_keys.all_keys(session)
        signing_keys.remove(session, key.kid, time.time())
    refused(ask(issuer, token), INVALID, 401)


def test_other_methods_are_refused(issuer: Issuing) -> None:
    answer = issuer.post(path=PATH, method="GET")
    assert (answer.status, answer.json["error"]) == (405, "invalid_method")
    assert answer.headers["allow"] == "POST"


def test_body_over_64_kib_is_not_read(issuer: Issuing, app: OAuth2Credential) -> None:
    token(issuer, app)
    assert ask(issuer, uri="x" * 70000).status == 413
