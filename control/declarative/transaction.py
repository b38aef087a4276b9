"""A file carried out: planned beside all writers, then written in one transaction or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from control.admin import crud
from control.admin.bodies import Body
from control.admin.errors import AdminError, SchemaViolation
from control.declarative import plan, state
from control.declarative.items import chosen_tags, content
from control.declarative.layout import TRIED_MAX
from control.declarative.plan import Change, Plan
from control.declarative.problems import FileRefused, Problem, of_admin_error
from control.declarative.reading import read
from control.store import queries, rows
from control.store.session import Store, WriteSession


@dataclass(frozen=True)
class How:
    """`delete`: what the file does not have goes.  `dry_run`: all is tried and nothing stays.

    A dry run of more than TRIED_MAX changes is planned and not tried.
    """

    delete: bool = False
    dry_run: bool = False
    tags: Sequence[str] = ()  # all of which an entity must have to be touched


class _NotWanted(Exception):
    """Ends a transaction that was only tried."""


def carry(store: Store, text: str, how: How) -> Plan:
    """Bring the database to what the file says, in one transaction.

    Raises:
        FileRefused: nothing was written.
    """
    found = content(read(text))
    tags = chosen_tags(how.tags, found.select_tags)
    with store.reading() as reading:
        before = state.load(reading, tags=tags, delete=how.delete)
        planned = plan.make(found.items, before, tags=tags, delete=how.delete)
    if not planned.changes:
        return planned
    if how.dry_run and len(planned.changes) > TRIED_MAX:
        return replace(planned, tried=False)
    try:
        with store.writing() as session:
            # Another writer may have been quicker: then it all has to be thought again.
            if queries.config_version(session) != planned.version:
                now = state.load(session, tags=tags, delete=how.delete)
                planned = plan.make(found.items, now, tags=tags, delete=how.delete)
            _write(session, planned)
            if how.dry_run:
                session.check()
                raise _NotWanted
    except _NotWanted:
        pass
    except AdminError as error:  # of all entities together, at the commit
        raise FileRefused([Problem(text) for _, text in of_admin_error(error)]) from None
    return planned


def _write(session: WriteSession, planned: Plan) -> None:
    """Do all of it; what cannot be done is collected, so that every error is told.

    Whether entities go together is looked at when all of them are written: a service and its
    routes may change their protocols at once.
    """
    problems: list[Problem] = []
    failed: set[str] = set()
    later: list[tuple[Change, crud.Later]] = []
    for change in planned.changes:
        if failed and _rests_on(change, failed):
            continue
        try:
            later.append((change, _write_one(session, change)))
        except AdminError as error:
            failed.add(change.id)
            problems += _problems(change, error)
    for change, checks in later:
        for check in checks:
            if errors := check():
                problems += _problems(change, SchemaViolation(errors))
    if problems:
        raise FileRefused(problems)


def _write_one(session: WriteSession, change: Change) -> crud.Later:
    """Returns what is still to be checked when all is written."""
    resource = change.resource
    later: crud.Later = []
    if change.change == "created":
        crud.create(session, resource, Body(change.given), {"id": change.id}, later)
    elif change.change == "updated":
        crud.upsert(session, resource, change.id, Body(change.given), later=later)
    else:
        row = rows.fetch(session, resource.model, {"id": change.id})
        if row is not None:  # else it went with what it belonged to
            crud.remove(session, resource, row)
    return later


def _rests_on(change: Change, failed: set[str]) -> bool:
    """Whether it refers to what could not be written: its own error would say nothing new."""
    references = (change.given.get(name) for name in change.resource.foreign_fields)
    return any(isinstance(one, dict) and one.get("id") in failed for one in references)


def _problems(change: Change, error: AdminError) -> list[Problem]:
    found = of_admin_error(error)
    if change.item is None:
        return [Problem(f"cannot be deleted: {text}", change.label) for _, text in found]
    return [change.item.problem(path, text) for path, text in found]
