"""Where access tokens are made: the value, its row, and the refresh token that comes with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from control.oauth2 import jwt, resources, secrets
from control.oauth2.claims import Claims
from control.oauth2.config import OAuth2Config
from control.oauth2.errors import NoService
from control.oauth2.keys import Keys
from control.oauth2.token_request import TokenRequest
from control.store import grants, queries
from control.store.changes import IssuedToken
from control.store.ids import ordered_id
from control.store.secrets import random_text, token_digest
from control.store.session import Store, WriteSession
from control.store.tables import OAuth2Credential


# Not frozen: one is made for each request, and a frozen one costs three times as much to make.
@dataclass(slots=True, kw_only=True)
class Grant:
    """What a token is to say, and what is to come with it."""

    client: OAuth2Credential
    scope: str | None
    user_id: str | None
    refreshable: bool = False  # a refresh token comes with it, where tokens expire
    family_id: str | None = None  # of the tokens that come of one authorization
    audience: tuple[str, ...] = ()


@dataclass(slots=True)
class Issued:
    """What a client is told of its tokens."""

    access_token: str = field(repr=False)
    expires_in: int  # seconds; 0 = never
    scope: str | None
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class Made:
    """A token that is not stored yet."""

    request: TokenRequest
    grant: Grant
    claims: Claims
    issued: Issued


class Issuing:
    """Issues tokens from one store."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.store = store
        self._keys = keys

    def access_token(self, request: TokenRequest, claims: Claims) -> str:
        """The value of a new access token: the one place where it is made.

        Raises:
            InvalidRequest: what a JWT would say is longer than a header may be.
        """
        if request.config.jwt:
            return jwt.mint(self._keys, request.config, claims)
        return secrets.make_token(request.check_key)

    def audience(
        self, request: TokenRequest, before: Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """Who a token is to be for: `resources.granted`, which raises InvalidTarget."""
        if not resources.asked(request.params):
            return tuple(before or ())
        with self.store.reading() as session:
            return resources.granted(session, request.config, request.params, before)

    def make(self, request: TokenRequest, grant: Grant, *, row_id: str | None = None) -> Made:
        """Make a token's values.  Outside of any transaction: others wait for one that writes.

        Raises:
            NoService: the token would be bound to a service, and there is none.
            InvalidRequest: as `access_token`.
        """
        claims = _claims(request, grant, row_id or ordered_id())
        refreshable = grant.refreshable and request.config.token_expiration > 0
        issued = Issued(
            access_token=self.access_token(request, claims),
            expires_in=claims.expires_in,
            scope=claims.scope,
            refresh_token=random_text() if refreshable else None,
        )
        return Made(request, grant, claims, issued)

    def insert(
        self, session: WriteSession, made: Made, *, replaces: IssuedToken | None = None
    ) -> None:
        """Store the digests of a token.

        `replaces`: the token, revoked in this transaction, whose sessions go over to this one.
        """
        claims, config, issued = made.claims, made.request.config, made.issued
        refresh_token = issued.refresh_token
        token = queries.insert_token(
            session,
            token_id=claims.id,
            credential_id=claims.credential_id,
            service_id=claims.service_id,
            access_token_digest=token_digest(issued.access_token),
            refresh_token_digest=None if refresh_token is None else token_digest(refresh_token),
            expires_in=claims.expires_in,
            authenticated_userid=claims.user_id,
            scope=claims.scope,
            created_at=claims.issued_at,
            ttl=config.row_ttl,
            plugin_id=config.plugin_id,
            family_id=made.grant.family_id,
            audience=claims.audience,
            is_jwt=config.jwt,
            told=False,
        )
        _tell(session, config, token, replaces)

    def renew(self, session: WriteSession, made: Made, row: grants.TokenRow) -> None:
        """Put a token into a held row, in the place of the one that it has.

        The row's refresh token stays.
        """
        claims, config = made.claims, made.request.config
        old, token = grants.renew_token(
            session,
            row,
            id=claims.id,
            service_id=claims.service_id,
            access_token_digest=token_digest(made.issued.access_token),
            created_at=claims.issued_at,
            expires_in=claims.expires_in,
            gone_at=None if config.row_ttl is None else claims.issued_at + config.row_ttl,
            plugin_id=config.plugin_id,
            audience=list(claims.audience) or None,
            by_hand=False,  # whoever made the one before
            is_jwt=config.jwt,
        )
        _tell(session, config, token, old)


def _tell(
    session: WriteSession, config: OAuth2Config, token: IssuedToken, replaces: IssuedToken | None
) -> None:
    """What data planes hear of a new token.

    A JWT is verified without its row, so they need not hear of it, unless it moves the sessions of
    other tokens of its client.
    """
    told = token
    if config.jwt:
        told = token._replace(audience=jwt.effective_audience(config, token.audience))
    if not config.jwt or config.session_follow == "credential":
        session.note_token(told)
    if replaces is not None:
        session.note_refreshed(replaces.digest, told)


def _claims(request: TokenRequest, grant: Grant, token_id: str) -> Claims:
    config, service_id = request.config, request.context.service_id
    if not config.global_credentials and service_id is None:
        raise NoService
    return Claims(
        id=token_id,
        client_id=grant.client.client_id,
        credential_id=grant.client.id,
        service_id=bound_service(config, service_id),
        scope=grant.scope,
        user_id=grant.user_id,
        audience=grant.audience,
        issued_at=float(int(time.time())) if config.jwt else time.time(),
        expires_in=config.token_expiration,
    )


def bound_service(config: OAuth2Config, service_id: str | None) -> str | None:
    """The service that a token or code is bound to; None with `global_credentials`.  §7."""
    return None if config.global_credentials else service_id
