"""What the control plane said of tokens: the Python thread's memory behind the engine's cache.

Every token in the engine's cache is here too (what is forgotten here is taken out there), so that
the end of a credential or consumer finds all its tokens at once and waits for no snapshot. Tokens
that the cache evicted are found here without a question. Bounded: the oldest go first, those made
by hand last, for their value does not show that they were ever good (`incomplete`).

The engine and this know tokens by digest. One JWT can have several digests (its signature written
another way), so what ends it is its `jti`, and every digest of that ends with it (S05).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dataplane import wire
from dataplane.ended import FORGOTTEN, Ended

if TYPE_CHECKING:
    from dataplane._tokens import TokenCache

NEVER_SECONDS = 10 * 365 * 86400.0  # how long a token without expiry stays refused in the cache


class KnownTokens:
    """Tokens by digest, and by what may end them; and what has ended.

    Used by one thread. `capacity` bounds the tokens, and again each kind of what has ended.
    """

    def __init__(
        self, cache: TokenCache, capacity: int, now: Callable[[], float] = time.time
    ) -> None:
        self._cache = cache
        self.capacity = capacity
        self._now = now
        self.incomplete = False  # a token made by hand was forgotten: only the other end knows it
        # Oldest first. An OrderedDict: a dict seeks its first key among the gaps of what went.
        self._tokens: OrderedDict[bytes, wire.Token] = OrderedDict()
        # Of them, those with check characters, and JWTs.
        self._issued: OrderedDict[bytes, None] = OrderedDict()
        self._of_credential: dict[bytes, set[bytes]] = {}  # digests, as all four
        self._of_plugin: dict[bytes, set[bytes]] = {}
        self._of_jti: dict[bytes, set[bytes]] = {}
        self._of_kid: dict[str, set[bytes]] = {}
        self._ended = Ended(capacity, now)
        self.revocations_complete = False  # none so far is missing; set by whoever hears them
        self._consumers: dict[bytes, bytes] = {}  # by credential, of the applied snapshot
        self._of_consumer: dict[bytes, list[bytes]] = {}
        self._kids: frozenset[str] = frozenset()  # of the keys that verify JWTs, likewise

    def __len__(self) -> int:
        return len(self._tokens)

    def put(self, token: wire.Token) -> None:
        """Remember a token that the control plane vouches for, and give it to the engine.

        A JWT is left to prove itself when it comes, which costs no message and no memory before.

        Raises ValueError for one that the engine cannot hold; what was known of it is forgotten.
        """
        if token.jti is None:
            self._ended.revive(token.digest)
            self._remember(token)

    def put_jwt(self, token: wire.Token) -> bool:
        """Remember a JWT that was verified, and give it to the engine; False when it has ended.

        Raises ValueError as `put`.
        """
        if self.has_ended(token):
            return False
        self._remember(token)
        return True

    def _remember(self, token: wire.Token) -> None:
        self._forget(token.digest)
        if len(self._tokens) >= self.capacity:
            self._make_room()
        try:
            self.to_cache(token)
        except ValueError:
            self._cache.remove(token.digest)
            raise
        self._tokens[token.digest] = token
        if token.plugin is not None:
            self._issued[token.digest] = None
        for index, key in self._indexes(token):
            index.setdefault(key, set()).add(token.digest)

    def _make_room(self) -> None:
        """Forget the oldest token, before the cache would choose one itself."""
        self.incomplete = self.incomplete or not self._issued
        oldest = next(iter(self._issued or self._tokens))
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
            token.issuer,
            token.audience,
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
        return self._ended.token_until(digest)

    def has_ended(self, token: wire.Token) -> bool:
        """Whether this token, known or not, or whose it is, is known to have ended."""
        return self._ended.until(token, self._consumers.get(token.credential)) is not None

    def has_key_of(self, token: wire.Token) -> bool:
        """Whether the key that a JWT is said to be signed with still verifies."""
        return token.issuer is not None and token.kid in self._kids

    def unsure(self, token: wire.Token) -> bool:
        """Whether the end of this JWT may not be known here, so that it must be asked for."""
        return not self.revocations_complete or self._ended.unsure(token)

    def clear(self) -> None:
        """Forget every token: those of another epoch say nothing about this one."""
        for digest in self._tokens:
            self._cache.remove(digest)
        for digest in self._ended.digests():
            # A database put back to an older state may have it again.
            self._cache.put_negative(digest, self._now())
        self.incomplete = False
        self._tokens.clear()
        self._issued.clear()
        self._of_credential.clear()
        self._of_plugin.clear()
        self._of_jti.clear()
        self._of_kid.clear()
        self._ended.clear()
        self.revocations_complete = False

    def apply_snapshot(self, snapshot: wire.Snapshot) -> list[bytes]:
        """Learn whose credentials are whose, and drop tokens whose credential or key is gone.

        A token made after the snapshot stays: its credential comes with a later one. Returns the
        digests of those whose key is gone.
        """
        of_consumer: dict[bytes, list[bytes]] = {}
        for credential in snapshot.credentials:
            of_consumer.setdefault(credential.consumer, []).append(credential.id)
        self._of_consumer = of_consumer
        self._consumers = {c.id: c.consumer for c in snapshot.credentials}
        keyless: list[bytes] = []
        self._kids = frozenset(key.kid for key in snapshot.keys)
        for kid in self._of_kid.keys() - self._kids:
            keyless += self._of_kid[kid]
        self._end_all(keyless, 0)
        for gone in self._of_credential.keys() - self._consumers.keys():
            for digest in list(self._of_credential[gone]):
                if self._tokens[digest].version <= snapshot.version:
                    self._end_token(digest, self._tokens[digest].expires_at)
        return keyless

    def has_credential(self, credential: bytes) -> bool:
        """Whether the applied configuration has it."""
        return credential in self._consumers

    def revoke(self, revocation: wire.Revocation) -> None:
        """End a token, or all tokens of a credential, consumer or plugin instance, at once."""
        kind, key, version = revocation.kind, revocation.key, revocation.version
        if kind == "token":
            self._end_jti_of(key, revocation)
            self._end_token(key, revocation.expires_at)
        elif kind == "jti":
            self._end_jti(key, revocation)
        elif kind == FORGOTTEN:
            self._ended.forgotten = max(self._ended.forgotten, version)
        elif kind in ("credential", "consumer", "plugin"):
            self._ended.end_owner(kind, key, revocation.expires_at, version)
            credentials = self._of_consumer.get(key, []) if kind == "consumer" else [key]
            index = self._of_plugin if kind == "plugin" else self._of_credential
            for owner in credentials:
                self._end_all(index.get(owner, ()), version)

    def supersede(self, old: bytes) -> None:
        """A token was refreshed: it is good no more, as its revocation will say too."""
        token = self._tokens.get(old)
        self._end_token(old, 0.0 if token is None else token.expires_at)

    def _end_all(self, digests: Iterable[bytes], version: int) -> None:
        """End those of these tokens that were made below this config version; 0: any."""
        for digest in list(digests):
            token = self._tokens[digest]
            if not version or token.version < version:
                self._end_token(digest, token.expires_at)

    def _end_jti_of(self, digest: bytes, revocation: wire.Revocation) -> None:
        token = self._tokens.get(digest)
        if token is not None and token.jti is not None:
            self._end_jti(token.jti, revocation)

    def _end_jti(self, jti: bytes, revocation: wire.Revocation) -> None:
        for digest in list(self._of_jti.get(jti, ())):
            self._end_token(digest, self._tokens[digest].expires_at)
        if not revocation.expires_at or revocation.expires_at > self._now():
            self._ended.end_jti(jti, revocation.expires_at, revocation.version)

    def _end_token(self, digest: bytes, expires_at: float) -> None:
        self._forget(digest)
        self._cache.remove(digest)
        if expires_at and expires_at <= self._now():
            return
        self._ended.end_token(digest, expires_at)
        self._cache.put_negative(digest, expires_at or self._now() + NEVER_SECONDS)

    def _forget(self, digest: bytes) -> None:
        token = self._tokens.pop(digest, None)
        if token is None:
            return
        self._issued.pop(digest, None)
        for index, key in self._indexes(token):
            index[key].discard(digest)
            if not index[key]:
                del index[key]

    def _indexes(self, token: wire.Token) -> Iterator[tuple[dict[Any, set[bytes]], bytes | str]]:
        """Where the digest of this token stands, and under which key."""
        yield self._of_credential, token.credential
        if token.plugin is not None:
            yield self._of_plugin, token.plugin
        if token.jti is not None:
            yield self._of_jti, token.jti
        if token.kid is not None:
            yield self._of_kid, token.kid
