"""Plugins: their instances and scopes.  spec/routing-and-proxy.md §10."""

import uuid
from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlmodel import Session

from control.admin.errors import Fields, SchemaViolation
from control.admin.names import check_name
from control.admin.plugin_types import PLUGIN_TYPES
from control.admin.plugin_types.base import PluginType
from control.admin.resource import Resource, Values, Write
from control.admin.schema import (
    EntityCheck,
    Field,
    Schema,
    foreign,
    identity,
    tags_field,
    timestamp,
)
from control.admin.services import PROTOCOLS
from control.store import queries, rows
from control.store.rows import Row
from control.store.session import WriteSession
from control.store.tables import Plugin, Route

_NO_ROUTE_MATCHES = (
    "must match the protocols of at least one route pointing to this Plugin's service"
)
_SCOPES = ("consumer", "route", "service")


def _fields(kind: PluginType | None) -> dict[str, Field]:
    """The fields of a plugin of this kind; of no known kind: those that all have."""
    protocols = PROTOCOLS if kind is None else kind.protocols
    consumer = foreign("consumers")
    if kind is not None and not kind.consumer_scope:
        consumer = Field(type="foreign", reference="consumers", eq_null=True)
    return {
        "id": identity(),
        "created_at": timestamp(),
        "updated_at": timestamp(),
        "name": Field(type="string", required=True),
        "instance_name": Field(type="string", unique=True, check=check_name),
        "service": foreign("services"),
        "route": foreign("routes"),
        "consumer": consumer,
        "config": Field(type="record", required=True, fields=None if kind is None else kind.config),
        "protocols": Field(
            type="set",
            required=True,
            len_min=1,
            default=list(protocols),
            elements=Field(type="string", one_of=protocols),
        ),
        "enabled": Field(type="boolean", required=True, default=True),
        "tags": tags_field(),
    }


def _config_check(kind: PluginType) -> EntityCheck:
    def run(values: Mapping[str, Any]) -> Fields:
        # A config with errors of its own is not judged as a whole.
        config = values["config"]
        if not isinstance(config, dict) or config.keys() != kind.config.keys():
            return {}
        try:
            wrong = kind.check(config)
        except TypeError:  # a field of another type, which is an error of that field
            return {}
        return {"config": wrong} if wrong else {}

    return EntityCheck("custom_entity_check", {"field_sources": ["config"]}, run)


SCHEMA = Schema("plugins", _fields(None))


@cache
def plugin_schema(name: str) -> Schema:
    """The schema of plugins with this name, which is known."""
    kind = PLUGIN_TYPES[name]
    return Schema("plugins", _fields(kind), checks=(_config_check(kind),))


class Plugins(Resource):
    name = path = "plugins"
    title = "Plugin"
    model = Plugin
    schema = SCHEMA
    endpoint_key = "instance_name"
    checked_last = True

    def schema_for(self, given: Mapping[str, Any]) -> Schema:
        name = given.get("name")
        if not isinstance(name, str):
            return SCHEMA
        if name not in PLUGIN_TYPES:
            text = f"plugin '{name}' not enabled; add it to the 'plugins' configuration property"
            raise SchemaViolation({"name": text})
        return plugin_schema(name)

    def columns(self, values: Values, write: Write) -> Row:
        """With the policy: what snapshots carry, made here so that they need no plugin's code."""
        compiled = PLUGIN_TYPES[values["name"]].compile(values["config"])
        return super().columns(values, write) | {"policy": compiled}

    def check(self, session: Session, values: Values, previous: Row | None) -> Fields:
        """A plugin must have a protocol in common with what it is attached to."""
        mine = set(values["protocols"])
        if values["route"] is not None:
            route = rows.fetch(session, Route, {"id": values["route"]["id"]})
            assert route is not None
            if mine.isdisjoint(route["protocols"]):
                return {"protocols": "must match the associated route's protocols"}
        elif values["service"] is not None:
            where = {"service_id": values["service"]["id"]}
            found = False
            for protocols in rows.column_values(session, Route, "protocols", where):
                found = True
                if not mine.isdisjoint(protocols):
                    return {}
            if found:
                return {"protocols": _NO_ROUTE_MATCHES}
        return {}

    def written(self, session: WriteSession, row: Row, previous: Row | None) -> None:
        if previous is not None and previous["name"] != row["name"]:
            self._end_what_it_issued(session, previous)
            queries.delete_issued_by_plugin(session, row["id"])
        PLUGIN_TYPES[row["name"]].written(session, row["config"])

    def deleting(self, session: WriteSession, row: Row) -> None:
        """What an instance issued ends with it (S37); its codes and tokens refer to it."""
        self._end_what_it_issued(session, row)

    def _end_what_it_issued(self, session: WriteSession, row: Row) -> None:
        if row["name"] == "oauth2":
            last = queries.last_expiry_of_plugin(session, row["id"])
            session.note_revocation("plugin", uuid.UUID(row["id"]).bytes, last)

    def unique_keys(self, values: Values) -> list[tuple[Values, Row]]:
        """One plugin of a name in each scope, where null is a scope as well."""
        scope = {name: values[name] for name in _SCOPES}
        where = {f"{name}_id": value and value["id"] for name, value in scope.items()}
        own = (scope | {"name": values["name"]}, where | {"name": values["name"]})
        return [*super().unique_keys(values), own]
