"""A JWT in, what it says out, without asking anyone: the data plane's half of RFC 9068.

Judged here, once, is what makes a token one of ours: signature, type, times, the presence and the
kind of each claim. Whether it is good for a route (issuer, audience, service, credential, expiry)
is judged by the engine at each handshake, on what was kept of the claims: no verdict is cached.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping

from dataplane import jws, wire


class Verifier:
    """The keys of the applied configuration.  A key that stays is read once in its life."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[wire.PublicKey, jws.VerifyKey]] = {}
        self._usable: Mapping[str, jws.VerifyKey] = {}
        self._next_end = 0.0  # when a usable key goes; 0: none does

    def read(
        self, keys: Iterable[wire.PublicKey]
    ) -> dict[str, tuple[wire.PublicKey, jws.VerifyKey]]:
        """The keys of a snapshot for `use`.

        Raises:
            ValueError: one cannot be read, or two have one name.
        """
        found: dict[str, tuple[wire.PublicKey, jws.VerifyKey]] = {}
        for key in keys:
            if key.kid in found or not key.kid:
                raise ValueError("a signing key's name is empty or there twice")
            held = self._keys.get(key.kid)
            if held is None or (held[0].alg, held[0].jwk) != (key.alg, key.jwk):
                found[key.kid] = (key, _read_key(key))
            else:
                found[key.kid] = (key, held[1])
        return found

    def use(self, keys: dict[str, tuple[wire.PublicKey, jws.VerifyKey]], now: float) -> None:
        """From now on these verify, each until its `until` (S18)."""
        self._keys = keys
        self._sort_out(now)

    def _sort_out(self, now: float) -> None:
        good = {kid: held for kid, held in self._keys.items() if not 0 < held[0].until <= now}
        self._usable = {kid: key for kid, (_, key) in good.items()}
        self._next_end = min((pub.until for pub, _ in good.values() if pub.until), default=0.0)

    def verify(self, text: str, digest: bytes, now: float) -> wire.Token:
        """What the token says.  `digest` is its SHA-256.

        Raises:
            jws.Rejected: it is none of ours, or has expired.
        """
        if 0 < self._next_end <= now:
            self._sort_out(now)
        claims = jws.verify_access_token(text, self._usable, now)
        kid = jws.kid_of(text)
        until = self._keys[kid][0].until
        expires_at = 0.0 if claims["exp"] == jws.NEVER else float(claims["exp"])
        service = claims.get("svc")
        return wire.Token(
            digest=digest,
            credential=_id(claims["cid"]),
            expires_at=min(expires_at or until, until or expires_at),
            service=None if service is None else _id(service),
            scope=claims.get("scope"),
            user_id=claims.get("uid"),
            version=claims["cv"],
            plugin=_id(claims["pid"]),
            audience=jws.audiences(claims),
            jti=_id(claims["jti"]),
            issuer=claims["iss"],
            kid=kid,
        )


def _read_key(key: wire.PublicKey) -> jws.VerifyKey:
    try:
        jwk = json.loads(key.jwk)
        if not isinstance(jwk, dict):
            raise ValueError("the key is no JSON object")
        return jws.VerifyKey(key.kid, key.alg, jwk)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the signing key {key.kid[:64]!r} cannot be used: {error}") from None


def _id(text: str) -> bytes:
    return uuid.UUID(text).bytes
