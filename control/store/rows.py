"""Reading and writing the rows of any entity, as plain dicts of its columns.

What the Admin API needs and every entity has alike: find by a column, page in order of the id,
insert, update, delete, tags. A write of a config entity raises the config version; a token is not
config. References and what a deletion takes along are the caller's business.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Insert,
    Select,
    Table,
    bindparam,
    delete,
    insert,
    select,
    tuple_,
    update,
)
from sqlmodel import Session, SQLModel

from control.store.columns import SEALING
from control.store.session import WriteSession
from control.store.tables import EntityTag, OAuth2Token

Row = dict[str, Any]
Model = type[SQLModel]

_TAGS: Table = EntityTag.__table__  # type: ignore[attr-defined]
_TAG_KEY = (_TAGS.c.tag, _TAGS.c.entity_name, _TAGS.c.entity_id)


def _table(model: Model) -> Table:
    table: Table = model.__table__  # type: ignore[attr-defined]
    return table


def _nowhere(where: Mapping[str, Any]) -> bool:
    """Whether no row can be such: texts here have no NUL, and PostgreSQL refuses to compare one."""
    return any(isinstance(value, str) and "\0" in value for value in where.values())


def fetch(session: Session, model: Model, where: Mapping[str, Any]) -> Row | None:
    """The row whose columns equal `where`, which name a unique key."""
    if _nowhere(where):
        return None
    statement = _select(_table(model), None, tuple(where), frozenset())
    found = session.connection().execute(statement, where).first()
    return None if found is None else dict(found._mapping)


def find_id(session: Session, model: Model, where: Mapping[str, Any]) -> str | None:
    """The id of some row whose columns equal `where`; null equals null."""
    if _nowhere(where):
        return None
    nulls = frozenset(name for name, value in where.items() if value is None)
    statement = _select(_table(model), "id", tuple(where), nulls)
    found: str | None = session.connection().scalar(statement, where)
    return found


@cache
def _select(
    table: Table, column: str | None, equal: tuple[str, ...], nulls: frozenset[str]
) -> Select[Any]:
    """One row whose columns equal bound values, null those in `nulls`; made once.

    SQLAlchemy takes longer to put such a statement together than to run it.
    """
    conditions = [
        table.c[name].is_(None)
        if name in nulls
        else table.c[name] == bindparam(name, type_=table.c[name].type)
        for name in equal
    ]
    return select(table if column is None else table.c[column]).where(*conditions).limit(1)


def find_ids(session: Session, model: Model, where: Mapping[str, Any]) -> list[str]:
    """The ids of all rows whose columns equal `where`, in their order; null equals null."""
    if _nowhere(where):
        return []
    table = _table(model)
    conditions = [
        table.c[name].is_(None) if value is None else table.c[name] == value
        for name, value in where.items()
    ]
    statement = select(table.c.id).where(*conditions).order_by(table.c.id)
    return list(session.connection().scalars(statement))


def column_values(
    session: Session, model: Model, column: str, where: Mapping[str, Any]
) -> Iterable[Any]:
    """One column of the rows that match, read as they are asked for."""
    table = _table(model)
    statement = select(table.c[column]).where(*(table.c[n] == v for n, v in where.items()))
    return session.connection().scalars(statement, execution_options={"yield_per": 50})


def distinct(session: Session, model: Model, column: str) -> list[Any]:
    """The values that a column has, sorted."""
    values = _table(model).c[column]
    return list(session.connection().scalars(select(values).distinct().order_by(values)))


class TagFilter:
    """`tags`: all of them must be there (`every`), or any one."""

    def __init__(self, tags: Sequence[str], every: bool) -> None:
        self.tags = tags
        self.every = every

    def condition(self, entity_name: str, entity_id: ColumnElement[Any]) -> list[Any]:
        groups = [[tag] for tag in self.tags] if self.every else [list(self.tags)]
        return [
            entity_id.in_(
                select(_TAGS.c.entity_id).where(
                    _TAGS.c.tag.in_(group), _TAGS.c.entity_name == entity_name
                )
            )
            for group in groups
        ]


def page(
    session: Session,
    model: Model,
    *,
    where: Mapping[str, Any],
    after: str | None,
    limit: int,
    tags: TagFilter | None = None,
) -> list[Row]:
    """At most `limit` rows in order of their ids, those after the id `after`."""
    if _nowhere(where):
        return []
    table = _table(model)
    statement = select(table).where(*(table.c[name] == value for name, value in where.items()))
    if after is not None:
        statement = statement.where(table.c.id > after)
    if tags is not None:
        statement = statement.where(*tags.condition(table.name, table.c.id))
    found = session.connection().execute(statement.order_by(table.c.id).limit(limit))
    return [dict(row._mapping) for row in found]


def every(
    session: Session, model: Model, tags: TagFilter | None = None, *, secrets: bool = True
) -> Iterator[Row]:
    """All rows, or those with these tags, in order of their ids, read as they are asked for.

    Without `secrets` nothing is decrypted: columns that may hold some are null.
    """
    table = _table(model)
    columns = [c for c in table.c if secrets or not isinstance(c.type, SEALING)]
    absent = {c.name: None for c in table.c if c not in set(columns)}
    statement = select(*columns).order_by(table.c.id)
    if tags is not None:
        statement = statement.where(*tags.condition(table.name, table.c.id))
    for row in session.connection().execute(statement.execution_options(yield_per=500)):
        yield {**row._mapping, **absent}


def names(session: Session, model: Model, column: str) -> dict[str, str]:
    """This column of all rows that have it, by id."""
    table = _table(model)
    statement = select(table.c.id, table.c[column]).where(table.c[column].is_not(None))
    return {row[0]: row[1] for row in session.connection().execute(statement)}


def insert_row(session: WriteSession, model: Model, values: Row) -> None:
    session.connection().execute(_insert(_table(model)), values)
    _set_tags(session, model, values["id"], values.get("tags"))
    _note(session, model)


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


def update_row(session: WriteSession, model: Model, values: Row, previous: Row) -> None:
    """Write what differs from `previous`, the row as it was read."""
    table = _table(model)
    changed = {name: value for name, value in values.items() if previous[name] != value}
    if changed:
        session.execute(update(table).where(table.c.id == previous["id"]).values(changed))
    if "tags" in changed:
        session.execute(delete(_TAGS).where(_TAGS.c.entity_id == previous["id"]))
        _set_tags(session, model, previous["id"], values["tags"])
    _note(session, model)


def delete_row(session: WriteSession, model: Model, entity_id: str) -> None:
    table = _table(model)
    session.execute(delete(_TAGS).where(_TAGS.c.entity_id == entity_id))
    session.execute(delete(table).where(table.c.id == entity_id))
    _note(session, model)


def tagged(
    session: Session, *, tag: str | None, after: Sequence[str] | None, limit: int
) -> list[tuple[str, str, str]]:
    """(tag, entity name, entity id) in that order, of one tag or of all."""
    statement = select(*_TAG_KEY).order_by(*_TAG_KEY).limit(limit)
    if tag is not None:
        statement = statement.where(_TAGS.c.tag == tag)
    if after is not None:
        statement = statement.where(tuple_(*_TAG_KEY) > tuple_(*after))
    return [
        (row.tag, row.entity_name, row.entity_id) for row in session.connection().execute(statement)
    ]


def _set_tags(
    session: WriteSession, model: Model, entity_id: str, tags: Iterable[str] | None
) -> None:
    if tags:
        name = _table(model).name
        session.execute(
            insert(_TAGS),
            [{"tag": tag, "entity_name": name, "entity_id": entity_id} for tag in tags],
        )


def _note(session: WriteSession, model: Model) -> None:
    if model is not OAuth2Token:
        session.note_config()
