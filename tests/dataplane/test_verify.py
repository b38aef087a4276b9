"""A JWT in, what it says out; and which keys are good for it."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from dataplane import jws, wire
from dataplane.verify import Verifier
from tests import tokens

NOW = 1_700_000_000.0
DIGEST = b"d" * 32


def verifier(*keys: wire.PublicKey, now: float = NOW) -> Verifier:
    made = Verifier()
    made.use(made.read(keys), now)
    return made


def test_token_says_what_it_claims() -> None:
    jti = str(uuid.uuid4())
    token = tokens.access_token(
        NOW, jti=jti, cv=7, uid="alex", sub="alex", scope="a b", svc=str(tokens.SERVICE),
        aud=["one", "two"],
    )  # fmt: skip
    assert verifier(tokens.public_key()).verify(token, DIGEST, NOW) == wire.Token(
        digest=DIGEST,
        credential=tokens.CREDENTIAL.bytes,
        expires_at=NOW + 300,
        service=tokens.SERVICE.bytes,
        scope="a b",
        user_id="alex",
        version=7,
        plugin=tokens.PLUGIN.bytes,
        audience=["one", "two"],
        jti=uuid.UUID(jti).bytes,
        issuer=tokens.ISSUER,
        kid=tokens.pair("ES256").public_jwk["kid"],
    )


def test_token_without_user_scope_and_service_says_so() -> None:
    found = verifier(tokens.public_key()).verify(tokens.access_token(NOW), DIGEST, NOW)
    assert (found.service, found.scope, found.user_id) == (None, None, None)
    assert found.audience == [tokens.AUDIENCE]


def test_token_that_never_expires_has_no_expiry_here() -> None:
    token = tokens.access_token(NOW, exp=jws.NEVER)
    assert verifier(tokens.public_key()).verify(token, DIGEST, NOW).expires_at == 0


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
def test_each_algorithm_has_its_key(alg: str) -> None:
    keys = [tokens.public_key(each) for each in jws.ALGORITHMS]
    assert verifier(*keys).verify(tokens.access_token(NOW, alg), DIGEST, NOW)
    others = [key for key in keys if key.alg != alg]
    with pytest.raises(jws.Rejected):
        verifier(*others).verify(tokens.access_token(NOW, alg), DIGEST, NOW)


def test_s18_key_verifies_until_its_end_and_no_longer() -> None:
    made = verifier(tokens.public_key(until=NOW + 100), tokens.public_key(number=2))
    old, new = tokens.access_token(NOW, exp=int(NOW) + 900), tokens.access_token(NOW, number=2)
    # What the key signed ends with it at the latest, wherever it is kept.
    assert made.verify(old, DIGEST, NOW + 99.9).expires_at == NOW + 100
    with pytest.raises(jws.Rejected, match="not known"):
        made.verify(old, DIGEST, NOW + 100)
    assert made.verify(new, DIGEST, NOW + 100)
    assert made.verify(tokens.access_token(NOW, number=2, exp=jws.NEVER), DIGEST, NOW)


def test_key_past_its_end_never_becomes_one() -> None:
    made = verifier(tokens.public_key(until=NOW))
    with pytest.raises(jws.Rejected, match="not known"):
        made.verify(tokens.access_token(NOW), DIGEST, NOW)


def test_token_that_never_expires_ends_with_its_key() -> None:
    made = verifier(tokens.public_key(until=NOW + 100))
    assert made.verify(tokens.access_token(NOW, exp=jws.NEVER), DIGEST, NOW).expires_at == NOW + 100


def test_key_that_stays_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = verifier(tokens.public_key(), tokens.public_key("RS256"))
    read: list[str] = []
    real = jws.VerifyKey

    def counted(kid: str, alg: str, jwk: Any) -> jws.VerifyKey:
        read.append(alg)
        return real(kid, alg, jwk)

    monkeypatch.setattr(jws, "VerifyKey", counted)
    keys = [tokens.public_key(until=NOW + 100), tokens.public_key("RS256")]
    made.use(made.read([*keys, tokens.public_key("EdDSA")]), NOW)
    assert read == ["EdDSA"]
    with pytest.raises(jws.Rejected):  # its end was heard all the same
        made.verify(tokens.access_token(NOW), DIGEST, NOW + 100)


def test_keys_of_a_refused_snapshot_are_not_used() -> None:
    made = verifier(tokens.public_key())
    made.read([tokens.public_key(number=2)])
    assert made.verify(tokens.access_token(NOW), DIGEST, NOW)


@pytest.mark.parametrize(
    "key",
    [
        wire.PublicKey("k", "ES256", "{}"),
        wire.PublicKey("k", "ES256", "not json"),
        wire.PublicKey("k", "ES256", "[]"),
        wire.PublicKey("k", "ES256", "[" * 100_000),
        wire.PublicKey("k", "HS256", '{"kty": "oct", "k": "AA"}'),
        wire.PublicKey("", "ES256", tokens.public_key().jwk),
        wire.PublicKey("k", "RS256", tokens.public_key().jwk),
    ],
    ids=range(7),
)
def test_key_that_cannot_be_used_refuses_the_snapshot(key: wire.PublicKey) -> None:
    with pytest.raises(ValueError, match="signing key"):
        Verifier().read([key])


def test_two_keys_of_one_name_refuse_the_snapshot() -> None:
    with pytest.raises(ValueError, match="there twice"):
        Verifier().read([tokens.public_key(), tokens.public_key()])


def test_verifying_is_quick_enough() -> None:
    """Far below the figure of the commit: this is no benchmark, it finds a key read each time."""
    made = verifier(tokens.public_key("RS256"))
    token = tokens.access_token(NOW, "RS256")
    began = time.process_time()
    for _ in range(100):
        made.verify(token, DIGEST, NOW)
    assert time.process_time() - began < 0.5
