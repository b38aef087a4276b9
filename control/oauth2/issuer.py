"""The issuer as an ASGI app: which endpoint, which route, and the answers they share.

Over the link it is called in process with a `TokenContext` in the scope as `narthex`. Served by
itself (ISSUER_LISTEN) it finds route and plugin by the longest path (`IssuerRoutes`).
"""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Request
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from control.oauth2 import responses
from control.oauth2.assertions import Assertions
from control.oauth2.authorize_endpoint import AuthorizeEndpoint
from control.oauth2.client_auth import ClientAuth
from control.oauth2.clients import Clients
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.cors import ENDPOINTS as WITH_CORS
from control.oauth2.cors import Cors
from control.oauth2.described import RESPONSES, UNKNOWN_CLIENT, by_client
from control.oauth2.dispatch import (
    KONG,
    METADATA,
    METHODS,
    PATHS,
    Endpoint,
    described_by,
    endpoint_of,
    normalise,
)
from control.oauth2.errors import NoService, PayloadTooLarge
from control.oauth2.introspection import Introspection, IntrospectionEndpoint
from control.oauth2.issuer_routes import IssuerRoute, IssuerRoutes
from control.oauth2.issuing import Issuing
from control.oauth2.parts import Parts
from control.oauth2.public import public_router
from control.oauth2.responses import AuthorizeAnswer, OAuthErrorBody, TokenAnswer
from control.oauth2.revocation import RevocationEndpoint, Revoked
from control.oauth2.secrets import HashVerifier
from control.oauth2.sessions_endpoint import MoveSessions, sessions_router
from control.oauth2.throttle import Throttle
from control.oauth2.ticket_endpoint import ticket_router
from control.oauth2.token_endpoint import TokenEndpoint
from control.store.issuers import Place

log = structlog.get_logger("control")


def issuer_router(
    parts: Parts,
    routes: IssuerRoutes,
    throttle: Throttle | None,
    key_publish_seconds: int,
    move_sessions: MoveSessions | None,
) -> APIRouter:
    """All endpoints, at the ends of their paths; `Dispatch` brings requests here."""
    known, threads, issuing = parts.known, parts.threads, Issuing(parts.store, parts.keys)
    secrets = ClientAuth(HashVerifier(), throttle or Throttle())
    clients = Clients(known, secrets, Assertions(parts.store, threads))
    token = TokenEndpoint(known, threads, issuing, clients, secrets)
    authorize = AuthorizeEndpoint(known, threads, issuing, secrets)
    revocation = RevocationEndpoint(parts, clients)
    introspection = IntrospectionEndpoint(parts, clients)
    router = APIRouter(tags=["oauth"])
    router.include_router(public_router(parts, routes, key_publish_seconds))

    @router.post(
        "/oauth2/token",
        name="token",
        response_model=TokenAnswer,
        summary="Issue an access token",
        responses={401: UNKNOWN_CLIENT, **RESPONSES},
        openapi_extra=by_client("Token"),
    )
    async def issue_token(request: Request) -> Response:
        """Give a client an access token.

        The client is named by `client_id` and `client_secret`, or by a Basic header. Parameters
        may also stand in the query, where those of the body win; not with oauth_profile strict.
        """
        return await token.answer(request, request.scope["narthex"])

    @router.post(
        "/oauth2/authorize",
        name="authorize",
        response_model=AuthorizeAnswer,
        summary="Grant what a user has agreed to",
        responses=RESPONSES
        | {400: {"model": AuthorizeAnswer | OAuthErrorBody, "description": "Refused"}},
        openapi_extra=by_client("Authorize", basic=False),
    )
    async def answer_authorize(request: Request) -> Response:
        """Make a code, or a token of the implicit grant, for a user whom the backend names.

        The answer says where to send the user; it is never a redirect itself.
        """
        return await authorize.answer(request, request.scope["narthex"])

    @router.post(
        "/oauth2/revoke",
        name="revoke",
        response_model=Revoked,
        summary="Revoke a token",
        responses={401: UNKNOWN_CLIENT, **RESPONSES},
        openapi_extra=by_client("Revoke"),
    )
    async def revoke(request: Request) -> Response:
        """End a token of the client that asks, RFC 7009; a refresh token with all its tokens."""
        return await revocation.answer(request, request.scope["narthex"])

    @router.post(
        "/oauth2/introspect",
        name="introspect",
        response_model=Introspection,
        response_model_exclude_none=True,
        summary="Ask what a token is good for",
        responses={401: UNKNOWN_CLIENT, **RESPONSES},
        openapi_extra=by_client("Introspect"),
    )
    async def introspect(request: Request) -> Response:
        """Say what a token is good for, RFC 7662, if it is one of the instance that is asked."""
        return await introspection.answer(request, request.scope["narthex"])

    router.include_router(sessions_router(parts, move_sessions))
    router.include_router(ticket_router(parts))
    return router


async def _too_large(request: Request, _error: Exception) -> Response:
    context: TokenContext = request.scope["narthex"]
    return responses.message(413, "Payload too large", context.request_id)


async def _no_service(_request: Request, _error: Exception) -> Response:
    return responses.message(500, "An unexpected error occurred")


async def _unavailable(request: Request, error: Exception) -> Response:
    if not (isinstance(error, OperationalError | PoolTimeout) or type(error) is DatabaseError):
        raise error  # a statement of ours was wrong
    return _no_database(request.scope, error)


def _no_database(scope: Scope, error: Exception) -> Response:
    """503, and one line in the log that says why."""
    why = str(getattr(error, "orig", error))
    log.error("database.unavailable", method=scope["method"], path=scope["path"], why=why)
    return responses.unavailable()


# For the app that `issuer_router` is put in.
EXCEPTION_HANDLERS: dict[Any, Any] = {
    PayloadTooLarge: _too_large,
    NoService: _no_service,
    OperationalError: _unavailable,
    DatabaseError: _unavailable,  # one that is damaged
    PoolTimeout: _unavailable,
}


class Dispatch:
    """ASGI middleware before `issuer_router`: finds the endpoint, the route and the method."""

    def __init__(self, app: ASGIApp, parts: Parts, routes: IssuerRoutes) -> None:
        self._app = app
        self._threads = parts.threads
        self._known = parts.known
        self._routes = routes
        self._cors = Cors(parts.store, parts.threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        endpoint = endpoint_of(raw_path)
        context: TokenContext | None = scope.get("narthex")
        try:
            if context is None:
                context = await self._threads.run(lambda: self._resolve(scope, raw_path))
            if context is None or endpoint is None or not await self._offers(context, endpoint):
                return await responses.no_route(context)(scope, receive, send)
            response: Response | None = None
            path, method = PATHS[endpoint], METHODS[endpoint]
            if endpoint in WITH_CORS:
                response, send = await self._cors.answer(scope, send, context.route_id, method)
            asked = "GET" if scope["method"] == "HEAD" else scope["method"]
            if response is None and asked != method:
                response = await self._wrong_method(scope, context, endpoint)
        except (OperationalError, PoolTimeout) as error:
            response = _no_database(scope, error)
        if response is not None:
            return await response(scope, receive, send)
        located = {"path": path, "raw_path": path.encode(), "method": method}
        inner = {**scope, **located, "narthex": context}
        await self._app(inner, receive, send)

    def _resolve(self, scope: Scope, raw_path: bytes) -> TokenContext | None:
        path = normalise(raw_path)
        described = described_by(path)
        if described is None:
            found = self._routes.find(path.decode("latin-1"))
        else:
            endpoint, issuer_path = described
            place = Place(_host(scope), issuer_path, resource=endpoint == "resource_metadata")
            plugin_id = self._routes.describing(place)
            found = IssuerRoute("", plugin_id, None) if plugin_id is not None else None
        if found is None:
            return None
        return TokenContext(
            plugin_id=found.plugin_id,
            route_id=found.route_id,
            service_id=found.service_id,
            client_ip=(scope.get("client") or ("",))[0],
            tls=scope["scheme"] == "https",
            peer_trusted=False,  # TRUSTED_IPS is about the data plane's ports
            request_id=uuid.uuid4().hex,
        )

    async def _offers(self, context: TokenContext, endpoint: Endpoint) -> bool:
        """Whether the endpoint is answered here: `endpoints` of spec/oauth2.md §2."""
        if endpoint in KONG:
            return True
        config = await self._config(context)
        if config is None:
            return False
        if endpoint in METADATA:
            return config.issuer is not None
        return config.all_endpoints or context.service_id is None

    async def _wrong_method(
        self, scope: Scope, context: TokenContext, endpoint: Endpoint
    ) -> Response:
        config = await self._config(context)
        if config is None:
            return responses.no_route(context)
        return responses.invalid_method(scope["method"], endpoint, config.realm)

    async def _config(self, context: TokenContext) -> OAuth2Config | None:
        """Of the plugin that the request was routed by, if it is there still."""
        instance = await self._known.instance(context.plugin_id)
        return None if instance is None else instance.config


def _host(scope: Scope) -> str:
    """The name in the Host header, lower case, without a port."""
    try:
        return urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
    except ValueError:
        return ""
