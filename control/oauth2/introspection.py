"""The introspection endpoint: what a token is good for, told to those it is shown to.  RFC 7662.

A client that authenticates at an instance may ask about the tokens of that instance: those that it
issued, and those that it would admit where the endpoint is, by service, `global_credentials` and
audience. About a refresh token only its own client may ask. All else is `{"active":false}` without
a reason: unknown, expired, revoked, of a key that was ended, or not theirs (S38).
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel
from sqlmodel import Session

from control.oauth2 import held_tokens
from control.oauth2.client_endpoint import ClientEndpoint
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.store import queries
from control.store.tables import OAuth2Credential, OAuth2Token
from dataplane import jws

INACTIVE: dict[str, Any] = {"active": False}

Claims = dict[str, Any]  # of a JWT that was verified


class Introspection(BaseModel):
    """RFC 7662 §2.2.  Of a token that is not active, `active` alone."""

    active: bool
    scope: str | None = None
    client_id: str | None = None
    username: str | None = None
    token_type: str | None = None
    exp: int | None = None
    iat: int | None = None
    sub: str | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    jti: str | None = None


class IntrospectionEndpoint(ClientEndpoint):
    public_clients = False
    always_401 = True  # RFC 7662 §2.3

    def _respond(
        self, client: OAuth2Credential, config: OAuth2Config, context: TokenContext, token: str
    ) -> dict[str, Any]:
        with self._store.reading() as session:
            row = held_tokens.access_token(session, token, self._keys)
            if row is not None:
                claims = held_tokens.verified_claims(token, self._keys) if row.is_jwt else None
                good = (
                    not _has_ended(row)
                    and row.is_jwt == (claims is not None)
                    and _is_of(row, claims, config, context)
                )
                return _access(session, row, claims, config) if good else INACTIVE
            row = held_tokens.refresh_token(session, token)
            if row is None or row.credential_id != client.id:
                return INACTIVE
            return _described(row, client) | {"exp": row.gone_at and int(row.gone_at)}


def _has_ended(row: OAuth2Token) -> bool:
    expiry = queries.token_expiry(row.created_at, row.expires_in, row.gone_at)
    return bool(expiry) and expiry <= time.time()


def _is_of(
    row: OAuth2Token, claims: Claims | None, config: OAuth2Config, context: TokenContext
) -> bool:
    """Whether the instance issued the token or, where it is asked, would admit it."""
    if row.plugin_id == config.plugin_id:
        return True
    if claims is not None and not held_tokens.is_taken(claims, config):
        return False
    return held_tokens.is_admitted(row.service_id, _audience(row, claims), config, context)


def _audience(row: OAuth2Token, claims: Claims | None) -> list[str]:
    """A JWT names its own; its row has none where nobody asked for one."""
    return list(row.audience or ()) if claims is None else jws.audiences(claims)


def _access(
    session: Session, row: OAuth2Token, claims: Claims | None, config: OAuth2Config
) -> dict[str, Any]:
    owner = session.get_one(OAuth2Credential, row.credential_id)
    expiry = queries.token_expiry(row.created_at, row.expires_in, row.gone_at)
    audience = _audience(row, claims)
    if claims is not None:
        name = claims["iss"]
    else:
        issuer = config if row.plugin_id == config.plugin_id else _issuer(session, row)
        name = issuer and issuer.issuer
    return _described(row, owner) | {
        "token_type": "bearer",
        "exp": int(expiry) or None,
        "aud": audience[0] if len(audience) == 1 else audience or None,
        "iss": name,
        "jti": row.id if row.is_jwt else None,
    }


def _issuer(session: Session, row: OAuth2Token) -> OAuth2Config | None:
    plugin = None if row.plugin_id is None else queries.plugin_by_id(session, row.plugin_id)
    return None if plugin is None else OAuth2Config.of(plugin)


def _described(row: OAuth2Token, owner: OAuth2Credential) -> dict[str, Any]:
    return {
        "active": True,
        "scope": row.scope,
        "client_id": owner.client_id,
        "username": row.authenticated_userid,
        "sub": row.authenticated_userid or owner.client_id,
        "iat": int(row.created_at),
    }
