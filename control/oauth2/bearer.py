"""Endpoints of ours that a client calls with its access token, as it would call a resource.

spec/oauth2.md §6: where the token is, whether it is good here, and the words of a refusal.
"""

from __future__ import annotations

from sqlmodel import Session
from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import held_tokens, responses
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.keys import Keys
from control.oauth2.params import Params, is_text
from control.store import queries
from control.store.changes import IssuedToken
from control.store.secrets import token_digest
from dataplane import jws

TOKEN_BYTES_MAX = 8192  # as data planes read them (S10)


def token_in(request: Request, config: OAuth2Config, params: Params) -> str | None:
    """The token that a request shows, or None.  §6.1: a header, if there, rules out the rest."""
    found = request.headers.get(config.auth_header_name)
    if found is None:
        shown = params.get("access_token")
        return shown if is_text(shown) and shown else None
    words = found.split()
    if len(words) == 2 and words[0].lower() in ("bearer", "token"):
        return words[1]
    return found.strip() or None


def good_token(
    session: Session, token: str, context: TokenContext, config: OAuth2Config, keys: Keys
) -> IssuedToken | None:
    """What a token says, if it is good on this route, as a data plane would judge it.  §6.2, §7.

    Of a JWT the audience is the one that it names: its row has none where nobody asked for one.
    """
    if len(token.encode(errors="replace")) > TOKEN_BYTES_MAX:
        return None
    found = queries.token_by_digest(session, token_digest(token))
    if found is not None and found.jti is not None:
        found = _proved(found, token, config, keys)
    if found is None or (
        found.audience and (config.audience or config.issuer) not in found.audience
    ):
        return None
    if found.service_id is None:
        return found if config.global_credentials else None
    return found if found.service_id == context.service_id else None


def _proved(found: IssuedToken, token: str, config: OAuth2Config, keys: Keys) -> IssuedToken | None:
    """A JWT that its key still verifies, where JWTs of its issuer are taken."""
    claims = held_tokens.verified_claims(token, keys)
    if claims is None or not config.jwt or claims["iss"] != config.issuer:
        return None
    return found._replace(audience=tuple(jws.audiences(claims)))


def refuse(token: str | None, config: OAuth2Config) -> Response:
    """401: there is no token, or it is no good.  §6.2."""
    if token is None:
        return responses.unauthorized(
            "invalid_request", "The access token is missing", config.realm, named=False
        )
    return responses.unauthorized(
        "invalid_token", "The access token is invalid or has expired", config.realm
    )
