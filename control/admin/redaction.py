"""Entities without their secrets: for callers that may not see them, and for the audit trail."""

from collections.abc import Mapping
from typing import Any

from control.admin.resource import Resource, Values
from control.admin.schema import Field
from control.guard.callers import REDACTED, caller


def visible(resource: Resource, values: Values) -> Values:
    """The entity as whoever asks now may see it."""
    return values if caller.get().sees_secrets else redacted(resource, values)


def redacted(resource: Resource, values: Mapping[str, Any]) -> Values:
    """`values` with each secret that is there replaced; what is null is seen to be."""
    return _record(resource.schema_for(values).fields, values)


def _record(fields: Mapping[str, Field], values: Mapping[str, Any]) -> Values:
    return {name: _value(fields.get(name), value) for name, value in values.items()}


def _value(field: Field | None, value: Any) -> Any:
    if field is None or value is None:
        return value
    if field.encrypted or field.shown_once:
        return REDACTED
    if field.fields is not None and isinstance(value, dict):
        return _record(field.fields, value)
    if field.values is not None and isinstance(value, dict):
        return {key: _value(field.values, item) for key, item in value.items()}
    if field.elements is not None and isinstance(value, list):
        return [_value(field.elements, item) for item in value]
    return value
