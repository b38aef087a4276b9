"""Tokens that are shown to the issuer: their rows, and whether they are good where it is asked."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from sqlmodel import Session, select

from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.keys import Keys
from control.store.secrets import token_digest
from control.store.tables import OAuth2Token
from dataplane import jws


def access_token(session: Session, text: str, keys: Keys) -> OAuth2Token | None:
    """The row of an access token, good or not; of a JWT also when its text was varied (S05)."""
    digest = token_digest(text)
    statement = select(OAuth2Token).where(OAuth2Token.access_token_digest == digest)
    row = session.exec(statement).first()
    if row is not None:
        return row
    jti = verified_jti(text, keys)
    found = None if jti is None else session.get(OAuth2Token, jti)
    return found if found is not None and found.is_jwt else None


def refresh_token(session: Session, text: str) -> OAuth2Token | None:
    """The row of a refresh token that can still be used."""
    statement = select(OAuth2Token).where(OAuth2Token.refresh_token_digest == token_digest(text))
    row = session.exec(statement).first()
    gone = row is not None and row.gone_at is not None and row.gone_at <= time.time()
    return None if gone else row


def verified_jti(text: str, keys: Keys) -> str | None:
    """The `jti` of a JWT that one of our keys verifies now; None for anything else."""
    claims = verified_claims(text, keys)
    return None if claims is None else str(claims["jti"])


def verified_claims(text: str, keys: Keys) -> dict[str, Any] | None:
    """What a JWT says that one of our keys verifies now; None for anything else."""
    if text.count(".") != 2:
        return None
    now = time.time()
    try:
        return jws.verify_access_token(text, keys.verifying(now), now)
    except jws.Rejected:
        return None


def is_taken(claims: dict[str, Any], config: OAuth2Config) -> bool:
    """Whether an instance takes JWTs, and those of this issuer."""
    return config.jwt and claims["iss"] == config.issuer


def is_admitted(
    service_id: str | None, audience: Collection[str], config: OAuth2Config, context: TokenContext
) -> bool:
    """Whether a data plane would take a token of this service and audience here.  §6.2, §7."""
    if audience and (config.audience or config.issuer) not in audience:
        return False
    return config.global_credentials if service_id is None else service_id == context.service_id
