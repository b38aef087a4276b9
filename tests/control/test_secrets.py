"""control/oauth2/secrets.py: tokens, hashes, comparisons."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import os
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.oauth2 import secrets
from control.store.secrets import (
    ALPHABET,
    hash_client_secret,
    random_characters,
    random_text,
    token_digest,
)
from dataplane import wire

KONG_PHC = (
    "$pbkdf2-sha512$i=10000,l=32$YSBsaXR0ZSBiaXQsIGp1c3QgYSBsaXR0bGUgYml0"
    "$z6ysNworexAhDELywIDi0ba0B0T7F/MBZ6Ige9lWRYI"
)
KEY = bytes(range(32))


@given(st.binary(min_size=1, max_size=64), st.text(wire.TOKEN_ALPHABET, min_size=26, max_size=26))
def test_check_characters_equal_those_of_the_wire(key: bytes, random_part: str) -> None:
    assert secrets.check_chars(key, random_part) == wire.token_check(key, random_part)


def test_token_shape_and_digest_equal_those_of_the_wire() -> None:
    token = secrets.make_token(KEY)
    assert ALPHABET == wire.TOKEN_ALPHABET
    assert len(token) == wire.TOKEN_RANDOM_CHARS + wire.TOKEN_CHECK_CHARS
    assert set(token) <= set(wire.TOKEN_ALPHABET)
    assert token_digest(token) == wire.token_digest(token)


def test_s40_tokens_are_random_and_use_the_whole_alphabet() -> None:
    tokens = [secrets.make_token(KEY)[:26] for _ in range(5000)]
    assert len(set(tokens)) == len(tokens)
    for place in range(26):
        assert {token[place] for token in tokens} == set(ALPHABET)


def test_s40_a_million_samples_show_no_duplicate() -> None:
    """Of what tokens, codes, refresh tokens, secrets and provision keys are made of."""
    samples = {random_text(secrets.RANDOM_CHARS) for _ in range(1_000_000)}
    assert len(samples) == 1_000_000
    counts = Counter("".join(itertools.islice(samples, 20_000)))
    expected = 20_000 * secrets.RANDOM_CHARS / len(ALPHABET)
    # 62 binomial counts of about 8,387 each: six standard deviations are 550.
    assert counts.keys() == set(ALPHABET)
    assert all(abs(count - expected) < 550 for count in counts.values())


@pytest.mark.parametrize("make", [random_text, lambda: secrets.make_token(KEY)])
def test_s40_randomness_is_the_systems_and_128_bits_at_least(
    make: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    urandom = os.urandom

    def counting(size: int) -> bytes:
        taken.append(size)
        return urandom(size)

    monkeypatch.setattr(os, "urandom", counting)
    random_characters.forget()
    made = make()
    assert sum(taken) >= 16
    assert secrets.RANDOM_CHARS * math.log2(len(ALPHABET)) >= 128
    # The same bytes make the same text: nothing else is in it.
    monkeypatch.setattr(os, "urandom", lambda size: b"\x07" * size)
    random_characters.forget()
    assert make() == make() != made
    random_characters.forget()


def test_s40_forked_processes_do_not_repeat_each_other() -> None:
    secrets.make_token(KEY)  # whatever state a generator of this process may have
    reading, writing = os.pipe()
    for _ in range(4):
        child = os.fork()
        if child == 0:
            os.write(writing, b"".join(secrets.make_token(KEY).encode() for _ in range(10)))
            os._exit(0)
        os.waitpid(child, 0)
    os.close(writing)
    text = os.read(reading, 10_000).decode()  # all of it: who wrote has ended
    os.close(reading)
    made = [text[n : n + 32] for n in range(0, len(text), 32)]
    made += [secrets.make_token(KEY) for _ in range(10)]
    assert len(made) == len(set(made)) == 50


def test_kongs_hash_verifies() -> None:
    assert secrets.verify_hash("tofu", KONG_PHC)
    assert not secrets.needs_rehash(KONG_PHC)


def test_hash_has_a_salt_of_its_own() -> None:
    first, second = hash_client_secret("x"), hash_client_secret("x")
    assert first != second
    assert secrets.verify_hash("x", first) and secrets.verify_hash("x", second)


@pytest.mark.parametrize(
    "phc",
    [
        "",
        "tofu",
        KONG_PHC[:-1],
        KONG_PHC + "=",
        KONG_PHC + "\n",
        KONG_PHC.replace("sha512", "md5"),
        KONG_PHC.replace("sha512", "sha256"),
        KONG_PHC.replace("i=10000", "i=9999"),
        KONG_PHC.replace("i=10000", "i=0"),
        KONG_PHC.replace("i=10000", "i=9999999"),
        KONG_PHC.replace("l=32", "l=31"),
        KONG_PHC.replace("l=32", "l=0"),
        KONG_PHC.replace("$YSBsaXR0", "$A"),
        KONG_PHC.replace("$pbkdf2", "$argon2"),
    ],
)
def test_hash_that_is_not_kongs_never_verifies(phc: str) -> None:
    assert not secrets.verify_hash("tofu", phc)


@pytest.mark.parametrize("secret", ["", "tofU", "tofu ", "tofu\0", "\ud800", KONG_PHC])
def test_other_secret_does_not_verify(secret: str) -> None:
    assert not secrets.verify_hash(secret, KONG_PHC)


def test_decoy_is_a_hash_of_todays_cost() -> None:
    assert secrets.VERIFIABLE.fullmatch(secrets.DECOY)
    assert not secrets.needs_rehash(secrets.DECOY)
    assert not secrets.verify_hash("", secrets.DECOY)


@pytest.mark.parametrize("phc", [KONG_PHC, secrets.DECOY, "not a hash"])
def test_s25_verifying_hashes_once_whatever_is_stored(
    phc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    derived: list[int] = []
    pbkdf2 = hashlib.pbkdf2_hmac

    def counting(name: str, secret: bytes, salt: bytes, iterations: int, size: int) -> bytes:
        derived.append(iterations)
        return pbkdf2(name, secret, salt, iterations, size)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counting)
    verifier = secrets.HashVerifier(1)
    assert asyncio.run(verifier.verify("tofu", phc)) is (phc == KONG_PHC)
    assert derived == [10_000]
    assert verifier.count == 1


def test_verifier_runs_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(2)  # each waits for a second one: two do run at a time

    def slow(_secret: str, _phc: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(10)
        with lock:
            running -= 1
        return True

    monkeypatch.setattr(secrets, "verify_hash", slow)
    verifier = secrets.HashVerifier(2)

    async def flood() -> None:
        await asyncio.gather(*(verifier.verify("x", KONG_PHC) for _ in range(20)))

    asyncio.run(flood())
    assert (most, verifier.count) == (2, 20)


def test_right_secret_is_known_for_a_minute_and_a_wrong_one_never() -> None:
    now = 1000.0
    verifier = secrets.HashVerifier(1, clock=lambda: now)

    def verify(secret: str, phc: str = KONG_PHC) -> tuple[bool, int]:
        before = verifier.count
        return asyncio.run(verifier.verify(secret, phc)), verifier.count - before

    assert [verify("tofu"), verify("tofu")] == [(True, 1), (True, 0)]
    assert [verify("no"), verify("no")] == [(False, 1), (False, 1)]
    # Another hash of the same secret is another credential's, or a new secret.
    assert verify("tofu", hash_client_secret("tofu")) == (True, 1)
    assert verify("tofu", secrets.DECOY) == (False, 1)
    now += 59.9
    assert verify("tofu") == (True, 0)
    now += 0.2
    assert verify("tofu") == (True, 1)


def test_known_secrets_are_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_REMEMBERED_MAX", 2)
    monkeypatch.setattr(secrets, "verify_hash", lambda *_: True)
    verifier = secrets.HashVerifier(1)
    for secret in ("a", "b", "c", "b", "c", "a"):
        asyncio.run(verifier.verify(secret, KONG_PHC))
    assert verifier.count == 4
    assert len(verifier._right) == 2


@given(st.text(st.characters()), st.text(st.characters()))
def test_same_is_equality(left: str, right: str) -> None:
    assert secrets.same(left, right) is (left == right)
    assert secrets.same(left, left)
