"""Certificates: pairs that listeners show by server name, and services to their upstreams.

A certificate's `snis` are entities of their own (`snis.py`); the column beside them holds their
names, so that a page of certificates and a snapshot need no query for each.
"""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from control.admin import pem
from control.admin.errors import ENTITY, Fields
from control.admin.names import check_sni
from control.admin.resource import Resource, Values, Write
from control.admin.schema import EntityCheck, Field, Schema, identity, tags_field, timestamp
from control.store import rows
from control.store.rows import Row
from control.store.session import WriteSession
from control.store.tables import SNI, Certificate

_SAME_KIND = (
    "certificate and alternative certificate need to have different type (e.g. RSA and ECDSA), "
    "the provided certificates were both of the same type"
)


def _pem(check: Any, **options: Any) -> Field:
    return Field(type="string", check=check, multiline=True, referenceable=True, **options)


def _both_or_none(values: Mapping[str, Any]) -> Fields:
    if (values.get("cert_alt") is None) == (values.get("key_alt") is None):
        return {}
    return {ENTITY: ["all or none of these fields must be set: 'cert_alt', 'key_alt'"]}


def _pairs(values: Mapping[str, Any]) -> Fields:
    """Each certificate with its key; those that are broken by themselves are said already."""
    wrong: list[str | None] = []
    sound: list[str] = []
    for suffix, what in (("", "certificate"), ("_alt", "alternative certificate")):
        cert, key = values.get(f"cert{suffix}"), values.get(f"key{suffix}")
        if not (isinstance(cert, str) and isinstance(key, str)):
            continue
        if pem.check_certificate(cert) is None and pem.check_key(key) is None:
            wrong.append(pem.check_pair(cert, key, what))
            sound.append(key)
    found = [text for text in wrong if text is not None]
    if len(sound) == 2 and not found and pem.same_kind(*sound):
        found.append(_SAME_KIND)
    return {ENTITY: found} if found else {}


SCHEMA = Schema(
    "certificates",
    {
        "id": identity(),
        "created_at": timestamp(),
        "updated_at": timestamp(),
        "cert": _pem(pem.check_certificate, required=True),
        "key": _pem(pem.check_key, required=True, encrypted=True),
        "cert_alt": _pem(pem.check_certificate),
        "key_alt": _pem(pem.check_key, encrypted=True),
        "tags": tags_field(),
        "snis": Field(type="set", elements=Field(type="string", check=check_sni)),
    },
    checks=(
        EntityCheck("mutually_required", ["cert_alt", "key_alt"], _both_or_none),
        EntityCheck(
            "custom_entity_check", {"field_sources": ["cert", "key", "cert_alt", "key_alt"]}, _pairs
        ),
    ),
)


class Certificates(Resource):
    name = path = "certificates"
    title = "Certificate"
    model = Certificate
    schema = SCHEMA

    def locate(self, session: Session, key: str) -> Row | None:
        """By id, or by the name of an SNI."""
        where = self.key_where(key)
        if where is not None:
            return where
        sni = rows.fetch(session, SNI, {"name": key})
        return None if sni is None else {"id": sni["certificate_id"]}

    def named(self, key: str, given: Mapping[str, Any], previous: Row | None) -> Values | None:
        """A PUT by a server name that nobody has yet makes a certificate with that name."""
        if previous is not None:
            return {"id": previous["id"]}
        sent = given.get("snis")
        others = [name for name in sent if name != key] if isinstance(sent, list) else []
        return {"snis": [key, *others]}

    def check(self, session: Session, values: Values, previous: Row | None) -> Fields:
        for name in values["snis"] or ():
            sni = rows.fetch(session, SNI, {"name": name})
            owner = None if sni is None else sni["certificate_id"]
            if owner is not None and (previous is None or owner != previous["id"]):
                return {"snis": f"{name} already associated with existing certificate '{owner}'"}
        return {}

    def columns(self, values: Values, write: Write) -> Row:
        row = super().columns(values, write)
        if row["snis"] is None:  # not sent: as they are
            row["snis"] = [] if write.previous is None else write.previous["snis"]
        row["snis"] = sorted(row["snis"])
        return row

    def written(self, session: WriteSession, row: Row, previous: Row | None) -> None:
        """Make and delete SNIs, so that they are those of the row."""
        before = set() if previous is None else set(previous["snis"])
        for name in sorted(before - set(row["snis"])):
            sni = rows.fetch(session, SNI, {"name": name})
            if sni is not None:
                rows.delete_row(session, SNI, sni["id"])
        now = int(time.time())
        for name in sorted(set(row["snis"]) - before):
            made = {
                "id": str(uuid.uuid4()),
                "name": name,
                "certificate_id": row["id"],
                "tags": None,
                "created_at": now,
                "updated_at": now,
            }
            rows.insert_row(session, SNI, made)
