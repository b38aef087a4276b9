"""What the control plane says of tokens, as the live sessions hear it.  spec/oauth2.md §14.

`KnownTokens` has the tokens, the engine the sessions: a token goes out of the engine's cache before
its sessions are told (`_grants.pyx` says why). Call it from the one Python thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dataplane import wire

if TYPE_CHECKING:
    from dataplane._engine import Engine
    from dataplane.known import KnownTokens

SIBLINGS_MAX = 1000  # tokens of one client and user whose sessions a newer one takes over
MOVES_MAX = 1024  # questions how many sessions went over, that workers have not answered yet

_Group = tuple[bytes, str | None, bytes | None, bytes | None]


class Following:
    """Ends sessions with the right to them, and moves them to the token that takes a place.

    `report(id, sessions)`: how many sessions a Superseded with an id moved.
    """

    def __init__(
        self, engine: Engine, known: KnownTokens, report: Callable[[int, int], None]
    ) -> None:
        self._engine = engine
        self._known = known
        self._report = report
        self._moves: dict[int, list[int]] = {}  # id → [workers that have not said, sessions]
        self._credentials: frozenset[bytes] = frozenset()  # of the applied snapshot
        self._consumers: frozenset[bytes] = frozenset()
        self._renewals = False  # some instance has `session_follow: credential`
        # Digests, as the groups oldest first: see `known`.
        self._siblings: OrderedDict[_Group, dict[bytes, None]] = OrderedDict()
        self._sibling_count = 0

    def configured(self, snapshot: wire.Snapshot, keyless: Sequence[bytes] = ()) -> None:
        """A snapshot carries traffic; what it has no more is gone, also where we missed its end.

        `keyless`: JWTs whose key it has no more.
        """
        if keyless:
            self._engine.end_tokens(keyless)
        credentials = frozenset(credential.id for credential in snapshot.credentials)
        consumers = frozenset(consumer.id for consumer in snapshot.consumers)
        gone = self._credentials - credentials, self._consumers - consumers
        self._credentials, self._consumers = credentials, consumers
        if any(gone):
            self._engine.end_sessions(*gone)
        renewals = any(plugin.session_follow == "credential" for plugin in snapshot.oauth2)
        if renewals != self._renewals:
            self._renewals = renewals
            self._siblings.clear()
            self._sibling_count = 0
            for token in self._known.tokens() if renewals else ():
                self._remember(token)

    def revoked(self, revocations: Sequence[wire.Revocation]) -> None:
        """These were taken out of the known tokens: their sessions end."""
        ended: dict[str, list[bytes]] = {}
        for revocation in revocations:
            ended.setdefault(revocation.kind, []).append(revocation.key)
        if tokens := ended.pop("token", None):
            self._engine.end_tokens(tokens)
        if ended:
            self._engine.end_sessions(
                credentials=ended.get("credential", ()),
                consumers=ended.get("consumer", ()),
                plugins=ended.get("plugin", ()),
                jtis=ended.get("jti", ()),
            )

    def issued(self, token: wire.Token) -> None:
        """A token we did not know: sessions of older ones may go over to it (`session_follow`)."""
        if not self._renewals:
            return
        if older := [old for old in self._siblings_of(token) if self._covers(old, token)]:
            self._move(older, token, "renewed")
        self._remember(token)

    def superseded(self, message: wire.Superseded) -> None:
        """The sessions of the old token go over; with an id, the count is reported."""
        if message.id == 0:
            self._move([message.old], message.token, "refreshed")
            return
        self._moves[message.id] = [self._engine.worker_count, 0]
        if len(self._moves) > MOVES_MAX:  # a worker could not say: nobody waits any more
            del self._moves[next(iter(self._moves))]
        self._move([message.old], message.token, "asked", message.id)

    def moved(self, id_: int, sessions: int) -> None:
        """One worker says how many of its sessions went over."""
        move = self._moves.get(id_)
        if move is None:
            return
        move[0] -= 1
        move[1] += sessions
        if move[0] == 0:
            del self._moves[id_]
            self._report(id_, move[1])

    def _move(self, olds: list[bytes], token: wire.Token, how: str, id_: int = 0) -> None:
        self._engine.move_sessions(
            olds, token.digest, token.expires_at, how, id_, token.plugin, token.jti
        )

    # --- tokens of the same client and user ---

    def _siblings_of(self, token: wire.Token) -> dict[bytes, None]:
        return self._siblings.get(_group(token), {})

    def _covers(self, old: bytes, token: wire.Token) -> bool:
        """Whether `old` is good still, and allows whatever the newer one does, nowhere else.

        A token of fewer audiences may be no good where the sessions are.
        """
        known = self._known.get(old)
        if known is None or old == token.digest:
            return False
        audience = set(known.audience)
        if token.audience and not (audience and audience <= set(token.audience)):
            return False
        return set((token.scope or "").split()) <= set((known.scope or "").split())

    def _remember(self, token: wire.Token) -> None:
        """As one of its group; the oldest of it, and the oldest group, go first."""
        siblings = self._siblings.setdefault(_group(token), {})
        self._sibling_count += token.digest not in siblings
        siblings[token.digest] = None
        if len(siblings) > SIBLINGS_MAX:
            del siblings[next(iter(siblings))]
            self._sibling_count -= 1
        while self._sibling_count > self._known.capacity:
            self._sibling_count -= len(self._siblings.popitem(last=False)[1])


def _group(token: wire.Token) -> _Group:
    return token.credential, token.user_id, token.service, token.plugin
