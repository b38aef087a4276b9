"""One-time tickets: kept by their digest, taken by one statement.  spec/oauth2.md §14."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import delete
from sqlmodel import Session, col, select

from control.store.tables import Ticket

_DROPPED_MAX = 100  # expired ones that the making of a new one clears


class TakenTicket(NamedTuple):
    token_digest: bytes
    host: str
    path: str
    origin: str | None
    expires_at: float
    issuer: str | None
    kid: str | None
    audience: list[str] | None


def insert_ticket(session: Session, ticket: Ticket, now: float) -> None:
    """Store a ticket, and drop some that nobody came for."""
    old = select(Ticket.digest).where(col(Ticket.expires_at) < now).limit(_DROPPED_MAX)
    session.execute(delete(Ticket).where(col(Ticket.digest).in_(old)))
    session.add(ticket)


def take_ticket(session: Session, digest: bytes) -> TakenTicket | None:
    """The ticket with this digest, which is gone from here on; None when there is none."""
    columns = [col(getattr(Ticket, name)) for name in TakenTicket._fields]
    taken = delete(Ticket).where(col(Ticket.digest) == digest).returning(*columns)
    row = session.execute(taken).one_or_none()
    return None if row is None else TakenTicket(*row)
