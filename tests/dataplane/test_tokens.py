"""The token cache against a dict, at its limit, and with windows forced to collide."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import pytest

from dataplane import wire
from dataplane._core import Reclaimer
from dataplane._tokens import TokenCache, check_passes, digest
from tests.dataplane.memory import rss_kib

CREDENTIAL = bytes(range(16))
SERVICE = bytes(range(16, 32))
PROBES = 16


def sha(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def make(capacity: int = 64, seed: bytes = b"0123456789abcdef") -> tuple[TokenCache, Reclaimer]:
    reclaimer = Reclaimer()
    return TokenCache(capacity, seed, reclaimer), reclaimer


def put(cache: TokenCache, key: bytes, expires_at: float = 0.0, version: int = 1) -> None:
    cache.put(key, CREDENTIAL, None, None, None, expires_at, version)


def colliding(cache: TokenCache, count: int) -> list[bytes]:
    """Digests whose windows all start at the same slot."""
    start, _ = cache.window(sha(0))
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        if cache.window(sha(number))[0] == start:
            found.append(sha(number))
        number += 1
    return found


def siphash_1_3(key: bytes, message: bytes) -> int:
    """SipHash-1-3 as its authors describe it."""
    mask = (1 << 64) - 1
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
    v = [
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    ]

    def rotate(value: int, by: int) -> int:
        return ((value << by) | (value >> (64 - by))) & mask

    def round_() -> None:
        v[0] = (v[0] + v[1]) & mask
        v[1] = rotate(v[1], 13) ^ v[0]
        v[0] = rotate(v[0], 32)
        v[2] = (v[2] + v[3]) & mask
        v[3] = rotate(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & mask
        v[3] = rotate(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & mask
        v[1] = rotate(v[1], 17) ^ v[2]
        v[2] = rotate(v[2], 32)

    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        round_()
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(3):
        round_()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


# --- put, get, remove --------------------------------------------------------------------------


def test_cache_gives_back_what_was_put() -> None:
    cache, _ = make()
    cache.put(sha(1), CREDENTIAL, SERVICE, "email profile", "alex", 12.5, 7)
    assert cache.get(sha(1)) == (CREDENTIAL, SERVICE, "email profile", "alex", 12.5, 7)
    assert cache.get(sha(2)) is None
    assert len(cache) == 1


def test_cache_tells_a_global_token_from_one_bound_to_service_zero() -> None:
    cache, _ = make()
    cache.put(sha(1), CREDENTIAL, None, None, None, 0.0, 0)
    cache.put(sha(2), CREDENTIAL, bytes(16), None, None, 0.0, 0)
    assert cache.get(sha(1)) == (CREDENTIAL, None, None, None, 0.0, 0)
    assert cache.get(sha(2)) == (CREDENTIAL, bytes(16), None, None, 0.0, 0)


def test_cache_replaces_a_token_put_again() -> None:
    cache, _ = make()
    put(cache, sha(1), version=1)
    put(cache, sha(1), version=2)
    found = cache.get(sha(1))
    assert found is not None
    assert found[5] == 2
    assert len(cache) == 1


def test_cache_forgets_a_removed_token() -> None:
    cache, _ = make()
    put(cache, sha(1))
    assert cache.remove(sha(1)) is True
    assert cache.remove(sha(1)) is False
    assert cache.get(sha(1)) is None
    assert len(cache) == 0


def test_cache_removes_only_the_tokens_of_the_credential() -> None:
    cache, _ = make()
    for number in range(20):
        owner = CREDENTIAL if number % 2 else SERVICE
        cache.put(sha(number), owner, None, None, None, 0.0, 0)
    assert cache.remove_credential(CREDENTIAL) == 10
    assert [cache.get(sha(n)) is None for n in range(20)] == [bool(n % 2) for n in range(20)]
    assert cache.remove_credential(CREDENTIAL) == 0


# --- negatives ---------------------------------------------------------------------------------


def test_negative_holds_until_its_time() -> None:
    cache, _ = make()
    cache.put_negative(sha(1), 100.0)
    assert cache.is_negative(sha(1), 99.9)
    assert not cache.is_negative(sha(1), 100.0)
    assert not cache.is_negative(sha(2), 0.0)


def test_negative_goes_when_the_token_is_made() -> None:
    cache, _ = make()
    cache.put_negative(sha(1), 100.0)
    put(cache, sha(1))
    assert not cache.is_negative(sha(1), 0.0)
    assert cache.negatives == 0


def test_negatives_do_not_push_out_tokens() -> None:
    cache, _ = make(16)
    for number in range(16):
        put(cache, sha(number))
    for number in range(100, 1100):
        cache.put_negative(sha(number), 100.0)
    assert len(cache) == 16
    assert cache.negatives == 16


# --- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, -1, 1 << 40])
def test_cache_refuses_a_capacity_out_of_bounds(capacity: int) -> None:
    with pytest.raises(ValueError, match="holds 1 to"):
        make(capacity)


@pytest.mark.parametrize(
    ("key", "credential", "service"),
    [
        (b"x" * 31, CREDENTIAL, None),
        (sha(1), b"x" * 17, None),
        (sha(1), CREDENTIAL, b""),
        ("x" * 32, CREDENTIAL, None),
    ],
)
def test_cache_refuses_ids_of_the_wrong_size(
    key: bytes, credential: bytes, service: bytes | None
) -> None:
    cache, _ = make()
    with pytest.raises(ValueError, match="must be"):
        cache.put(key, credential, service, None, None, 0.0, 0)
    assert len(cache) == 0


@pytest.mark.parametrize("text", ["x" * 4097, "\n" * 1366, "ü" * 2049])
def test_cache_refuses_a_scope_or_user_id_that_is_too_long(text: str) -> None:
    cache, _ = make()
    with pytest.raises(ValueError, match="longer than 4096"):
        cache.put(sha(1), CREDENTIAL, None, text, None, 0.0, 0)
    with pytest.raises(ValueError, match="longer than 4096"):
        cache.put(sha(1), CREDENTIAL, None, None, text, 0.0, 0)
    cache.put(sha(1), CREDENTIAL, None, "x" * 4096, "y" * 4096, 0.0, 0)
    assert cache.get(sha(1)) == (CREDENTIAL, None, "x" * 4096, "y" * 4096, 0.0, 0)


def test_cache_refuses_a_lone_surrogate() -> None:
    cache, _ = make()
    with pytest.raises(ValueError, match="surrogate"):
        cache.put(sha(1), CREDENTIAL, None, None, "\ud800", 0.0, 0)


@pytest.mark.parametrize("control", [chr(n) for n in [*range(32), 127]])
def test_s57_scope_and_user_id_cannot_make_a_header_line(control: str) -> None:
    cache, _ = make()
    cache.put(sha(1), CREDENTIAL, None, f"a{control}b", f"u{control}X-Evil: 1", 0.0, 0)
    found = cache.get(sha(1))
    assert found is not None
    assert found[2] == f"a%{ord(control):02X}b"
    assert found[3] == f"u%{ord(control):02X}X-Evil: 1"


# --- collisions and eviction -------------------------------------------------------------------


def test_window_start_is_siphash_of_the_digest_under_the_seed() -> None:
    seed = bytes(range(16))
    cache, _ = make(1024, seed)
    for number in range(50):
        start, slots = cache.window(sha(number))
        assert start == siphash_1_3(seed, sha(number)) & (slots - 1)


def test_another_seed_gives_other_windows() -> None:
    one, _ = make(4096, b"a" * 16)
    other, _ = make(4096, b"b" * 16)
    same = sum(one.window(sha(n)) == other.window(sha(n)) for n in range(200))
    assert same < 20


def test_s15_colliding_tokens_never_answer_for_each_other() -> None:
    cache, _ = make(64)
    keys = colliding(cache, PROBES + 8)
    for number, key in enumerate(keys):
        cache.put(key, bytes([number] * 16), None, f"scope{number}", None, 0.0, number)
    kept = [cache.get(key) for key in keys]
    for number, found in enumerate(kept):
        expected = (bytes([number] * 16), None, f"scope{number}", None, 0.0, number)
        assert found in (None, expected)
    # All were put in one window: the first ones, the oldest, made room.
    assert [found is None for found in kept] == [True] * 8 + [False] * PROBES


@pytest.mark.parametrize("hash_bits", [0, 1, 3])
def test_s15_tokens_with_the_same_hash_never_answer_for_each_other(hash_bits: int) -> None:
    """Nothing but the digest tells them apart."""
    cache = TokenCache(64, bytes(16), Reclaimer(), hash_bits)
    for number in range(PROBES):
        cache.put(sha(number), bytes([number] * 16), None, None, None, 0.0, number)
        cache.put_negative(sha(1000 + number), float(number))
    for number in range(PROBES):
        assert cache.get(sha(number)) == (bytes([number] * 16), None, None, None, 0.0, number)
        assert cache.get(sha(1000 + number)) is None
        assert not cache.is_negative(sha(number), -1.0)
        assert cache.is_negative(sha(1000 + number), number - 1.0)
        assert not cache.is_negative(sha(1000 + number), number)
    assert cache.remove(sha(2000)) is False
    assert len(cache) == PROBES


def test_full_cache_evicts_what_expires_first_in_the_window() -> None:
    cache = TokenCache(4, bytes(16), Reclaimer(), 0)
    for number, expires_at in enumerate([50.0, 0.0, 20.0, 30.0]):
        put(cache, sha(number), expires_at)
    put(cache, sha(4), 60.0)
    put(cache, sha(5), 70.0)
    assert [cache.get(sha(n)) is None for n in range(6)] == [False, False, True, True, False, False]


def test_full_window_evicts_what_expires_first() -> None:
    cache, _ = make(64)
    keys = colliding(cache, PROBES + 2)
    lives = [0.0, *[1000.0 + n for n in range(PROBES - 1)]]
    random.Random(5).shuffle(lives)
    for key, expires_at in zip(keys, lives, strict=False):
        put(cache, key, expires_at)
    put(cache, keys[PROBES], 5000.0)
    assert cache.get(keys[lives.index(1000.0)]) is None
    put(cache, keys[PROBES + 1], 0.0)
    assert cache.get(keys[lives.index(1001.0)]) is None
    assert cache.get(keys[lives.index(0.0)]) is not None
    assert len(cache) == PROBES


def test_s15_cache_at_its_limit_evicts_and_holds_its_capacity() -> None:
    cache, reclaimer = make(100)
    for number in range(5000):
        put(cache, sha(number), version=number)
        found = cache.get(sha(number))
        assert found is not None
        assert found[5] == number
        assert len(cache) == min(number + 1, 100)
    assert reclaimer.sweep() >= 4900


def test_cache_of_one_holds_the_newest() -> None:
    cache, _ = make(1)
    for number in range(200):
        put(cache, sha(number))
        assert cache.get(sha(number)) is not None
        assert len(cache) == 1


def test_cache_holds_nearly_all_of_its_capacity() -> None:
    cache, _ = make(4096)
    for number in range(4096):
        put(cache, sha(number))
    assert len(cache) >= 4096 * 0.99


# --- against a model ---------------------------------------------------------------------------


@dataclass
class Model:
    known: dict[bytes, tuple[object, ...]]
    negative: dict[bytes, float]


@pytest.mark.parametrize("seed", range(6))
def test_cache_behaves_as_a_dict_that_may_forget(seed: int) -> None:
    """What is found is what was put last; what the dict lacks is never found."""
    print("seed", seed)
    rng = random.Random(seed)
    capacity = rng.choice([1, 7, 40, 500])
    cache, reclaimer = make(capacity, rng.randbytes(16))
    model = Model({}, {})
    keys = [sha(n) for n in range(300)] + colliding(cache, 30)
    for step in range(6000):
        key = rng.choice(keys)
        match rng.randrange(8):
            case 0 | 1 | 2:
                service = rng.choice([None, rng.randbytes(16)])
                scope = rng.choice([None, "a b", "s" * rng.randrange(1, 200)])
                user = rng.choice([None, "alex"])
                value = (rng.randbytes(16), service, scope, user, float(rng.randrange(50)), step)
                cache.put(key, *value)
                model.known[key] = value
                model.negative.pop(key, None)
                assert cache.get(key) == value
            case 3:
                was = cache.remove(key)
                assert not was or key in model.known
                model.known.pop(key, None)
            case 4:
                until = float(rng.randrange(100))
                cache.put_negative(key, until)
                model.negative[key] = until
                assert cache.is_negative(key, until - 1)
            case 5:
                found = cache.get(key)
                assert found is None or found == model.known.get(key)
            case 6:
                now = float(rng.randrange(100))
                assert not cache.is_negative(key, now) or now < model.negative.get(key, -1.0)
            case _:
                reclaimer.sweep()
        assert len(cache) <= capacity
    alive = sum(cache.get(key) is not None for key in set(keys))
    assert alive == len(cache)


def test_cache_never_forgets_below_its_limits() -> None:
    """With room and no full window, the cache is exactly the dict."""
    cache, _ = make(8192)
    for number in range(1000):
        put(cache, sha(number), version=number)
    for number in range(0, 1000, 3):
        assert cache.remove(sha(number))
    for number in range(1000):
        found = cache.get(sha(number))
        assert (found is None) == (number % 3 == 0)
        assert found is None or found[5] == number


# --- memory ------------------------------------------------------------------------------------


def test_s16_wrong_tokens_leave_memory_as_it_was() -> None:
    cache, reclaimer = make(65536)
    for number in range(20_000):
        cache.put_negative(sha(number), 10.0)
        reclaimer.sweep()
    before = rss_kib()
    for number in range(20_000, 120_000):
        cache.put_negative(sha(number), 10.0)
        reclaimer.sweep()
    assert rss_kib() - before < 1024
    assert cache.negatives <= 4096
    assert len(cache) == 0
    assert all(cache.get(sha(number)) is None for number in range(0, 120_000, 97))


def test_tokens_put_and_removed_leave_memory_as_it_was() -> None:
    cache, reclaimer = make(1000)

    def churn(rounds: int) -> None:
        for number in range(rounds):
            cache.put(sha(number % 3000), CREDENTIAL, None, "s" * 500, "u" * 500, 0.0, 0)
            if number % 5 == 0:
                cache.remove(sha(number % 3000))
            reclaimer.sweep()

    churn(10_000)
    before = rss_kib()
    churn(60_000)
    assert rss_kib() - before < 1024
    assert len(reclaimer) == 0


def test_caches_dropped_leave_memory_as_it_was() -> None:
    def use() -> None:
        cache, _ = make(2000)
        for number in range(2000):
            cache.put(sha(number), CREDENTIAL, None, "s" * 300, None, 0.0, 0)

    for _ in range(3):
        use()
    before = rss_kib()
    for _ in range(40):
        use()
    assert rss_kib() - before < 2048


# --- digests and checks ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 32, 55, 56, 64, 5000])
def test_digest_is_that_of_wire(size: int) -> None:
    token = "t" * size
    assert digest(token.encode()) == wire.token_digest(token)


def test_check_passes_for_what_wire_makes_and_nothing_else() -> None:
    rng = random.Random(1)
    key = rng.randbytes(32)
    for _ in range(200):
        part = "".join(rng.choices(wire.TOKEN_ALPHABET, k=26))
        token = (part + wire.token_check(key, part)).encode()
        assert check_passes(key, token)
        at = rng.randrange(32)
        changed = bytearray(token)
        changed[at] ^= 1
        assert not check_passes(key, bytes(changed))
        assert not check_passes(rng.randbytes(32), token)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_check_fails_for_another_length(size: int) -> None:
    key = bytes(32)
    part = "A" * 26
    token = (part + wire.token_check(key, part)).encode()
    assert not check_passes(key, (token * 2)[:size])
