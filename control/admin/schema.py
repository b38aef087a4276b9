"""What an entity's fields are: one description drives validation, forms, defaults and documents.

A `Field` says what Kong's schema language says, with the same names, so that `GET /schemas/…` is
the description itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

from control.admin.errors import Fields
from control.admin.names import check_tag

TEXT_BYTES_MAX = 4096  # of a string of one line: as data planes take paths and header lines
KEY_BYTES_MAX = 2048  # of one that is unique, or a tag: an index of PostgreSQL's takes 2,704

Check = Callable[[Any], str | None]  # a value of the right type → what is wrong with it


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field.  `default` None: there is none, the field is null when not given."""

    type: str  # string integer number boolean array set map record foreign
    required: bool = False
    default: Any = None
    auto: bool = False  # made when absent or null
    unique: bool = False
    uuid: bool = False
    timestamp: bool = False
    one_of: tuple[Any, ...] | None = None
    between: tuple[float, float] | None = None
    len_min: int | None = None
    eq_null: bool = False  # only null is allowed
    elements: "Field | None" = None  # of an array or set
    keys: "Field | None" = None  # of a map
    values: "Field | None" = None
    fields: "Mapping[str, Field] | None" = None  # of a record
    reference: str | None = None  # of a foreign key: the collection's name
    on_delete: str = "restrict"  # of a foreign key: restrict, cascade
    encrypted: bool = False
    referenceable: bool = False
    description: str | None = None
    # Not part of Kong's language:
    nullable: bool = True  # False: null means the default
    stored: bool = True  # False: shorthand, taken in and never shown
    multiline: bool = False  # of a string: lines may end in it
    bytes_max: int | None = None  # of a string of one line; None: as `size_max` says
    from_below: bool = True  # of a foreign key: /{coll}/{key}/{field} is a path
    shown_once: bool = False  # null in every answer but the one that set it
    check: Check | None = None
    normal: Callable[[Any], Any] | None = None  # a good value → the form that is stored

    @property
    def size_max(self) -> int:
        """Bytes of a string of one line."""
        if self.bytes_max is not None:
            return self.bytes_max
        return KEY_BYTES_MAX if self.unique else TEXT_BYTES_MAX

    def describe(self) -> dict[str, Any]:
        """The field as `GET /schemas/…` shows it."""
        shown: dict[str, Any] = {"type": self.type}
        if self.required:
            shown["required"] = True
        if self.default is not None:
            shown["default"] = self.default
        for name in ("auto", "unique", "uuid", "timestamp", "encrypted", "referenceable"):
            if getattr(self, name):
                shown[name] = True
        for name in ("one_of", "between"):
            if getattr(self, name) is not None:
                shown[name] = list(getattr(self, name))
        for name in ("len_min", "reference", "description"):
            if getattr(self, name) is not None:
                shown[name] = getattr(self, name)
        if self.on_delete == "cascade":
            shown["on_delete"] = "cascade"
        if self.eq_null:
            shown["eq"] = None
        for name in ("elements", "keys", "values"):
            inner: Field | None = getattr(self, name)
            if inner is not None:
                shown[name] = inner.describe()
        if self.fields is not None:
            shown["fields"] = describe_fields(self.fields)
        return shown


@dataclass(frozen=True)
class EntityCheck:
    """A rule over several fields.  `run` gives errors by field; empty when it holds."""

    name: str
    spec: Any  # what `GET /schemas/…` shows
    run: Callable[[Mapping[str, Any]], Fields]


@dataclass(frozen=True)
class Schema:
    """All fields of an entity, and the rules over several of them."""

    name: str
    fields: Mapping[str, Field]
    checks: tuple[EntityCheck, ...] = ()
    shorthands: Mapping[str, Callable[[Any], dict[str, Any]]] = dataclass_field(
        default_factory=dict
    )

    def describe(self) -> dict[str, Any]:
        shown = {name: field for name, field in self.fields.items() if field.stored}
        return {
            "fields": describe_fields(shown),
            "entity_checks": [{check.name: check.spec} for check in self.checks],
        }


def describe_fields(fields: Mapping[str, Field]) -> list[dict[str, Any]]:
    return [{name: field.describe()} for name, field in fields.items()]


# --- fields that many entities have ------------------------------------------------------------


def identity() -> Field:
    return Field(type="string", uuid=True, auto=True)


def timestamp(kind: str = "integer") -> Field:
    """Seconds since 1970; a `number` has milliseconds."""
    return Field(type=kind, timestamp=True, auto=True)


def foreign(
    reference: str, *, required: bool = False, on_delete: str = "cascade", from_below: bool = True
) -> Field:
    return Field(
        type="foreign",
        reference=reference,
        required=required,
        on_delete=on_delete,
        from_below=from_below,
    )


def tags_field() -> Field:
    tag = Field(type="string", bytes_max=KEY_BYTES_MAX, check=check_tag)
    return Field(type="set", elements=tag)


def at_least_one_of(*names: str) -> EntityCheck:
    """At least one of these fields must have a value."""
    listed = ", ".join(f"'{name}'" for name in names)

    def run(values: Mapping[str, Any]) -> Fields:
        if any(values.get(name) is not None for name in names):
            return {}
        return {"@entity": [f"at least one of these fields must be non-empty: {listed}"]}

    return EntityCheck("at_least_one_of", list(names), run)
