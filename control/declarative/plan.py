"""From a file and a state of the database to what has to be done.  Pure: nothing is written here.

Each entity of the file is validated as the Admin API would, found in the database by its id, a
unique key or, as a last resort, what it holds, and compared as a write would compare it. Errors
are collected, so that all of them are told at once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from control.admin import crud
from control.admin.errors import SchemaViolation
from control.admin.registry import BY_NAME
from control.admin.resource import Resource, Values, Write
from control.admin.schema import Schema
from control.admin.validate import is_storable, is_uuid, validate
from control.declarative.differences import FieldChange, changed, first_values, keep_order
from control.declarative.items import Item, name_of
from control.declarative.leaving import leaving
from control.declarative.problems import FileRefused, Problem, field_errors
from control.declarative.state import Held, Key, State, keys, last_keys


@dataclass(frozen=True)
class Change:
    """One entity to write or delete.  `change`: created, updated, deleted."""

    change: str
    resource: Resource
    id: str
    label: str
    given: Values = field(default_factory=dict)  # what is written, references being ids
    fields: Sequence[FieldChange] = ()
    item: Item | None = None

    @property
    def type(self) -> str:
        return self.resource.name

    @property
    def name(self) -> str:
        return self.label.partition(" ")[2]


@dataclass(frozen=True)
class Plan:
    """All changes in the order in which they are made, for the database at one version."""

    version: int
    changes: Sequence[Change]
    unchanged: int
    tried: bool = True  # False: what only a write can find has not been looked for
    unresolved: Sequence[Problem] = ()  # references that only a running gateway can judge

    def count(self, change: str) -> int:
        return sum(1 for one in self.changes if one.change == change)


def make(
    items: Sequence[Item],
    state: State,
    *,
    tags: Sequence[str] = (),
    delete: bool = False,
    offline: bool = False,
) -> Plan:
    """What brings the database to what the file says; with `delete`, nothing else stays.

    `tags` are put on every entity of the file, and only entities that have them are touched.
    `offline`: there is no database, so that a reference to what the file does not hold may be good.

    Raises:
        FileRefused: with every error.
    """
    planner = _Planner(state, tags, offline)
    changes = [change for item in items if (change := planner.change(item)) is not None]
    unchanged = len(items) - len(changes)
    if delete and not planner.problems:
        gone = leaving(state, planner.claimed.keys())
        planner.check_references(gone)
        changes += [Change("deleted", one.resource, one.id, state.label(one)) for one in gone]
    if planner.problems:
        raise FileRefused(planner.problems)
    return Plan(state.version, changes, unchanged, unresolved=planner.unresolved)


class _Planner:
    def __init__(self, state: State, tags: Sequence[str], offline: bool) -> None:
        self.state, self.tags, self.offline = state, tags, offline
        self.problems: list[Problem] = []
        self.unresolved: list[Problem] = []
        self.claimed: dict[str, Item] = {}  # by the id of the row that they stand for
        self.ids: dict[Item, str] = {}
        self._items: dict[str, Item] = {}  # the other way round
        self._references: list[tuple[Item, str, str]] = []  # by which field, to which id
        self._named: dict[tuple[str, str], str] = {}  # (collection, name or id) → id
        self._keys: dict[Key, Item] = {}

    def change(self, item: Item) -> Change | None:
        """What has to be done for this entity of the file, or None."""
        before = len(self.problems)
        given = self._with_tags(item, self._resolved(item))
        schema, values = self._validated(item, given)
        held = self._find(item, given, values) if len(self.problems) == before else None
        self._remember(item, given, held)
        if schema is None or len(self.problems) > before:
            return None
        if held is None:
            fields = self._readable(item, first_values(schema.fields, values))
            return Change("created", item.resource, self.ids[item], item.label, given, fields, item)
        return self._update(item, given, schema, values, held)

    # --- what the file says --------------------------------------------------------------------

    def _resolved(self, item: Item) -> Values:
        """What was given, each reference by the id of what it names."""
        given = dict(item.given)
        for name, foreign in item.resource.foreign_fields.items():
            if name in item.parents:
                given[name] = {"id": self.ids[item.parents[name]]}
            elif given.get(name) is not None:
                parent = BY_NAME[str(foreign.reference)]
                given[name] = self._reference(item, name, parent, given[name])
            if isinstance(given.get(name), dict) and "id" in given[name]:
                self._references.append((item, name, given[name]["id"]))
        return given

    def _reference(self, item: Item, name: str, parent: Resource, value: Any) -> Any:
        """A reference by an id, whatever the file has: a text or a record, an id or a name.

        What is no such stays, for the schema to judge.
        """
        text = _reference_text(parent, value)
        if text is None:
            return value
        found = self._named.get((parent.name, text))
        if found is None and is_storable(text):
            found = self.state.id_of(parent, text)
        if found is not None:
            return {"id": found}
        where = "in the file" if self.offline else "in the file, nor here"
        problem = item.problem((name,), f"{parent.name} {text} is not {where}")
        (self.unresolved if self.offline else self.problems).append(problem)
        return {"id": str(uuid.uuid4())}

    def _with_tags(self, item: Item, given: Values) -> Values:
        if not self.tags or not item.resource.tagged:
            return given
        own = given.get("tags") or []
        if isinstance(own, list):
            given["tags"] = [*own, *(tag for tag in self.tags if tag not in own)]
        return given

    def _validated(self, item: Item, given: Values) -> tuple[Schema | None, Values]:
        """The schema that it has to meet, and its values with their defaults."""
        try:
            schema = item.resource.schema_for(given)
        except SchemaViolation as error:
            self._add(item, error.body["fields"])
            return None, {}
        values, errors = validate(schema, given)
        for name in item.resource.foreign_fields:
            if name not in errors and "id" not in (values[name] or {"id": None}):
                known = BY_NAME[str(schema.fields[name].reference)].endpoint_key
                errors[name] = dict.fromkeys(values[name].keys() - {known}, "unknown field")
        self._add(item, errors)
        return schema, values

    def _add(self, item: Item, errors: Any) -> None:
        self.problems += [item.problem(path, text) for path, text in field_errors(errors)]

    # --- which entity it is --------------------------------------------------------------------

    def _find(self, item: Item, given: Values, values: Values) -> Held | None:
        """The entity of the database that this one of the file stands for."""
        resource, wanted = item.resource, values["id"]
        found_keys = keys(resource, values)
        for key in [*found_keys, *([(resource.name, (("id", wanted),))] if wanted else [])]:
            other = self._keys.setdefault(key, item)
            if other is not item:
                line = other.node.start_mark.line + 1
                self.problems.append(item.problem((), f"is there twice, first in line {line}"))
                return None
        held = self.state.find(resource, wanted) if wanted else None
        if held is None:
            candidates = [one for key in found_keys for one in self.state.matching(key)]
            if not wanted and not found_keys:
                candidates = [
                    one for key in last_keys(resource, values) for one in self.state.matching(key)
                ]
            held = next((one for one in candidates if one.id not in self.claimed), None)
        if held is not None:
            self._claim(item, held, wanted)
        else:
            self._check_found_again(item, values, found_keys)
        return held

    def _claim(self, item: Item, held: Held, wanted: str | None) -> None:
        if self.claimed.setdefault(held.id, item) is not item:
            line = self.claimed[held.id].node.start_mark.line + 1
            self.problems.append(item.problem((), f"is the same entity as the one in line {line}"))
        elif wanted and wanted != held.id:
            text = f"is here already with the id {held.id}: give that id, or none"
            self.problems.append(item.problem(("id",), text))
        elif not held.selected:
            tags = ", ".join(self.tags)
            text = f"is here already without the tags ({tags}): tag it, or take another name"
            self.problems.append(item.problem((), text))

    def _check_found_again(self, item: Item, values: Values, found_keys: Sequence[Key]) -> None:
        """What nothing would find again would be made once more each time."""
        if not (values["id"] or found_keys or last_keys(item.resource, values)):
            key = item.resource.endpoint_key
            text = f"needs {key} or id, to be found when the file is used again"
            self.problems.append(item.problem((), text))

    def _remember(self, item: Item, given: Values, held: Held | None) -> None:
        """What later entities may call this one."""
        wanted = given.get("id")
        if held is not None:
            self.ids[item] = held.id
        else:
            sound = isinstance(wanted, str) and is_uuid(wanted)
            self.ids[item] = str(wanted).lower() if sound else str(uuid.uuid4())
        self._items[self.ids[item]] = item
        key = item.resource.endpoint_key
        names = [self.ids[item], given.get(key) if key else None]
        for name in names:
            if isinstance(name, str):
                self._named.setdefault((item.resource.name, name), self.ids[item])

    # --- what differs --------------------------------------------------------------------------

    def _update(
        self, item: Item, given: Values, schema: Schema, values: Values, held: Held
    ) -> Change | None:
        resource, old = item.resource, held.values
        keep_order(schema.fields, values, old)
        write = Write(held.row, frozenset(given), partial=False)
        crud.complete(resource, given, values, write)
        row = resource.columns(values, write)
        if all(held.row[n] == value for n, value in row.items() if n != "updated_at"):
            return None
        fields = self._readable(item, changed(schema.fields, old, resource.shown(row)))
        return Change("updated", resource, held.id, item.label, given, fields, item)

    def _readable(self, item: Item, fields: Iterable[FieldChange]) -> list[FieldChange]:
        """References by names: an id that is made for a plan says nothing."""
        foreign = item.resource.foreign_fields
        return [
            FieldChange(
                one.field,
                self._shown(str(foreign[one.field].reference), one.old),
                self._shown(str(foreign[one.field].reference), one.new),
            )
            if one.field in foreign
            else one
            for one in fields
        ]

    def _shown(self, kind: str, reference: Any) -> str | None:
        if reference is None:
            return None
        key: str = reference["id"]
        item, parent = self._items.get(key), BY_NAME[kind]
        if item is not None:
            return item.name
        held = self.state.find(parent, key) if parent.endpoint_key is not None else None
        return key if held is None else name_of(parent, held.values)

    # --- what goes -----------------------------------------------------------------------------

    def check_references(self, leaving: Sequence[Held]) -> None:
        """What the file refers to must not be deleted by it."""
        gone = {held.id: held for held in leaving}
        for item, name, key in self._references:
            if key in gone:
                text = f"{self.state.label(gone[key])} is not in the file and would be deleted"
                self.problems.append(item.problem((name,), text))


def _reference_text(parent: Resource, value: Any) -> str | None:
    """The id or name in a reference; None for what has neither."""
    if isinstance(value, dict):
        ((name, value),) = value.items() if len(value) == 1 else [(None, None)]
        is_id = name == "id" and isinstance(value, str) and is_uuid(value)
        value = value if is_id or name == parent.endpoint_key else None
    if not isinstance(value, str) or not value:
        return None
    return value.lower() if is_uuid(value) else value
