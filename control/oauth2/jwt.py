"""JWT access tokens.  RFC 9068; what they claim is written in `dataplane.jws`."""

from __future__ import annotations

import time

from control.oauth2.claims import Claims
from control.oauth2.config import OAuth2Config
from control.oauth2.errors import InvalidRequest
from control.oauth2.keys import Keys
from control.store import queries

TYPE = "at+jwt"


def mint(keys: Keys, config: OAuth2Config, claims: Claims) -> str:
    """A signed token that says this.

    Raises:
        InvalidRequest: it is longer than a header may be.
    """
    signing = keys.signing(config.signing_alg, time.time())
    audience = effective_audience(config, claims.audience)
    gone_at = None if config.row_ttl is None else claims.issued_at + config.row_ttl
    user_id = claims.user_id or None
    said = {
        "iss": config.issuer,
        "sub": user_id or claims.client_id,
        "aud": audience[0] if len(audience) == 1 else list(audience),
        "exp": int(queries.token_expiry(claims.issued_at, claims.expires_in, gone_at)),
        "iat": int(claims.issued_at),
        "jti": claims.id,
        "client_id": claims.client_id,
        "cid": claims.credential_id,
        "scope": claims.scope,
        "cv": signing.version,
        "pid": config.plugin_id,
        "svc": claims.service_id,
        "uid": user_id,
    }
    try:
        return signing.key.sign({k: v for k, v in said.items() if v is not None}, TYPE)
    except ValueError:
        raise InvalidRequest("The token would be too long") from None


def effective_audience(config: OAuth2Config, audience: tuple[str, ...]) -> tuple[str, ...]:
    """Who a token of this instance is for: of a JWT always somebody."""
    if audience or not config.jwt:
        return audience
    name = config.audience or config.issuer
    assert name is not None  # the Admin API sees to it
    return (name,)
