"""Secrets that are made and stored: random strings, digests, Kong's PHC hash."""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import threading

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_RANDOM_CHARS = 32  # 190 bits
CHARACTERS = bytes(ALPHABET.encode()[byte % len(ALPHABET)] for byte in range(256))
_FETCHED_BYTES = 2048
_UNEVEN = bytes(range(256 - 256 % len(ALPHABET), 256))  # bytes that would favour the first ones

# Kong's parameters; verification reads them back from the string.
_ITERATIONS = 10_000
_HASH_BYTES = 32
_SALT_BYTES = 16
VERIFIABLE = re.compile(
    r"\$pbkdf2-(sha1|sha256|sha512)\$i=([0-9]{1,7}),l=([0-9]{1,3})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)
_ITERATIONS_MAX = 1_000_000  # a stored string asking for more would hold a thread for a second
_PHC = re.compile(r"\$pbkdf2-sha\d+\$i=\d+,l=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")


class RandomCharacters:
    """Random characters of ALPHABET, of which the system's generator gives many at a time.

    Each call of it lets go of the GIL, and gets it back only when another thread lets go of it:
    for every token that was a tenth of what issuing it costs.
    """

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)  # which would give out the same ones

    def forget(self) -> None:
        """Start over, with nothing fetched."""
        self._lock = threading.Lock()
        self._left = b""

    def take(self, size: int) -> bytes:
        with self._lock:
            while len(self._left) < size:
                fetched = os.urandom(_FETCHED_BYTES)
                self._left += fetched.translate(CHARACTERS, _UNEVEN)
            found, self._left = self._left[:size], self._left[size:]
        return found


random_characters = RandomCharacters()


def random_text(size: int = _RANDOM_CHARS) -> str:
    """Random characters of ALPHABET from the system's generator: client ids, secrets, codes."""
    return random_characters.take(size).decode()


def token_digest(token: str) -> bytes:
    """SHA-256: how a token is stored and looked up."""
    return hashlib.sha256(token.encode()).digest()


def hash_client_secret(secret: str) -> str:
    """The PHC string that Kong stores with `hash_secret`; takes about 8 ms."""
    salt = os.urandom(_SALT_BYTES)
    derived = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, _ITERATIONS, _HASH_BYTES)
    return f"$pbkdf2-sha512$i={_ITERATIONS},l={_HASH_BYTES}${_b64(salt)}${_b64(derived)}"


def verify_hash(secret: str, phc: str) -> bool:
    """Whether `secret` has the hash `phc`; False for anything that is not such a hash.

    8 ms of CPU at Kong's cost, without the GIL: callers that wait use threads.
    """
    found = VERIFIABLE.fullmatch(phc)
    if found is None:
        return False
    name, iterations, length = found[1], int(found[2]), int(found[3])
    try:
        salt, expected = _unb64(found[4]), _unb64(found[5])
    except binascii.Error:
        return False
    if not (0 < iterations <= _ITERATIONS_MAX and length == len(expected)):
        return False
    derived = hashlib.pbkdf2_hmac(name, secret_bytes(secret), salt, iterations, length)
    # HMAC fills a short key up with NULs, so that a secret and the same with a NUL hash alike.
    return hmac.compare_digest(derived, expected) and "\0" not in secret


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


def secret_bytes(text: str) -> bytes:
    # JSON may hold half a surrogate pair; it equals no stored secret but must not raise.
    return text.encode("utf-8", "surrogatepass")


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")
