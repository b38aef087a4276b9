"""What a Kong has, as one list: from its Admin API, its own export, or a file of decK.

All three hold collections of entities by name. An export is flat and refers by id; decK nests
children in their parents and refers by name; what was read from the Admin API is flat too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from control.admin.registry import BY_NAME

# Members about the file, or about Kong's own state.
_ASIDE = ("_format_version", "_transform", "_comment", "_info", "_workspace", "_ignored")
_CREDENTIALS = (
    "oauth2_credentials",
    "keyauth_credentials",
    "basicauth_credentials",
    "hmacauth_credentials",
    "jwt_secrets",
    "mtls_auth_credentials",
    "acls",
)
# collection → the field by which its children refer to it, and the members they stand in
_NESTED = {
    "services": ("service", ("routes", "plugins")),
    "routes": ("route", ("plugins",)),
    "consumers": ("consumer", ("plugins", *_CREDENTIALS)),
    "oauth2_credentials": ("credential", ("oauth2_tokens",)),
    "certificates": ("certificate", ("snis",)),
    "upstreams": ("upstream", ("targets",)),
    "consumer_groups": ("consumer_group", ("plugins",)),
}
_NAMES = ("name", "username", "custom_id", "client_id", "target", "id")
_SCOPES = ("service", "route", "consumer", "consumer_group")


class Unreadable(Exception):
    """The document is not of the form that was expected; the text says where."""


@dataclass(frozen=True, eq=False)
class Entity:
    """One entity of Kong's, its children taken out."""

    kind: str  # the collection
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """How an operator recognises it; never by a token."""
        named = next((str(self.values[n]) for n in _NAMES if self.values.get(n)), "without a name")
        if self.kind != "plugins":
            return named
        scopes = [f"{n} {_named(self.values[n])}" for n in _SCOPES if self.values.get(n)]
        return f"{named} on {', '.join(scopes) or 'everything'}"


class Document:
    """All entities, and which of them a reference means."""

    def __init__(self, collections: Mapping[str, Any]) -> None:
        """Raises Unreadable."""
        self.by_kind: dict[str, list[Entity]] = {}
        for kind, entries in collections.items():
            if kind not in _ASIDE:
                for entity in _read(kind, entries, {}):
                    self.by_kind.setdefault(entity.kind, []).append(entity)
        self._known = {
            (entity.kind, key): entity
            for entities in self.by_kind.values()
            for entity in entities
            for key in _keys(entity)
        }

    def of(self, kind: str) -> list[Entity]:
        return self.by_kind.get(kind, [])

    def referred(self, kind: str, reference: Any) -> Entity | None:
        """The entity that a reference means, if it is in here."""
        key = reference if isinstance(reference, str) else _key(reference)
        return None if key is None else self._known.get((kind, key))


def _read(kind: str, entries: Any, injected: Mapping[str, Any]) -> Iterator[Entity]:
    if entries is None:
        return
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unreadable(f"{kind}: a list of mappings was expected")
    field, members = _NESTED.get(kind, ("", ()))
    for entry in entries:
        children = {n: v for n, v in entry.items() if n in members and _are_entities(v)}
        values = {name: value for name, value in entry.items() if name not in members}
        yield Entity(kind, {**values, **injected})
        for name, nested in children.items():
            reference = _reference(kind, values)
            if reference is None:
                raise Unreadable(f"{kind}: one with {name} has neither an id nor a name")
            yield from _read(name, nested, {field: reference})


def _are_entities(value: Any) -> bool:
    """Kong shows a certificate's SNIs as names as well, which are entities elsewhere."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _reference(kind: str, values: Mapping[str, Any]) -> dict[str, str] | None:
    names = ("id", _endpoint_key(kind))
    return next(({name: values[name]} for name in names if name and values.get(name)), None)


def _endpoint_key(kind: str) -> str | None:
    resource = BY_NAME.get(kind)
    return "name" if resource is None else resource.endpoint_key


def _keys(entity: Entity) -> list[str]:
    values = (entity.values.get(name) for name in ("id", _endpoint_key(entity.kind)) if name)
    return [value for value in values if isinstance(value, str)]


def _key(reference: Any) -> str | None:
    if not isinstance(reference, dict):
        return None
    return next((value for value in reference.values() if isinstance(value, str)), None)


def _named(reference: Any) -> str:
    return str(reference if isinstance(reference, str) else _key(reference))
