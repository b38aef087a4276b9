"""control/guard/hosts.py: which requests reach the Admin API at all."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from control.guard.hosts import Guard
from control.settings import Listen

LISTEN = Listen("127.0.0.1", 8001)
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 200 with the path it was given."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})
    else:
        await send({"type": f"{scope['type']}.reached"})


def ask(
    headers: list[tuple[bytes, bytes]],
    *,
    method: str = "GET",
    kind: str = "http",
    listen: Listen = LISTEN,
    hosts: list[str] | None = None,
    origins: list[str] | None = None,
) -> list[Any]:
    """What is sent for one request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": kind, "method": method, "path": "/services", "headers": headers}
    guard = Guard(echo, [listen], hosts or [], origins or [])
    asyncio.run(guard(scope, receive, send))
    return sent


def status(*headers: tuple[bytes, bytes], **kwargs: Any) -> int:
    found: int = ask(list(headers), **kwargs)[0]["status"]
    return found


def host(value: str, **kwargs: Any) -> int:
    return status((b"host", value.encode("latin-1")), **kwargs)


@pytest.mark.parametrize(
    "value",
    [
        "localhost",
        "localhost:8001",
        "LOCALHOST:1",
        "localhost.",
        "127.0.0.1:8001",
        "127.8.9.10",
        "[::1]",
        "[::1]:8001",
        "[0:0:0:0:0:0:0:1]",
    ],
)
def test_loopback_names_are_answered(value: str) -> None:
    assert host(value) == 200


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "value",
    [
        "evil.example",
        "evil.example:8001",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[2001:db8::1]",
        "0.0.0.0",
        "notlocalhost",
    ],
)
def test_s86_foreign_host_is_forbidden_whatever_the_method(value: str, method: str) -> None:
    assert host(value, method=method) == 403


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example",
        b"null",
        b"",
        b"http://localhost:8001",
        b"https://gui.example.evil",
        b"https://gui.example/",
        b"HTTPS://gui.example",
        b"https://gui.example:8443",
        b"https://gui.example, https://evil.example",
    ],
)
def test_s86_foreign_origin_is_forbidden_whatever_the_method(origin: bytes, method: str) -> None:
    headers = ((b"host", b"localhost"), (b"origin", origin))
    assert status(*headers, method=method, origins=["https://gui.example"]) == 403


def test_s86_listed_origin_and_host_pass() -> None:
    headers = [(b"host", b"Admin.Example:9000"), (b"origin", b"https://gui.example")]
    known: dict[str, Any] = {"hosts": ["admin.example"], "origins": ["https://gui.example"]}
    assert ask(headers, **known)[1]["body"] == b"/services"
    assert status(*headers, hosts=["admin.example"]) == 403
    assert status(*headers, origins=["https://gui.example"]) == 403


def test_s86_two_origins_are_forbidden_though_each_is_listed() -> None:
    origin = (b"origin", b"https://gui.example")
    assert status((b"host", b"localhost"), origin, origin, origins=["https://gui.example"]) == 403


@pytest.mark.parametrize(
    ("listen", "value"),
    [
        (Listen("10.1.2.3", 8001), "10.1.2.3:8001"),
        (Listen("2001:db8::1", 8001), "[2001:DB8:0::1]:8001"),
        (Listen("admin.internal", 8001), "admin.internal:8001"),
    ],
)
def test_address_of_the_listener_is_answered(listen: Listen, value: str) -> None:
    assert host(value, listen=listen) == 200
    assert host(value) == 403


def test_address_of_every_listener_is_answered() -> None:
    guard = Guard(echo, [LISTEN, Listen("10.1.2.3", 8444, tls=True)], [], [])
    assert guard._host_allowed(b"10.1.2.3:8444") and not guard._host_allowed(b"10.1.2.4:8444")


MALFORMED = [
    "",
    " ",
    ":8001",
    "localhost:",
    "localhost:99999",
    "localhost:8001:1",
    "localhost:80a",
    "localhost/services",
    "localhost/x?y=",
    "localhost?",
    "localhost#",
    "user@localhost",
    "localhost@evil.example",
    "localhost, evil.example",
    "local\thost",
    "localhost\x00",
    "local%68ost",
    "[::1",
    "::1",
    "[::1]x",
    "[localhost]",
    "[127.0.0.1]x",
    "lo\xe4calhost",
    "http://localhost",
    "..",
]


@pytest.mark.parametrize("value", MALFORMED)
def test_s87_malformed_host_reaches_nothing(value: str) -> None:
    (start, body) = ask([(b"host", value.encode("latin-1"))])
    assert start["status"] == 403
    assert json.loads(body["body"])["message"]


@pytest.mark.parametrize("value", MALFORMED)
def test_s87_malformed_host_never_names_the_path(value: str) -> None:
    """Not even one that ADMIN_HOSTS lists by mistake."""
    assert host(value, hosts=[value]) == 403


def test_s87_missing_or_repeated_host_reaches_nothing() -> None:
    assert status() == 403
    assert status((b"host", b"localhost"), (b"host", b"localhost")) == 403


def test_refusal_is_json_and_tells_the_setting_but_not_the_value() -> None:
    start, body = ask([(b"host", b"evil.example")])
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json; charset=utf-8"
    assert int(headers[b"content-length"]) == len(body["body"])
    assert "ADMIN_HOSTS" in json.loads(body["body"])["message"]
    assert b"evil" not in body["body"]
    _, body = ask([(b"host", b"localhost"), (b"origin", b"https://evil.example")])
    assert "ADMIN_ORIGINS" in json.loads(body["body"])["message"]


def test_websocket_from_elsewhere_is_closed_and_lifespan_passes() -> None:
    assert ask([(b"host", b"evil.example")], kind="websocket")[0]["type"] == "websocket.close"
    assert ask([(b"host", b"localhost")], kind="websocket")[0]["type"] == "websocket.reached"
    assert ask([], kind="lifespan")[0]["type"] == "lifespan.reached"
