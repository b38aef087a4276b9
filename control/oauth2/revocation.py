"""The revocation endpoint: a client ends its own tokens.  RFC 7009.

An access token takes its refresh token along (§2.1 leaves that open: they are one row here). A
refresh token, a rotated one too, ends all that came of its authorization (S39). A token that is
nobody's is revoked already, and that is 200; another client's token is refused, and stays.
"""

from __future__ import annotations

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import held_tokens, responses
from control.oauth2.clients import Clients
from control.oauth2.context import TokenContext
from control.oauth2.errors import InvalidGrant, InvalidRequest, OAuthError
from control.oauth2.https_rule import require_https
from control.oauth2.keys import Keys
from control.oauth2.known import Known
from control.oauth2.params import Sent, is_text
from control.oauth2.requests import StoreThreads, parameters
from control.store import grants, queries
from control.store.secrets import token_digest
from control.store.session import Store, WriteSession
from control.store.tables import OAuth2Credential, OAuth2Token


class Revoked(BaseModel):
    """Nothing: the token is no good, whatever it was."""


class RevocationEndpoint:
    def __init__(
        self, store: Store, threads: StoreThreads, known: Known, clients: Clients, keys: Keys
    ) -> None:
        self._store = store
        self._threads = threads
        self._known = known
        self._clients = clients
        self._keys = keys

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
            token = token_of(sent)
            await self._threads.run(lambda: self._revoke(client, token))
        except OAuthError as error:
            return responses.refused(error.told(strict=config.strict), sent.get("state"))
        return responses.respond(200, {}, responses.NO_STORE)

    def _revoke(self, client: OAuth2Credential, token: str) -> None:
        """Committed, and on its way to the data planes."""
        with self._store.writing() as session:
            row = held_tokens.access_token(session, token, self._keys)
            if row is not None:
                _check_owner(row.credential_id, client)
                queries.delete_tokens(session, [row])
                return
            row = held_tokens.refresh_token(session, token)
            if row is not None:
                _check_owner(row.credential_id, client)
                _end(session, row)
                return
            spent = grants.spent_refresh(session, token_digest(token))
            if spent is not None:
                _check_owner(spent.credential_id, client)
                grants.end_family(session, spent.family_id)


def token_of(sent: Sent) -> str:
    """The token that a request is about.  `token_type_hint` would save us no lookup."""
    token = sent.get("token")
    if not is_text(token) or not token:
        raise InvalidRequest("token is missing")
    return token


def _check_owner(credential_id: str, client: OAuth2Credential) -> None:
    if credential_id != client.id:
        raise InvalidGrant("The token was issued to another client")


def _end(session: WriteSession, row: OAuth2Token) -> None:
    if row.family_id is None:
        queries.delete_tokens(session, [row])
    else:
        grants.end_family(session, row.family_id)
