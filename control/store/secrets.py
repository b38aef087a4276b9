"""Secrets that the Admin API makes and stores: random strings, digests, Kong's PHC hash."""

import base64
import hashlib
import json
import os
import re

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_RANDOM_CHARS = 32  # 190 bits
CHARACTERS = bytes(ALPHABET.encode()[byte % len(ALPHABET)] for byte in range(256))
_UNEVEN = bytes(range(256 - 256 % len(ALPHABET), 256))  # bytes that would favour the first ones

# Kong's parameters; verification reads them back from the string.
_ITERATIONS = 10_000
_HASH_BYTES = 32
_SALT_BYTES = 16
_PHC = re.compile(r"\$pbkdf2-sha\d+\$i=\d+,l=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")


def random_text(size: int = _RANDOM_CHARS) -> str:
    """Random characters of ALPHABET from the system's generator: client ids, secrets, codes."""
    found = b""
    while len(found) < size:
        found += os.urandom(2 * size).translate(CHARACTERS, _UNEVEN)
    return found[:size].decode()


def token_digest(token: str) -> bytes:
    """SHA-256: how a token is stored and looked up."""
    return hashlib.sha256(token.encode()).digest()


def hash_client_secret(secret: str) -> str:
    """The PHC string that Kong stores with `hash_secret`; takes about 8 ms."""
    salt = os.urandom(_SALT_BYTES)
    derived = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, _ITERATIONS, _HASH_BYTES)
    return f"$pbkdf2-sha512$i={_ITERATIONS},l={_HASH_BYTES}${_b64(salt)}${_b64(derived)}"


def are_client_keys(secret: str) -> bool:
    """Whether a client's secret is no secret but its public key or keys: a JWK or JWK Set.

    Such a client proves itself by assertions (RFC 7523); nothing that it sends equals this.
    """
    if not secret.lstrip().startswith("{"):
        return False
    try:
        found = json.loads(secret)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and ("kty" in found or "keys" in found)


def is_hashed(secret: str) -> bool:
    """Whether `secret` is a PBKDF2 PHC string already, as a dump of the entity holds it."""
    return _PHC.fullmatch(secret) is not None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")
