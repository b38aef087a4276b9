"""RFC 6749 §6, refresh: a new access token for an old authorization.  spec/oauth2.md §5.5.

With `strict` a refresh token is rotated, and the old one seen again ends its family: one of the
two who had it is a thief (RFC 9700 §4.14.2). Within `refresh_grace` seconds it gives the same
answer once more, since an answer may have been lost on its way.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, replace

from control.oauth2.errors import (
    InvalidClient,
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    OAuthError,
)
from control.oauth2.issuing import Grant, Issued, Issuing, Made, bound_service
from control.oauth2.params import is_text
from control.oauth2.token_request import TokenRequest
from control.store import grants
from control.store.grants import TokenRow
from control.store.secrets import token_digest
from control.store.session import WriteSession

# How long a spent token is remembered where refresh tokens live for ever.
SPENT_SECONDS_MAX = 400 * 86400.0


def grant(request: TokenRequest, issuing: Issuing) -> Issued:
    """A new access token, and a new refresh token unless they are reused.

    Raises:
        InvalidRequest: unknown, or of another service; with `strict` InvalidGrant.
        InvalidClient: another client's; with `strict` InvalidGrant.
        InvalidTarget: a resource that the token is not for.
        InvalidScope: the token has a scope that the plugin has no more.
    """
    config, sent = request.config, request.params.get("refresh_token")
    if not is_text(sent) or not sent:
        raise _invalid(request)
    digest = token_digest(sent)
    with issuing.store.reading() as session:
        row = grants.token_by_refresh(session, digest)
    if row is None:
        return _spent(request, issuing, digest)
    _check(request, row)
    if config.reuse_refresh_token and not (
        config.strict and request.client.client_type == "public"
    ):
        return _renew(request, issuing, row, sent)
    return _rotate(request, issuing, digest, row)


def _check(request: TokenRequest, row: TokenRow) -> None:
    config = request.config
    here = bound_service(config, request.context.service_id)
    if not config.global_credentials and row.service_id != here:
        raise _invalid(request)
    if row.credential_id != request.client.id:
        raise _invalid(request) if config.strict else InvalidClient
    if not set((row.scope or "").split()) <= set(config.scopes or ()):
        raise InvalidScope("Scope mismatch")


def _granted(request: TokenRequest, issuing: Issuing, row: TokenRow) -> Grant:
    """What the new token says: what the old one said, for fewer resources if so asked."""
    return Grant(
        client=request.client,
        scope=row.scope,
        user_id=row.authenticated_userid,
        refreshable=True,
        family_id=row.family_id or str(uuid.uuid4()),
        audience=issuing.audience(request, row.audience),
    )


def _renew(request: TokenRequest, issuing: Issuing, row: TokenRow, sent: str) -> Issued:
    """A new access token in the same row; the refresh token stays.  `reuse_refresh_token`."""
    # A JWT's `jti` is the id of its row, and the old one's is revoked.
    row_id = None if request.config.jwt else row.id
    made = issuing.make(request, _granted(request, issuing, row), row_id=row_id)
    with issuing.store.writing() as session:
        held = grants.hold_by_refresh(session, row.refresh_token_digest)
        if held is None:  # it went since it was read
            raise _invalid(request)
        issuing.renew(session, made, held)
    return replace(made.issued, refresh_token=sent if made.issued.expires_in else None)


def _rotate(request: TokenRequest, issuing: Issuing, digest: bytes, row: TokenRow) -> Issued:
    """A new row in the place of the old one, whose values are dead."""
    made = issuing.make(request, _granted(request, issuing, row))
    with issuing.store.writing() as session:
        old = grants.take_by_refresh(session, digest)
        if old is not None:
            issuing.insert(session, made, replaces=old)
            if request.config.strict:
                _spend(session, digest, made)
    return _spent(request, issuing, digest) if old is None else made.issued


def _spend(session: WriteSession, digest: bytes, made: Made) -> None:
    assert made.grant.family_id is not None
    config = made.request.config
    grants.spend_refresh(
        session,
        digest=digest,
        credential_id=made.claims.credential_id,
        family_id=made.grant.family_id,
        answer=json.dumps(asdict(made.issued)) if config.refresh_grace else None,
        seconds=config.row_ttl or SPENT_SECONDS_MAX,
    )


def _spent(request: TokenRequest, issuing: Issuing, digest: bytes) -> Issued:
    """The answer to a refresh token that is none: maybe it was one."""
    if request.config.strict:
        with issuing.store.reading() as session:
            row = grants.spent_refresh(session, digest)
            # What was revoked meanwhile is not given once more.
            alive = row is not None and row.answer and grants.has_family(session, row.family_id)
        if row is not None and row.credential_id == request.client.id:
            if alive and time.time() - row.spent_at <= request.config.refresh_grace:
                return Issued(**json.loads(row.answer))
            with issuing.store.writing() as session:
                grants.end_family(session, row.family_id)
    raise _invalid(request)


def _invalid(request: TokenRequest) -> OAuthError:
    error = InvalidGrant if request.config.strict else InvalidRequest
    return error("Invalid refresh_token")
