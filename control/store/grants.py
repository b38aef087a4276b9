"""Codes and refresh tokens: found, taken exactly once, spent; families of tokens, and their end.

What is used once is taken by one UPDATE or DELETE with RETURNING, in the transaction that also
stores what comes of it, so that of many requests at once one succeeds, on any number of control
planes.
"""

import time
import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Row, Table, bindparam, delete, insert, or_, select, update
from sqlmodel import Session

from control.store import queries
from control.store.changes import IssuedToken
from control.store.session import WriteSession
from control.store.tables import AuthorizationCode, OAuth2Token, SpentRefreshToken

CODE_SECONDS = 300

CodeRow = Row[Any]  # of AuthorizationCode
TokenRow = Row[Any]  # of OAuth2Token
SpentRow = Row[Any]  # of SpentRefreshToken

_CODES: Table = AuthorizationCode.__table__  # type: ignore[attr-defined]
_TOKENS: Table = OAuth2Token.__table__  # type: ignore[attr-defined]
_SPENT: Table = SpentRefreshToken.__table__  # type: ignore[attr-defined]

# Put together once: SQLAlchemy takes longer for that than the database for the statement.
_now: BindParameter[float] = bindparam("now")
_INSERT_CODE = insert(_CODES)
_CODE = select(_CODES).where(_CODES.c.code_digest == bindparam("digest"))
_TAKE_CODE = (
    update(_CODES)
    .where(_CODES.c.id == bindparam("code_id"), _CODES.c.used_at.is_(None))
    .where(_CODES.c.expires_at > _now)
    .values(used_at=_now)
    .returning(_CODES.c.id)
)
_REFRESHABLE = (
    _TOKENS.c.refresh_token_digest == bindparam("digest"),
    or_(_TOKENS.c.gone_at.is_(None), _TOKENS.c.gone_at > _now),
)
_BY_REFRESH = select(_TOKENS).where(*_REFRESHABLE)
_HOLD_BY_REFRESH = _BY_REFRESH.with_for_update()
_TAKE_BY_REFRESH = delete(_TOKENS).where(*_REFRESHABLE).returning(*_TOKENS.c)
_RENEW = update(_TOKENS).where(_TOKENS.c.id == bindparam("row_id"))
_INSERT_SPENT = insert(_SPENT)
_SPENT_BY_DIGEST = select(_SPENT).where(_SPENT.c.digest == bindparam("digest"))
_OF_FAMILY = delete(_TOKENS).where(_TOKENS.c.family_id == bindparam("family"))
_END_FAMILY = _OF_FAMILY.returning(*_TOKENS.c)
_IN_FAMILY = select(_TOKENS.c.id).where(_TOKENS.c.family_id == bindparam("family")).limit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCode:
    """An authorization code as it is stored."""

    digest: bytes  # SHA-256 of the code
    credential_id: str
    service_id: str | None
    plugin_id: str
    user_id: str
    scope: str | None
    challenge: str | None
    redirect_uri: str | None  # as it was sent
    audience: tuple[str, ...] = ()


def insert_code(session: WriteSession, code: NewCode) -> None:
    """Store a code; it is good for CODE_SECONDS."""
    now = time.time()
    session.connection().execute(
        _INSERT_CODE,
        {
            "id": str(uuid.uuid4()),
            "code_digest": code.digest,
            "credential_id": code.credential_id,
            "service_id": code.service_id,
            "plugin_id": code.plugin_id,
            "authenticated_userid": code.user_id,
            "scope": code.scope,
            "challenge": code.challenge,
            "challenge_method": None if code.challenge is None else "S256",
            "redirect_uri": code.redirect_uri,
            "audience": list(code.audience) or None,
            "created_at": now,
            "expires_at": now + CODE_SECONDS,
        },
    )


def code_by_digest(session: Session, digest: bytes) -> CodeRow | None:
    """The row of a code that has not expired, used or not."""
    row = session.connection().execute(_CODE, {"digest": digest}).first()
    return row if row is not None and row.expires_at > time.time() else None


def take_code(session: WriteSession, code_id: str) -> bool:
    """Mark a code as used; False when it is that already, or expired, or gone."""
    params = {"code_id": code_id, "now": time.time()}
    return session.connection().execute(_TAKE_CODE, params).first() is not None


def token_by_refresh(session: Session, digest: bytes) -> TokenRow | None:
    """The token row whose refresh token has this SHA-256; its access token may have expired."""
    params = {"digest": digest, "now": time.time()}
    return session.connection().execute(_BY_REFRESH, params).first()


def take_by_refresh(session: WriteSession, digest: bytes) -> IssuedToken | None:
    """Delete and revoke the token with this refresh token; None when somebody was faster."""
    params = {"digest": digest, "now": time.time()}
    row = session.connection().execute(_TAKE_BY_REFRESH, params).first()
    return None if row is None else _revoked(session, row)


def hold_by_refresh(session: WriteSession, digest: bytes) -> TokenRow | None:
    """As `token_by_refresh`, and nobody else changes the row until the end of the transaction."""
    params = {"digest": digest, "now": time.time()}
    return session.connection().execute(_HOLD_BY_REFRESH, params).first()


def renew_token(
    session: WriteSession, row: TokenRow, **values: Any
) -> tuple[IssuedToken, IssuedToken]:
    """Give a held row another access token, and revoke the one that it had: old and new."""
    old = _revoked(session, row)
    session.connection().execute(_RENEW.values(values), {"row_id": row.id})
    held = session.connection().execute(
        select(_TOKENS).where(_TOKENS.c.id == values.get("id", row.id))
    )
    return old, queries.issued_token(held.one())


def spend_refresh(
    session: WriteSession,
    *,
    digest: bytes,
    credential_id: str,
    family_id: str,
    answer: str | None,
    seconds: float,
) -> None:
    """Remember a rotated refresh token for so long, with the answer it may give once more."""
    now = time.time()
    session.connection().execute(
        _INSERT_SPENT,
        {
            "digest": digest,
            "credential_id": credential_id,
            "family_id": family_id,
            "answer": answer,
            "spent_at": now,
            "gone_at": now + seconds,
        },
    )


def spent_refresh(session: Session, digest: bytes) -> SpentRow | None:
    """The row of a refresh token that was rotated."""
    return session.connection().execute(_SPENT_BY_DIGEST, {"digest": digest}).first()


def has_family(session: Session, family_id: str) -> bool:
    """Whether any token of one authorization is left."""
    return session.connection().execute(_IN_FAMILY, {"family": family_id}).first() is not None


def end_family(session: WriteSession, family_id: str) -> int:
    """Delete and revoke all tokens that came of one authorization; how many there were."""
    rows = session.connection().execute(_END_FAMILY, {"family": family_id}).all()
    for row in rows:
        _revoked(session, row)
    return len(rows)


def _revoked(session: WriteSession, row: TokenRow) -> IssuedToken:
    token = queries.issued_token(row)
    queries.note_token_revoked(session, token)
    return token
