"""Consumers: whose credentials and tokens they are."""

import uuid

from control.admin.resource import Resource
from control.admin.schema import Field, Schema, at_least_one_of, identity, tags_field, timestamp
from control.store import queries
from control.store.rows import Row
from control.store.session import WriteSession
from control.store.tables import Consumer

SCHEMA = Schema(
    "consumers",
    {
        "id": identity(),
        "created_at": timestamp(),
        "updated_at": timestamp(),
        "username": Field(type="string", unique=True),
        "custom_id": Field(type="string", unique=True),
        "tags": tags_field(),
    },
    checks=(at_least_one_of("custom_id", "username"),),
)


class Consumers(Resource):
    name = path = "consumers"
    title = "Consumer"
    model = Consumer
    schema = SCHEMA
    endpoint_key = "username"
    filters = ("custom_id",)

    def deleting(self, session: WriteSession, row: Row) -> None:
        last = queries.last_expiry_of_consumer(session, row["id"])
        session.note_revocation("consumer", uuid.UUID(row["id"]).bytes, last)
