"""What an entity of the Admin API is: a table, a schema, and the few points where it differs.

`crud` does the work for all of them; a resource overrides only what is its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, SQLModel

from control.admin.errors import Fields
from control.admin.schema import Field, Schema
from control.admin.validate import is_uuid
from control.store.columns import Secret
from control.store.rows import Row
from control.store.session import WriteSession

Values = dict[str, Any]  # an entity as JSON shows it


@dataclass(frozen=True)
class Write:
    """How an entity comes to be written.

    `partial`: what was not sent stays as it is. `dated`: `updated_at` is what was sent.
    """

    previous: Row | None
    sent: frozenset[str]
    partial: bool
    dated: bool = False

    def keeps(self, name: str) -> bool:
        return self.partial and name not in self.sent


class Resource:
    """One entity.  Stateless: one instance serves all requests."""

    name: str  # of the table and of the schema
    path: str  # of the collection, below /
    title: str  # of its model in openapi.json
    model: type[SQLModel]
    schema: Schema
    endpoint_key: str | None = None  # what may stand in a path instead of the id
    key_within: str | None = None  # the reference within which that key is unique; None: it is
    below_only: bool = False  # all paths are below a parent's
    filters: tuple[str, ...] = ()  # fields that the collection's query may name
    tagged: bool = True
    # Whether `check` may wait until other entities, which it looks at, are written as well.
    checked_last: bool = False

    # --- finding ---------------------------------------------------------------------------

    def key_where(self, key: str) -> dict[str, Any] | None:
        """The columns that a path segment names; None when it can name nothing."""
        if is_uuid(key):
            return {"id": key.lower()}
        return None if self.endpoint_key is None else self.column_where(self.endpoint_key, key)

    def locate(self, session: Session, key: str) -> dict[str, Any] | None:
        """As `key_where`, where another entity may have to be asked."""
        return self.key_where(key)

    def named(self, key: str, given: Mapping[str, Any], previous: Row | None) -> Values | None:
        """What a PUT by a key that is no id sets beside what was sent; None: none can be such."""
        if self.endpoint_key is None:
            return None
        return {self.endpoint_key: key} | ({} if previous is None else {"id": previous["id"]})

    def column_where(self, field: str, value: str) -> dict[str, Any]:
        """How the table is searched by a unique field."""
        return {field: value}

    def ended(self, row: Row) -> bool:
        """Whether this row's time is over: nobody is shown it while it waits to be deleted."""
        return False

    # --- validation ------------------------------------------------------------------------

    def schema_for(self, given: Mapping[str, Any]) -> Schema:
        """The schema that this entity has to meet; a plugin's depends on its name."""
        return self.schema

    def check_patch(self, given: Mapping[str, Any]) -> Fields:
        """What is wrong with the fields of a PATCH by themselves."""
        return {}

    def check(self, session: Session, values: Values, previous: Row | None) -> Fields:
        """What is wrong with a valid entity among the others; references are ids by now."""
        return {}

    def unique_keys(self, values: Values) -> list[tuple[Values, Row]]:
        """Each key that no other entity may have: as shown in an error, and as columns."""
        return [
            ({name: values[name]}, self.column_where(name, values[name]))
            for name, field in self.schema.fields.items()
            if field.unique and values.get(name) is not None
        ]

    # --- between JSON and the row ------------------------------------------------------------

    def columns(self, values: Values, write: Write) -> Row:
        """The row that stores a complete entity."""
        row: Row = {}
        for name, field in self.schema_for(values).fields.items():
            if not field.stored:
                continue
            value = values.get(name)
            if field.type == "foreign":
                row[f"{name}_id"] = None if value is None else value["id"]
            else:
                row[name] = seal(field, value)
        return row

    def shown(self, row: Row) -> Values:
        """The entity as every answer shows it."""
        values: Values = {}
        for name, field in self.schema.fields.items():
            if not field.stored:
                continue
            if field.type == "foreign":
                parent = row[f"{name}_id"]
                values[name] = None if parent is None else {"id": parent}
            else:
                values[name] = row[name]
        return values

    def compared(self, row: Row) -> Values:
        """The entity as the audit trail looks for differences; what is secret in it is replaced."""
        return self.shown(row)

    def shown_once(self, row: Row, values: Values) -> Values:
        """The entity as the answer shows it that made or changed it."""
        return self.shown(row)

    # --- what a write leads to ---------------------------------------------------------------

    def written(self, session: WriteSession, row: Row, previous: Row | None) -> None:
        """Called after the row was inserted or updated."""

    def deleting(self, session: WriteSession, row: Row) -> None:
        """Called before the row and what depends on it go."""

    def delete_children(self, session: WriteSession, field: str, parent_id: str) -> bool:
        """Delete all rows that refer to a parent at once; False: one by one will do."""
        return False

    @property
    def foreign_fields(self) -> dict[str, Field]:
        return {
            n: f for n, f in self.schema.fields.items() if f.type == "foreign" and not f.eq_null
        }


def seal(field: Field, value: Any) -> Any:
    """`value` with each encrypted field inside a record marked, so that it is stored encrypted."""
    if value is None:
        return None
    if field.type == "record" and field.fields is not None:
        return {n: seal(field.fields[n], item) for n, item in value.items() if n in field.fields}
    return Secret(value) if field.encrypted and isinstance(value, str) else value
