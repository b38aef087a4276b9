"""The token endpoint.  RFC 6749 §3.2; order and words are spec/oauth2.md §5.2's."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from sqlalchemy.exc import IntegrityError
from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import client_auth, responses, secrets
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.errors import InvalidClient, NoService, OAuthError, UnsupportedGrantType
from control.oauth2.grants import client_credentials
from control.oauth2.grants.client_credentials import Grant
from control.oauth2.https_rule import require_https
from control.oauth2.params import Params
from control.oauth2.requests import StoreThreads, parameters
from control.store import queries
from control.store.secrets import token_digest
from control.store.session import Store
from control.store.tables import OAuth2Credential

CLIENT_CREDENTIALS = "client_credentials"


@dataclass(frozen=True, slots=True)
class Found:
    """What the store knows of a request, read in one transaction."""

    config: OAuth2Config
    check_key: bytes = field(repr=False)
    shown: client_auth.Presented
    client: OAuth2Credential | None


class TokenEndpoint:
    """Issues tokens from one store."""

    def __init__(
        self, store: Store, threads: StoreThreads, clients: client_auth.ClientAuth
    ) -> None:
        self._store = store
        self._threads = threads
        self._clients = clients

    async def answer(self, request: Request, context: TokenContext) -> Response:
        """The answer to a POST.

        Raises:
            PayloadTooLarge, NoService: answered by the issuer.
        """
        params = await parameters(request)
        state = params.get("state")
        found = await self._threads.run(lambda: self._look_up(request, context, params))
        if found is None:
            return responses.no_route(context)
        try:
            require_https(
                context,
                accept_terminated=found.config.accept_http_if_already_terminated,
                forwarded_proto=request.headers.getlist("x-forwarded-proto"),
            )
            address = context.client_ip
            with self._clients.counting_provision_keys(found.config, params, address):
                grant = await self._check(params, found, address)
            token = await self._threads.run(lambda: self._issue(context, found, grant))
        except OAuthError as error:
            return responses.refused(error, state)
        return responses.issued(token, found.config.token_expiration, state)

    def _look_up(self, request: Request, context: TokenContext, params: Params) -> Found | None:
        """Plugin and client; None when the plugin is gone since the request was routed."""
        with self._store.reading() as session:
            plugin = queries.plugin_by_id(session, context.plugin_id)
            if plugin is None or not plugin.enabled:
                return None
            config = OAuth2Config.of(plugin)
            header = request.headers.get(config.auth_header_name)
            shown = client_auth.presented(params, header)
            key, client = shown.lookup_key, None
            if key is not None:
                client = queries.credential_by_client_id(session, key)
            return Found(config, queries.cluster_state(session).check_key, shown, client)

    async def _check(self, params: Params, found: Found, address: str) -> Grant:
        """Steps 2 to 7 of §5.2.  Each check runs, and the last that fails is the answer."""
        error: OAuthError | None = None
        grant_type = params.get("grant_type")
        if not (grant_type == CLIENT_CREDENTIALS and found.config.enable_client_credentials):
            error = UnsupportedGrantType()
        shown, client = found.shown, found.client
        if grant_type != CLIENT_CREDENTIALS:
            error = (
                client_auth.redirect_error(client, params, from_header=shown.from_header) or error
            )
        error = await self._clients.secret_error(client, shown, address) or error
        if error is not None:
            raise error
        if client is not None:
            await self._renew_hash(client, shown)
        return client_credentials.grant(found.config, params, client)

    async def _renew_hash(self, client: OAuth2Credential, shown: client_auth.Presented) -> None:
        """Store a good secret hashed as today's are, if it was hashed otherwise.  §5.2 step 6."""
        phc = await self._clients.renewed(client, shown)
        if phc is None:
            return

        def store() -> None:
            with self._store.writing() as session:
                queries.replace_client_secret(session, client.id, phc)

        await self._threads.run(store)

    def _issue(self, context: TokenContext, found: Found, grant: Grant) -> str:
        """Make a token and store its digest; committed, and on its way to the data planes."""
        config = found.config
        if not config.global_credentials and context.service_id is None:
            raise NoService
        token = secrets.make_token(found.check_key)
        try:
            with self._store.writing() as session:
                queries.insert_token(
                    session,
                    credential_id=grant.credential_id,
                    service_id=None if config.global_credentials else context.service_id,
                    access_token_digest=token_digest(token),
                    expires_in=config.token_expiration,
                    authenticated_userid=grant.user_id,
                    scope=grant.scope,
                    created_at=time.time(),
                    ttl=config.row_ttl,
                )
        except IntegrityError:
            # Client or service was deleted since it was read; nothing depends on which.
            raise InvalidClient from None
        return token
