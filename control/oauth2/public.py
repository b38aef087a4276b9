"""The endpoints that anybody may ask: the key set and the metadata.  RFC 7517, 8414, 9728."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from control.oauth2 import documents, metadata, responses
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.described import ROOT_SERVERS, SERVERS
from control.oauth2.dispatch import PATHS
from control.oauth2.issuer_routes import IssuerRoutes
from control.oauth2.parts import Parts
from control.oauth2.responses import Message, OAuthErrorBody
from control.store import signing_keys
from control.store.issuers import place_of


class KeySet(BaseModel):
    """RFC 7517 §5: the keys that JWTs of this gateway verify with, some for later."""

    keys: list[dict[str, str]]


class ServerMetadata(BaseModel):
    """RFC 8414 §2.  What is not offered is absent."""

    issuer: str
    authorization_endpoint: str | None = None
    token_endpoint: str
    jwks_uri: str | None = None
    scopes_supported: list[str] | None = None
    response_types_supported: list[str]
    response_modes_supported: list[str] | None = None
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    token_endpoint_auth_signing_alg_values_supported: list[str]
    revocation_endpoint: str | None = None
    revocation_endpoint_auth_methods_supported: list[str] | None = None
    revocation_endpoint_auth_signing_alg_values_supported: list[str] | None = None
    introspection_endpoint: str | None = None
    introspection_endpoint_auth_methods_supported: list[str] | None = None
    introspection_endpoint_auth_signing_alg_values_supported: list[str] | None = None
    code_challenge_methods_supported: list[str] | None = None


class ResourceMetadata(BaseModel):
    """RFC 9728 §2."""

    resource: str
    authorization_servers: list[str]
    scopes_supported: list[str] | None = None
    bearer_methods_supported: list[str]


class Public:
    """Answers from one store."""

    def __init__(self, parts: Parts, routes: IssuerRoutes, publish_seconds: int) -> None:
        """`publish_seconds`: for how long a key is published before it signs."""
        self._parts = parts
        self._routes = routes
        # Who keeps the key set for half that time knows every key before he meets it.
        self._keys_max_age = publish_seconds // 2

    async def keys(self, request: Request) -> Response:
        def read() -> list[dict[str, Any]]:
            with self._parts.store.reading() as session:
                return [key.public_jwk for key in signing_keys.published(session, time.time())]

        return documents.answer(
            request, {"keys": await self._parts.threads.run(read)}, self._keys_max_age
        )

    async def server(self, request: Request, context: TokenContext) -> Response:
        return await self._describe(request, context, self._server)

    async def resource(self, request: Request, context: TokenContext) -> Response:
        return await self._describe(request, context, metadata.of_resource)

    async def _describe(self, request: Request, context: TokenContext, describe: Any) -> Response:
        instance = await self._parts.known.instance(context.plugin_id)
        if instance is None or instance.config.issuer is None:
            return responses.no_route(context)
        config = instance.config
        document = await self._parts.threads.run(lambda: describe(config))
        return documents.answer(request, document, documents.METADATA_SECONDS)

    def _server(self, config: OAuth2Config) -> dict[str, Any]:
        """With the endpoints that answer on the route at the issuer's path."""
        assert config.issuer is not None
        at = place_of(config.issuer, resource=False).path + PATHS["token"]
        route = self._routes.find(at)
        here = route is not None and route.plugin_id == config.plugin_id
        bare = here and route is not None and route.service_id is None
        document = metadata.of_server(config, all_endpoints=config.all_endpoints or bare)
        if here and route is not None and not route.takes_gets:
            document.pop("jwks_uri", None)
        return document


def public_router(parts: Parts, routes: IssuerRoutes, publish_seconds: int) -> APIRouter:
    public = Public(parts, routes, publish_seconds)
    router = APIRouter()
    errors: dict[int | str, dict[str, Any]] = {
        304: {"description": "The one that you have is the newest"},
        404: {"model": Message, "description": "Not offered here"},
        405: {"model": OAuthErrorBody, "description": "Not a GET"},
        503: {"model": OAuthErrorBody, "description": "Try again after Retry-After"},
    }

    @router.get(
        PATHS["jwks"],
        name="jwks",
        summary="The keys that sign JWTs",
        response_model=KeySet,
        responses=errors,
        openapi_extra={"servers": SERVERS},
    )
    async def jwks(request: Request) -> Response:
        """The keys that JWT access tokens verify with.  May be kept as Cache-Control says."""
        return await public.keys(request)

    @router.get(
        PATHS["server_metadata"],
        name="server_metadata",
        summary="What the authorization server offers",
        response_model=ServerMetadata,
        response_model_exclude_none=True,
        responses=errors,
        openapi_extra={"servers": ROOT_SERVERS},
    )
    async def server_metadata(request: Request) -> Response:
        """What the authorization server offers, RFC 8414.

        The path of the issuer follows. Also at `/.well-known/openid-configuration`, before that
        path or behind it.
        """
        return await public.server(request, request.scope["narthex"])

    @router.get(
        PATHS["resource_metadata"],
        name="resource_metadata",
        summary="What protects a resource",
        response_model=ResourceMetadata,
        response_model_exclude_none=True,
        responses=errors,
        openapi_extra={"servers": ROOT_SERVERS},
    )
    async def resource_metadata(request: Request) -> Response:
        """What protects a resource, RFC 9728; the path of the resource follows."""
        return await public.resource(request, request.scope["narthex"])

    return router
