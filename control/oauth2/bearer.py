"""Endpoints of ours that a client calls with its access token, as it would call a resource.

spec/oauth2.md §6: where the token is, whether it is good here, and the words of a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session
from starlette.requests import Request
from starlette.responses import Response

from control.oauth2 import held_tokens, responses
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.keys import Keys
from control.oauth2.params import Params, is_text
from control.oauth2.responses import Message, OAuthErrorBody
from control.store import queries
from control.store.changes import IssuedToken
from control.store.secrets import token_digest
from dataplane import jws

TOKEN_BYTES_MAX = 8192  # as data planes read them (S10)
RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": OAuthErrorBody, "description": "No access token, or one no longer good"},
    404: {"model": Message, "description": "No such route, or not among its `endpoints`"},
    413: {"model": Message, "description": "Over 64 KiB"},
    503: {"model": OAuthErrorBody, "description": "Try again after Retry-After"},
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the token as it was shown, and what it says."""

    shown: str = field(repr=False)
    token: IssuedToken


def caller(
    session: Session,
    request: Request,
    params: Params,
    context: TokenContext,
    config: OAuth2Config,
    keys: Keys,
) -> Caller | Response:
    """Who calls, or the 401 for somebody without a good token."""
    shown = token_in(request, config, params)
    good = shown and good_token(session, shown, context, config, keys)
    return Caller(shown, good) if shown and good else refuse(shown, config)


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
    if found is None:
        return None
    here = held_tokens.is_admitted(found.service_id, found.audience, config, context)
    return found if here else None


def _proved(found: IssuedToken, token: str, config: OAuth2Config, keys: Keys) -> IssuedToken | None:
    """A JWT that its key still verifies, where JWTs of its issuer are taken."""
    claims = held_tokens.verified_claims(token, keys)
    if claims is None or not held_tokens.is_taken(claims, config):
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
