"""What a committed transaction did, for those who follow the store (the link)."""

from dataclasses import dataclass
from typing import NamedTuple


class IssuedToken(NamedTuple):
    """What an access token says.  `version`: the config version it needs to be understood."""

    digest: bytes  # SHA-256 of the token
    credential_id: str
    service_id: str | None  # None: a global token
    scope: str | None
    user_id: str | None
    expires_at: float  # seconds since 1970; 0 = never
    version: int
    plugin_id: str | None = None  # the instance that issued it; None: made by hand
    audience: tuple[str, ...] = ()  # empty: for whoever takes it
    jti: str | None = None  # of a JWT: the id of its row


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A token took the place of another: sessions of the old one go over to it."""

    old: bytes  # digest
    token: IssuedToken


@dataclass(frozen=True, slots=True)
class Revoked:
    """The end of a token, credential, consumer or plugin instance, in order of `seq`."""

    seq: int
    kind: str  # token, jti, credential, consumer, plugin
    key: bytes  # the token's digest, or the 16 bytes of the id
    expires_at: float  # when the last token it covers has expired by itself; 0 = never
    version: int = 0  # the config version since: what is made from then on is good
    successor: bytes | None = None  # of a refreshed token: the one that took its place


@dataclass(frozen=True, slots=True)
class Change:
    """One committed transaction.  `version` is None when no config entity changed."""

    version: int | None
    tokens: tuple[IssuedToken, ...]
    revocations: tuple[Revoked, ...]
    refreshed: tuple[Refreshed, ...] = ()

    def __bool__(self) -> bool:
        return self.version is not None or bool(self.tokens or self.revocations or self.refreshed)
