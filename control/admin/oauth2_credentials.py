"""OAuth 2.0 credentials: the applications of a consumer.  spec/oauth2.md §1.1, §9, §11.

A `client_secret` that is a JWK or a JWK Set holds the public keys of a client that authenticates by
private_key_jwt (RFC 7523); it is checked here, and never compared with what a client sends.
"""

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from sqlmodel import Session

from control.admin.errors import ENTITY, Fields
from control.admin.resource import Resource, Values, Write
from control.admin.schema import Field, Schema, foreign, identity, tags_field, timestamp
from control.store import queries
from control.store.rows import Row
from control.store.secrets import (
    are_client_keys,
    hash_client_secret,
    is_hashed,
    random_text,
    verify_hash,
)
from control.store.session import WriteSession
from control.store.tables import OAuth2Credential
from dataplane import jws

_SECRET_BYTES_MAX = 16 * 1024  # ten RSA keys of 4,096 bits


def _check_redirect_uri(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        return f"cannot parse '{uri}'"
    if not parts.scheme or not host:
        return f"cannot parse '{uri}'"
    return f"fragment not allowed in '{uri}'" if "#" in uri else None


SCHEMA = Schema(
    "oauth2_credentials",
    {
        "id": identity(),
        "created_at": timestamp(),
        "consumer": foreign("consumers", required=True),
        "name": Field(type="string", required=True),
        "client_id": Field(type="string", auto=True, unique=True),
        "client_secret": Field(
            type="string", auto=True, encrypted=True, bytes_max=_SECRET_BYTES_MAX
        ),
        "hash_secret": Field(type="boolean", required=True, default=False),
        "redirect_uris": Field(
            type="array", elements=Field(type="string", check=_check_redirect_uri)
        ),
        "tags": tags_field(),
        "client_type": Field(
            type="string", required=True, default="confidential", one_of=("confidential", "public")
        ),
    },
)


class OAuth2Credentials(Resource):
    name = "oauth2_credentials"
    path = "oauth2"
    title = "OAuth2Credential"
    model = OAuth2Credential
    schema = SCHEMA
    endpoint_key = "client_id"
    filters = ("client_id",)

    def check_patch(self, given: Mapping[str, Any]) -> Fields:
        """A new secret must say how it is kept, and a new way needs a secret to keep."""
        if ("client_secret" in given) == ("hash_secret" in given):
            return {}
        text = "all or none of these fields must be set: 'hash_secret', 'client_secret'"
        return {ENTITY: [text]}

    def check(self, session: Session, values: Values, previous: Row | None) -> Fields:
        secret = values["client_secret"]
        if secret is None or not are_client_keys(secret):
            return {}
        errors: Fields = {}
        try:
            jws.client_keys(secret)
        except ValueError as error:
            errors["client_secret"] = str(error)
        if values["hash_secret"]:
            errors["hash_secret"] = "must be false where client_secret holds public keys"
        if values["client_type"] != "confidential":
            errors["client_type"] = "must be confidential where client_secret holds public keys"
        return errors

    def columns(self, values: Values, write: Write) -> Row:
        row = super().columns(values, write)
        row["client_secret"] = _stored_secret(values, write.previous)
        return row

    def deleting(self, session: WriteSession, row: Row) -> None:
        last = queries.last_expiry_of_credential(session, row["id"])
        session.note_revocation("credential", uuid.UUID(row["id"]).bytes, last)


def _stored_secret(values: Values, previous: Row | None) -> str:
    """The secret as it is kept: clear, or as a hash, which it may be already.

    A dump holds the hash with `hash_secret`, so that loading it again must not hash the hash. The
    secret that a hash was made of keeps that hash: the same file again changes nothing.
    """
    secret: str = values["client_secret"]
    unchanged = previous is not None and previous["client_secret"] == secret
    if values["hash_secret"]:
        if previous is not None and verify_hash(secret, previous["client_secret"]):
            return str(previous["client_secret"])
        return secret if is_hashed(secret) else hash_client_secret(secret)
    if unchanged and previous is not None and previous["hash_secret"]:
        return random_text()  # the clear value of the hash is not known
    return secret
