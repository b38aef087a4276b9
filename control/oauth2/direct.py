"""The token endpoint for requests of the link, without the layers of an app around it.

The app describes the endpoints, and serves those who come by HTTP; each request pays it 300 µs for
finding one of a few functions. What comes over the link has been parsed and routed already, so the
common case, a plain POST, calls the same function at once. Everything else goes through the app.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import structlog
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from control.oauth2 import responses
from control.oauth2.dispatch import KONG, METHODS, Endpoint, endpoint_of
from control.oauth2.requests import WholeRequest

Handler = Callable[[Request, Exception], Awaitable[Response]]

log = structlog.get_logger("control")


class Direct:
    """Calls the functions behind `routes` as the app would; `handlers` are the app's."""

    def __init__(self, routes: Iterable[BaseRoute], handlers: Mapping[Any, Handler]) -> None:
        self._functions: dict[str, Callable[[Request], Awaitable[Response]]] = {
            route.path: route.endpoint for route in routes if isinstance(route, APIRoute)
        }
        self._handlers = handlers

    def __call__(self, scope: Scope, body: bytes) -> Awaitable[Response] | None:
        """The answer to come; None when this is for the app.

        That is another endpoint than Kong's, another method than the endpoint's, or a page's
        request, which CORS has to see.
        """
        endpoint = _endpoint_of(scope["raw_path"])
        if endpoint not in KONG or scope["method"] != METHODS[endpoint]:
            return None
        if any(name == b"origin" for name, _ in scope["headers"]):
            return None
        return self._answer(f"/oauth2/{endpoint}", WholeRequest(scope, body))

    async def _answer(self, path: str, request: Request) -> Response:
        try:
            return await self._functions[path](request)
        except Exception as error:
            handler = self._handlers.get(type(error))
            if handler is not None:
                return await handler(request, error)
            log.exception("unexpected error", method="POST", path=path)
            return responses.message(500, "An unexpected error occurred")


@lru_cache(maxsize=256)  # of at most 8 KiB each: what fits a request line
def _endpoint_of(raw_path: bytes) -> Endpoint | None:
    return endpoint_of(raw_path)
