"""What the database holds, found by id and by whatever else tells entities apart.

A sync reads all that it may delete at once; whatever else a file names is looked up one by one, so
that neither time nor decrypted secrets go to what nobody asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlmodel import Session

from control.admin.registry import BY_NAME, referring_to
from control.admin.resource import Resource, Values
from control.declarative.items import labelled, name_of
from control.declarative.layout import ENTITIES_MAX, ORDER
from control.declarative.problems import refused
from control.store import queries, rows
from control.store.rows import Row, TagFilter

Key = tuple[str, tuple[tuple[str, str | None], ...]]  # a collection, and columns with their values


@dataclass(frozen=True, eq=False)
class Held:
    """One entity of the database.  `selected`: it has the tags that pick entities."""

    resource: Resource
    row: Row
    selected: bool

    @property
    def id(self) -> str:
        found: str = self.row["id"]
        return found

    @property
    def values(self) -> Values:
        return self.resource.shown(self.row)


class State:
    """The database as one session sees it.  Without a session there is what was `read`, no more."""

    def __init__(
        self,
        version: int = 0,
        read: Iterable[Held] = (),
        session: Session | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self.version = version
        self._session, self._tags = session, frozenset(tags)
        self._by_id: dict[tuple[str, str], Held] = {}
        self._by_key: dict[Key, list[Held]] = {}
        for held in read:
            self._by_id[held.resource.name, held.id] = held
            for key in [*keys(held.resource, held.values), *last_keys(held.resource, held.values)]:
                self._by_key.setdefault(key, []).append(held)
        self.read = list(self._by_id.values())

    def find(self, resource: Resource, key: str) -> Held | None:
        """The entity with this id."""
        held = self._by_id.get((resource.name, key))
        if held is None and self._session is not None:
            row = rows.fetch(self._session, resource.model, {"id": key})
            if row is not None:
                held = self._by_id[resource.name, key] = self._held(resource, row)
        return held

    def matching(self, key: Key) -> list[Held]:
        """The entities that have this key; several only where it is no unique one."""
        if key in self._by_key or self._session is None:
            return self._by_key.get(key, [])
        resource, where = BY_NAME[key[0]], dict(key[1])
        if resource.name == "certificates":
            ids = _certificates(self._session, resource, str(where["cert"]))
        else:
            ids = rows.find_ids(self._session, resource.model, where)
        return [held for one in ids if (held := self.find(resource, one))]

    def id_of(self, resource: Resource, text: str) -> str | None:
        """The id of the entity that a reference names, by its id or its endpoint key."""
        if (resource.name, text) in self._by_id:
            return text
        columns = ["id", *([resource.endpoint_key] if resource.endpoint_key else [])]
        for name in columns:
            found = self._by_key.get((resource.name, ((name, text),)))
            if found:
                return found[0].id
            if self._session is not None:
                known = rows.find_id(self._session, resource.model, {name: text})
                if known is not None:
                    return known
        return None

    def belonging(self, parent: Held) -> Iterator[Held]:
        """What is deleted together with this entity, as far as files can hold it."""
        if self._session is None:
            return
        for child, name, foreign in referring_to(parent.resource):
            if foreign.on_delete == "cascade" and child.name in ORDER:
                where = {f"{name}_id": parent.id}
                for one in rows.find_ids(self._session, child.model, where):
                    held = self.find(child, one)
                    if held is not None:
                        yield held

    def label(self, held: Held) -> str:
        """As a user recognises it: `plugins oauth2 on service example`."""
        scopes = {}
        for name, foreign in held.resource.foreign_fields.items():
            parent_id = held.row[f"{name}_id"]
            if parent_id is not None:
                parent = self.find(BY_NAME[str(foreign.reference)], parent_id)
                scopes[name] = "?" if parent is None else name_of(parent.resource, parent.values)
        return labelled(held.resource, held.values, scopes)

    def _held(self, resource: Resource, row: Row) -> Held:
        selected = not resource.tagged or self._tags <= set(row["tags"] or ())
        return Held(resource, row, selected)


def load(session: Session, *, tags: Sequence[str], delete: bool) -> State:
    """What a file is held against; all that the tags pick is read when it may be deleted.

    Raises:
        FileRefused: that is more than can be read.
    """
    # First: what is read after a version is at least as new as it.
    version = queries.config_version(session)
    complete = delete and not tags
    read = every(session, tags) if delete else ()
    return State(version, read, None if complete else session, tags)


def every(session: Session, tags: Sequence[str]) -> Iterator[Held]:
    """All entities that the tags pick, parents first.

    Raises:
        FileRefused: they are more than are read at once.
    """
    picking = TagFilter(tags, every=True) if tags else None
    left = ENTITIES_MAX
    for name in ORDER:
        resource = BY_NAME[name]
        for row in rows.every(session, resource.model, picking):
            left -= 1
            if left < 0:
                raise refused(f"more than {ENTITIES_MAX} entities: take them in parts, by tags")
            yield Held(resource, row, selected=True)


def _certificates(session: Session, resource: Resource, cert: str) -> list[str]:
    """Ids of the certificates of this text, without opening their keys."""
    found = rows.every(session, resource.model, secrets=False)
    return [row["id"] for row in found if row["cert"].strip() == cert]


def keys(resource: Resource, values: Values) -> list[Key]:
    """What no two entities of a kind may share, as a valid one has it; the surest first."""
    return [
        (resource.name, tuple(sorted(where.items()))) for _, where in resource.unique_keys(values)
    ]


def last_keys(resource: Resource, values: Values) -> list[Key]:
    """What an entity is found by where the file gives neither an id nor a unique key.

    The same certificate is the same entity, and a consumer's application of that name is the one
    that is there, whatever its client id.
    """
    if resource.name == "certificates":
        return [(resource.name, (("cert", values["cert"].strip()),))]
    if resource.name == "oauth2_credentials":
        where = (("consumer_id", values["consumer"]["id"]), ("name", values["name"]))
        return [(resource.name, where)]
    return []
