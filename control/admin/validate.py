"""Values against a schema: defaults filled in, types checked, every error collected.

Pure: nothing here reads the database.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

from control.admin.errors import ENTITY, Fields
from control.admin.schema import Field, Schema
from control.guard.callers import REDACTED

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LINE_ENDS = str.maketrans("", "", "\r\n\t")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_INTEGER_MAX = 2**53  # what every JSON reader keeps exact
_ABSENT = object()

_EXPECTED = {
    "string": "expected a string",
    "integer": "expected an integer",
    "number": "expected a number",
    "boolean": "expected a boolean",
    "array": "expected an array",
    "set": "expected a set",
    "map": "expected a map",
    "record": "expected a record",
    "foreign": "expected a record",
}


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def is_storable(text: str) -> bool:
    """Whether a database takes this text: it may hold no NUL and no half of a surrogate pair."""
    return "\0" not in text and _SURROGATE.search(text) is None


def validate(schema: Schema, given: Mapping[str, Any]) -> tuple[dict[str, Any], Fields]:
    """The entity that `given` makes, with defaults, and what is wrong with it by field."""
    values, errors = clean_fields(schema.fields, expand_shorthands(schema, given))
    for check in schema.checks:
        merge_errors(errors, check.run(values))
    return values, errors


def expand_shorthands(schema: Schema, given: Mapping[str, Any]) -> dict[str, Any]:
    """Shorthand fields (`url`) replaced by the fields that they stand for."""
    expanded = dict(given)
    for name, expand in schema.shorthands.items():
        value = expanded.get(name)
        if isinstance(value, str):
            del expanded[name]
            expanded.update(expand(value))
    return expanded


def merge_errors(errors: Fields, more: Fields) -> None:
    """Add `more`; the first error of a field stays, those of the entity add up."""
    for name, error in more.items():
        if name == ENTITY:
            errors.setdefault(ENTITY, []).extend(error)
        else:
            errors.setdefault(name, error)


def clean_fields(
    fields: Mapping[str, Field], given: Mapping[str, Any]
) -> tuple[dict[str, Any], Fields]:
    """A record's fields, each with its value or default; shorthands are checked and left out."""
    errors: Fields = {name: "unknown field" for name in given if name not in fields}
    values: dict[str, Any] = {}
    for name, field in fields.items():
        value, error = _clean_field(field, given.get(name, _ABSENT))
        if error is not None:
            errors[name] = error
        if field.stored:
            values[name] = value
    return values, errors


def _clean_field(field: Field, value: Any) -> tuple[Any, Any]:
    if value is _ABSENT or (value is None and not field.nullable):
        value = copy.deepcopy(field.default)
        if value is None and field.type == "record" and field.required:
            value = {}
    if value is None:
        missing = field.required and not field.auto
        return None, "required field missing" if missing else None
    if field.eq_null:
        return None, "value must be null"
    return clean_value(field, value)


def clean_value(field: Field, value: Any) -> tuple[Any, Any]:
    """A value that is not null, as it is stored, and its error or None."""
    value, error = _CLEANERS[field.type](field, value)
    if error is None:
        error = _limits(field, value)
    if error is None and field.check is not None:
        error = field.check(value)
    if error is None and field.normal is not None:
        value = field.normal(value)
    return value, error


def _limits(field: Field, value: Any) -> str | None:
    if field.one_of is not None and value not in field.one_of:
        return f"expected one of: {', '.join(str(option) for option in field.one_of)}"
    if field.between is not None and not field.between[0] <= value <= field.between[1]:
        return f"value should be between {field.between[0]} and {field.between[1]}"
    if field.len_min is not None and len(value) < field.len_min:
        return f"length must be at least {field.len_min}"
    return None


def _string(field: Field, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, str):
        return value, _EXPECTED["string"]
    if field.uuid:
        return value.lower(), None if is_uuid(value) else "expected a valid UUID"
    if not value and field.len_min is None:
        return value, "length must be at least 1"
    # These values become header lines, log fields and rows: none may hold what ends one (S57).
    if _CONTROL.search(value.translate(_LINE_ENDS) if field.multiline else value):
        return value, "must not contain control characters"
    if _SURROGATE.search(value):
        return value, "must be valid UTF-8"
    if field.encrypted and value == REDACTED:
        return value, "stands for a secret that was not shown; leave the field out to keep it"
    if not field.multiline and len(value.encode()) > field.size_max:
        return value, f"length must be at most {field.size_max}"
    return value, None


def _integer(field: Field, value: Any) -> tuple[Any, Any]:
    number, error = _number(field, value)
    if error or number != int(number):
        return value, _EXPECTED["integer"]
    return int(number), None


def _number(field: Field, value: Any) -> tuple[Any, Any]:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not -_INTEGER_MAX <= value <= _INTEGER_MAX:
        return value, _EXPECTED[field.type]
    # 5.0 and 5 are one number in JSON.
    return int(value) if value == int(value) else value, None


def _boolean(_field: Field, value: Any) -> tuple[Any, Any]:
    return value, None if isinstance(value, bool) else _EXPECTED["boolean"]


def _array(field: Field, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, list):
        return value, _EXPECTED[field.type]
    assert field.elements is not None
    cleaned = [_clean_element(field.elements, item) for item in value]
    items = [item for item, _ in cleaned]
    errors = [error for _, error in cleaned]
    while errors and errors[-1] is None:
        errors.pop()
    if field.type == "set" and not errors:
        items = [item for place, item in enumerate(items) if item not in items[:place]]
    return items, errors or None


def _clean_element(field: Field, value: Any) -> tuple[Any, Any]:
    return (None, _EXPECTED[field.type]) if value is None else clean_value(field, value)


def _map(field: Field, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, dict):
        return value, _EXPECTED["map"]
    assert field.keys is not None and field.values is not None
    cleaned: dict[str, Any] = {}
    errors: Fields = {}
    for key, item in value.items():
        _, error = clean_value(field.keys, key)
        if error is None:
            cleaned[key], error = _clean_element(field.values, item)
        if error is not None:
            errors[key] = error
    return cleaned, errors or None


def _record(field: Field, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, dict):
        return value, _EXPECTED["record"]
    if field.fields is None:
        return value, None  # its fields depend on what is wrong elsewhere
    cleaned, errors = clean_fields(field.fields, value)
    return cleaned, errors or None


def _foreign(_field: Field, value: Any) -> tuple[Any, Any]:
    """A reference by id or by another key, whose name is judged when it is resolved."""
    if not isinstance(value, dict):
        return value, _EXPECTED["foreign"]
    given = {name: item for name, item in value.items() if item is not None}
    if not given:
        return value, "missing primary key"
    if "id" not in given:
        wrong = {n: _EXPECTED["string"] for n, item in given.items() if not isinstance(item, str)}
        return given, wrong or None
    if not isinstance(given["id"], str) or not is_uuid(given["id"]):
        return given, {"id": "expected a valid UUID"}
    return {"id": given["id"].lower()}, None


_CLEANERS = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "array": _array,
    "set": _array,
    "map": _map,
    "record": _record,
    "foreign": _foreign,
}
