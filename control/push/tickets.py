"""Tickets that data planes redeem: each is good once, for the handshake that it was made for.

A ticket that is shown in the wrong place is spent all the same: somebody else has it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from control.push.questions import Recent
from control.store.tickets import TakenTicket
from dataplane import wire

REDEEMS_IN_FLIGHT_MAX = 256  # a data plane; more get no answer, which it counts as 503

Take = Callable[[bytes], Awaitable[TakenTicket | None]]
Lookup = Callable[[Sequence[bytes]], Awaitable[list[wire.Token | None]]]


class Tickets:
    """Redeems tickets: `take` has the database forget one, `lookup` reads tokens."""

    def __init__(self, take: Take, lookup: Lookup, recent: Recent) -> None:
        self._take = take
        self._lookup = lookup
        self._recent = recent

    async def redeem(self, shown: wire.Redeem) -> wire.Redeemed:
        """Whose the ticket was; the token as it is now, after all that was sent about it."""
        ticket = await self._take(shown.digest)
        if ticket is None or not is_for(ticket, shown, time.time()):
            return wire.Redeemed(shown.id)
        while True:
            with self._recent.reading() as since:
                (token,) = await self._lookup([ticket.token_digest])
                if token is None:
                    return wire.Redeemed(shown.id)
                touched = self._recent.touched(token, since)
            if not touched:
                # A JWT says these by itself, to who has it.
                audience = ticket.audience or token.audience
                token = replace(token, issuer=ticket.issuer, kid=ticket.kid, audience=audience)
                return wire.Redeemed(shown.id, token)


def is_for(ticket: TakenTicket, shown: wire.Redeem, now: float) -> bool:
    """Whether a ticket is for this handshake; one that was made for no page is for any."""
    if ticket.expires_at <= now or (ticket.host, ticket.path) != (shown.host, shown.path):
        return False
    return ticket.origin is None or ticket.origin == shown.origin
