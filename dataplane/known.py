"""What the control plane said of tokens: the Python thread's memory behind the engine's cache.

Every token in the engine's cache is here too (what is forgotten here is taken out there), so that
the end of a credential or consumer finds all its tokens at once and waits for no snapshot. Tokens
that the cache evicted are found here without a question. Bounded: the oldest go first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dataplane import wire

if TYPE_CHECKING:
    from dataplane._tokens import TokenCache

NEVER_SECONDS = 10 * 365 * 86400.0  # how long a token without expiry stays refused in the cache


class KnownTokens:
    """Tokens by digest and by credential, and those that were ended.

    Used by one thread. `capacity` bounds the tokens, and again the ended ones.
    """

    def __init__(
        self, cache: TokenCache, capacity: int, now: Callable[[], float] = time.time
    ) -> None:
        self._cache = cache
        self.capacity = capacity
        self._now = now
        self._tokens: dict[bytes, wire.Token] = {}  # oldest first
        self._of_credential: dict[bytes, set[bytes]] = {}
        self._ended: dict[bytes, float] = {}  # digest → until when; oldest first
        self._credentials: frozenset[bytes] = frozenset()  # of the applied snapshot
        self._of_consumer: dict[bytes, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def put(self, token: wire.Token) -> None:
        """Remember a token that the control plane vouches for, and give it to the engine.

        Raises ValueError for one that the engine cannot hold; what was known of it is forgotten.
        """
        self._ended.pop(token.digest, None)
        self._forget(token.digest)
        try:
            self.to_cache(token)
        except ValueError:
            self._cache.remove(token.digest)
            raise
        self._tokens[token.digest] = token
        self._of_credential.setdefault(token.credential, set()).add(token.digest)
        if len(self._tokens) > self.capacity:
            oldest = next(iter(self._tokens))
            self._forget(oldest)
            self._cache.remove(oldest)

    def to_cache(self, token: wire.Token) -> None:
        self._cache.put(
            token.digest,
            token.credential,
            token.service,
            token.scope,
            token.user_id,
            token.expires_at,
            token.version,
            plugin=token.plugin,
            jti=token.jti,
        )

    def get(self, digest: bytes) -> wire.Token | None:
        """The token with this digest, expired or not."""
        return self._tokens.get(digest)

    def tokens(self) -> Iterable[wire.Token]:
        """All of them, oldest first."""
        return self._tokens.values()

    def ended_until(self, digest: bytes) -> float | None:
        """Until when this token is known to be refused; None when it is not."""
        until = self._ended.get(digest)
        return until if until is not None and until > self._now() else None

    def clear(self) -> None:
        """Forget every token: those of another epoch say nothing about this one."""
        for digest in self._tokens:
            self._cache.remove(digest)
        for digest in self._ended:  # a database put back to an older state may have it again
            self._cache.put_negative(digest, self._now())
        self._tokens.clear()
        self._of_credential.clear()
        self._ended.clear()

    def apply_snapshot(self, snapshot: wire.Snapshot) -> None:
        """Learn whose credentials are whose, and drop tokens whose credential is gone.

        A token made after the snapshot stays: its credential comes with a later one.
        """
        of_consumer: dict[bytes, list[bytes]] = {}
        for credential in snapshot.credentials:
            of_consumer.setdefault(credential.consumer, []).append(credential.id)
        self._of_consumer = of_consumer
        self._credentials = frozenset(c.id for c in snapshot.credentials)
        for gone in self._of_credential.keys() - self._credentials:
            for digest in list(self._of_credential[gone]):
                if self._tokens[digest].version <= snapshot.version:
                    self._end_token(digest, self._tokens[digest].expires_at)

    def has_credential(self, credential: bytes) -> bool:
        """Whether the applied configuration has it."""
        return credential in self._credentials

    def revoke(self, revocation: wire.Revocation) -> None:
        """End a token at once, or all of a credential, a consumer or the plugin they are from."""
        if revocation.kind == "token":
            self._end_token(revocation.key, revocation.expires_at)
        elif revocation.kind == "credential":
            self._end_credential(revocation.key)
        elif revocation.kind == "consumer":
            for credential in self._of_consumer.get(revocation.key, []):
                self._end_credential(credential)
        elif revocation.kind == "plugin":
            for token in [t for t in self._tokens.values() if t.plugin == revocation.key]:
                self._end_token(token.digest, token.expires_at)

    def supersede(self, old: bytes) -> None:
        """A token was refreshed: it is good no more, as its revocation will say too."""
        token = self._tokens.get(old)
        self._end_token(old, 0.0 if token is None else token.expires_at)

    def _end_credential(self, credential: bytes) -> None:
        for digest in list(self._of_credential.get(credential, ())):
            self._end_token(digest, self._tokens[digest].expires_at)

    def _end_token(self, digest: bytes, expires_at: float) -> None:
        self._forget(digest)
        self._cache.remove(digest)
        if expires_at and expires_at <= self._now():
            return
        self._ended.pop(digest, None)
        self._ended[digest] = expires_at or math.inf
        if len(self._ended) > self.capacity:
            del self._ended[next(iter(self._ended))]
        self._cache.put_negative(digest, expires_at or self._now() + NEVER_SECONDS)

    def _forget(self, digest: bytes) -> None:
        token = self._tokens.pop(digest, None)
        if token is None:
            return
        siblings = self._of_credential[token.credential]
        siblings.discard(digest)
        if not siblings:
            del self._of_credential[token.credential]
