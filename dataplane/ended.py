"""What was revoked and has not expired by itself: a token of it may come late.

An opaque token that nothing is known of is asked for, so little is lost when its end is forgotten.
A JWT proves itself, and only what is kept here says otherwise. So when more has ended than there is
room for, `forgotten` tells up to which config version tokens may be among the forgotten: those are
not to be believed without asking.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from dataplane import wire

FORGOTTEN = "forgotten"  # a revocation's kind, on the disk only: its `version` is `Ended.forgotten`
ALL_VERSIONS = 2**63 - 1  # of a revocation that does not say its version


class End(NamedTuple):
    until: float  # when it no longer matters; infinite: never
    version: int  # what was made at a lower config version is ended; a token: at this one or lower


class Ended:
    """Bounded: `capacity` tokens by digest, as many JWTs by jti, as many credentials and so on."""

    def __init__(self, capacity: int, now: Callable[[], float]) -> None:
        self._capacity = capacity
        self._now = now
        # Oldest first; a dict would seek its first key among the gaps of those that went.
        self._tokens: OrderedDict[bytes, End] = OrderedDict()  # by digest
        self._jtis: OrderedDict[bytes, End] = OrderedDict()
        # By what it is (credential, consumer, plugin) and its id.
        self._owners: OrderedDict[tuple[str, bytes], End] = OrderedDict()
        self.forgotten = -1

    def __len__(self) -> int:
        return len(self._tokens) + len(self._jtis) + len(self._owners)

    def digests(self) -> Iterable[bytes]:
        return self._tokens

    def clear(self) -> None:
        self._tokens.clear()
        self._jtis.clear()
        self._owners.clear()
        self.forgotten = -1

    # --- what ends ---

    def end_token(self, digest: bytes, expires_at: float) -> None:
        self._tokens.pop(digest, None)  # so that it becomes the youngest
        self._tokens[digest] = End(expires_at or math.inf, 0)
        if len(self._tokens) > self._capacity:
            self._tokens.popitem(last=False)

    def end_jti(self, jti: bytes, expires_at: float, version: int) -> None:
        self._jtis.pop(jti, None)
        self._jtis[jti] = End(expires_at or math.inf, version or ALL_VERSIONS)
        self._forget_oldest(self._jtis)

    def end_owner(self, kind: str, id_: bytes, expires_at: float, version: int) -> None:
        self._owners.pop((kind, id_), None)
        self._owners[kind, id_] = End(expires_at or math.inf, version or ALL_VERSIONS)
        self._forget_oldest(self._owners)

    def _forget_oldest(
        self, ends: OrderedDict[bytes, End] | OrderedDict[tuple[str, bytes], End]
    ) -> None:
        if len(ends) > self._capacity:
            _, end = ends.popitem(last=False)
            if end.until > self._now():
                self.forgotten = max(self.forgotten, end.version)

    def revive(self, digest: bytes) -> None:
        """The control plane vouches for this token again."""
        self._tokens.pop(digest, None)

    # --- what has ended ---

    def token_until(self, digest: bytes) -> float | None:
        """Until when the token is known to be refused; None when it is not."""
        return self._until(self._tokens.get(digest))

    def until(self, token: wire.Token, consumer: bytes | None) -> float | None:
        """Likewise for one that may be seen for the first time; `consumer`: its credential's."""
        until = self.token_until(token.digest) or self._until(self._jtis.get(token.jti or b""))
        if until is not None:
            return until
        owners = {"credential": token.credential, "plugin": token.plugin, "consumer": consumer}
        for kind, id_ in owners.items():
            end = None if id_ is None else self._owners.get((kind, id_))
            if end is not None and token.version < end.version and self._until(end) is not None:
                return end.until
        return None

    def unsure(self, token: wire.Token) -> bool:
        """Whether this JWT may be among what was forgotten."""
        return token.version <= self.forgotten

    def _until(self, end: End | None) -> float | None:
        return end.until if end is not None and end.until > self._now() else None
