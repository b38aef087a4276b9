"""What changes in an entity, field by field, with no secret in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from control.admin.schema import Field
from control.guard.callers import REDACTED

_UNTOLD = ("id", "created_at", "updated_at")


@dataclass(frozen=True)
class FieldChange:
    """One field: `config.scopes`, what it was and what it is to be."""

    field: str
    old: Any
    new: Any


def changed(
    fields: Mapping[str, Field], old: Mapping[str, Any], new: Mapping[str, Any], above: str = ""
) -> Iterator[FieldChange]:
    """Each field in which `new` differs, records looked into.  `updated_at` always does."""
    for name, value in new.items():
        field, before = fields.get(name), old.get(name)
        if value == before or name == "updated_at":
            continue
        inner = None if field is None else field.fields
        if inner is not None and isinstance(before, Mapping) and isinstance(value, Mapping):
            yield from changed(inner, before, value, f"{above}{name}.")
        else:
            hide = field is not None and field.encrypted
            yield FieldChange(above + name, _shown(before, hide), _shown(value, hide))


def first_values(fields: Mapping[str, Field], new: Mapping[str, Any]) -> list[FieldChange]:
    """What a new entity has that is not a default."""
    told = {name: value for name, value in new.items() if name not in _UNTOLD}
    return list(changed(fields, defaults(fields), told))


def defaults(fields: Mapping[str, Field]) -> dict[str, Any]:
    return {name: default(field) for name, field in fields.items()}


def default(field: Field) -> Any:
    """The value of a field that was not given."""
    if field.default is None and field.type == "record" and field.required:
        return defaults(field.fields or {})
    return field.default


def _shown(value: Any, hide: bool) -> Any:
    return REDACTED if hide and value is not None else value


def keep_order(
    fields: Mapping[str, Field], values: dict[str, Any], held: Mapping[str, Any]
) -> None:
    """Give each set in `values` the order that it has in `held`, where its members are the same."""
    for name, field in fields.items():
        value, before = values.get(name), held.get(name)
        if field.type == "set" and isinstance(value, list) and isinstance(before, list):
            if len(value) == len(before) and all(item in before for item in value):
                values[name] = before
        elif field.fields is not None and isinstance(value, dict) and isinstance(before, Mapping):
            keep_order(field.fields, value, before)
