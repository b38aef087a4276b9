"""Our verifier beside PyJWT, joserfc and jwcrypto: what ours takes, each of them takes.

Each of the others is given the key and the one algorithm that is right, and asked for signature,
expiry and JSON; what they do not look at (`typ`, our own claims) they let pass. So none of them may
refuse what we accept. The tokens are good ones and thousands of hostile ones, made from a seed that
is printed; some of those the others take, and each of them ours has to refuse.
"""

from __future__ import annotations

import hmac
import json
import random
import secrets
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jwt as pyjwt
import pytest
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import import_key
from jwcrypto import jwk as jwcrypto_jwk
from jwcrypto import jwt as jwcrypto_jwt

from dataplane import jws
from tests import tokens
from tests.dataplane.test_jws import public_texts

NOW = 1_700_000_000
MUTANTS = 1000  # of each algorithm
SEED = secrets.randbits(32)


def by_pyjwt(token: str, alg: str, key: dict[str, str]) -> None:
    pyjwt.decode(
        token,
        pyjwt.PyJWK(key).key,
        algorithms=[alg],
        # Its clock is the system's, and this is not what is compared.
        options={"verify_exp": False, "verify_iat": False, "verify_aud": False},
    )


def by_joserfc(token: str, alg: str, key: dict[str, str]) -> None:
    found = joserfc_jwt.decode(token, import_key(key), algorithms=[alg])
    joserfc_jwt.JWTClaimsRegistry(now=NOW, exp={"essential": True}).validate(found.claims)


def by_jwcrypto(token: str, alg: str, key: dict[str, str]) -> None:
    checked = jwcrypto_jwt.JWT(algs=[alg], check_claims={"iss": None, "jti": None})
    checked.leeway = 10**9  # its clock is the system's
    checked.deserialize(token, jwcrypto_jwk.JWK(**key))


OTHERS: dict[str, Callable[[str, str, dict[str, str]], None]] = {
    "PyJWT": by_pyjwt,
    "joserfc": by_joserfc,
    "jwcrypto": by_jwcrypto,
}


def others(token: str, alg: str) -> dict[str, bool]:
    """Who of the others takes the token."""
    found = {}
    for name, decode in OTHERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decode(token, alg, tokens.pair(alg).public_jwk)
            found[name] = True
        except Exception:  # whatever they raise, RecursionError included
            found[name] = False
    return found


def ours(token: str) -> bool:
    try:
        jws.verify_access_token(token, tokens.verifying(), NOW)
    except jws.Rejected:
        return False
    return True


# --- good tokens ---------------------------------------------------------------------------------


def good(dice: random.Random, alg: str) -> str:
    """A token as the issuer may mint one."""
    user = dice.choice([None, "alex", "ünïcode ✓", 'quo"te', "\U0001d54c", "x" * 500])
    return tokens.access_token(
        NOW,
        alg,
        iss=dice.choice([tokens.ISSUER, "https://auth.example/a/b?c=d"]),
        aud=dice.choice(["one", ["one"], [f"https://a{n}.example" for n in range(8)]]),
        uid=user,
        sub=user or "client-1",
        scope=dice.choice([None, "email", "a b c [d] {e}", "x" * 1000]),
        svc=dice.choice([None, str(tokens.SERVICE)]),
        exp=dice.choice([NOW + 1, NOW + 7200, jws.NEVER]),
        iat=dice.choice([NOW, NOW - 5, 0]),
        cv=dice.choice([0, 1, 2**53]),
        jti=str(uuid.UUID(int=dice.getrandbits(128), version=4)),
    )


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
def test_what_the_issuer_mints_everybody_takes(alg: str) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    for _ in range(200):
        token = good(dice, alg)
        assert ours(token)
        # jwcrypto reads a time as a C time where it can; 2^53 is one.
        assert all(others(token, alg).values()), token


# --- hostile tokens ------------------------------------------------------------------------------


def mutants(dice: random.Random, alg: str) -> Iterator[str]:
    """For ever: a good token that was changed in some way, under the old signature."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    while True:
        token = good(dice, alg)
        at = dice.randrange(len(token))
        kind = dice.randrange(9)
        if kind == 0:
            yield token[:at] + dice.choice(alphabet.replace(token[at], "")) + token[at + 1 :]
        elif kind == 1:
            yield token[:at] + token[at + 1 :]
        elif kind == 2:
            yield token[:at] + dice.choice("=+/!\n \t\0.~é") + token[at:]
        elif kind == 3:
            yield token[: -(1 + at % 12)]
        elif kind == 4:
            yield token + dice.choice(["=", "==", "A", "\n", "!!!!", ".", ".x"])
        elif kind == 5:
            yield dice.choice(["Bearer ", " ", "\ufeff", "."]) + token
        elif kind == 6:
            head, payload, _ = token.split(".")
            yield f"{head}.{payload}.{good(dice, alg).split('.')[2]}"
        elif kind == 7:
            payload = good(dice, alg).split(".")[1]
            yield ".".join([token.split(".")[0], payload, token.split(".")[2]])
        else:
            bits = list(tokens.decode(token.split(".")[2]))
            bits[at % len(bits)] ^= 1 << dice.randrange(8)
            yield f"{token.rpartition('.')[0]}.{tokens.encode(bytes(bits))}"


ODD_VALUES = [
    *("1e400", "NaN", "Infinity", "true", "false", "null", '"9"', "-1", str(2**60), "1.5", "1e3"),
    *("[]", "{}", '""', '"x"', "[1]", '{"a":1}', '[""]', "0", '["a",1]', '"\\ud800"', "[[[]]]"),
]


def odd(dice: random.Random, alg: str) -> Iterator[str]:
    """For ever: a header or payload that is not as it has to be, under a signature that is good."""
    while True:
        head, body = tokens.header(alg), tokens.claims(NOW)
        kind = dice.randrange(7)
        if kind == 0:
            name = dice.choice(["crit", "b64", "jku", "x5u", "x5c", "jwk", "zip"])
            yield tokens.signed(head | {name: dice.choice([[], True, "x", {}, ["exp"]])}, body, alg)
        elif kind == 1:
            name = dice.choice(["alg", "typ", "kid"])
            value = dice.choice([None, "", "none", "HS256", "JWT", "x", 1, [], {}, True])
            yield tokens.signed(head | {name: value}, body, alg)
        elif kind == 2:
            del head[dice.choice(["alg", "typ", "kid"])]
            yield tokens.signed(head, body, alg)
        elif kind == 3:
            name = dice.choice([*body, "uid", "scope", "svc", "nbf"])
            text = json.dumps(body | {name: "HERE"}).replace('"HERE"', dice.choice(ODD_VALUES))
            yield tokens.signed(head, text.encode(), alg)
        elif kind == 4:
            del body[dice.choice(list(body))]
            yield tokens.signed(head, body, alg)
        elif kind == 5:
            name = dice.choice(list(body))
            text = json.dumps(body)[:-1] + f', "{name}": {json.dumps(body[name])}}}'
            yield tokens.signed(head, text.encode(), alg)
        else:
            raw = dice.choice([b"[", b'{"a":']) * dice.choice([65, 500, 1500])
            pair = [raw, json.dumps(body).encode()]
            dice.shuffle(pair)
            yield tokens.signed(pair[0], pair[1], alg)


def fine_after_all(token: str, alg: str) -> bool:
    """Whether chance made a good token: what `odd` writes may be a value that is allowed."""
    claims = json.loads(tokens.decode(token.split(".")[1]))
    return isinstance(claims, dict) and set(tokens.claims(NOW)) <= set(claims)


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
def test_changed_token_nobody_takes(alg: str) -> None:
    print(f"seed {SEED}")
    made = mutants(random.Random(SEED), alg)
    taken: Counter[str] = Counter()
    for _ in range(MUTANTS):
        token = next(made)
        assert not ours(token), token
        taken.update(name for name, takes in others(token, alg).items() if takes)
    print(f"{alg}: of {MUTANTS} the others take {dict(taken)}")


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
def test_odd_token_under_a_good_signature_is_taken_by_us_only_if_by_all(alg: str) -> None:
    print(f"seed {SEED}")
    made = odd(random.Random(SEED), alg)
    taken: Counter[str] = Counter()
    for _ in range(MUTANTS):
        token = next(made)
        theirs = others(token, alg)
        if ours(token):
            assert all(theirs.values()), (token, theirs)
            assert fine_after_all(token, alg), token
        taken.update(name for name, takes in theirs.items() if takes)
        taken["we"] += ours(token)
    print(f"{alg}: of {MUTANTS} are taken by {dict(taken)}")
    assert taken["we"] < min(taken[name] for name in OTHERS)  # the traps are there, and shut


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
def test_forged_with_the_public_key_nobody_takes(alg: str) -> None:
    """S01, the most famous one: HS256 under what anybody may know."""
    for secret in public_texts(alg):
        head = tokens.header(alg) | {"alg": "HS256"}
        parts = [tokens.encode(json.dumps(part).encode()) for part in (head, tokens.claims(NOW))]
        mac = hmac.digest(secret, ".".join(parts).encode(), "sha256")
        token: Any = ".".join([*parts, tokens.encode(mac)])
        assert not ours(token)
        assert not any(others(token, alg).values())
