"""The audit trail: each change of an entity through the Admin API, in the change's transaction.

Whoever lets a request write says so in `writer`; what a transaction does without one (a token
issued, a key that rotates by itself) leaves no record. Secrets are taken out before they get here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, delete, func, insert, select
from sqlmodel import Session

from control.store.tables import AuditRecord

_AUDIT: Table = AuditRecord.__table__  # type: ignore[attr-defined]
_INSERT = insert(_AUDIT)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one entity.  `before` is None for a new one, `after` for one that is gone."""

    change: str  # created, updated, deleted
    type: str  # the entity's table
    entity_id: str
    name: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes, from where, and who is told once it is committed."""

    who: str | None
    role: str
    address: str
    request_id: str
    tell: Callable[[Sequence[Written]], None]


writer: ContextVar[Writer | None] = ContextVar("writer", default=None)


def keep(
    session: Session, by: Writer, written: Sequence[Written], now: float | None = None
) -> None:
    """Add a record for each of these."""
    origin = {
        "at": time.time() if now is None else now,
        "request_id": by.request_id,
        "who": by.who,
        "role": by.role,
        "address": by.address,
    }
    values = [
        origin
        | {
            "change": one.change,
            "type": one.type,
            "entity_id": one.entity_id,
            "name": one.name,
            "before": one.before,
            "after": one.after,
        }
        for one in written
    ]
    session.connection().execute(_INSERT, values)


def page(
    session: Session, where: Mapping[str, str], *, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """At most `limit` records whose columns equal `where`, the newest first, below seq `before`."""
    statement = select(_AUDIT).where(*(_AUDIT.c[name] == value for name, value in where.items()))
    if before is not None:
        statement = statement.where(_AUDIT.c.seq < before)
    found = session.connection().execute(statement.order_by(_AUDIT.c.seq.desc()).limit(limit))
    return [dict(row._mapping) for row in found]


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the trail is kept."""

    days: float
    rows: int


def overdue(session: Session, retention: Retention, limit: int, now: float | None = None) -> int:
    """The seq up to which records are to go, at most `limit` of them; 0 when none is."""
    oldest = select(_AUDIT.c.seq, _AUDIT.c.at).order_by(_AUDIT.c.seq).limit(limit)
    before = (time.time() if now is None else now) - retention.days * 86400
    newest = session.connection().scalar(select(func.max(_AUDIT.c.seq))) or 0
    gone = [
        row.seq
        for row in session.connection().execute(oldest)
        if row.at < before or row.seq <= newest - retention.rows
    ]
    return max(gone, default=0)


def forget(session: Session, up_to: int) -> int:
    """Delete the records up to this seq; how many there were."""
    return session.connection().execute(delete(_AUDIT).where(_AUDIT.c.seq <= up_to)).rowcount
