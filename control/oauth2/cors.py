"""Pages that call an OAuth endpoint from a script: CORS, for listed origins alone.

Which origins those are says `allowed_origins` of the `websocket-session` instance that runs on the
endpoint's route; only its exact origins count here, for an answer may hold a token. Cookies are
never asked for. Nothing of this touches authorize and introspect, which no page should call.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Scope, Send

from control.oauth2.requests import StoreThreads
from control.store import queries
from control.store.session import Store

MAX_AGE_SECONDS = 600  # for which a browser remembers a preflight
ENDPOINTS = frozenset(("token", "revoke", "ticket", "sessions"))
_VARY = {"Vary": "Origin"}


class Cors:
    """The rules above at work on a request to one of ENDPOINTS."""

    def __init__(self, store: Store, threads: StoreThreads) -> None:
        self._store = store
        self._threads = threads

    async def answer(
        self, scope: Scope, send: Send, route_id: str, method: str
    ) -> tuple[Response | None, Send]:
        """The answer to a preflight, or None and where the endpoint's own answer goes.

        `method`: the one that the endpoint takes. A request without Origin stays as it is.
        """
        sent = Headers(scope=scope)
        origin = sent.get("origin")
        if origin is None:
            return None, send
        allowed = await self._threads.run(lambda: allowed_origins(self._store, route_id))
        if is_preflight(scope["method"], origin, sent.get("access-control-request-method")):
            return Response(None, 204, preflight_headers(origin, allowed, method)), send
        added = [
            (k.lower().encode(), v.encode()) for k, v in answer_headers(origin, allowed).items()
        ]

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        return None, with_headers


def allowed_origins(store: Store, route_id: str) -> frozenset[str]:
    """The origins whose pages may call the endpoints on this route."""
    with store.reading() as session:
        plugin = queries.plugin_on_route(session, "websocket-session", route_id)
        listed = plugin.policy.get("allowed_origins") if plugin is not None else None
        return frozenset(origin for origin in listed or () if "*" not in origin)


def is_preflight(method: str, origin: str | None, asked_method: str | None) -> bool:
    """Whether a browser asks by this request whether it may send another."""
    return method == "OPTIONS" and origin is not None and asked_method is not None


def preflight_headers(origin: str, allowed: Collection[str], method: str) -> dict[str, str]:
    """Of the 204 that a preflight gets; without permission when the origin is not listed.

    `method`: the one that the endpoint takes.
    """
    if origin not in allowed:
        return dict(_VARY)
    return {
        **_VARY,
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": method,
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
    }


def answer_headers(origin: str | None, allowed: Collection[str]) -> dict[str, str]:
    """What lets a listed page read an answer, errors too; to be put on every one of them."""
    if origin is None or origin not in allowed:
        return dict(_VARY)
    return {
        **_VARY,
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": "Retry-After, WWW-Authenticate",
    }
