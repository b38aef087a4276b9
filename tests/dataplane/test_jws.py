"""The wrapper around python-jose: what it signs, what it takes, and every trap it closes.

The traps are those of spec/security-checklist.md S01-S11; each is a token under a good signature,
or one that python-jose would take.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import time
import uuid
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from dataplane import jws
from tests import tokens

NOW = 1_700_000_000.0


def verify(token: str, now: float = NOW, *algs: str) -> dict[str, Any]:
    return jws.verify_access_token(token, tokens.verifying(*algs), now)


def why(token: str, now: float = NOW) -> str:
    """Why the token is refused."""
    with pytest.raises(jws.Rejected) as caught:
        verify(token, now)
    return caught.value.reason


# --- what is good ------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
def test_token_comes_back_as_it_was_signed(alg: str) -> None:
    claims = tokens.claims(NOW, uid="ünal", sub="ünal", scope="a b", svc=str(tokens.SERVICE))
    token = tokens.signing(alg).sign(claims, "at+jwt")
    assert verify(token) == claims
    head = json.loads(tokens.decode(token.split(".")[0]))
    assert head == {"alg": alg, "typ": "at+jwt", "kid": tokens.pair(alg).public_jwk["kid"]}


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"])
def test_type_may_be_written_as_rfc_9068_has_it(typ: str) -> None:
    assert verify(tokens.signed(tokens.header(typ=typ), tokens.claims(NOW), "ES256"))


@pytest.mark.parametrize("aud", ["one", ["one"], ["one", "two"], [str(n) for n in range(8)]])
def test_audience_is_one_or_up_to_eight(aud: Any) -> None:
    claims = verify(tokens.access_token(NOW, aud=aud))
    assert jws.audiences(claims) == (aud if isinstance(aud, list) else [aud])


def test_signing_key_refuses_what_no_header_can_carry() -> None:
    with pytest.raises(ValueError, match="too long"):
        tokens.signing("ES256").sign({"scope": "x" * 7000}, "at+jwt")


def test_token_that_never_expires_has_an_exp_all_the_same() -> None:
    assert verify(tokens.access_token(NOW, exp=jws.NEVER), NOW + 10**9)["exp"] == 2**53


def test_second_spelling_of_a_signature_is_the_same_token() -> None:
    token = tokens.access_token(NOW)
    other = tokens.other_spelling(token)
    assert other != token
    assert verify(other) == verify(token)


# --- S01: the algorithm is the key's --------------------------------------------------------------


def public_texts(alg: str) -> list[bytes]:
    """The public key in every form that somebody might take for a secret."""
    key = tokens.verifying(alg)[tokens.pair(alg).public_jwk["kid"]]._key.prepared_key
    encoding, form = serialization.Encoding, serialization.PublicFormat
    pem = key.public_bytes(encoding.PEM, form.SubjectPublicKeyInfo)
    return [
        pem,
        pem.strip(),
        key.public_bytes(encoding.DER, form.SubjectPublicKeyInfo),
        key.public_bytes(encoding.OpenSSH, form.OpenSSH),
        json.dumps(tokens.pair(alg).public_jwk).encode(),
        b"",
    ]


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
@pytest.mark.parametrize("form", range(6))
def test_s01_hmac_with_the_public_key_is_refused(alg: str, form: int) -> None:
    head = tokens.header(alg) | {"alg": "HS256"}
    text = ".".join(tokens.encode(json.dumps(p).encode()) for p in (head, tokens.claims(NOW)))
    mac = hmac.digest(public_texts(alg)[form], text.encode(), hashlib.sha256)
    assert why(f"{text}.{tokens.encode(mac)}") == "the algorithm is not the key's"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, 1, ["ES256"], True])
@pytest.mark.parametrize("signature", ["", "AA"])
def test_s01_none_is_refused(alg: Any, signature: str) -> None:
    head = tokens.header(alg="ES256") | {"alg": alg}
    text = ".".join(tokens.encode(json.dumps(p).encode()) for p in (head, tokens.claims(NOW)))
    assert why(f"{text}.{signature}")


@pytest.mark.parametrize("said", ["RS256", "EdDSA", "ES384", "PS256", "es256"])
def test_s01_other_algorithm_against_the_key_is_refused(said: str) -> None:
    token = tokens.signed(tokens.header() | {"alg": said}, tokens.claims(NOW), "ES256")
    assert why(token) == "the algorithm is not the key's"


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
def test_signature_of_another_key_is_refused(alg: str) -> None:
    made = tokens.pair(alg, 2)
    key = jws.SigningKey(tokens.pair(alg).public_jwk["kid"], alg, made.private_pem)
    assert why(key.sign(tokens.claims(NOW), "at+jwt")) == "the signature does not verify"


# --- S02, S03, S07: the header ------------------------------------------------------------------


@pytest.mark.parametrize("member", ["crit", "b64", "jku", "x5u", "x5c", "jwk", "zip"])
@pytest.mark.parametrize("value", [None, [], ["exp"], "http://127.0.0.1:9/keys", {}, True, False])
def test_s02_header_that_changes_the_rules_is_refused_and_nobody_is_called(
    member: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("something left the process")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    token = tokens.signed(tokens.header() | {member: value}, tokens.claims(NOW), "ES256")
    assert why(token) == "the header has a member that we do not know"


@pytest.mark.parametrize("kid", [None, "", "unknown", 1, ["x"], {}, True])
def test_s03_missing_or_unknown_kid_is_refused_before_any_key_is_tried(
    kid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> bool:
        raise AssertionError("a key was tried")

    monkeypatch.setattr(jws.VerifyKey, "verifies", forbidden)
    head = {k: v for k, v in (tokens.header() | {"kid": kid}).items() if v is not None}
    assert "key" in why(tokens.signed(head, tokens.claims(NOW), "ES256"))
    head["kid"] = kid  # null is not the same as missing
    assert "key" in why(tokens.signed(head, tokens.claims(NOW), "ES256"))


@pytest.mark.parametrize(
    "typ", [None, "", "JWT", "jwt", "id+jwt", "at+jwt ", "application/jwt", "text/at+jwt", 1, []]
)
def test_s07_another_type_is_refused(typ: Any) -> None:
    head = {k: v for k, v in (tokens.header() | {"typ": typ}).items() if v is not None}
    assert why(tokens.signed(head, tokens.claims(NOW), "ES256")) == "the token is of another type"


# --- S04, S10: the text -------------------------------------------------------------------------


def changed_bits(token: str) -> list[str]:
    """The token with the unused bits of the last character of each part set otherwise."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    found = []
    parts = token.split(".")
    for at, part in enumerate(parts):
        spare = {0: 0, 2: 4, 3: 2}[len(part) % 4]
        for bits in range(1, 2**spare):
            last = alphabet[alphabet.index(part[-1]) ^ bits]
            found.append(".".join([*parts[:at], part[:-1] + last, *parts[at + 1 :]]))
    return found


def lenient(token: str) -> list[str]:
    """What a forgiving decoder takes for the same token."""
    head, payload, signature = token.split(".")
    found = [f"{token}=", f"{token}==", f"{head}=.{payload}.{signature}", f"{token}!!!!"]
    found += [f"{token}\n", f" {token}", f"{token} ", f"{token}\0", f"{token}\r\n", f"{token}."]
    found += [f".{token}", f"{head}..{payload}.{signature}", f"{token}.{signature}"]
    found += [f"{head}.{payload}", head, "", ".", "..", "...", f"{head}.{payload}."]
    found += [f"{head}.{payload[:20]} {payload[20:]}.{signature}"]
    found += [f"{head}.{payload}.{signature[:9]}!!!!{signature[9:]}"]
    found += [f"{head}.{payload}.{signature[:8]}\n{signature[8:]}"]
    found += [f"{head}.{payload}.{signature}é", token.replace(".", "\u3002"), f"\ufeff{token}"]
    return found + changed_bits(token)


def test_s04_only_canonical_base64url_is_read() -> None:
    # A payload of 3n+1 bytes and a signature of 64 have spare bits in their last characters.
    token = next(
        token
        for pad in range(3)
        if len((token := tokens.access_token(NOW, scope="x" * (pad + 1))).split(".")[1]) % 4
    )
    assert verify(token)
    spellings = lenient(token)
    assert len(spellings) > 40
    for other in spellings:
        assert why(other).startswith("the token"), other


def test_s04_the_alphabet_of_plain_base64_is_refused() -> None:
    """`-` and `_` written as `+` and `/`: the same bytes to a forgiving decoder."""
    found = 0
    for number in range(50):
        token = tokens.access_token(NOW, scope=str(number))
        for ours, plain in ("-", "+"), ("_", "/"):
            if ours in token:
                found += 1
                assert why(token.replace(ours, plain))
    assert found > 10


def test_s10_long_token_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: object) -> bytes:
        raise AssertionError("it was decoded")

    keys = tokens.verifying()
    token = tokens.signed(tokens.header(), tokens.claims(NOW, scope="x" * 7000), "ES256")
    monkeypatch.setattr(jws, "_decode", forbidden)
    with pytest.raises(jws.Rejected, match="too long"):
        jws.verify_access_token(token, keys, NOW)


@pytest.mark.parametrize("opening", [b'{"a":', b"[", b'{"a":['])
@pytest.mark.parametrize("depth", [65, 1_000, 2_900, 100_000])
def test_s10_deep_header_costs_under_a_millisecond(opening: bytes, depth: int) -> None:
    token = f"{tokens.encode(opening * depth)}.e30.AA"
    best = min(timed(token) for _ in range(5))
    assert best < 0.001


@pytest.mark.parametrize("start", [b'"', b'{"', b'{"a":"', b'["a","'])
@pytest.mark.parametrize("more", [b'\\"', b'\\\\"', b'\\\n"', b"\\", b'"'], ids=repr)
def test_s10_string_without_an_end_costs_under_a_millisecond(start: bytes, more: bytes) -> None:
    token = f"{tokens.encode((start + more * 5_900)[:5_900])}.e30.AA"
    best = min(timed(token) for _ in range(5))
    assert best < 0.001


def timed(token: str) -> float:
    began = time.perf_counter()
    why(token)
    return time.perf_counter() - began


def test_brackets_inside_a_string_are_no_depth() -> None:
    scope = '[{"\\' * 200
    assert verify(tokens.access_token(NOW, scope=scope))["scope"] == scope


# --- S06, S09, S11: the claims ------------------------------------------------------------------

REQUIRED = ("iss", "sub", "aud", "exp", "iat", "jti", "client_id", "cid", "cv", "pid")
ODD: list[Any] = [None, True, False, 1, 1.5, "", [], {}, ["a"], {"a": 1}, [["a"]], [""], [1]]
FINE = {("aud", "['a']"), ("cv", "1"), ("iat", "1")}


@pytest.mark.parametrize("name", REQUIRED)
def test_s06_missing_claim_is_refused(name: str) -> None:
    assert why(tokens.access_token(NOW, **{name: None})) == "a claim is missing"


@pytest.mark.parametrize("name", [*REQUIRED, "scope", "svc", "uid"])
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_s06_claim_of_another_type_is_refused(name: str, value: Any) -> None:
    token = tokens.signed(tokens.header(), tokens.claims(NOW) | {name: value}, "ES256")
    if (name, repr(value)) in FINE:
        assert verify(token)
    else:
        assert why(token)


@pytest.mark.parametrize("name", ["jti", "cid", "pid", "svc"])
@pytest.mark.parametrize(
    "value", ["x", str(uuid.UUID(int=1)).replace("-", ""), f"{{{uuid.UUID(int=1)}}}", "A" * 36]
)
def test_id_is_a_uuid_in_its_one_spelling(name: str, value: str) -> None:
    assert why(tokens.access_token(NOW, **{name: value})) == "a claim is of the wrong type"


def test_nine_audiences_are_too_many() -> None:
    token = tokens.access_token(NOW, aud=[str(n) for n in range(9)])
    assert why(token) == "a claim is of the wrong type"


@pytest.mark.parametrize("name", ["exp", "iat", "cv"])
@pytest.mark.parametrize(
    "number",
    [
        *("1e400", "NaN", "Infinity", "-Infinity", "true", '"9"', "-1", str(2**60), str(2**53 + 1)),
        *("1.0", "1e3", "9" * 5000, "0x10", "01", "-0", "null", "[1]", "1_0"),
    ],
)
def test_s09_odd_number_is_refused(name: str, number: str) -> None:
    text = json.dumps(tokens.claims(NOW) | {name: "HERE"}).replace('"HERE"', number)
    assert why(tokens.signed(tokens.header(), text.encode(), "ES256"))


@pytest.mark.parametrize("where", ["header", "payload", "deep", "escaped"])
def test_s11_member_that_is_there_twice_is_refused(where: str) -> None:
    head, body = (json.dumps(p) for p in (tokens.header(), tokens.claims(NOW)))
    if where == "header":
        head = head[:-1] + ', "alg": "ES256"}'
    elif where == "payload":
        body = body[:-1] + ', "sub": "client-1"}'
    elif where == "deep":
        body = body[:-1] + ', "x": [{"a": 1, "a": 1}]}'
    else:
        body = body[:-1] + ', "s\\u0075b": "client-1"}'
    token = tokens.signed(head.encode(), body.encode(), "ES256")
    assert why(token) == "a member is there twice"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-16-le"])
def test_other_encoding_than_utf_8_is_refused(encoding: str) -> None:
    body = json.dumps(tokens.claims(NOW)).encode(encoding)
    assert why(tokens.signed(tokens.header(), body, "ES256"))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b'"x"', b"null", b"{", b"{}x", b"\xff", b'{"a":"\xed\xa0\x80"}']
)
def test_payload_that_is_no_object_is_refused(body: bytes) -> None:
    assert why(tokens.signed(tokens.header(), body or b" ", "ES256"))


@pytest.mark.parametrize("claim", ["sub", "scope", "x"])
def test_half_a_surrogate_pair_is_refused(claim: str) -> None:
    text = json.dumps(tokens.claims(NOW) | {claim: "HERE"}).replace("HERE", "a\\ud800")
    assert why(tokens.signed(tokens.header(), text.encode(), "ES256"))


def test_sub_is_the_user_or_the_client() -> None:
    for fine in ({"uid": "u", "sub": "u"}, {"sub": "client-1"}):
        assert verify(tokens.access_token(NOW, **fine))
    for odd in ({"uid": "u"}, {"sub": "u"}, {"uid": "u", "sub": "v"}):
        assert why(tokens.access_token(NOW, **odd)) == "sub is neither the user nor the client"


def test_token_ends_with_its_last_second() -> None:
    token = tokens.access_token(NOW, exp=int(NOW) + 10)
    assert verify(token, NOW + 9.999)
    assert why(token, NOW + 10) == "the token has expired"


@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_token_begins_with_five_seconds_for_the_clocks(name: str) -> None:
    token = tokens.access_token(NOW, **{name: int(NOW) + 5})
    assert verify(token, NOW)
    assert why(token, NOW - 0.5) == "the token is not valid yet"


@pytest.mark.parametrize("value", ["1", True, []])
def test_nbf_of_another_type_is_refused(value: Any) -> None:
    assert why(tokens.access_token(NOW, nbf=value)) == "the token is not valid yet"


def test_what_the_backend_raises_does_not_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> bool:
        raise MemoryError

    monkeypatch.setattr(jws.VerifyKey, "verifies", broken)
    assert why(tokens.access_token(NOW)) == "the token cannot be read"


def test_reasons_say_nothing_of_the_token() -> None:
    secret = "s3cret-scope"
    for changed in ({"exp": 1}, {"iss": None}, {"jti": "x"}, {"iat": int(NOW) + 100}):
        assert secret not in why(tokens.access_token(NOW, scope=secret, **changed))


# --- keys ---------------------------------------------------------------------------------------


def test_thumbprints_are_those_of_the_rfcs() -> None:
    rsa = {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6t"
        "Soc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGj"
        "QR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4v"
        "MQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }
    assert jws.thumbprint(rsa) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"  # RFC 7638 §3.1
    okp = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert jws.thumbprint(okp) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # RFC 8037 A.3


def test_signatures_of_the_rfcs_verify() -> None:
    okp = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    text = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    signature = (
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    assert jws.VerifyKey("k", "EdDSA", okp).verifies(text, tokens.decode(signature))  # 8037 A.4
    ec = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    text = (
        b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
        b"cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    )
    signature = (
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    )
    key = jws.VerifyKey("k", "ES256", ec)
    assert key.verifies(text, tokens.decode(signature))  # RFC 7515 A.3
    assert not key.verifies(text + b"x", tokens.decode(signature))


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
def test_new_key_has_its_thumbprint_for_a_name(alg: str) -> None:
    made = tokens.pair(alg)
    jwk = made.public_jwk
    assert (jwk["alg"], jwk["use"], jwk["kid"]) == (alg, "sig", jws.thumbprint(jwk))
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & jwk.keys()
    assert made.private_pem not in repr(made)
    assert "PRIVATE" not in repr(tokens.signing(alg))


@pytest.mark.parametrize("alg", ["HS256", "none", "ES384", "PS256", ""])
def test_no_other_algorithm_has_keys(alg: str) -> None:
    with pytest.raises(ValueError, match="algorithm"):
        jws.generate(alg)
    with pytest.raises(ValueError, match="algorithm"):
        jws.SigningKey("k", alg, tokens.pair("ES256").private_pem)
    with pytest.raises(ValueError, match="algorithm"):
        jws.VerifyKey("k", alg, tokens.pair("ES256").public_jwk)


def weak() -> dict[str, str]:
    from cryptography.hazmat.primitives.asymmetric import rsa

    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    return {"kty": "RSA", "e": "AQAB", "n": tokens.encode(numbers.n.to_bytes(128, "big"))}


BAD_KEYS = {
    "a private part": lambda jwk: {**jwk, "d": "AA"},
    "a symmetric part": lambda jwk: {**jwk, "k": "AA"},
    "another kind": lambda jwk: {**jwk, "kty": "RSA"},
    "another curve": lambda jwk: {**jwk, "crv": "P-384"},
    "another algorithm": lambda jwk: {**jwk, "alg": "ES384"},
    "for encryption": lambda jwk: {**jwk, "use": "enc"},
    "for nothing": lambda jwk: {**jwk, "key_ops": ["sign"]},
    "operations of another type": lambda jwk: {**jwk, "key_ops": "verify"},
    "a missing member": lambda jwk: {k: v for k, v in jwk.items() if k != "y"},
    "padding": lambda jwk: {**jwk, "x": jwk["x"] + "="},
    "a number": lambda jwk: {**jwk, "x": 5},
    "a point that is on no curve": lambda jwk: {**jwk, "x": jwk["y"]},
}


@pytest.mark.parametrize("what", BAD_KEYS)
def test_key_that_is_not_fit_is_refused_in_words(what: str) -> None:
    with pytest.raises(ValueError, match=r"^the key"):
        jws.VerifyKey("k", "ES256", BAD_KEYS[what](dict(tokens.pair("ES256").public_jwk)))


def test_short_rsa_key_is_refused() -> None:
    with pytest.raises(ValueError, match="2048"):
        jws.VerifyKey("k", "RS256", weak())


# --- a client's assertions, RFC 7523 ------------------------------------------------------------


def client_set(*algs: str, **changed: Any) -> str:
    return json.dumps({"keys": [dict(tokens.pair(alg).public_jwk) | changed for alg in algs]})


def test_client_keys_are_a_jwk_or_a_set() -> None:
    one = tokens.pair("ES256").public_jwk
    assert set(jws.client_keys(json.dumps(one))) == {one["kid"], ""}
    bare = {name: one[name] for name in ("kty", "crv", "x", "y")}
    assert set(jws.client_keys(json.dumps(bare))) == {jws.thumbprint(one), ""}
    assert set(jws.client_keys(client_set(*jws.ALGORITHMS))) == set(tokens.verifying())


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "[]", "{}", "1", '{"keys": []}', '{"keys": {}}', '{"keys": [1]}', "\ud800"),
        *('{"kty": "oct", "k": "AA"}', '{"kty": "EC"}', '{"kty": []}', "{" * 5000),
    ],
    ids=range(13),
)
def test_client_keys_that_are_none_are_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="key"):
        jws.client_keys(text)


def test_client_keys_are_bounded_and_have_different_names() -> None:
    with pytest.raises(ValueError, match="number"):
        jws.client_keys(client_set(*["ES256"] * 11))
    with pytest.raises(ValueError, match="different"):
        jws.client_keys(client_set("ES256", "ES256"))
    with pytest.raises(ValueError, match="different"):
        jws.client_keys(client_set("ES256", "EdDSA", kid=7))


def assertion(typ: str | None = "JWT", kid: bool = True, **changed: Any) -> str:
    claims: dict[str, Any] = {
        "iss": "client-1",
        "sub": "client-1",
        "aud": "https://auth.example",
        "exp": int(NOW) + 60,
        "jti": "1",
        **changed,
    }
    head = tokens.header() | {"typ": typ}
    if not kid:
        del head["kid"]
    return tokens.signed(
        {k: v for k, v in head.items() if v is not None},
        {k: v for k, v in claims.items() if v is not None},
        "ES256",
    )


def prove(token: str) -> dict[str, Any]:
    keys = jws.client_keys(json.dumps(tokens.pair("ES256").public_jwk))
    names = ["https://auth.example", "https://auth.example/oauth2/token"]
    return jws.verify_assertion(token, keys, client_id="client-1", audience=names, now=NOW)


@pytest.mark.parametrize(
    "typ", [None, "JWT", "jwt", "application/jwt", "client-authentication+jwt"]
)
@pytest.mark.parametrize("kid", [True, False])
def test_s41_assertion_proves_the_client(typ: str | None, kid: bool) -> None:
    assert prove(assertion(typ, kid))["jti"] == "1"


@pytest.mark.parametrize(
    "changed",
    [
        *({"iss": "client-2"}, {"sub": "client-2"}, {"iss": None}, {"sub": None}),
        *({"aud": "elsewhere"}, {"aud": None}, {"aud": []}, {"aud": ["a", "b"]}),
        *({"exp": None}, {"exp": int(NOW)}, {"exp": int(NOW) + 306}, {"exp": jws.NEVER}),
        *({"jti": None}, {"jti": 1}, {"jti": ""}, {"typ": "at+jwt"}),
        *({"iat": int(NOW) + 6}, {"nbf": int(NOW) + 6}, {"iat": "1"}),
    ],
    ids=repr,
)
def test_s41_assertion_that_proves_nothing_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(jws.Rejected):
        prove(assertion(**changed))


def test_s07_assertion_is_no_access_token_and_the_other_way_about() -> None:
    body = tokens.claims(NOW, iss="client-1", aud="https://auth.example", exp=int(NOW) + 60)
    as_token = tokens.signed(tokens.header(), body, "ES256")
    as_assertion = tokens.signed(tokens.header(typ="JWT"), body, "ES256")
    assert verify(as_token) and prove(as_assertion)
    with pytest.raises(jws.Rejected):
        prove(as_token)
    assert why(as_assertion) == "the token is of another type"


def test_unverified_claims_find_the_client() -> None:
    assert jws.unverified_claims(assertion())["sub"] == "client-1"
    for token in ("", "a.b", "a.b.c", base64.b64encode(b"{}").decode() + ".e30.AA", "e30.WzFd.AA"):
        with pytest.raises(jws.Rejected):
            jws.unverified_claims(token)


def test_s99_signatures_are_made_by_cryptography_and_nobody_else_uses_jose() -> None:
    from pathlib import Path

    from tests.harness import ROOT

    users = [
        path.relative_to(ROOT)
        for top in ("control", "dataplane", "narthex")
        for path in (ROOT / top).rglob("*.py")
        if "jose" in path.read_text()
    ]
    assert users == [Path("dataplane/jws.py")]
    for name in ("ES256", "RS256", "EdDSA"):
        key = tokens.signing(name)._key.prepared_key
        assert type(key).__module__.startswith("cryptography.")
