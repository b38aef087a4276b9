"""OAuth 2.0 tokens: seen, made by hand, changed and ended.  spec/oauth2.md §1.3, §11.

Only digests are stored: `access_token` and `refresh_token` are null on every answer but the one
that set them. What a JWT says of itself no edit of its row can change, for data planes verify it
without asking anyone: it can be ended, or replaced by a new `access_token`.
"""

import time
from typing import Any

from sqlmodel import Session

from control.admin.errors import Fields
from control.admin.resource import Resource, Values, Write
from control.admin.schema import Field, Schema, foreign, identity, timestamp
from control.store import queries
from control.store.rows import Row
from control.store.secrets import token_digest
from control.store.session import WriteSession
from control.store.tables import OAuth2Token

_TOKEN_BYTES_MAX = 8192  # as data planes read them (S10)
_HIDDEN = "***"  # stands for a token in an error
_TOKENS = ("access_token", "refresh_token")
_SAID_BY_JWT = ("service", "credential", "expires_in", "authenticated_userid", "scope")
_KEPT: tuple[tuple[str, Any], ...] = (  # columns that no field shows, and what they are at first
    ("by_hand", True),
    ("is_jwt", False),
    ("plugin_id", None),
    ("family_id", None),
    ("audience", None),
)

SCHEMA = Schema(
    "oauth2_tokens",
    {
        "id": identity(),
        "created_at": timestamp(),
        "service": foreign("services"),
        "credential": foreign("oauth2_credentials", required=True),
        "token_type": Field(type="string", required=True, default="bearer", one_of=("bearer",)),
        "expires_in": Field(type="integer", required=True),
        "access_token": Field(
            type="string", auto=True, unique=True, shown_once=True, bytes_max=_TOKEN_BYTES_MAX
        ),
        "refresh_token": Field(
            type="string", unique=True, shown_once=True, bytes_max=_TOKEN_BYTES_MAX
        ),
        "authenticated_userid": Field(type="string"),
        "scope": Field(type="string"),
        "ttl": Field(
            type="number",
            between=(0, 100_000_000),
            description="seconds until the token and its refresh token are deleted",
        ),
    },
)


class OAuth2Tokens(Resource):
    name = path = "oauth2_tokens"
    title = "OAuth2Token"
    model = OAuth2Token
    schema = SCHEMA
    endpoint_key = "access_token"
    tagged = False

    def column_where(self, field: str, value: str) -> dict[str, Any]:
        if field in _TOKENS:
            return {f"{field}_digest": token_digest(value)}
        return {field: value}

    def ended(self, row: Row) -> bool:
        return row["gone_at"] is not None and row["gone_at"] <= time.time()

    def unique_keys(self, values: Values) -> list[tuple[Values, Row]]:
        return [(dict.fromkeys(key, _HIDDEN), where) for key, where in super().unique_keys(values)]

    def check(self, session: Session, values: Values, previous: Row | None) -> Fields:
        if previous is None or not previous["is_jwt"]:
            return {}
        text = values["access_token"]
        if text is not None and token_digest(text) != previous["access_token_digest"]:
            return {}  # another token, which ends the JWT
        said = self.shown(previous)
        errors: Fields = {
            name: "cannot be changed: the JWT says it"
            for name in _SAID_BY_JWT
            if values[name] != said[name]
        }
        if values["created_at"] not in (None, said["created_at"]):
            errors["created_at"] = "cannot be changed: the JWT says it"
        expiry = queries.token_expiry(previous["created_at"], previous["expires_in"], None)
        sent = values["ttl"] not in (None, said["ttl"])
        if sent and time.time() + values["ttl"] + 1 < expiry:
            errors["ttl"] = "must not end before the JWT expires; delete the token to end it"
        return errors

    def columns(self, values: Values, write: Write) -> Row:
        row = super().columns(values, write)
        held, now = write.previous or {}, time.time()
        if held and "access_token" not in write.sent:
            row["access_token"] = None  # made up by now, but the old one stays
        for name in _TOKENS:
            text, digest = row.pop(name), f"{name}_digest"
            keep = text is None and (name == "access_token" or write.keeps(name))
            row[digest] = held.get(digest) if keep else text and token_digest(text)
        # The base of expiry has a fraction, unless the caller chose a second.
        base = held.get("created_at", now)
        row["created_at"] = base if int(base) == row["created_at"] else float(row["created_at"])
        row |= {name: held.get(name, first) for name, first in _KEPT}
        if row["access_token_digest"] != held.get("access_token_digest"):
            row["by_hand"], row["is_jwt"] = True, False
        ttl = row.pop("ttl")
        if write.keeps("ttl"):
            row["gone_at"] = held.get("gone_at")
        else:
            row["gone_at"] = None if ttl is None else now + ttl
        return row

    def shown(self, row: Row) -> Values:
        gone_at = row["gone_at"]
        ttl = None if gone_at is None else max(0, round(gone_at - time.time()))
        hidden = {"access_token": None, "refresh_token": None, "ttl": ttl}
        return super().shown(row | hidden | {"created_at": int(row["created_at"])})

    def compared(self, row: Row) -> Values:
        """With digests in place of the tokens, which are never shown again."""
        digests = {name: row[f"{name}_digest"] for name in _TOKENS}
        return self.shown(row) | {name: digest and digest.hex() for name, digest in digests.items()}

    def shown_once(self, row: Row, values: Values) -> Values:
        shown = self.shown(row)
        for name in _TOKENS:
            text = values[name]
            if text is not None and token_digest(text) == row[f"{name}_digest"]:
                shown[name] = text
        return shown

    def written(self, session: WriteSession, row: Row, previous: Row | None) -> None:
        digest = row["access_token_digest"]
        if previous is not None and previous["access_token_digest"] != digest:
            self.deleting(session, previous)
        if row["is_jwt"]:
            return
        queries.forget_revocation(session, "token", digest)
        session.note_token(queries.issued_token(OAuth2Token(**row)))

    def deleting(self, session: WriteSession, row: Row) -> None:
        queries.note_token_revoked(session, queries.issued_token(OAuth2Token(**row)))

    def delete_children(self, session: WriteSession, field: str, parent_id: str) -> bool:
        """The revocation of a credential covers its tokens; a service's are revoked each."""
        if field == "service":
            queries.delete_tokens_of_service(session, parent_id)
        else:
            queries.delete_tokens_of_credential(session, parent_id)
        return True
