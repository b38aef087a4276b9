"""What was revoked, for tokens that come only now."""

from __future__ import annotations

import math

import pytest

from dataplane import wire
from dataplane.ended import ALL_VERSIONS, Ended

NOW = 1_000_000.0
JTI, CREDENTIAL, PLUGIN, CONSUMER = b"j" * 16, b"c" * 16, b"p" * 16, b"u" * 16


class Memory:
    def __init__(self, capacity: int = 10) -> None:
        self.time = NOW
        self.ended = Ended(capacity, lambda: self.time)


def jwt(version: int = 5, jti: bytes = JTI, digest: bytes = b"d" * 32) -> wire.Token:
    return wire.Token(digest, CREDENTIAL, NOW + 50, version=version, plugin=PLUGIN, jti=jti)


def test_nothing_has_ended_at_first() -> None:
    memory = Memory()
    assert memory.ended.until(jwt(), CONSUMER) is None
    assert memory.ended.token_until(b"d" * 32) is None
    assert not memory.ended.unsure(jwt(0))
    assert len(memory.ended) == 0


def test_end_of_a_jti_covers_every_digest_of_it() -> None:
    memory = Memory()
    memory.ended.end_jti(JTI, NOW + 50, 6)
    for digest in (b"d" * 32, b"e" * 32):
        assert memory.ended.until(jwt(digest=digest), CONSUMER) == NOW + 50
    assert memory.ended.until(jwt(jti=b"k" * 16), CONSUMER) is None
    memory.time = NOW + 50
    assert memory.ended.until(jwt(), CONSUMER) is None


def test_end_of_one_text_is_no_end_of_another() -> None:
    memory = Memory()
    memory.ended.end_token(b"d" * 32, 0.0)
    assert memory.ended.until(jwt(), None) == math.inf
    assert memory.ended.until(jwt(digest=b"e" * 32), None) is None
    memory.ended.revive(b"d" * 32)
    assert memory.ended.until(jwt(), None) is None


@pytest.mark.parametrize(
    ("kind", "id_"), [("credential", CREDENTIAL), ("plugin", PLUGIN), ("consumer", CONSUMER)]
)
def test_end_of_an_owner_covers_what_was_made_before_and_nothing_since(
    kind: str, id_: bytes
) -> None:
    memory = Memory()
    memory.ended.end_owner(kind, id_, NOW + 50, 6)
    assert memory.ended.until(jwt(5), CONSUMER) == NOW + 50
    assert memory.ended.until(jwt(6), CONSUMER) is None
    memory.ended.end_owner(kind, id_, 0.0, 0)  # by a control plane that does not say when
    assert memory.ended.until(jwt(10**9), CONSUMER) == math.inf
    memory.ended.clear()
    assert memory.ended.until(jwt(5), CONSUMER) is None


def test_id_of_one_kind_is_none_of_another() -> None:
    memory = Memory()
    memory.ended.end_owner("plugin", CREDENTIAL, 0.0, 6)
    memory.ended.end_owner("credential", CONSUMER, 0.0, 6)
    assert memory.ended.until(jwt(), CONSUMER) is None


def test_what_is_forgotten_for_want_of_room_makes_unsure() -> None:
    memory = Memory(capacity=2)
    for number in range(4):
        memory.ended.end_jti(bytes([number]) * 16, NOW + 50, 10 + number)
    assert memory.ended.forgotten == 11
    assert memory.ended.until(jwt(jti=bytes([0]) * 16), None) is None
    assert memory.ended.unsure(jwt(11)) and not memory.ended.unsure(jwt(12))
    memory.ended.clear()
    assert not memory.ended.unsure(jwt(0))


def test_what_no_longer_matters_is_forgotten_without_harm() -> None:
    memory = Memory(capacity=1)
    memory.ended.end_jti(b"a" * 16, NOW + 1, 10)
    memory.time = NOW + 1
    memory.ended.end_jti(b"b" * 16, NOW + 50, 11)
    assert memory.ended.forgotten == -1


def test_forgotten_end_of_unknown_version_makes_unsure_of_all() -> None:
    memory = Memory(capacity=1)
    memory.ended.end_owner("plugin", b"a" * 16, 0.0, 0)
    memory.ended.end_owner("plugin", b"b" * 16, 0.0, 5)
    assert memory.ended.forgotten == ALL_VERSIONS
    assert memory.ended.unsure(jwt(10**12))


def test_memory_is_bounded() -> None:
    memory = Memory(capacity=3)
    for number in range(100):
        id_ = number.to_bytes(16, "big")
        memory.ended.end_token(id_ * 2, 0.0)
        memory.ended.end_jti(id_, 0.0, 1)
        memory.ended.end_owner("plugin", id_, 0.0, 1)
    assert len(memory.ended) == 9
