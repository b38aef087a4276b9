"""Which of an entity's fields are ours too.  What is set and unknown here makes it unfit.

Kong's versions have fields that ours has not: unset they say nothing. One that is set may narrow
what is let through, so that an entity without it would be more open than Kong's: it is left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from control.admin.errors import SchemaViolation
from control.admin.resource import Resource, Values
from control.admin.schema import Field
from control.kong.document import Entity

# Of no consequence whatever they say: when it was, in which workspace, and what is said elsewhere.
_ASIDE = frozenset({"created_at", "updated_at", "ws_id"})
_ASIDE_OF = {
    "certificates": frozenset({"snis"}),  # entities of their own
    "consumers": frozenset({"groups", "type", "username_lower"}),
}
# Defaults of fields that ours has not.
_UNSET = {("upstreams", "sticky_sessions_cookie_path"): "/"}
_VAULT = "{vault://"


class Unfit(Exception):
    """This entity cannot be taken over; the text says why, without its values."""


def fitting(resource: Resource, entity: Entity) -> Values:
    """The fields of `entity` that this resource has.

    Raises:
        Unfit: another one is set, or a value stands in a vault.
    """
    secret = next(_in_vault(entity.values), None)
    if secret is not None:
        raise Unfit(f"{secret} refers to a vault, which is not supported: set its value in Kong")
    try:
        fields = resource.schema_for(entity.values).fields
    except SchemaViolation:
        raise Unfit(f"the plugin {entity.values.get('name')} is not there") from None
    unknown: list[str] = []
    found = _known(fields, entity.values, entity.kind, "", unknown)
    if unknown:
        what = "a field that is" if len(unknown) == 1 else "fields that are"
        raise Unfit(f"has {what} not supported: {', '.join(unknown)}")
    return found


def _known(
    fields: Mapping[str, Field], values: Mapping[str, Any], kind: str, path: str, unknown: list[str]
) -> Values:
    found: Values = {}
    for name, value in values.items():
        field = fields.get(name)
        if field is None:
            if not _says_nothing(kind, name, value):
                unknown.append(path + name)
        elif field.type == "record" and field.fields is not None and isinstance(value, dict):
            found[name] = _known(field.fields, value, kind, f"{path}{name}.", unknown)
        else:
            found[name] = value
    return found


def _says_nothing(kind: str, name: str, value: Any) -> bool:
    if value is None or value is False or value in ([], {}, _UNSET.get((kind, name))):
        return True
    return name in _ASIDE or name in _ASIDE_OF.get(kind, ())


def _in_vault(value: Any, path: str = "") -> Iterator[str]:
    """The fields whose values are references to a vault."""
    if isinstance(value, str):
        if value.startswith(_VAULT):
            yield path
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _in_vault(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _in_vault(item, path)
