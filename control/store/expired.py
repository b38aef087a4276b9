"""Rows that have expired: found by an indexed column and deleted a batch at a time.

Nobody is told: what is deleted here had ended by itself.
"""

import time
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Delete,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    select,
    text,
    update,
)
from sqlmodel import Session

from control.store.queries import SEEN_GRACE_SECONDS
from control.store.session import WriteSession
from control.store.tables import (
    AuthorizationCode,
    OAuth2Token,
    SeenAssertion,
    SpentRefreshToken,
    Ticket,
)

ANSWER_SECONDS = 60.0  # the longest `refresh_grace` that the plugin's schema allows


class _Kind(NamedTuple):
    due: Select[Any]  # the keys of what has expired, oldest first
    end: Delete | Update
    age: float = 0.0  # seconds that its time has to be past


_before: BindParameter[float] = bindparam("before")
_limit: BindParameter[int] = bindparam("limit")


def _deleted(key: Any, at: ColumnElement[Any], *conditions: Any) -> _Kind:
    due = select(key).where(at < _before, *conditions).order_by(at).limit(_limit)
    return _Kind(due, delete(key.table).where(key.in_(due)))


_TOKENS: Table = OAuth2Token.__table__  # type: ignore[attr-defined]
_SPENT: Table = SpentRefreshToken.__table__  # type: ignore[attr-defined]
_CODES: Table = AuthorizationCode.__table__  # type: ignore[attr-defined]
_TICKETS: Table = Ticket.__table__  # type: ignore[attr-defined]
_SEEN: Table = SeenAssertion.__table__  # type: ignore[attr-defined]

# As their indexes have it, to the letter: a partial index serves no other.
_ENDS_WITH_ACCESS = text(
    "NOT (refresh_token_digest IS NOT NULL) AND expires_in > 0 AND NOT by_hand"
)
_ANSWERED = text("answer IS NOT NULL")

_answered = _deleted(_SPENT.c.digest, _SPENT.c.spent_at, _ANSWERED).due
_KINDS = {
    "tokens": _deleted(_TOKENS.c.id, _TOKENS.c.gone_at),
    "access_tokens": _deleted(
        _TOKENS.c.id, _TOKENS.c.created_at + _TOKENS.c.expires_in, _ENDS_WITH_ACCESS
    ),
    "codes": _deleted(_CODES.c.id, _CODES.c.expires_at),
    "answers": _Kind(
        _answered,
        update(_SPENT).where(_SPENT.c.digest.in_(_answered)).values(answer=None),
        ANSWER_SECONDS,
    ),
    "spent_refresh_tokens": _deleted(_SPENT.c.digest, _SPENT.c.gone_at),
    "tickets": _deleted(_TICKETS.c.digest, _TICKETS.c.expires_at),
    "seen_assertions": _deleted(_SEEN.c.digest, _SEEN.c.expires_at)._replace(
        age=SEEN_GRACE_SECONDS
    ),
}
KINDS = tuple(_KINDS)


def has_expired(session: Session, kind: str, now: float | None = None) -> bool:
    """Whether there is something to delete: else no writer need wait for us."""
    params = _params(kind, 1, now)
    return session.connection().execute(_KINDS[kind].due, params).first() is not None


def delete_expired(session: WriteSession, kind: str, limit: int, now: float | None = None) -> int:
    """Delete at most `limit` rows of this kind that have expired; how many there were."""
    return session.connection().execute(_KINDS[kind].end, _params(kind, limit, now)).rowcount


def _params(kind: str, limit: int, now: float | None) -> dict[str, Any]:
    moment = time.time() if now is None else now
    return {"before": moment - _KINDS[kind].age, "limit": limit}
