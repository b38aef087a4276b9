"""Endpoints where a client asks about a token: HTTPS, who asks, and which token is meant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import responses
from control.oauth2.clients import Clients
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.errors import InvalidClient, InvalidRequest, OAuthError
from control.oauth2.https_rule import require_https
from control.oauth2.params import Sent, is_text
from control.oauth2.parts import Parts
from control.oauth2.requests import parameters
from control.store.tables import OAuth2Credential


class ClientEndpoint(ABC):
    """One of these endpoints; `_respond` is what it does."""

    public_clients = True  # may ask too, whose id proves nothing
    always_401 = False  # for a client that cannot be told, whatever the profile

    def __init__(self, parts: Parts, clients: Clients) -> None:
        self._store = parts.store
        self._threads = parts.threads
        self._known = parts.known
        self._keys = parts.keys
        self._clients = clients

    async def answer(self, request: Request, context: TokenContext) -> Response:
        """The answer to a POST; raises PayloadTooLarge, which the issuer answers."""
        sent = await parameters(request)
        instance = await self._known.instance(context.plugin_id)
        if instance is None:
            return responses.no_route(context)
        config = instance.config
        try:
            require_https(
                context,
                accept_terminated=config.accept_http_if_already_terminated,
                forwarded_proto=request.headers.getlist("x-forwarded-proto"),
            )
            client = await self._clients.authenticated(request, sent, config, context.client_ip)
            if client.client_type == "public" and not self.public_clients:
                raise InvalidClient
            token = _token_of(sent)
            found = await self._threads.run(lambda: self._respond(client, config, context, token))
        except OAuthError as error:
            told = error.told(strict=config.strict or self.always_401)
            return responses.refused(told, sent.get("state"))
        return responses.respond(200, found, responses.NO_STORE)

    @abstractmethod
    def _respond(
        self, client: OAuth2Credential, config: OAuth2Config, context: TokenContext, token: str
    ) -> dict[str, Any]:
        """The body of the answer about this token; in a thread."""


def _token_of(sent: Sent) -> str:
    """The token that a request is about.  `token_type_hint` would save us no lookup."""
    token = sent.get("token")
    if not is_text(token) or not token:
        raise InvalidRequest("token is missing")
    return token
