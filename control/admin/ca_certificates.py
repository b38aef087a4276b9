"""CA certificates: whom services trust when they speak TLS to their upstreams."""

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from control.admin import pem
from control.admin.errors import ENTITY, Fields, ReferencedByOthers
from control.admin.resource import Resource, Values, Write
from control.admin.schema import EntityCheck, Field, Schema, identity, tags_field, timestamp
from control.store import queries, rows
from control.store.rows import Row
from control.store.session import WriteSession
from control.store.tables import CACertificate


def _is_authority(values: Mapping[str, Any]) -> Fields:
    cert = values.get("cert")
    if not isinstance(cert, str) or pem.check_certificate(cert) is not None:
        return {}  # said already
    wrong = pem.check_authority(cert)
    return {} if wrong is None else {ENTITY: [wrong]}


SCHEMA = Schema(
    "ca_certificates",
    {
        "id": identity(),
        "created_at": timestamp(),
        "updated_at": timestamp(),
        "cert": Field(type="string", required=True, multiline=True, check=pem.check_certificate),
        "cert_digest": Field(type="string", unique=True),
        "tags": tags_field(),
    },
    checks=(EntityCheck("custom_entity_check", {"field_sources": ["cert"]}, _is_authority),),
)


class CACertificates(Resource):
    name = path = "ca_certificates"
    title = "CACertificate"
    model = CACertificate
    schema = SCHEMA

    def unique_keys(self, values: Values) -> list[tuple[Values, Row]]:
        return super().unique_keys(values | {"cert_digest": pem.digest(values["cert"])})

    def columns(self, values: Values, write: Write) -> Row:
        """The digest is made here, whatever was sent."""
        return super().columns(values, write) | {"cert_digest": pem.digest(values["cert"])}

    def deleting(self, session: WriteSession, row: Row) -> None:
        service = queries.service_trusting(session, row["id"])
        if service is not None:
            raise ReferencedByOthers(
                f"ca certificate {row['id']} is still referenced by services (id = {service})"
            )


def certificate_id(session: Session, cert: str) -> str | None:
    """The id of the CA certificate that this text holds."""
    if pem.check_certificate(cert) is not None:
        return None
    return rows.find_id(session, CACertificate, {"cert_digest": pem.digest(cert)})
