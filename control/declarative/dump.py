"""The database as a file that brings it back: names in place of ids, defaults left out.

Only what is asked for is read, so that only its secrets are decrypted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session

from control.admin.registry import BY_NAME, referring_to
from control.admin.resource import Resource, Values
from control.admin.schema import Field
from control.declarative.differences import default
from control.declarative.emit import emit
from control.declarative.layout import BYTES_MAX, FORMAT_VERSION, INFO, NESTED, ORDER
from control.declarative.problems import refused
from control.declarative.state import every
from control.store import rows
from control.store.session import Store

_UNTOLD = ("created_at", "updated_at")
_FIRST = ("name", "username", "target")
# decK asks for the schemas of these alone: what is left out elsewhere is a change to it.
_DEFAULTS_KNOWN = ("services", "routes", "upstreams", "targets", "plugins")
_BY_TEXT = ("plugins", "services")
# (collection, field) of what a file nests in the entity that the field refers to.
_MEMBERS = {item for members in NESTED.values() for item in members.values()}


@dataclass(frozen=True)
class What:
    """Which entities, those with all of `tags`; whether defaults and ids are written out."""

    tags: Sequence[str] = ()
    all_fields: bool = False
    with_id: bool = False


def dump_text(store: Store, what: What) -> str:
    """The file.

    Raises:
        FileRefused: it would be more than what is read at once, or larger than what is taken back.
    """
    with store.reading() as session:
        document = _document(_read(session, what), what)
    text = emit(document)
    if len(text.encode()) > BYTES_MAX:
        limit = BYTES_MAX // 2**20
        raise refused(
            f"larger than {limit} MiB, which nothing would take back: dump it in parts, by tags"
        )
    return text


@dataclass(eq=False)
class _Entity:
    resource: Resource
    shown: Values
    references: dict[str, Any] = field(default_factory=dict)  # by field, as a file has them
    parent: _Entity | None = None  # the one it is nested in
    written: dict[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> tuple[str, ...]:
        """Sorts entities alike wherever they are alike."""
        names = (
            self.shown.get(name)
            for name in ("name", "target", "username", "custom_id", "client_id")
        )
        scopes = (str(self.references[name]) for name in sorted(self.references))
        return (*(str(name or "") for name in names), *scopes, self.shown["id"])

    @property
    def needs_id(self) -> bool:
        """Whether others can refer to it, or it be found again, by nothing else."""
        key = self.resource.endpoint_key
        has_key = key is not None and self.shown[key] is not None
        return not has_key and self.resource.name != "plugins"  # these have a name and a scope


def _read(session: Session, what: What) -> dict[str, dict[str, _Entity]]:
    """By collection and id, each knowing its parent or how to name what it refers to."""
    found: dict[str, dict[str, _Entity]] = {name: {} for name in ORDER}
    for held in every(session, what.tags):
        found[held.resource.name][held.id] = _Entity(held.resource, held.values)
    names = {name: _names(session, BY_NAME[name]) for name in ORDER}
    for entities in found.values():
        for entity in entities.values():
            _refer(entity, found, names)
    return found


def _names(session: Session, resource: Resource) -> dict[str, str]:
    """What files call the entities of this kind that have a name, by id."""
    key = resource.endpoint_key
    if key is None or not referring_to(resource):
        return {}
    return rows.names(session, resource.model, key)


def _refer(
    entity: _Entity,
    found: Mapping[str, Mapping[str, _Entity]],
    names: Mapping[str, Mapping[str, str]],
) -> None:
    """Nest it in its one parent, where that is dumped too; name whatever else it refers to."""
    for name, foreign in entity.resource.foreign_fields.items():
        if entity.shown[name] is not None:
            key, kind = entity.shown[name]["id"], str(foreign.reference)
            entity.references[name] = _reference(entity.resource, kind, key, names[kind].get(key))
    owners = [name for name in entity.references if (entity.resource.name, name) in _MEMBERS]
    if len(owners) == 1:
        kind = str(entity.resource.foreign_fields[owners[0]].reference)
        entity.parent = found[kind].get(entity.shown[owners[0]]["id"])
        if entity.parent is not None:
            del entity.references[owners[0]]


def _reference(resource: Resource, kind: str, key: str, name: str | None) -> Any:
    """As decK's files have it: some kinds of entities refer by a text, others by a record."""
    if resource.name in _BY_TEXT:
        return name or key
    return {"id": key} if name is None else {BY_NAME[kind].endpoint_key: name}


def _document(found: Mapping[str, Mapping[str, _Entity]], what: What) -> dict[str, Any]:
    document: dict[str, Any] = {"_format_version": FORMAT_VERSION}
    if what.tags:
        document[INFO] = {"select_tags": list(what.tags)}
    for name in ORDER:  # parents first
        for entity in sorted(found[name].values(), key=lambda one: one.order):
            entity.written = _entity(entity, what)
            place = document if entity.parent is None else entity.parent.written
            place.setdefault(name, []).append(entity.written)
    return document


def _entity(entity: _Entity, what: What) -> dict[str, Any]:
    """Its fields: what names it, the others in the order of the schema, then the references."""
    shown = dict(entity.shown)
    if what.tags and entity.resource.tagged:
        shown["tags"] = [tag for tag in shown["tags"] if tag not in what.tags] or None
    if not (what.with_id or entity.needs_id):
        del shown["id"]
    fields = entity.resource.schema_for(shown).fields
    left_out = {*_UNTOLD, *NESTED.get(entity.resource.name, {}), *entity.resource.foreign_fields}
    kept = {name: shown[name] for name in fields if name in shown and name not in left_out}
    first = {name: kept[name] for name in _FIRST if kept.get(name) is not None}
    all_fields = what.all_fields or entity.resource.name not in _DEFAULTS_KNOWN
    return _fields(fields, first | kept, all_fields) | entity.references


def _fields(
    fields: Mapping[str, Field], values: Mapping[str, Any], all_fields: bool
) -> dict[str, Any]:
    """What has to be said: neither nulls nor, unless asked for, defaults."""
    written = {}
    for name, value in values.items():
        usual = default(fields[name])
        if value == usual and (value is None or not all_fields):
            continue
        written[name] = _value(fields[name], value, all_fields)
    return written


def _value(field: Field, value: Any, all_fields: bool) -> Any:
    if field.fields is not None and isinstance(value, Mapping):
        return _fields(field.fields, value, all_fields)
    if field.elements is not None and isinstance(value, list):
        return [_value(field.elements, item, all_fields) for item in value]
    return value
