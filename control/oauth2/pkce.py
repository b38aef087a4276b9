"""RFC 7636, proof key for code exchange; S256 alone.  spec/oauth2.md §5.7."""

from __future__ import annotations

import base64
import binascii
import hashlib

from control.oauth2.config import OAuth2Config
from control.oauth2.errors import InvalidGrant, InvalidRequest, OAuthError
from control.oauth2.params import Params, is_set, is_text
from control.oauth2.secrets import same
from control.store.tables import OAuth2Credential

VERIFIER_CHARS = range(43, 129)  # §4.1

_STANDARD = str.maketrans("-_", "+/")


def required(config: OAuth2Config, client: OAuth2Credential) -> bool:
    """Whether this client may not do without; with `strict` no public client may (S35)."""
    if client.client_type == "public":
        return config.strict or config.pkce != "none"
    return config.pkce == "strict"


def challenge(params: Params) -> str | None:
    """The challenge of an authorize request as it is stored; None when there is none.

    Raises:
        InvalidRequest: a method without a challenge, or not S256.
    """
    method, sent = params.get("code_challenge_method"), params.get("code_challenge")
    has_challenge = is_set(sent) and sent != ""
    if is_set(method) and not has_challenge:
        raise InvalidRequest("code_challenge is required when code_method is present")
    if is_set(method) and method not in ("S256", "s256"):
        raise InvalidRequest("code_challenge_method is not supported, must be S256")
    if not has_challenge:
        return None
    if not is_text(sent):
        raise InvalidRequest("code_challenge must be a string")
    return normalise(sent)


def normalise(sent: str) -> str:
    """Base64 in either alphabet, padded or not, as base64url without padding; else as it is."""
    text = sent.translate(_STANDARD).rstrip("=")
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return sent
    return _base64url(decoded)


def verifier_error(
    verifier: object, stored: str | None, *, must: bool, strict: bool
) -> OAuthError | None:
    """What is wrong with the verifier of a token request for a code with this challenge.

    `must`: PKCE is required of the client. A challenge is enforced whether or not it is; with
    `strict` a verifier without a challenge is refused as well: the challenge may have been taken
    out on its way (RFC 9700 §4.8.2).
    """
    if stored is None and not must:
        return InvalidGrant("Invalid code") if strict and is_set(verifier) else None
    if not is_set(verifier):
        return InvalidRequest("code_verifier is required for PKCE authorization requests")
    if not isinstance(verifier, str):
        return InvalidRequest("code_verifier is not a string")
    if len(verifier) not in VERIFIER_CHARS:
        return InvalidRequest("code_verifier must be between 43 and 128 characters")
    digest = hashlib.sha256(verifier.encode("utf-8", "surrogatepass")).digest()
    if stored is None or not same(_base64url(digest), stored):
        return InvalidGrant("Invalid code")
    return None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
