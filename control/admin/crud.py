"""Create, upsert, patch and delete: one way for every entity.

Each function takes the open transaction and raises an `AdminError` when the request cannot be
done; the transaction is then rolled back by whoever opened it.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sqlmodel import Session

from control.admin import audit
from control.admin.bodies import Body
from control.admin.errors import (
    Fields,
    ForeignKeyMissing,
    ForeignKeyUnresolved,
    NotFound,
    SchemaViolation,
    StillReferenced,
    UniqueViolation,
)
from control.admin.registry import BY_NAME, referring_to
from control.admin.resource import Resource, Values, Write
from control.admin.schema import Field
from control.admin.validate import expand_shorthands, is_storable, is_uuid, validate
from control.store import rows
from control.store.rows import Row
from control.store.secrets import random_text
from control.store.session import WriteSession

_CASCADE_ROWS = 500  # read at a time

# Checks that were put off until all of a transaction is written.
Later = list[Callable[[], Fields]]


def find(
    session: Session, resource: Resource, key: str, parents: Mapping[str, Any] | None = None
) -> Row | None:
    """The row that a path segment names: by id when it is a UUID, else by the endpoint key.

    `parents`: references that are known, where a key is unique only within one.
    """
    if not is_storable(key):
        return None
    where = resource.locate(session, key)
    within = resource.key_within
    if where is not None and within is not None and "id" not in where:
        parent = (parents or {}).get(within)
        where = None if parent is None else where | {f"{within}_id": parent["id"]}
    return None if where is None else rows.fetch(session, resource.model, where)


def get(
    session: Session, resource: Resource, key: str, parents: Mapping[str, Any] | None = None
) -> Row:
    """As `find`, raising NotFound."""
    row = find(session, resource, key, parents)
    if row is None or resource.ended(row):
        raise NotFound
    return row


def owned(session: Session, resource: Resource, key: str, field: str, parent_id: str) -> Row:
    """The row `key`, which must belong to this parent."""
    row = get(session, resource, key, {field: {"id": parent_id}})
    if row[f"{field}_id"] != parent_id:
        raise NotFound
    return row


def create(
    session: WriteSession,
    resource: Resource,
    body: Body,
    injected: Mapping[str, Any] | None = None,
    later: Later | None = None,
    *,
    dated: bool = False,
) -> Values:
    """Insert an entity and return it as shown.  `injected` overrides what was sent.

    With `later`, a check that may wait is put there, for the caller to do. `dated`: it was updated
    when it says, not now.
    """
    given = _given(resource, body, dict(injected or {}))
    return _write(session, resource, given, Write(None, frozenset(given), False, dated), later)


def upsert(
    session: WriteSession,
    resource: Resource,
    key: str,
    body: Body,
    injected: Mapping[str, Any] | None = None,
    later: Later | None = None,
) -> Values:
    """Replace the entity that `key` names, or make it.  `later`: as for `create`.

    Fields that were not sent get their defaults; what was made for the caller (client ids,
    secrets) and `created_at` stay, so that the same body twice gives the same entity.
    """
    previous = find(session, resource, key, injected)
    forced = dict(injected or {})
    if is_uuid(key):
        forced["id"] = key.lower()
    else:
        by_key = resource.named(key, body.for_fields(resource.schema.fields), previous)
        if by_key is None:
            raise NotFound
        forced |= by_key
    given = _given(resource, body, forced)
    return _write(session, resource, given, Write(previous, frozenset(given), partial=False), later)


def patch(
    session: WriteSession,
    resource: Resource,
    previous: Row,
    body: Body,
    injected: Mapping[str, Any] | None = None,
    *,
    dated: bool = False,
) -> Values:
    """Change the fields that were sent: records merge, arrays and maps are replaced.

    `dated`: it was updated when it says, not now.
    """
    current = resource.shown(previous)
    schema = resource.schema_for(current | body.values)
    given = body.for_fields(schema.fields) | dict(injected or {})
    errors = resource.check_patch(given)
    if given.get("id", previous["id"]) != previous["id"]:
        errors["id"] = "immutable field cannot be updated"
    if errors:
        raise SchemaViolation(errors)
    sent = expand_shorthands(schema, given)
    merged = _merge(schema.fields, current, sent)
    return _write(session, resource, merged, Write(previous, frozenset(sent), True, dated))


def remove(session: WriteSession, resource: Resource, row: Row) -> None:
    """Delete an entity with all that depends on it.

    Raises:
        StillReferenced: something refers to it that does not go with it.
    """
    children = referring_to(resource)
    for child, name, field in children:
        if field.on_delete != "cascade" and rows.find_id(
            session, child.model, {f"{name}_id": row["id"]}
        ):
            raise StillReferenced(resource.name, child.name)
    resource.deleting(session, row)
    for child, name, field in children:
        if field.on_delete == "cascade":
            _remove_children(session, child, name, row["id"])
    rows.delete_row(session, resource.model, row["id"])
    audit.note(session, resource, row, None)


def _remove_children(session: WriteSession, child: Resource, name: str, parent_id: str) -> None:
    if child.delete_children(session, name, parent_id):
        return
    where = {f"{name}_id": parent_id}
    while found := rows.page(session, child.model, where=where, after=None, limit=_CASCADE_ROWS):
        for row in found:
            remove(session, child, row)


# --- the steps of a write ------------------------------------------------------------------------


def _given(resource: Resource, body: Body, forced: Values) -> Values:
    schema = resource.schema_for(body.values | forced)
    return body.for_fields(schema.fields) | forced


def _merge(fields: Mapping[str, Field], current: Values, given: Values) -> Values:
    merged = dict(current)
    for name, value in given.items():
        field = fields.get(name)
        held = current.get(name)
        nested = field.fields if field is not None and field.type == "record" else None
        if nested is not None and isinstance(value, dict) and isinstance(held, dict):
            value = _merge(nested, held, value)
        merged[name] = value
    return merged


def _write(
    session: WriteSession,
    resource: Resource,
    given: Values,
    write: Write,
    later: Later | None = None,
) -> Values:
    """Validate and store an entity, unless it is what it was."""
    schema, previous = resource.schema_for(given), write.previous
    values, errors = validate(schema, given)
    if errors:
        raise SchemaViolation(errors)
    _resolve_references(session, resource, values)
    check = partial(resource.check, session, values, previous)
    if later is not None and resource.checked_last:
        later.append(check)
    elif errors := check():
        raise SchemaViolation(errors)
    complete(resource, given, values, write)
    _check_unique(session, resource, values, write)
    row = resource.columns(values, write)
    if previous is None:
        rows.insert_row(session, resource.model, row)
    elif any(previous[name] != value for name, value in row.items() if name != "updated_at"):
        rows.update_row(session, resource.model, row, previous)
    else:
        return resource.shown_once(previous, values)
    resource.written(session, row, previous)
    audit.note(session, resource, previous, row)
    return resource.shown_once(row, values)


def complete(resource: Resource, given: Values, values: Values, write: Write) -> None:
    """Fill in what is made for the caller: all that `values`, made of `given`, still lacks."""
    fields, held = resource.schema_for(given).fields, _held(resource, given, write)
    _fill_autos(fields, values, held, time.time())


def _held(resource: Resource, given: Values, write: Write) -> Values:
    """What automatic fields keep when they are not sent; null in a PATCH asks for a new value."""
    moment = given.get("updated_at") if write.dated and "updated_at" in write.sent else None
    dated = {} if moment is None else {"updated_at": int(moment) if moment % 1 == 0 else moment}
    if write.previous is None:
        return dated
    held = resource.shown(write.previous)
    held.pop("updated_at", None)
    return (_forget(held, given) if write.partial else held) | dated


def _forget(held: Values, given: Values) -> Values:
    kept = {}
    for name, value in held.items():
        sent = given.get(name)
        if isinstance(value, dict) and isinstance(sent, dict):
            kept[name] = _forget(value, sent)
        elif name not in given or sent is not None:
            kept[name] = value
    return kept


def _resolve_references(session: Session, resource: Resource, values: Values) -> None:
    """Turn each reference into an id that exists."""
    for name, field in resource.foreign_fields.items():
        value = values.get(name)
        if value is not None:
            assert field.reference is not None
            values[name] = {"id": _resolve(session, name, field.reference, value)}


def _resolve(session: Session, field: str, reference: str, value: Mapping[str, str]) -> str:
    parent = BY_NAME.get(reference)
    if "id" in value:
        found = parent and rows.find_id(session, parent.model, {"id": value["id"]})
        if not found:
            raise ForeignKeyMissing(field, reference, {"id": value["id"]})
        return found
    key = parent.endpoint_key if parent is not None else None
    unknown = value.keys() - {key}
    if parent is None or key is None or unknown:
        raise SchemaViolation({field: dict.fromkeys(unknown, "unknown field")})
    found = rows.find_id(session, parent.model, parent.column_where(key, value[key]))
    if not found:
        raise ForeignKeyUnresolved(field, reference, key, value[key])
    return found


def _fill_autos(
    fields: Mapping[str, Field], values: Values, held: Mapping[str, Any], now: float
) -> None:
    """Fill what is made for the caller, from `held` when that has it already."""
    for name, field in fields.items():
        value = values.get(name)
        if field.type == "record" and field.fields is not None and value is not None:
            _fill_autos(field.fields, value, held.get(name) or {}, now)
        elif name == "updated_at" or (field.auto and value is None):
            values[name] = held.get(name) or _made(field, now)


def _made(field: Field, now: float) -> str | float:
    if field.timestamp:
        return int(now) if field.type == "integer" else round(now, 3)
    return str(uuid.uuid4()) if field.uuid else random_text()


def _check_unique(session: Session, resource: Resource, values: Values, write: Write) -> None:
    own = None if write.previous is None else write.previous["id"]
    # An id that was just made up is nobody's.
    made = "id" not in write.sent
    if own is None and not made and rows.find_id(session, resource.model, {"id": values["id"]}):
        raise UniqueViolation({"id": values["id"]})
    for shown, where in resource.unique_keys(values):
        holder = rows.find_id(session, resource.model, where)
        if holder is not None and holder != own:
            raise UniqueViolation(shown)
