"""Secrets that the Admin API makes and stores: random strings, digests, Kong's PHC hash."""

import base64
import hashlib
import os
import re

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_RANDOM_CHARS = 32  # 190 bits

# A byte to a character, modulo 62. Of 256 bytes the last eight would favour the first eight
# characters, so that a random one must not be among them.
CHARACTERS = bytes(ord(_ALPHABET[byte % len(_ALPHABET)]) for byte in range(256))
_UNFAIR = bytes(range(256 - 256 % len(_ALPHABET), 256))

# Kong's parameters; verification reads them back from the string.
_ITERATIONS = 10_000
_HASH_BYTES = 32
_SALT_BYTES = 16
_PHC = re.compile(r"\$pbkdf2-sha\d+\$i=\d+,l=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")


def random_text() -> str:
    """32 random characters of `[A-Za-z0-9]`: client ids, secrets, provision keys, tokens."""
    return random_chars(_RANDOM_CHARS)


def random_chars(count: int) -> str:
    """So many random characters of `[A-Za-z0-9]`, each as likely as the others."""
    found = b""
    while len(found) < count:
        found += os.urandom(count + 16).translate(CHARACTERS, _UNFAIR)
    return found[:count].decode()


def token_digest(token: str) -> bytes:
    """SHA-256: how a token is stored and looked up."""
    return hashlib.sha256(token.encode()).digest()


def hash_client_secret(secret: str) -> str:
    """The PHC string that Kong stores with `hash_secret`; takes about 8 ms."""
    salt = os.urandom(_SALT_BYTES)
    derived = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, _ITERATIONS, _HASH_BYTES)
    return f"$pbkdf2-sha512$i={_ITERATIONS},l={_HASH_BYTES}${_b64(salt)}${_b64(derived)}"


def is_hashed(secret: str) -> bool:
    """Whether `secret` is a PBKDF2 PHC string already, as a dump of the entity holds it."""
    return _PHC.fullmatch(secret) is not None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")
