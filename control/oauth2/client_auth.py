"""Who the client says it is, and whether its secret is right.

RFC 6749 §2.3; order and words are spec/oauth2.md §5.2's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_plus
from weakref import WeakValueDictionary

import structlog

from control.oauth2 import redirects
from control.oauth2.config import OAuth2Config
from control.oauth2.errors import (
    InvalidClient,
    InvalidRequest,
    OAuthError,
    Overloaded,
    TooManyFailures,
)
from control.oauth2.params import Params, is_set, is_text
from control.oauth2.secrets import DECOY, HashVerifier, needs_rehash, same
from control.oauth2.throttle import Throttle, network_of
from control.store.secrets import are_client_keys
from control.store.tables import OAuth2Credential

log = structlog.get_logger("control")

# It may stand anywhere. Nothing before it is matched: a pattern that began with \s* would look at
# each run of spaces once for every space in it, half a second for a header of 8 KiB.
_BASIC = re.compile(r"[Bb]asic\s*(.+)")
INVALID_REDIRECT = (
    "Invalid redirect_uri that does not match with any redirect_uri created with the application"
)


# Not frozen: one is made for each request, and a frozen one costs three times as much to make.
@dataclass(slots=True)
class Presented:
    """What a request shows of its client, not yet looked at; any JSON type."""

    client_id: object = None
    client_secret: object = field(default=None, repr=False)
    from_header: bool = False

    @property
    def lookup_key(self) -> str | None:
        """The client id if it can be one at all."""
        return self.client_id if is_text(self.client_id) and self.client_id else None


def presented(params: Params, header: str | None, *, strict: bool = False) -> Presented:
    """The first source that applies: both parameters, the header, the id alone.  §5.2 step 3.

    A header that is there but is not Basic means that there is no client, whatever the parameters.
    `strict`: what is in it is form-encoded, which Kong does not know of.  RFC 6749 §2.3.1
    """
    client_id, client_secret = params.get("client_id"), params.get("client_secret")
    if is_set(client_id) and is_set(client_secret):
        return Presented(client_id, client_secret)
    if header is None:
        return Presented(client_id)
    client_id, client_secret = _decode_basic(header, form=strict)
    return Presented(client_id, client_secret, from_header=True)


def basic_client_id(header: str) -> str | None:
    """The client id in a Basic header; None when it is no such header."""
    return _decode_basic(header, form=True)[0]


def _decode_basic(header: str, *, form: bool) -> tuple[str | None, str | None]:
    found = _BASIC.search(header)
    if found is None:
        return None, None
    encoded = found[1].rstrip()
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None, None
    client_id, colon, secret = decoded.decode(errors="replace").partition(":")
    if form:
        client_id, secret = unquote_plus(client_id), unquote_plus(secret)
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


class ClientAuth:
    """Checks secrets for every endpoint that takes one: guesses are counted, hashes bounded.

    Attempts on one client from one address take turns, so that no more run at a time than may
    still fail.
    """

    def __init__(self, verifier: HashVerifier, throttle: Throttle) -> None:
        self._verifier = verifier
        self._throttle = throttle
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def secret_error(
        self, client: OAuth2Credential | None, shown: Presented, address: str
    ) -> OAuthError | None:
        """What is wrong with the secret that was shown from `address`.  §5.2 step 6.

        None for an unknown client: that is the caller's to say. Yet it costs what a wrong secret
        costs, one hash and one failure, so that neither time nor a 429 tells which ids exist (S25).

        Raises:
            TooManyFailures: before any hash; S24.
            Overloaded: too many secrets wait to be hashed.
        """
        secret = shown.client_secret if is_set(shown.client_secret) else None
        if client is not None and client.client_type == "public":
            blank = secret is None or (isinstance(secret, str) and not secret.strip())
            refusal = InvalidRequest("client_secret is disallowed for public clients")
            return None if blank else refusal
        name = shown.lookup_key
        if name is None:
            return None
        if client is not None and _is_plainly_right(client, secret):  # nothing that may fail
            self._let(f"client {name}", address)
            return None
        async with self._turn(name, address):
            self._let(f"client {name}", address)
            if await self._is_right(client, secret):
                return None
            self._failed(f"client {name}", address, credential=client.id if client else None)
        return InvalidClient(from_header=shown.from_header) if client is not None else None

    def count_provision_key(self, config: OAuth2Config, params: Params, address: str) -> None:
        """Count a wrong provision key as a failure of the plugin's backend.

        To be called before anything is waited for: guesses at once are as many as one by one.

        Raises:
            TooManyFailures: a key was sent, and too many were wrong before it.
        """
        key = params.get("provision_key")
        if not is_set(key):
            return
        name = f"plugin {config.plugin_id}"
        self._let(name, address)
        if not config.knows_provision_key(key):
            self._failed(name, address, plugin=config.plugin_id)

    async def renewed(self, client: OAuth2Credential, shown: Presented) -> str | None:
        """A hash to store in place of one made with other parameters than today's.  §5.2 step 6.

        None when there is nothing to renew, or no time for it now.
        """
        if not (client.hash_secret and needs_rehash(client.client_secret)):
            return None
        try:
            return await self._verifier.hash(str(shown.client_secret))
        except Overloaded:
            return None

    def _turn(self, name: str, address: str) -> asyncio.Lock:
        """The lock of an attempt; it is there as long as somebody holds it or waits."""
        key = (name, address)
        lock = self._turns.get(key)
        if lock is None:
            lock = self._turns[key] = asyncio.Lock()
        return lock

    def _let(self, name: str, address: str) -> None:
        wait = self._throttle.wait_seconds(name, address)
        if wait:
            raise TooManyFailures(wait)

    def _failed(self, name: str, address: str, **who: str | None) -> None:
        """Count a failure; ids that we do not know stay out of the log, they may be anything."""
        reached = self._throttle.failed(name, address)
        if reached is not None:
            log.warning("oauth2.throttled", bound=reached, address=network_of(address), **who)

    async def _is_right(self, client: OAuth2Credential | None, secret: object) -> bool:
        """Whether this is the client's secret; a wrong one costs one hash, whoever it is."""
        text = secret if isinstance(secret, str) else ""
        stored = DECOY
        if client is not None and client.hash_secret:
            stored = client.client_secret
        elif client is not None and _is_plainly_right(client, secret):
            return True
        right = await self._verifier.verify(text, stored)
        return right and stored is not DECOY and isinstance(secret, str)


def _is_plainly_right(client: OAuth2Credential, secret: object) -> bool:
    """Whether this is the secret of a client that has one, and not hashed."""
    stored = client.client_secret
    if client.hash_secret or not isinstance(secret, str):
        return False
    return same(secret, stored) and not are_client_keys(stored)  # public: no secret of anybody
