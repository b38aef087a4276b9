"""The token endpoint for requests of the link, without the layers of an app around it.

The app describes the endpoints, and serves those who come by HTTP; each request pays it 300 µs for
finding one of a few functions. What comes over the link has been parsed and routed already, so the
common case, a plain POST, calls the same function at once. Everything else goes through the app.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import structlog
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from control.oauth2 import responses
from control.oauth2.context import TokenContext
from control.oauth2.dispatch import KONG, METHODS, PATHS, Endpoint, endpoint_of
from control.oauth2.requests import WholeRequest

Handler = Callable[[Request, Exception], Awaitable[Response]]

log = structlog.get_logger("control")


class Asked(Protocol):
    """A request as the link brings it; its path is as it was sent."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> bytes: ...
    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...
    @property
    def body(self) -> bytes: ...


class Direct:
    """Calls the functions behind `routes` as the app would; `handlers` are the app's."""

    def __init__(self, routes: Iterable[BaseRoute], handlers: Mapping[Any, Handler]) -> None:
        self._functions: dict[str, Callable[[Request], Awaitable[Response]]] = {
            route.path: route.endpoint for route in routes if isinstance(route, APIRoute)
        }
        self._handlers = handlers

    def __call__(self, asked: Asked, context: TokenContext) -> Awaitable[Response] | None:
        """The answer to come; None when this is for the app.

        That is another endpoint than Kong's, another method than the endpoint's, or a page's
        request, which CORS has to see.
        """
        endpoint = _endpoint_of(asked.path)
        if endpoint not in KONG or asked.method != METHODS[endpoint]:
            return None
        headers = [(name.lower(), value) for name, value in asked.headers]
        scope = {
            "type": "http",
            "method": asked.method,
            "path": asked.path,
            "query_string": asked.query,
            "headers": headers,
            "narthex": context,
        }
        request = WholeRequest(scope, asked.body)
        return None if "origin" in request.headers else self._answer(PATHS[endpoint], request)

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
def _endpoint_of(path: str) -> Endpoint | None:
    return endpoint_of(path.encode())
