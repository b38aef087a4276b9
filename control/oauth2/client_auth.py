"""Who the client says it is, and whether its secret is right.

RFC 6749 §2.3; order and words are spec/oauth2.md §5.2's.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from control.oauth2 import redirects
from control.oauth2.errors import InvalidClient, InvalidRequest, OAuthError
from control.oauth2.params import Params, is_set, is_text
from control.oauth2.secrets import DECOY, HashVerifier, same
from control.store.tables import OAuth2Credential

# It may stand anywhere. Nothing before it is matched: a pattern that began with \s* would look at
# each run of spaces once for every space in it, half a second for a header of 8 KiB.
_BASIC = re.compile(r"[Bb]asic\s*(.+)")
INVALID_REDIRECT = (
    "Invalid redirect_uri that does not match with any redirect_uri created with the application"
)


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request shows of its client, not yet looked at; any JSON type."""

    client_id: object = None
    client_secret: object = field(default=None, repr=False)
    from_header: bool = False

    @property
    def lookup_key(self) -> str | None:
        """The client id if it can be one at all."""
        return self.client_id if is_text(self.client_id) and self.client_id else None


def presented(params: Params, header: str | None) -> Presented:
    """The first source that applies: both parameters, the header, the id alone.  §5.2 step 3.

    A header that is there but is not Basic means that there is no client, whatever the parameters.
    """
    client_id, client_secret = params.get("client_id"), params.get("client_secret")
    if is_set(client_id) and is_set(client_secret):
        return Presented(client_id, client_secret)
    if header is None:
        return Presented(client_id)
    client_id, client_secret = _decode_basic(header)
    return Presented(client_id, client_secret, from_header=True)


def basic_client_id(header: str) -> str | None:
    """The client id in a Basic header; None when it is no such header."""
    return _decode_basic(header)[0]


def _decode_basic(header: str) -> tuple[str | None, str | None]:
    found = _BASIC.search(header)
    if found is None:
        return None, None
    encoded = found[1].rstrip()
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None, None
    client_id, colon, secret = decoded.decode(errors="replace").partition(":")
    return client_id, secret if colon else None


def redirect_error(
    client: OAuth2Credential | None, params: Params, *, from_header: bool, strict: bool = False
) -> OAuthError | None:
    """What is wrong with a client of a grant that needs redirect URIs.  §5.2 step 5."""
    if client is None or client.redirect_uris is None:
        return InvalidClient(from_header=from_header)
    registered, asked = client.redirect_uris, params.get("redirect_uri")
    if not is_set(asked):
        asked = redirects.first(registered, strict=strict)
    if redirects.allowed(asked, registered, strict=strict):
        return None
    return InvalidRequest(INVALID_REDIRECT)


async def secret_error(
    client: OAuth2Credential | None, shown: Presented, verifier: HashVerifier
) -> OAuthError | None:
    """What is wrong with the secret that was shown.  §5.2 step 6.

    None for an unknown client: that is the grant's to say. Yet it costs what a wrong secret costs,
    one hash, so that time does not tell which ids exist (S25).
    """
    secret = shown.client_secret if is_set(shown.client_secret) else None
    if client is None:
        if shown.lookup_key is not None:
            await verifier.verify(secret if isinstance(secret, str) else "", DECOY)
        return None
    if client.client_type == "public":
        blank = secret is None or (isinstance(secret, str) and not secret.strip())
        return None if blank else InvalidRequest("client_secret is disallowed for public clients")
    if await _secret_is_right(client, secret, verifier):
        return None
    return InvalidClient(from_header=shown.from_header)


async def _secret_is_right(
    client: OAuth2Credential, secret: object, verifier: HashVerifier
) -> bool:
    text = secret if isinstance(secret, str) else ""
    if client.hash_secret:
        return await verifier.verify(text, client.client_secret) and isinstance(secret, str)
    if isinstance(secret, str) and same(text, client.client_secret):
        return True
    await verifier.verify(text, DECOY)
    return False
