"""Entities from a declarative file: created and updated as the Admin API would.

The same validation and the same errors; the caller opens the transaction, so that a whole file is
one. References may be a plain string, as files have them: an id, or the parent's name.
"""

from collections.abc import Mapping
from typing import Any

from control.admin import crud
from control.admin.bodies import Body
from control.admin.registry import BY_NAME
from control.admin.resource import Resource, Values
from control.admin.validate import is_uuid
from control.store import rows
from control.store.session import WriteSession


class UnknownEntity(KeyError):
    """There is no collection of this name."""


def lookup(session: WriteSession, entity: str, key: str) -> Values | None:
    """The entity that an id or endpoint key names, as the Admin API shows it."""
    resource = _resource(entity)
    row = crud.find(session, resource, key)
    return None if row is None else resource.shown(row)


def apply(
    session: WriteSession, entity: str, body: Mapping[str, Any], key: str | None = None
) -> tuple[Values, str]:
    """Create or replace one entity.

    `key` names it; without one it is found by its id, by its endpoint key (within its parent,
    where only that makes it unique) or, for a plugin, by its name and scope. Returns the entity
    as shown and `created`, `updated` or `unchanged`.

    Raises:
        AdminError: what the Admin API would answer.
        UnknownEntity: `entity` is no table's name (`services`, `oauth2_credentials`).
    """
    resource = _resource(entity)
    given = _with_references(resource, body)
    key = key or _key(session, resource, given)
    if key is None:
        return crud.create(session, resource, Body(given)), "created"
    before = lookup(session, entity, key)
    after = crud.upsert(session, resource, key, Body(given))
    if before is None:
        return after, "created"
    return after, "unchanged" if _same(before, after) else "updated"


def take_over(
    session: WriteSession, entity: str, body: Mapping[str, Any], key: str | None = None
) -> str:
    """Create an entity of another gateway's, or change what differs; its times stay with it.

    `key` names the one that is here, as for `apply`. What `body` does not hold stays as it is.
    Returns `created`, `updated` or `unchanged`.

    Raises:
        AdminError, UnknownEntity: as for `apply`.
    """
    resource = _resource(entity)
    given = _with_references(resource, body)
    key = key or _key(session, resource, given)
    row = None if key is None else crud.find(session, resource, key)
    if row is None:
        crud.create(session, resource, Body(given), dated=True)
        return "created"
    before = resource.shown(row)
    # Else an id that is made for it would stand where there is none in `body`.
    after = crud.patch(session, resource, row, Body({**given, "id": row["id"]}), dated=True)
    return "unchanged" if _same(before, after) else "updated"


def _resource(entity: str) -> Resource:
    if entity not in BY_NAME:
        raise UnknownEntity(entity)
    return BY_NAME[entity]


def _same(before: Values, after: Values) -> bool:
    return all(before[name] == value for name, value in after.items() if name != "updated_at")


def _with_references(resource: Resource, body: Mapping[str, Any]) -> Values:
    """`service: foo` as `service: {name: foo}`."""
    given = dict(body)
    for name, field in resource.foreign_fields.items():
        value = given.get(name)
        parent = BY_NAME.get(field.reference or "")
        if isinstance(value, str):
            by_id = is_uuid(value) or parent is None or parent.endpoint_key is None
            given[name] = {"id" if by_id else str(parent and parent.endpoint_key): value}
    return given


def _key(session: WriteSession, resource: Resource, given: Values) -> str | None:
    for name in ("id", resource.endpoint_key):
        value = given.get(name) if name else None
        if isinstance(value, str) and value:
            by_key = name != "id" and resource.key_within is not None
            return _id_within(session, resource, given, value) if by_key else value
    return _plugin_in_scope(session, given) if resource.name == "plugins" else None


def _id_within(session: WriteSession, resource: Resource, given: Values, key: str) -> str | None:
    """The id of the entity that has this key within the parent that `given` names."""
    name = str(resource.key_within)
    parent = BY_NAME[resource.foreign_fields[name].reference or ""]
    parent_id = _parent_id(session, parent, given.get(name))
    parents = None if parent_id is None else {name: {"id": parent_id}}
    row = crud.find(session, resource, key, parents)
    return None if row is None else row["id"]


def _plugin_in_scope(session: WriteSession, given: Values) -> str | None:
    """The id of the plugin that has this name and scope already."""
    where: dict[str, Any] = {"name": given.get("name")}
    for name, field in BY_NAME["plugins"].foreign_fields.items():
        reference = given.get(name)
        if reference is not None:
            parent_id = _parent_id(session, BY_NAME[field.reference or ""], reference)
            if parent_id is None:
                return None  # the write says what is wrong with it
            where[f"{name}_id"] = parent_id
        else:
            where[f"{name}_id"] = None
    return rows.find_id(session, BY_NAME["plugins"].model, where)


def _parent_id(session: WriteSession, parent: Resource, reference: Any) -> str | None:
    if not isinstance(reference, dict) or not reference:
        return None
    key = reference.get("id") or reference.get(parent.endpoint_key)
    row = crud.find(session, parent, key) if isinstance(key, str) else None
    return None if row is None else row["id"]
