"""Which client sent a request, and whether it proves that: by its secret or by an assertion."""

from __future__ import annotations

from starlette.requests import Request

from control.oauth2 import assertions, client_auth, strict
from control.oauth2.assertions import Assertions
from control.oauth2.client_auth import ClientAuth, Presented
from control.oauth2.config import OAuth2Config
from control.oauth2.errors import InvalidClient, OAuthError
from control.oauth2.known import Known
from control.oauth2.params import Sent
from control.store.tables import OAuth2Credential


class Clients:
    """The clients of one store, for every endpoint that asks for one."""

    def __init__(self, known: Known, secrets: ClientAuth, proofs: Assertions) -> None:
        self._known = known
        self._secrets = secrets
        self._assertions = proofs

    async def find(
        self, sent: Sent, header: str | None, *, strict: bool
    ) -> tuple[Presented, OAuth2Credential | None]:
        """What the request shows of its client, and who that would be.

        Raises:
            InvalidRequest: an assertion and other credentials.
        """
        if assertions.are_sent(sent):
            if (error := assertions.mixed_error(sent, header)) is not None:
                raise error
            shown = Presented(assertions.client_id_of(sent))
        else:
            shown = client_auth.presented(sent, header, strict=strict)
        key = shown.lookup_key
        return shown, None if key is None else await self._known.client(key)

    async def proof_error(
        self,
        client: OAuth2Credential | None,
        shown: Presented,
        sent: Sent,
        config: OAuth2Config,
        address: str,
    ) -> OAuthError | None:
        """What is wrong with the proof; None for an unknown client without an assertion.

        Raises:
            TooManyFailures, Overloaded: as `ClientAuth.secret_error`.
        """
        if assertions.are_sent(sent):
            return await self._assertions.error(client, sent, config)
        return await self._secrets.secret_error(client, shown, address)

    async def authenticated(
        self, request: Request, sent: Sent, config: OAuth2Config, address: str
    ) -> OAuth2Credential:
        """The client of a request to revoke or introspect, which need one.

        Raises:
            InvalidClient: nobody, or without proof.
            InvalidRequest: credentials in two places; with `strict`: S27, S28.
        """
        header = request.headers.get(config.auth_header_name)
        if config.strict and (wrong := strict.request_error(sent, header)) is not None:
            raise wrong
        shown, client = await self.find(sent, header, strict=config.strict)
        error = await self.proof_error(client, shown, sent, config, address)
        if error is not None:
            raise error
        if client is None:
            raise InvalidClient(from_header=shown.from_header)
        return client
