"""Token requests from the link, handed to the issuer's ASGI app in this process."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

import structlog

from control.oauth2.context import TokenContext
from dataplane import wire

REPLY_BODY_BYTES_MAX = 512 * 1024
RETRY_SECONDS = 1

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

log = structlog.get_logger()


class Response(Protocol):
    """What `direct` gives: a response whose body is all there."""

    @property
    def status_code(self) -> int: ...
    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def body(self) -> bytes | memoryview: ...


@dataclass(frozen=True)
class Issuer:
    """The OAuth endpoints: an ASGI app, and a shorter way to some of what it answers.

    `direct` is asked first; None of it means that this is for the app.
    """

    app: ASGIApp
    direct: Callable[[wire.TokenRequest, TokenContext], Awaitable[Response] | None] = (
        lambda _request, _context: None
    )

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        await self.app(scope, receive, send)


async def answer(
    issuer: Issuer, requests: Sequence[wire.TokenRequest], reply: Callable[[wire.TokenReply], None]
) -> None:
    """Reply to each what the issuer answers; 503 when that takes over TOKEN_REQUEST_SECONDS.

    One given up commits nothing any more, unless it is just doing that: then there is a token that
    nobody hears of, until it expires.
    """
    tasks = [asyncio.create_task(_answer(issuer, request, reply)) for request in requests]
    try:
        _, late = await asyncio.wait(tasks, timeout=wire.TOKEN_REQUEST_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
    if late:
        await asyncio.wait(late)
    for request, task in zip(requests, tasks, strict=True):
        if task.cancelled():
            log.warning("link.token_request_timeout", request_id=request.request_id)
            reply(unavailable(request.id, "The token endpoint did not answer in time"))


async def _answer(
    issuer: Issuer, request: wire.TokenRequest, reply: Callable[[wire.TokenReply], None]
) -> None:
    try:
        found = await _ask(issuer, request)
    except Exception:
        log.exception("link.token_request_fault", request_id=request.request_id)
        found = _error(request.id, 500, "server_error", "An unexpected error occurred")
    reply(found)


async def _ask(issuer: Issuer, request: wire.TokenRequest) -> wire.TokenReply:
    if len(request.body) > wire.TOKEN_REQUEST_BODY_MAX:
        return _error(request.id, 413, "invalid_request", "The request body is too large")
    context = _context(request)
    direct = issuer.direct(request, context)
    if direct is not None:
        response = await direct
        headers, body = response.raw_headers, bytes(response.body)
        return wire.TokenReply(request.id, response.status_code, headers, body)
    exchange = _Exchange(request.body)
    await issuer.app(_scope(request, context), exchange.receive, exchange.send)
    if exchange.status == 0:
        return _error(request.id, 500, "server_error", "An unexpected error occurred")
    return wire.TokenReply(request.id, exchange.status, exchange.headers, bytes(exchange.body))


def unavailable(id_: int, description: str) -> wire.TokenReply:
    """503 that asks to come back: too many in flight, or no answer in time."""
    return _error(id_, 503, "temporarily_unavailable", description)


class _Exchange:
    """The ASGI ends of one request whose body is all there."""

    def __init__(self, body: bytes) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self._request: bytes | None = body
        self._done = asyncio.Event()

    async def receive(self) -> Message:
        if self._request is not None:
            body, self._request = self._request, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._done.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(bytes(k), bytes(v)) for k, v in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if len(self.body) > REPLY_BODY_BYTES_MAX:
                raise ValueError(f"a reply of more than {REPLY_BODY_BYTES_MAX} bytes")
            if not message.get("more_body", False):
                self._done.set()


def _context(request: wire.TokenRequest) -> TokenContext:
    return TokenContext(
        plugin_id=_uuid(request.plugin),
        route_id=_uuid(request.route),
        service_id=None if request.service is None else _uuid(request.service),
        client_ip=request.client_ip,
        tls=request.tls,
        peer_trusted=request.peer_trusted,
        request_id=request.request_id,
    )


def _scope(request: wire.TokenRequest, context: TokenContext) -> Scope:
    """The ASGI scope; `narthex` in it says where the request was met."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https" if request.tls else "http",
        "path": unquote(request.path),
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers],
        "client": (request.client_ip, 0),
        "server": None,
        "state": {},
        "narthex": context,
    }


@lru_cache(maxsize=4096)
def _uuid(id_: bytes) -> str:
    return str(uuid.UUID(bytes=id_))


def _error(id_: int, status: int, error: str, description: str) -> wire.TokenReply:
    body = json.dumps({"error": error, "error_description": description}).encode()
    headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"pragma", b"no-cache"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_SECONDS).encode()))
    return wire.TokenReply(id_, status, headers, body)
