"""The authorize endpoint, as far as it goes: no response type works yet.  spec/oauth2.md §5.1.

Its first checks stand, so that a backend learns of a wrong provision key first, as it will later.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import responses
from control.oauth2.client_auth import ClientAuth
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.errors import (
    InvalidAuthenticatedUserid,
    InvalidProvisionKey,
    OAuthError,
    UnsupportedResponseType,
)
from control.oauth2.https_rule import require_https
from control.oauth2.params import Params
from control.oauth2.requests import StoreThreads, parameters
from control.store import queries
from control.store.session import Store


class AuthorizeEndpoint:
    def __init__(self, store: Store, threads: StoreThreads, clients: ClientAuth) -> None:
        self._store = store
        self._threads = threads
        self._clients = clients

    async def answer(self, request: Request, context: TokenContext) -> Response:
        """The answer to a POST; raises PayloadTooLarge."""
        params = await parameters(request)
        config = await self._threads.run(lambda: self._config(context))
        if config is None:
            return responses.no_route(context)
        try:
            require_https(
                context,
                accept_terminated=config.accept_http_if_already_terminated,
                forwarded_proto=request.headers.getlist("x-forwarded-proto"),
            )
            with self._clients.counting_provision_keys(config, params, context.client_ip):
                raise _refusal(config, params)
        except OAuthError as found:
            error = found
        return responses.refused(error, params.get("state"))

    def _config(self, context: TokenContext) -> OAuth2Config | None:
        with self._store.reading() as session:
            plugin = queries.plugin_by_id(session, context.plugin_id)
            return OAuth2Config.of(plugin) if plugin is not None and plugin.enabled else None


def _refusal(config: OAuth2Config, params: Params) -> OAuthError:
    if not config.knows_provision_key(params.get("provision_key")):
        return InvalidProvisionKey()
    user_id = params.get("authenticated_userid")
    if not isinstance(user_id, str) or not user_id.strip():
        return InvalidAuthenticatedUserid("Missing authenticated_userid parameter")
    return UnsupportedResponseType()
