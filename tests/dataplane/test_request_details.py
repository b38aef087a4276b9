"""Details of requests and answers that are easy to get wrong, with their places in the contract."""

from __future__ import annotations

import json

import pytest

from tests.dataplane.engine_kit import Rig, handshake, request, switching

TOKEN_PATH = b"/oauth2/token"


def forwarded_te(rig: Rig, *fields: bytes) -> str | None:
    client = rig.client(handshake(b"/", *fields))
    upstream = rig.upstream.accept()
    head = upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    return head.get("TE")


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ((b"TE: trailers",), "trailers"),
        ((b"TE: Trailers, deflate;q=0.5",), "trailers"),
        ((b"TE: deflate", b"TE: gzip,\ttrailers"), "trailers"),
        ((b"TE: trailers", b"Connection: TE"), "trailers"),
        ((b"TE: deflate",), None),
        ((b"TE: trailersx",), None),
        ((b"TE:",), None),
        ((), None),
    ],
)
def test_of_te_only_trailers_goes_on(rig: Rig, fields: tuple[bytes, ...], kept: str | None) -> None:
    """routing-and-proxy.md §7."""
    rig.open_route()
    assert forwarded_te(rig, *fields) == kept


def test_token_repeated_in_the_query_is_no_token(rig: Rig) -> None:
    """Repeated parameters are a list, and a token must be a string.  oauth2.md §3.1, §6.1."""
    rig.guarded_route()
    token = rig.token().decode()
    for query in (f"{token}&access_token={token}", f"{token}&a&access%5Ftoken", "&access_token"):
        head, body = rig.client(handshake(f"/?access_token={query}".encode())).answer()
        assert head.status == 401
        assert json.loads(body)["error_description"] == "The access token is missing"
    assert rig.upstream.untouched()


def test_s61_referer_with_the_token_does_not_go_on(rig: Rig) -> None:
    rig.guarded_route({"hide_credentials": True})
    token = rig.token()
    told = b"Referer: https://page.test/?t=" + token
    quiet = b"Referer: https://page.test/"
    for target, fields, kept in (
        (b"/?access_token=" + token, [told], None),
        (b"/", [b"Authorization: Bearer " + token, told], None),
        (b"/", [b"Authorization: " + token, b"Referer: https://p.test/?access_token=x"], None),
        (b"/", [b"Authorization: Bearer " + token, quiet], "https://page.test/"),
    ):
        client = rig.client(handshake(target, *fields))
        upstream = rig.upstream.accept()
        head = upstream.head()
        upstream.send(switching())
        assert client.head().status == 101
        assert token.decode() not in head.line + str(head.fields)
        assert head.get("Referer") == kept


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (b"*/*", "application/json"),
        (b"image/png", "application/json"),
        (b"text/*", "text/plain"),
        (b"application/*, text/html;q=0.9", "application/json"),
        (b"text/html, */*;q=0.8", "text/html"),
        (b"text/html;q=0.1, */*", "application/json"),
    ],
)
def test_accept_wildcards_are_honoured_in_the_engines_own_errors(
    rig: Rig, accept: bytes, kind: str
) -> None:
    """routing-and-proxy.md §9: by Accept, JSON by default; text/plain only without one."""
    rig.open_route({"retries": 0})
    client = rig.client(handshake(b"/", b"Accept: " + accept))
    rig.upstream.accept().close()
    head, _ = client.answer()
    assert (head.status, head.get("Content-Type")) == (502, f"{kind}; charset=utf-8")


def test_s30_s31_token_endpoints_errors_of_the_engine_are_json_and_not_stored(rig: Rig) -> None:
    rig.guarded_route(protocols=["http", "https"])
    for fields, body, status in (
        ([b"Content-Length: 65537"], b"", 413),
        ([b"Transfer-Encoding: chunked"], b"10001\r\n" + b"x" * 65537, 413),
        ([b"Transfer-Encoding: chunked"], b"no chunk\r\n", 400),
    ):
        client = rig.client(
            request(TOKEN_PATH, b"Accept: text/html", *fields, method=b"POST"), body
        )
        head, answer = client.answer()
        assert head.status == status
        assert json.loads(answer)["request_id"] == head.get("X-Kong-Request-Id")
        assert head.get("Content-Type") == "application/json; charset=utf-8"
        assert head.get("Cache-Control") == "no-store"
        assert head.get("Pragma") == "no-cache"
        assert head.get("X-Content-Type-Options") == "nosniff"
        assert head.get("Connection") == "close"
