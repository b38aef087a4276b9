"""The token endpoint.  RFC 6749 §3.2; order and words are spec/oauth2.md §5.2's."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.exc import IntegrityError
from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import client_auth, responses, strict
from control.oauth2.clients import Clients
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.errors import InvalidClient, OAuthError, UnsupportedGrantType
from control.oauth2.grants import (
    authorization_code,
    client_credentials,
    password,
    refresh_token,
)
from control.oauth2.https_rule import require_https
from control.oauth2.issuing import Issued, Issuing, Made
from control.oauth2.known import Known
from control.oauth2.params import Sent, is_set
from control.oauth2.requests import StoreThreads, parameters
from control.oauth2.token_request import TokenRequest
from control.oauth2.writer import TokenWriter
from control.store import queries
from control.store.tables import OAuth2Credential

CLIENT_CREDENTIALS = "client_credentials"
GRANTS: dict[str, Callable[[TokenRequest, Issuing], Issued]] = {
    "authorization_code": authorization_code.grant,
    "password": password.grant,
    "refresh_token": refresh_token.grant,
}
GRANT_TYPES = tuple(sorted((CLIENT_CREDENTIALS, *GRANTS)))


class TokenEndpoint:
    """Issues tokens from one store."""

    def __init__(
        self,
        known: Known,
        threads: StoreThreads,
        issuing: Issuing,
        clients: Clients,
        secrets: client_auth.ClientAuth,
    ) -> None:
        self._known = known
        self._threads = threads
        self._issuing = issuing
        self._clients = clients
        self._secrets = secrets
        self._writer = TokenWriter(issuing, threads)

    async def answer(self, request: Request, context: TokenContext) -> Response:
        """The answer to a POST.

        Raises:
            PayloadTooLarge, NoService: answered by the issuer.
        """
        sent = await parameters(request)
        instance = await self._known.instance(context.plugin_id)
        if instance is None:
            return responses.no_route(context)
        config, state = instance.config, sent.get("state")
        try:
            require_https(
                context,
                accept_terminated=config.accept_http_if_already_terminated,
                forwarded_proto=request.headers.getlist("x-forwarded-proto"),
            )
            address = context.client_ip
            if _names_a_user(sent):
                self._secrets.count_provision_key(config, sent, address)
            client = await self._authenticate(request, config, sent, address)
            asked = TokenRequest(config, context, sent, instance.check_key, client)
            issued = await self._issue(asked)
        except OAuthError as error:
            return responses.refused(error.told(strict=config.strict), state)
        scope = (issued.scope or "") if config.strict and _differs(issued.scope, sent) else None
        return responses.issued(issued, state, scope=scope)

    async def _authenticate(
        self, request: Request, config: OAuth2Config, sent: Sent, address: str
    ) -> OAuth2Credential | None:
        """Steps 2 to 6 of §5.2.  Each check runs, and the last that fails is the answer.

        None: nobody has that id, which is for the grant to say; with `strict` it is said here,
        before anything that a wrong secret does not get to (S25).
        """
        header = request.headers.get(config.auth_header_name)
        if config.strict:
            wrong = strict.request_error(sent, header) or strict.missing_error(sent)
            if wrong is not None:
                raise wrong
        shown, client = await self._clients.find(sent, header, strict=config.strict)
        error = _grant_type_error(config, sent.get("grant_type"))
        if sent.get("grant_type") != CLIENT_CREDENTIALS:
            error = (
                client_auth.redirect_error(
                    client, sent, from_header=shown.from_header, strict=config.strict
                )
                or error
            )
        error = await self._clients.proof_error(client, shown, sent, config, address) or error
        if config.strict and client is None:
            error = InvalidClient()
        if error is not None:
            raise error
        if client is not None:
            await self._renew_hash(client, shown)
        return client

    async def _issue(self, request: TokenRequest) -> Issued:
        """Committed, and on its way to the data planes."""
        try:
            grant = GRANTS.get(request.params["grant_type"])
            if grant is not None:
                return await self._threads.run(lambda: grant(request, self._issuing))
            # What is asked for the most reads nothing and writes one row: they share transactions.
            made = await self._make(request)
            await self._writer.insert(made)
            return made.issued
        except IntegrityError:
            # Client, service or plugin was deleted since it was read; nothing depends on which.
            raise InvalidClient from None

    async def _make(self, request: TokenRequest) -> Made:
        if request.config.jwt:  # to sign may take a millisecond, and the key may have to be read
            return await self._threads.run(lambda: client_credentials.make(request, self._issuing))
        return client_credentials.make(request, self._issuing)

    async def _renew_hash(self, client: OAuth2Credential, shown: client_auth.Presented) -> None:
        """Store a good secret hashed as today's are, if it was hashed otherwise.  §5.2 step 6."""
        phc = await self._secrets.renewed(client, shown)
        if phc is None:
            return

        def store() -> None:
            with self._issuing.store.writing() as session:
                queries.renew_client_secret(session, client, phc)

        await self._threads.run(store)
        self._known.forget_client(client.client_id)


def _grant_type_error(config: OAuth2Config, asked: object) -> OAuthError | None:
    """Codes and refresh tokens are redeemed whatever is enabled, as Kong does.  §5.2 step 2."""
    known = isinstance(asked, str) and asked in GRANT_TYPES
    off = {
        CLIENT_CREDENTIALS: not config.enable_client_credentials,
        "password": not config.enable_password_grant,
    }
    return UnsupportedGrantType() if not known or off.get(str(asked)) else None


def _names_a_user(sent: Sent) -> bool:
    """Whether the grant asks who sends this by the provision key."""
    grant_type = sent.get("grant_type")
    return grant_type == "password" or (
        grant_type == CLIENT_CREDENTIALS and is_set(sent.get("authenticated_userid"))
    )


def _differs(scope: str | None, sent: Sent) -> bool:
    """Whether a token's scope is not what was asked for.  RFC 6749 §5.1."""
    asked = sent.get("scope")
    return is_set(asked) and set(str(asked).split()) != set((scope or "").split())
