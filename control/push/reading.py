"""What the link reads from the store, and takes, in worker threads, as messages of the link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlmodel import Session

from control.push.peer import Built
from control.snapshot import Builder, id_bytes
from control.store import IssuedToken, Revoked, Store, queries, tickets
from dataplane import wire

_T = TypeVar("_T")


@dataclass
class State:
    """What the database holds, as far as is known."""

    epoch: bytes = b""
    version: int = 0
    revocation_seq: int = 0


class Reader:
    """Reads of the store that do not hold up the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows = queries.RowCache()  # as the builder: of the last snapshot
        self._builder = Builder()

    async def state(self) -> State:
        return await self._read(_state)

    async def snapshot(self) -> Built:
        """The whole configuration; one call at a time.

        Raises ValueError when it is too large to send.
        """
        return await self._read(self._build)

    async def tokens(self, digests: Sequence[bytes]) -> list[wire.Token | None]:
        """The token of each digest."""

        def find(session: Session) -> list[wire.Token | None]:
            rows = queries.tokens_by_digest(session, digests)
            return [None if row is None else to_token(row) for row in rows]

        return await self._read(find)

    async def tokens_by_hand(self, after: bytes, limit: int) -> list[wire.Token]:
        """At most `limit`, in the order of their digests."""
        return await self._read(
            lambda s: [to_token(row) for row in queries.tokens_to_replay(s, after, limit)]
        )

    async def revocations_after(
        self, seq: int, limit: int
    ) -> tuple[list[wire.Superseded], list[wire.Revocation]]:
        """At most `limit`, in order; those that no longer matter are left out.

        What goes before them: which tokens took the place of refreshed ones among them.
        """

        def find(session: Session) -> tuple[list[wire.Superseded], list[wire.Revocation]]:
            rows = queries.revocations_after(session, seq, limit=limit)
            heirs = queries.heirs(session, rows)
            moved = [
                wire.Superseded(row.key, to_token(heirs[row.key]))
                for row in rows
                if row.successor is not None and row.key in heirs
            ]
            return moved, [to_revocation(row) for row in rows]

        return await self._read(find)

    async def take_ticket(self, digest: bytes) -> tickets.TakenTicket | None:
        """The ticket with this digest; nobody gets it again."""

        def take() -> tickets.TakenTicket | None:
            with self._store.writing() as session:
                return tickets.take_ticket(session, digest)

        return await asyncio.to_thread(take)

    async def _read(self, query: Callable[[Session], _T]) -> _T:
        def read() -> _T:
            with self._store.reading() as session:
                return query(session)

        return await asyncio.to_thread(read)

    def _build(self, session: Session) -> Built:
        snapshot = self._builder.build(queries.config_rows(session, self._rows))
        packed = wire.pack_snapshot(snapshot)
        if len(packed) > wire.SNAPSHOT_BYTES_MAX:
            raise ValueError(f"a snapshot of {len(packed)} bytes is more than is allowed")
        chunks = [wire.encode(chunk) for chunk in wire.split_snapshot(snapshot.version, packed)]
        return Built(snapshot.epoch, snapshot.version, chunks)


def _state(session: Session) -> State:
    row = queries.cluster_state(session)
    return State(id_bytes(row.epoch), row.config_version, row.revocation_seq)


def to_token(token: IssuedToken) -> wire.Token:
    return wire.Token(
        digest=token.digest,
        credential=id_bytes(token.credential_id),
        expires_at=token.expires_at,
        service=None if token.service_id is None else id_bytes(token.service_id),
        scope=token.scope,
        user_id=token.user_id,
        version=token.version,
        plugin=None if token.plugin_id is None else id_bytes(token.plugin_id),
        audience=list(token.audience),
        jti=None if token.jti is None else id_bytes(token.jti),
    )


def to_revocation(revoked: Revoked) -> wire.Revocation:
    return wire.Revocation(
        revoked.seq, revoked.kind, revoked.key, revoked.expires_at, revoked.version
    )
