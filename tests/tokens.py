"""Makes JWTs for tests: good ones as the issuer mints them, and any others."""

from __future__ import annotations

import base64
import functools
import json
import uuid
from collections.abc import Mapping
from typing import Any

from dataplane import jws, wire

ISSUER = "https://auth.example"
AUDIENCE = "https://api.example"
SERVICE = uuid.UUID(int=0x5E)
CREDENTIAL = uuid.UUID(int=0xC1)
PLUGIN = uuid.UUID(int=0x91)


@functools.cache
def _keys(alg: str, number: int) -> tuple[jws.KeyPair, jws.SigningKey]:
    made = jws.generate(alg)
    return made, jws.SigningKey(made.public_jwk["kid"], alg, made.private_pem)


def pair(alg: str, number: int = 1) -> jws.KeyPair:
    """The same key each time, in one process."""
    return _keys(alg, number)[0]


def signing(alg: str, number: int = 1) -> jws.SigningKey:
    return _keys(alg, number)[1]


def verifying(*algs: str) -> dict[str, jws.VerifyKey]:
    """The first key of each of these algorithms; of all when none is named."""
    found = {}
    for alg in algs or jws.ALGORITHMS:
        jwk = pair(alg).public_jwk
        found[jwk["kid"]] = jws.VerifyKey(jwk["kid"], alg, jwk)
    return found


def public_key(alg: str = "ES256", number: int = 1, until: float = 0.0) -> wire.PublicKey:
    """A key as snapshots carry it."""
    jwk = pair(alg, number).public_jwk
    return wire.PublicKey(jwk["kid"], alg, json.dumps(jwk), until)


def claims(now: float, **changed: Any) -> dict[str, Any]:
    """What an access token claims; None takes a claim away."""
    given = {
        "iss": ISSUER,
        "sub": "client-1",
        "aud": AUDIENCE,
        "exp": int(now) + 300,
        "iat": int(now),
        "jti": str(uuid.uuid4()),
        "client_id": "client-1",
        "cid": str(CREDENTIAL),
        "cv": 1,
        "pid": str(PLUGIN),
        **changed,
    }
    return {name: value for name, value in given.items() if value is not None}


def access_token(now: float, alg: str = "ES256", number: int = 1, **changed: Any) -> str:
    return signing(alg, number).sign(claims(now, **changed), "at+jwt")


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def header(alg: str = "ES256", **changed: Any) -> dict[str, Any]:
    given = {"alg": alg, "typ": "at+jwt", "kid": pair(alg).public_jwk["kid"], **changed}
    return {name: value for name, value in given.items() if value is not None}


def signed(head: Mapping[str, Any] | bytes, body: Mapping[str, Any] | bytes, alg: str) -> str:
    """Whatever header and payload, under a signature that is good."""
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in (head, body)]
    text = ".".join(map(encode, parts))
    return f"{text}.{encode(signing(alg)._key.sign(text.encode()))}"


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


def other_spelling(token: str) -> str:
    """The same token of ES256 with s replaced by n-s: another text, and it verifies too."""
    text, _, signature = token.rpartition(".")
    raw = decode(signature)
    s = ORDER - int.from_bytes(raw[32:], "big")
    return f"{text}.{encode(raw[:32] + s.to_bytes(32, 'big'))}"
