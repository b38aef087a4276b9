"""ASGI middleware that gives the Admin API Kong's manners around every endpoint.

`Manners` stands before the application: HEAD answered as GET without the body, OPTIONS, 405, a
trailing slash, escapes in names. `Stamp` stands before everything, refusals of the guard included:
the headers that each answer has.
"""

import json
import re
import secrets
import time
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control.admin.errors import MethodNotAllowed

_JSON = b"application/json; charset=utf-8"


class Counts:
    """Requests of this process, for `GET /status`.  Touched by the event loop only."""

    def __init__(self) -> None:
        self.total = 0
        self.active = 0


class Stamp:
    """Puts Server, X-Kong-Admin-Latency and a JSON content type on every answer.

    X-Kong-Request-Id is made here, and never what a client sent: the log and the audit trail name
    requests by it.
    """

    def __init__(self, app: ASGIApp, server: str, counts: Counts | None = None) -> None:
        self.app = app
        self.server = server.encode("ascii")
        self.counts = counts or Counts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start = time.monotonic()
        scope = {**scope, "request_id": secrets.token_hex(16)}

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = self._headers(message, start, scope["request_id"])
                message = {**message, "headers": headers}
            await send(message)

        self.counts.total += 1
        self.counts.active += 1
        try:
            await self.app(scope, receive, stamped)
        finally:
            self.counts.active -= 1

    def _headers(
        self, message: Message, start: float, request_id: str
    ) -> list[tuple[bytes, bytes]]:
        kept = [
            (name, value)
            for name, value in message.get("headers", ())
            if name not in (b"server", b"x-kong-admin-latency")
            and (name, value) != (b"content-type", b"application/json")
        ]
        if not any(name == b"content-type" for name, _ in kept):
            kept.append((b"content-type", _JSON))
        latency = str(round((time.monotonic() - start) * 1000)).encode()
        return [
            *kept,
            (b"server", self.server),
            (b"x-kong-admin-latency", latency),
            (b"x-kong-request-id", request_id.encode()),
        ]


class Manners:
    """Answers OPTIONS and 405, turns HEAD into GET, and forgives a trailing slash.

    The first path that matches says which methods there are: `DELETE /plugins/enabled` gets 405,
    although `enabled` could be the name of a plugin.  Made when `routes_of` has all its routes.
    """

    def __init__(self, app: ASGIApp, routes_of: FastAPI) -> None:
        self.app = app
        self.paths = _methods_by_path(routes_of)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = plain_path(scope)
        allowed = next((found for path_of, found in self.paths if path_of.match(path)), None)
        if allowed is not None and scope["method"] == "OPTIONS":
            return await _answer_options(allowed, send)
        if allowed is not None and scope["method"] not in allowed:
            return await _refuse_method(allowed, send)
        scope = {**scope, "path": path}
        if scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def headless(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, headless)


def plain_path(scope: Scope) -> str:
    """The path with its escapes, so that a name may hold `%2F`, and without a trailing slash."""
    raw = scope.get("raw_path")
    path: str = quote(scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")
    return path[:-1] if path.endswith("/") and len(path) > 1 else path


def _methods_by_path(app: FastAPI) -> list[tuple[re.Pattern[str], list[str]]]:
    """Each path, in the order of routing, with the methods that it answers, sorted."""
    methods: dict[re.Pattern[str], set[str]] = {}
    for route in iter_route_contexts(app.router.routes):
        assert route.path_regex is not None
        methods.setdefault(route.path_regex, {"OPTIONS"}).update(route.methods or ())
    for found in methods.values():
        if "GET" in found:
            found.add("HEAD")
    return [(path, sorted(found)) for path, found in methods.items()]


async def _answer_options(allowed: list[str], send: Send) -> None:
    listed = ", ".join(allowed).encode()
    headers = [
        (b"allow", listed),
        (b"access-control-allow-methods", listed),
        (b"access-control-allow-headers", b"Content-Type"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse_method(allowed: list[str], send: Send) -> None:
    body = json.dumps(MethodNotAllowed().body, separators=(",", ":")).encode()
    headers = [(b"allow", ", ".join(allowed).encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 405, "headers": headers})
    await send({"type": "http.response.body", "body": body})
