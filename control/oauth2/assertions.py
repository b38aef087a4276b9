"""Clients that prove themselves by a signature: private_key_jwt.  RFC 7521 §4.2, RFC 7523 §3.

A client's public keys stand in its `client_secret`. Its assertion is for our issuer alone, good for
five minutes at most and once: the first use is one INSERT, so that it is once over all control
planes (S41). What is wrong with an assertion is not told: every refusal is `invalid_client`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import lru_cache

from sqlalchemy.exc import IntegrityError

from control.oauth2.config import OAuth2Config
from control.oauth2.errors import InvalidClient, InvalidRequest, OAuthError
from control.oauth2.params import Params, is_set
from control.oauth2.requests import StoreThreads
from control.store import queries
from control.store.secrets import are_client_keys
from control.store.session import Store
from control.store.tables import OAuth2Credential
from dataplane import jws

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_KEYS_CACHED = 1024  # clients' key sets, read once each


def are_sent(params: Params) -> bool:
    """Whether a client would prove itself by an assertion, a broken one included."""
    return is_set(params.get("client_assertion")) or is_set(params.get("client_assertion_type"))


def client_id_of(params: Params) -> str | None:
    """The client that an assertion says it is from; nothing of it is proved.

    None also when `client_id` is there and says otherwise.
    """
    assertion, said = params.get("client_assertion"), params.get("client_id")
    if not isinstance(assertion, str):
        return None
    try:
        subject = jws.unverified_claims(assertion).get("sub")
    except jws.Rejected:
        return None
    if not isinstance(subject, str) or (is_set(said) and said != subject):
        return None
    return subject


def mixed_error(params: Params, header: str | None) -> OAuthError | None:
    """A client that proves itself in two ways at once.  RFC 6749 §2.3, in both profiles."""
    if header is None and not is_set(params.get("client_secret")):
        return None
    return InvalidRequest("Use one method of client authentication")


class Assertions:
    """Verifies assertions and remembers those that were used, in one store."""

    def __init__(self, store: Store, threads: StoreThreads) -> None:
        self._store = store
        self._threads = threads

    async def error(
        self, client: OAuth2Credential | None, params: Params, config: OAuth2Config
    ) -> OAuthError | None:
        """What is wrong with the assertion as a proof of being `client`."""
        assertion = params.get("client_assertion")
        if (
            client is None
            or client.client_type == "public"
            or config.issuer is None  # then it could be for nobody
            or params.get("client_assertion_type") != TYPE
            or not isinstance(assertion, str)
        ):
            return InvalidClient()
        secret, client_id, issuer = client.client_secret, client.client_id, config.issuer
        good = await self._threads.run(lambda: self._is_good(assertion, secret, client_id, issuer))
        return None if good else InvalidClient()

    def _is_good(self, assertion: str, secret: str, client_id: str, issuer: str) -> bool:
        now = time.time()
        try:
            claims = jws.verify_assertion(
                assertion,
                _keys(secret) if are_client_keys(secret) else {},
                client_id=client_id,
                audience=(issuer,),
                now=now,
            )
        except jws.Rejected:
            return False
        if jws.audiences(claims) != [issuer]:  # whoever else it is for could use it here
            return False
        if claims["exp"] > now + jws.ASSERTION_SECONDS_MAX:
            return False
        digest = hashlib.sha256(f"{client_id}\0{claims['jti']}".encode()).digest()
        return self._is_first(digest, claims["exp"], now)

    def _is_first(self, digest: bytes, expires_at: float, now: float) -> bool:
        try:
            with self._store.writing() as session:
                queries.insert_seen_assertion(session, digest, expires_at, now)
        except IntegrityError:
            return False
        return True


@lru_cache(_KEYS_CACHED)
def _keys(secret: str) -> Mapping[str, jws.VerifyKey]:
    """The keys that a client's secret holds; none when they were stored unchecked."""
    try:
        return jws.client_keys(secret)
    except ValueError:
        return {}
