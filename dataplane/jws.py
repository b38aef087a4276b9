"""Signing and verifying JSON web tokens: the one wrapper around python-jose.  RFC 7515, 7519, 9068.

Imports nothing of ours; with `wire` the second module that both planes import: the issuer signs
access tokens and verifies client assertions, the data plane verifies access tokens. python-jose
does the signatures alone. It never sees a token: it believes the header's algorithm when it may,
ignores `crit`, `typ` and `kid`, forgives broken base64 and lets RecursionError and OverflowError
out, so headers, claims and the choice of the key are judged here, before and after.

An access token of ours (`ACCESS_TOKEN`), header `{"alg", "typ": "at+jwt", "kid"}`:

    iss        the instance's `issuer`
    sub        the authenticated user's id where there is one (then `uid` is there too), else
               client_id
    aud        a string, or a list of 1 to 8: the instance's `audience` (or `issuer` where that is
               null) or the resources asked for
    exp, iat   whole seconds since 1970; a token that never expires has `exp` NEVER
    jti        UUID text: the id of the token's row in `oauth2_tokens`
    client_id  of the `oauth2_credentials` row, as it was then
    cid        UUID text: the id of that row, which a rename leaves and a new row of the same
               client_id does not have
    scope      space separated; absent when the token has none
    cv         the config version at which it was made (`wire.Token.version`)
    pid        UUID text: the plugin instance that issued it
    svc        UUID text: the service it is bound to; absent for a global token
    uid        `authenticated_userid`; absent when the token has none

The same signature may be written in two ways under ES256 (s or n-s) and both verify, as with every
other library: half of what others sign has the larger s. So a token is known by its `jti`, never by
its text (S05).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jose import jwk as jose_jwk  # type: ignore[import-untyped]
from jose.backends import ECKey, RSAKey  # type: ignore[import-untyped]
from jose.backends.base import Key  # type: ignore[import-untyped]

TOKEN_BYTES_MAX = 8 * 1024
NODES_MAX = 64  # arrays and objects in a header or payload, and so their depth
TIME_MAX = 2**53  # the largest number that every JSON reader agrees on
NEVER = TIME_MAX  # the `exp` of a token that never expires
AUDIENCES_MAX = 8
CLOCK_LEEWAY_S = 5  # for `iat` and `nbf`; `exp` has none
ASSERTION_SECONDS_MAX = 300
CLIENT_KEYS_MAX = 10
RSA_BITS = 2048
ALGORITHMS = ("ES256", "RS256", "EdDSA")

# The ecdsa and rsa packages come along with python-jose; neither is what we would sign with.
for _backend in (ECKey, RSAKey):
    if _backend.__module__ != "jose.backends.cryptography_backend":
        raise ImportError(f"python-jose uses {_backend.__module__}, not cryptography")


class Rejected(Exception):
    """A token is no good.  The text is static: nothing of the token is in it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _EdDSAKey(Key):  # type: ignore[misc]
    """Ed25519 for python-jose, which has none.  RFC 8037."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self.prepared_key: Any
        if isinstance(key, Mapping):
            self.prepared_key = ed25519.Ed25519PublicKey.from_public_bytes(_decode(key["x"]))
        else:
            self.prepared_key = serialization.load_pem_private_key(key.encode(), None)

    def sign(self, msg: bytes) -> bytes:
        signature: bytes = self.prepared_key.sign(msg)
        return signature

    def verify(self, msg: bytes, sig: bytes) -> bool:
        try:
            self.prepared_key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True


jose_jwk.register_key("EdDSA", _EdDSAKey)


# --- keys ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyPair:
    """A new key: PKCS #8 PEM, and its public half with kid, alg and use."""

    private_pem: str
    public_jwk: dict[str, str]

    def __repr__(self) -> str:
        return f"KeyPair({self.public_jwk['kid']})"  # no key in any log


def generate(alg: str) -> KeyPair:
    """A new key for one of ALGORITHMS; RS256 with 2048 bits.  ValueError for another."""
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    if alg == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
    elif alg == "RS256":
        private = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    elif alg == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    else:
        raise ValueError("the algorithm is none of ES256, RS256 and EdDSA")
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    return KeyPair(pem, _public_jwk(private.public_key(), alg))


def _public_jwk(key: Any, alg: str) -> dict[str, str]:
    if isinstance(key, ed25519.Ed25519PublicKey):
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": _encode(key.public_bytes_raw())}
    else:
        jwk = dict(jose_jwk.construct(key, alg).to_dict())
    return {**jwk, "alg": alg, "use": "sig", "kid": thumbprint(jwk)}


def thumbprint(jwk: Mapping[str, object]) -> str:
    """The key's name made from the key itself.  RFC 7638."""
    kty = jwk.get("kty")
    names = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
    if not isinstance(kty, str) or kty not in names:
        raise ValueError("the key is of no known kind")
    members = {name: jwk.get(name) for name in names[kty]}
    return _encode(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


class SigningKey:
    """A private key, read once: to read an RSA key costs 60 ms, to sign with it one."""

    def __init__(self, kid: str, alg: str, pem: str) -> None:
        if alg not in ALGORITHMS:
            raise ValueError("the algorithm is none of ES256, RS256 and EdDSA")
        self.kid = kid
        self.alg = alg
        self._key = jose_jwk.construct(pem, alg)

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"

    def sign(self, claims: Mapping[str, object], typ: str) -> str:
        """The compact form of these claims.  ValueError when it exceeds TOKEN_BYTES_MAX."""
        header = {"alg": self.alg, "typ": typ, "kid": self.kid}
        text = f"{_encode(_dump(header))}.{_encode(_dump(claims))}"
        token = f"{text}.{_encode(self._key.sign(text.encode()))}"
        if len(token) > TOKEN_BYTES_MAX:
            raise ValueError("the token is too long for a request header")
        return token


class VerifyKey:
    """A public key, read once from its JWK.

    ValueError for one with a private part, of another kind than `alg` or too weak.
    """

    def __init__(self, kid: str, alg: str, jwk: Mapping[str, object]) -> None:
        problem = _jwk_problem(alg, jwk)
        if problem is not None:
            raise ValueError(problem)
        self.kid = kid
        self.alg = alg
        try:
            self._key = jose_jwk.construct(dict(jwk), alg)
        except Exception:  # python-jose hands on whatever cryptography raises
            raise ValueError("the key cannot be read") from None
        if alg == "RS256" and self._key.prepared_key.key_size < RSA_BITS:
            raise ValueError("the key has less than 2048 bits")

    def verifies(self, text: bytes, signature: bytes) -> bool:
        return bool(self._key.verify(text, signature))


_KINDS = {
    "ES256": ("EC", "P-256", ("x", "y")),
    "RS256": ("RSA", None, ("n", "e")),
    "EdDSA": ("OKP", "Ed25519", ("x",)),
}
_PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}


def _jwk_problem(alg: str, jwk: Mapping[str, object]) -> str | None:
    if alg not in _KINDS:
        return "the key's algorithm is none of ES256, RS256 and EdDSA"
    kty, curve, members = _KINDS[alg]
    if not _PRIVATE.isdisjoint(jwk):
        return "the key has a private part"
    if jwk.get("kty") != kty or jwk.get("crv") != curve or jwk.get("alg", alg) != alg:
        return "the key is not of its algorithm's kind"
    operations = jwk.get("key_ops", ["verify"])
    if (
        jwk.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        return "the key is not for signatures"
    try:
        for name in members:
            _decode(jwk.get(name))
    except ValueError:
        return "the key cannot be read"
    return None


def client_keys(text: str) -> dict[str, VerifyKey]:
    """A client's public keys by kid, from its JWK or JWK Set: at most CLIENT_KEYS_MAX.

    A key that names no kid has its thumbprint for one. Where there is one key only, it is also
    under "", for assertions that name none. ValueError, its text static, for anything else.
    """
    try:
        parsed = _parse(text.encode())
    except (Rejected, UnicodeEncodeError):  # the latter for half a surrogate pair
        raise ValueError("the keys are no JSON object") from None
    listed = parsed.get("keys", [parsed])
    if not isinstance(listed, list) or not 1 <= len(listed) <= CLIENT_KEYS_MAX:
        raise ValueError("the number of keys is not between 1 and 10")
    keys = {}
    for jwk in listed:
        if not isinstance(jwk, dict):
            raise ValueError("the keys are not JSON objects")
        alg = jwk.get("alg", _usual_algorithm(jwk))
        if not isinstance(alg, str):
            raise ValueError("the key's algorithm is none of ES256, RS256 and EdDSA")
        kid = jwk.get("kid", None) or thumbprint(jwk)
        if not isinstance(kid, str) or kid in keys:
            raise ValueError("the keys' names are not different strings")
        keys[kid] = VerifyKey(kid, alg, jwk)
    if len(keys) == 1:
        keys[""] = next(iter(keys.values()))
    return keys


def _usual_algorithm(jwk: Mapping[str, object]) -> str | None:
    return next((alg for alg, kind in _KINDS.items() if kind[0] == jwk.get("kty")), None)


# --- claims ----------------------------------------------------------------------------------


class Claim(NamedTuple):
    """What a claim's value has to be, and whether it may be missing."""

    check: Callable[[object], bool]
    required: bool = True


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def is_number(value: object) -> bool:
    # What is no whole number from 0 to TIME_MAX has not come through `_parse`; a bool has.
    return type(value) is int


def is_texts(value: object) -> bool:
    """A string, or a list of 1 to AUDIENCES_MAX of them."""
    if isinstance(value, list):
        return 1 <= len(value) <= AUDIENCES_MAX and all(is_text(item) for item in value)
    return is_text(value)


def is_uuid(value: object) -> bool:
    if not isinstance(value, str) or len(value) != 36:
        return False
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


_COMMON = {
    "iss": Claim(is_text),
    "sub": Claim(is_text),
    "aud": Claim(is_texts),
    "exp": Claim(is_number),
}
ACCESS_TOKEN: Mapping[str, Claim] = {
    **_COMMON,
    "iat": Claim(is_number),
    "jti": Claim(is_uuid),
    "client_id": Claim(is_text),
    "cid": Claim(is_uuid),
    "scope": Claim(is_text, required=False),
    "cv": Claim(is_number),
    "pid": Claim(is_uuid),
    "svc": Claim(is_uuid, required=False),
    "uid": Claim(is_text, required=False),
}
ASSERTION: Mapping[str, Claim] = {
    **_COMMON,
    "iat": Claim(is_number, required=False),
    "nbf": Claim(is_number, required=False),
    "jti": Claim(is_text),
}
# What the `typ` of each may say, lower case and without `application/`; "" for none at all.
ACCESS_TOKEN_TYPES = ("at+jwt",)
ASSERTION_TYPES = ("", "jwt", "client-authentication+jwt")


def audiences(claims: Mapping[str, Any]) -> list[str]:
    """`aud` as a list, of claims that were verified."""
    aud = claims["aud"]
    return list(aud) if isinstance(aud, list) else [aud]


# --- verifying -------------------------------------------------------------------------------


def verify_access_token(token: str, keys: Mapping[str, VerifyKey], now: float) -> dict[str, Any]:
    """The claims of an access token.  Who it is for is the caller's to judge.

    Raises:
        Rejected: it is none, or not of these keys, or not valid at `now`.
    """
    claims = verify(token, keys, typ=ACCESS_TOKEN_TYPES, claims=ACCESS_TOKEN, now=now)
    if claims["sub"] != claims.get("uid", claims["client_id"]):
        raise Rejected("sub is neither the user nor the client")
    return claims


def verify_assertion(
    token: str,
    keys: Mapping[str, VerifyKey],
    *,
    client_id: str,
    audience: Iterable[str],
    now: float,
) -> dict[str, Any]:
    """The claims of a client's assertion about itself.  RFC 7523 §3, spec/security-checklist S41.

    `keys` are `client_keys`, `audience` the names that we go by: one of them has to be in `aud`.
    That `jti` was not seen before, until `exp`, is the caller's to see to.

    Raises:
        Rejected: it proves nothing, or it is good for more than five minutes.
    """
    claims = verify(token, keys, typ=ASSERTION_TYPES, claims=ASSERTION, now=now)
    if claims["iss"] != client_id or claims["sub"] != client_id:
        raise Rejected("iss and sub are not the client")
    if set(audience).isdisjoint(audiences(claims)):
        raise Rejected("aud does not name us")
    if claims["exp"] > now + ASSERTION_SECONDS_MAX + CLOCK_LEEWAY_S:
        raise Rejected("exp is too far away")
    return claims


def kid_of(token: str) -> str:
    """The name of the key that verified this token."""
    kid: str = json.loads(_decode(token[: token.index(".")]))["kid"]
    return kid


def unverified_claims(token: str) -> dict[str, Any]:
    """What a token claims, to find out whose key has to verify it; nothing of it is to be believed.

    Raises:
        Rejected: it is no token.
    """
    return _parse(_split(token)[1])


def verify(
    token: str,
    keys: Mapping[str, VerifyKey],
    *,
    typ: tuple[str, ...],
    claims: Mapping[str, Claim],
    now: float,
) -> dict[str, Any]:
    """All claims of a token that one of `keys` signed, those of `claims` as they have to be.

    The key is the one under the header's `kid`, and it says the algorithm; a token without `kid` is
    of the key under "", if there is one. `typ` is compared in lower case, without `application/`.

    Raises:
        Rejected: anything is wrong with it; nothing else ever comes out.
    """
    try:
        header_bytes, payload_bytes, signature, signed = _split(token)
        key = _choose(_parse(header_bytes), keys, typ)
        payload = _parse(payload_bytes)  # before the signature: malformed ones are cheap
        if not key.verifies(signed, signature):
            raise Rejected("the signature does not verify")
        _check(payload, claims, now)
        return payload
    except Rejected:
        raise
    except Exception:  # of the parser or of the backends, which promise nothing
        raise Rejected("the token cannot be read") from None


_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
# With the end of an unfinished one: else it would be looked for again from each quote in it.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_NODE = re.compile(r"[\[{]")
# Each changes how the rest is to be read or where the key comes from; we know none.  S02.
_REFUSED = {"crit", "b64", "jku", "x5u", "x5c", "jwk", "zip"}


def _split(token: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Header, payload, signature and what was signed.  Canonical base64url only.  S04, S10."""
    if len(token) > TOKEN_BYTES_MAX:
        raise Rejected("the token is too long")
    found = _SHAPE.fullmatch(token)
    if found is None:
        raise Rejected("the token is not three parts of base64url")
    try:
        header, payload, signature = (_decode(part) for part in found.groups())
    except ValueError:
        raise Rejected("the token's base64url is not canonical") from None
    return header, payload, signature, token[: found.end(2)].encode()


def _choose(
    header: dict[str, Any], keys: Mapping[str, VerifyKey], typ: tuple[str, ...]
) -> VerifyKey:
    """The one key that may have signed what has this header.  S01, S02, S03, S07."""
    if not _REFUSED.isdisjoint(header):
        raise Rejected("the header has a member that we do not know")
    said = header.get("typ", "")
    if not isinstance(said, str) or said.lower().removeprefix("application/") not in typ:
        raise Rejected("the token is of another type")
    kid = header.get("kid", "")
    if not isinstance(kid, str) or (kid == "" and "kid" in header):
        raise Rejected("the key's name is not a string")
    key = keys.get(kid)
    if key is None:
        raise Rejected("the key is not known")
    if header.get("alg") != key.alg:
        raise Rejected("the algorithm is not the key's")
    return key


def _check(payload: Mapping[str, Any], claims: Mapping[str, Claim], now: float) -> None:
    for name, claim in claims.items():
        if name not in payload:
            if claim.required:
                raise Rejected("a claim is missing")
        elif not claim.check(payload[name]):
            raise Rejected("a claim is of the wrong type")
    if now >= payload["exp"]:
        raise Rejected("the token has expired")
    for name in ("iat", "nbf"):
        begins = payload.get(name, 0)
        if not is_number(begins) or begins > now + CLOCK_LEEWAY_S:
            raise Rejected("the token is not valid yet")


def _parse(data: bytes) -> dict[str, Any]:
    """A JSON object: no member twice, all numbers whole and from 0 to TIME_MAX.  S09, S11.

    How deep it goes is counted first: the parser would be stopped by the interpreter's stack.
    """
    try:
        text = data.decode()  # UTF-8 only; json.loads would guess at UTF-16 and UTF-32
        if len(_NODE.findall(_STRING.sub("", text))) > NODES_MAX:
            raise Rejected("too many arrays and objects")
        parsed = _decoder.decode(text)
        if "\\u" in text:
            _dump(parsed)  # raises for half a surrogate pair, which no later text could hold
    except ValueError:
        raise Rejected("a part is not the JSON that we read") from None
    if not isinstance(parsed, dict):
        raise Rejected("a part is no JSON object")
    return parsed


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Rejected("a member is there twice")
    return members


def _whole(digits: str) -> int:
    if len(digits) > 16 or digits[0] == "-" or int(digits) > TIME_MAX:
        raise Rejected("a number is out of range")
    return int(digits)


def _not_whole(digits: str) -> Any:
    raise Rejected("a number is not whole")


_decoder = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_int=_whole,
    parse_float=_not_whole,
    parse_constant=_not_whole,
)


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(part: object) -> bytes:
    """Base64url without padding, in the one spelling that `_encode` has.  ValueError otherwise."""
    if not isinstance(part, str):
        raise ValueError
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if _encode(data) != part:
        raise ValueError
    return data
