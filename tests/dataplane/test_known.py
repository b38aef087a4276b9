"""What the data plane remembers of tokens, and what the end of one takes away."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from dataplane import wire
from dataplane.known import KnownTokens
from tests.dataplane.fakes import FakeCache, make_snapshot, make_token

NOW = 1_000_000.0


class Memory:
    """KnownTokens over a fake cache, at a time the test sets."""

    def __init__(self, capacity: int = 100) -> None:
        self.cache = FakeCache()
        self.time = NOW
        self.known = KnownTokens(cast("Any", self.cache), capacity, lambda: self.time)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def revocation(kind: str, key: bytes, expires_at: float = 0.0) -> wire.Revocation:
    return wire.Revocation(1, kind, key, expires_at)


def test_token_goes_to_the_engine_with_all_it_says(memory: Memory) -> None:
    token = make_token(5, 2, service=b"s" * 16, scope="email", user_id="u", expires_at=NOW + 9)
    memory.known.put(token)
    assert memory.cache.tokens[token.digest] == (
        token.credential, b"s" * 16, "email", "u", NOW + 9, 0, None, [],
    )  # fmt: skip
    assert memory.known.get(token.digest) == token
    assert len(memory.known) == 1


def test_token_that_the_engine_cannot_hold_is_not_known(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.known.put(make_token(1))

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("a scope is too long")

    monkeypatch.setattr(memory.cache, "put", refuse)
    with pytest.raises(ValueError, match="too long"):
        memory.known.put(make_token(1, scope="x" * 5000))
    assert (len(memory.known), memory.cache.tokens) == (0, {})


def test_revoked_token_is_refused_until_it_would_have_expired(memory: Memory) -> None:
    token = make_token(expires_at=NOW + 60)
    memory.known.put(token)
    memory.known.revoke(revocation("token", token.digest, NOW + 60))
    assert token.digest not in memory.cache.tokens
    assert memory.cache.negative[token.digest] == NOW + 60
    assert memory.known.get(token.digest) is None
    assert memory.known.ended_until(token.digest) == NOW + 60
    memory.time = NOW + 60
    assert memory.known.ended_until(token.digest) is None


def test_revoked_token_without_expiry_stays_refused(memory: Memory) -> None:
    digest = make_token().digest
    memory.known.revoke(revocation("token", digest))
    memory.time += 5 * 365 * 86400
    assert memory.known.ended_until(digest) is not None
    assert memory.cache.negative[digest] > memory.time


def test_revocation_of_an_expired_token_leaves_nothing_behind(memory: Memory) -> None:
    token = make_token(expires_at=NOW - 1)
    memory.known.put(token)
    memory.known.revoke(revocation("token", token.digest, NOW - 1))
    assert not memory.cache.tokens
    assert not memory.cache.negative


def test_token_sent_again_after_its_revocation_is_good(memory: Memory) -> None:
    token = make_token()
    memory.known.revoke(revocation("token", token.digest))
    memory.known.put(token)
    assert memory.known.ended_until(token.digest) is None
    assert token.digest in memory.cache.tokens


@pytest.mark.parametrize(("kind", "number"), [("credential", 7), ("consumer", 70)])
def test_end_of_a_credential_or_consumer_ends_its_tokens_and_no_other(
    kind: str, number: int, memory: Memory
) -> None:
    memory.known.apply_snapshot(make_snapshot(1, {7: 70, 8: 80}))
    mine = [make_token(n, 7, expires_at=NOW + n) for n in (1, 2)]
    other = make_token(3, 8)
    for token in (*mine, other):
        memory.known.put(token)
    memory.known.revoke(revocation(kind, number.to_bytes(16, "big")))
    assert list(memory.cache.tokens) == [other.digest]
    assert memory.cache.negative == {t.digest: t.expires_at for t in mine}
    memory.known.revoke(revocation(kind, number.to_bytes(16, "big")))  # again: nothing more
    memory.known.revoke(revocation("moon", other.credential))  # a later minor version's
    assert len(memory.known) == 1


def test_snapshot_without_a_credential_ends_its_tokens_but_not_newer_ones(memory: Memory) -> None:
    memory.known.apply_snapshot(make_snapshot(1, {7: 70}))
    old, new = make_token(1, 7, version=2), make_token(2, 9, version=4)
    memory.known.put(old)
    memory.known.put(new)
    memory.known.apply_snapshot(make_snapshot(3, {}))
    assert list(memory.cache.tokens) == [new.digest]
    assert not memory.known.has_credential(old.credential)
    memory.known.apply_snapshot(make_snapshot(4, {9: 1}))
    assert memory.known.has_credential(new.credential)
    assert list(memory.cache.tokens) == [new.digest]


def test_clear_forgets_tokens_and_ends(memory: Memory) -> None:
    memory.known.put(make_token(1))
    memory.known.revoke(revocation("token", make_token(2).digest))
    memory.known.clear()
    assert (len(memory.known), memory.cache.tokens) == (0, {})
    assert memory.known.ended_until(make_token(2).digest) is None
    assert memory.cache.negative[make_token(2).digest] <= memory.time


def test_ends_are_bounded_and_the_oldest_goes_first() -> None:
    memory = Memory(capacity=3)
    for number in range(5):
        memory.known.revoke(revocation("token", make_token(number).digest))
    alive = [n for n in range(5) if memory.known.ended_until(make_token(n).digest) is not None]
    assert alive == [2, 3, 4]


def test_every_token_in_the_cache_is_known_whatever_happens() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    memory = Memory(capacity=20)
    for step in range(5000):
        what = draw.choice("pppprcs")
        if what == "p":
            memory.known.put(make_token(draw.randrange(60), draw.randrange(5), version=step))
        elif what == "r":
            memory.known.revoke(revocation("token", make_token(draw.randrange(60)).digest))
        elif what == "c":
            memory.known.revoke(revocation("credential", draw.randrange(5).to_bytes(16, "big")))
        else:
            present = draw.sample(range(5), 4)
            memory.known.apply_snapshot(make_snapshot(step, {c: c + 10 for c in present}))
        assert len(memory.known) == len(memory.cache.tokens) <= 20
        for digest, claims in memory.cache.tokens.items():
            token = memory.known.get(digest)
            assert token is not None
            assert token.credential == claims[0]
            assert memory.known.ended_until(digest) is None


def issued(number: int) -> wire.Token:
    """A token with check characters."""
    return make_token(number, plugin=b"p" * 16)


def test_tokens_made_by_hand_are_the_last_to_be_forgotten() -> None:
    memory = Memory(capacity=4)
    known = memory.known
    for token in (make_token(1), issued(2), make_token(3), issued(4)):
        known.put(token)
    most = 0
    for number in range(5, 20):
        known.put(issued(number))
        most = max(most, len(memory.cache))
    assert most == 4  # never more than the cache holds, so that it need not choose itself
    assert {int.from_bytes(digest, "big") for digest in memory.cache.tokens} == {1, 3, 18, 19}
    assert not known.incomplete
    known.put(make_token(20))
    known.put(make_token(21))
    assert not known.incomplete
    known.put(make_token(22))
    assert known.incomplete  # one of five by hand is not here
    assert make_token(1).digest not in memory.cache.tokens
    known.clear()
    assert not known.incomplete
    known.put(issued(1))
    assert len(known) == 1


# --- JWTs -----------------------------------------------------------------------------------------


def a_jwt(number: int, jti: int = 1, **fields: Any) -> wire.Token:
    given = {"jti": jti.to_bytes(16, "big"), "plugin": b"p" * 16, "kid": "k", **fields}
    return make_token(number, **given)


def test_jwt_comes_in_by_its_own_proof_alone(memory: Memory) -> None:
    memory.known.put(a_jwt(1))
    assert (len(memory.known), memory.cache.tokens) == (0, {})
    assert memory.known.put_jwt(a_jwt(1))
    assert (len(memory.known), len(memory.cache.tokens)) == (1, 1)


def test_s05_end_of_a_jti_ends_all_its_digests(memory: Memory) -> None:
    for number in (1, 2):
        assert memory.known.put_jwt(a_jwt(number))
    assert memory.known.put_jwt(a_jwt(3, jti=2))
    memory.known.revoke(revocation("jti", (1).to_bytes(16, "big")))
    assert list(memory.cache.tokens) == [a_jwt(3).digest]
    assert set(memory.cache.negative) == {a_jwt(1).digest, a_jwt(2).digest}
    assert not memory.known.put_jwt(a_jwt(4))  # another digest of it


def test_end_of_a_plugin_ends_what_it_issued(memory: Memory) -> None:
    memory.known.put(make_token(1, plugin=b"p" * 16, version=3))
    memory.known.put(make_token(2, plugin=b"q" * 16))
    memory.known.put(make_token(3))
    memory.known.put_jwt(a_jwt(4))
    memory.known.revoke(revocation("plugin", b"p" * 16))
    assert set(memory.cache.tokens) == {make_token(2).digest, make_token(3).digest}


@pytest.mark.parametrize("kind", ["credential", "plugin"])
def test_end_of_an_owner_leaves_tokens_made_since(memory: Memory, kind: str) -> None:
    key = {"credential": (1).to_bytes(16, "big"), "plugin": b"p" * 16}[kind]
    for number, version in ((1, 5), (2, 6)):
        memory.known.put(make_token(number, plugin=b"p" * 16, version=version))
    memory.known.revoke(wire.Revocation(1, kind, key, 0.0, version=6))
    assert list(memory.cache.tokens) == [make_token(2).digest]


def test_until_revocations_are_complete_every_jwt_is_in_doubt(memory: Memory) -> None:
    assert memory.known.unsure(a_jwt(1))
    memory.known.revocations_complete = True
    assert not memory.known.unsure(a_jwt(1))
    memory.known.revoke(wire.Revocation(0, "forgotten", b"", version=3))
    assert memory.known.unsure(a_jwt(1, version=3)) and not memory.known.unsure(a_jwt(1, version=4))
    memory.known.clear()
    assert memory.known.unsure(a_jwt(1, version=4))


def test_indexes_are_empty_when_nothing_is_known(memory: Memory) -> None:
    for number in range(50):
        memory.known.put_jwt(a_jwt(number, jti=number))
    memory.known.revoke(revocation("plugin", b"p" * 16))
    known = memory.known
    assert len(known) == 0
    assert not (known._of_credential or known._of_plugin or known._of_jti or known._of_kid)
