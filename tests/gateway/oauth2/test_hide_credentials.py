"""hide_credentials: no trace of the token upstream.  spec/oauth2.md §6.4."""

from __future__ import annotations

import json

import pytest

from tests.gateway.oauth2.apis import FORM_TYPE, UPGRADE, Api, App, bearer
from tests.gateway.oauth2.kit import Site


@pytest.fixture(scope="module")
def hiding(site: Site) -> Api:
    return site.api(hide_credentials=True)


@pytest.fixture(scope="module")
def token(site: Site, hiding: Api) -> str:
    return hiding.access(site.shared_app())


@pytest.mark.parametrize("shape", ["Bearer {}", "bearer {}", "token {}", "TOKEN  {}", "{}"])
def test_s61_header_with_the_token_is_removed(hiding: Api, token: str, shape: str) -> None:
    seen = hiding.get(headers=[("Authorization", shape.format(token))]).seen
    assert seen["Authorization"] is None
    assert not seen.mentions(token)


def test_s61_configured_header_is_removed(site: Site, app: App) -> None:
    api = site.api(hide_credentials=True, auth_header_name="x-token")
    token = api.access(app)
    seen = api.get(headers=[("X-Token", f"Bearer {token}"), ("Authorization", "Basic YTpi")]).seen
    assert seen["X-Token"] is None
    assert seen["Authorization"] == "Basic YTpi"
    assert not seen.mentions(token)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("access_token={}", ""),
        ("a=b&access_token={}", "a=b"),
        ("access_token={}&a=b", "a=b"),
        ("a=b&access_token={}&c=d", "a=b&c=d"),
        ("access%5ftoken={}&c=d", "c=d"),
    ],
)
def test_s61_token_is_removed_from_the_query(
    hiding: Api, token: str, query: str, left: str
) -> None:
    seen = hiding.get(target=f"/get?{query.format(token)}").seen
    assert seen.target.partition("?")[2] == left
    assert not seen.mentions(token)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("kind", [FORM_TYPE, FORM_TYPE + "; charset=utf-8"])
def test_s61_token_is_removed_from_a_form(
    site: Site, hiding: Api, token: str, method: str, kind: str
) -> None:
    body, headers = f"a=b&access_token={token}&c=d", [("Content-Type", kind)]
    seen = site.ask(method, hiding.path + "/x", body=body, headers=headers, tls=False).seen
    assert seen.body in ("a=b&c=d", "c=d&a=b")
    assert seen["Content-Length"] == str(len(seen.body))
    assert not seen.mentions(token)


def test_token_in_query_and_form_is_removed_from_both(site: Site, hiding: Api, token: str) -> None:
    target = f"{hiding.path}/x?access_token={token}&q=1"
    seen = site.ask("POST", target, form={"access_token": token, "a": "b"}, tls=False).seen
    assert (seen.target.partition("?")[2], seen.body) == ("q=1", "a=b")


def test_json_body_is_left_as_it_is(site: Site, hiding: Api, token: str) -> None:
    body = json.dumps({"a": 1, "access_token": token})
    headers = [("Content-Type", "application/json")]
    seen = site.ask("POST", hiding.path + "/x", body=body, headers=headers, tls=False).seen
    assert seen.body == body


def test_multipart_body_is_left_as_it_is(site: Site, hiding: Api, token: str) -> None:
    body = (
        '--xXx\r\nContent-Disposition: form-data; name="access_token"\r\n\r\n'
        f"{token}\r\n--xXx--\r\n"
    )
    headers = [("Content-Type", "multipart/form-data; boundary=xXx")]
    seen = site.ask("POST", hiding.path + "/x", body=body, headers=headers, tls=False).seen
    assert seen.body == body


def test_query_is_passed_on_when_the_token_came_by_header(hiding: Api, token: str) -> None:
    seen = hiding.get(token, target="/get?access_token=another&a=b").seen
    assert seen["Authorization"] is None
    assert seen.query == [("access_token", "another"), ("a", "b")]


@pytest.mark.parametrize("where", ["header", "query", "form"])
def test_everything_is_passed_on_where_nothing_is_hidden(
    site: Site, api: Api, app: App, where: str
) -> None:
    token = api.access(app)
    if where == "header":
        assert api.get(token).seen["Authorization"] == f"Bearer {token}"
    elif where == "query":
        seen = api.get(target=f"/get?access_token={token}").seen
        assert seen.query == [("access_token", token)]
    else:
        seen = site.ask("POST", api.path + "/x", form={"access_token": token}, tls=False).seen
        assert seen.body == f"access_token={token}"


@pytest.mark.parametrize("where", ["header", "bare header", "query"])
def test_s61_handshake_leaves_no_trace_of_the_token(site: Site, app: App, where: str) -> None:
    sockets = site.sockets(hide_credentials=True)
    token = sockets.issuer.access(app)
    headers = {"header": [bearer(token)], "bare header": [("Authorization", token)]}
    target = f"?a=b&access_token={token}&c=d" if where == "query" else "?a=b&c=d"
    answer = sockets.handshake(headers=headers.get(where, []), target=target)
    assert answer.status == 101
    seen = site.ws.last()
    assert seen["Authorization"] is None
    assert seen.target == f"{sockets.path}?a=b&c=d"
    assert not seen.mentions(token)


def test_s61_handshake_on_an_http_route_leaves_no_trace_either(site: Site, app: App) -> None:
    """Here Upgrade goes to an upstream that answers it as plain HTTP, and says what it saw."""
    api = site.api(hide_credentials=True)
    token = api.access(app)
    seen = api.get(target=f"/x?access_token={token}&a=b", headers=UPGRADE).seen
    assert seen["Upgrade"] == "websocket"
    assert seen.query == [("a", "b")]
    assert not seen.mentions(token)


@pytest.mark.parametrize("where", ["header", "query"])
def test_s61_referer_does_not_carry_the_token_on(
    site: Site, hiding: Api, token: str, where: str
) -> None:
    referer = ("Referer", f"https://a.test/x?access_token={token}")
    if where == "header":
        answer = hiding.get(token, headers=[referer])
    else:
        answer = hiding.get(target=f"/get?access_token={token}", headers=[referer])
    assert not answer.seen.mentions(token)
