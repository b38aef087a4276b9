"""An import as a whole: one transaction, or nothing.

Parents are written before what refers to them; what refers to something that was left out is left
out too. Should a guard turn out to be missing (`guards`), all is begun again without what it stood
before: routes are written before the plugins on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from control.admin import crud
from control.admin.bodies import Body
from control.admin.errors import AdminError, SchemaViolation, UniqueViolation, key_text
from control.admin.registry import BY_NAME, RESOURCES
from control.admin.resource import Resource, Values
from control.kong.document import Document, Entity
from control.kong.fields import Unfit, fitting
from control.kong.guards import Guards
from control.kong.known import known
from control.kong.reasons import why_refused
from control.kong.report import ImportReport, Report
from control.kong.tokens import KIND as TOKENS
from control.kong.tokens import take_tokens
from control.store.rows import Row
from control.store.session import Store, WriteSession

# What an entity is taken over without where its value is not supported: it lets nobody in.
SPARED = {"upstreams": frozenset({"algorithm", "hash_on", "hash_fallback", "healthchecks"})}
CARRIED = frozenset({"http", "https", "ws", "wss"})


@dataclass(frozen=True)
class Options:
    """`dry_run`: say what would be done. `strict`: all or nothing. `unguarded`: take over what a
    plugin guards that is not there. `tokens`: those too."""

    dry_run: bool = False
    strict: bool = False
    unguarded: bool = False
    tokens: bool = True


class _Begin(Exception):
    """Begin again: something that was written is unguarded."""


class _Stop(Exception):
    """Roll back; the text says what is wrong, and nothing where nothing is."""


def take(store: Store, collections: Mapping[str, Any], options: Options) -> ImportReport:
    """Take over what can be; say what was left out, and why.

    Raises:
        Unreadable: the collections are not of the form that was expected.
    """
    document = Document(collections)
    guards = Guards(document)
    while True:  # each further round has one missing guard more, and the last one no new one
        report = Report()
        try:
            with store.writing() as session:
                _Import(session, document, guards, report, options).run()
        except _Begin:
            continue
        except _Stop as stop:
            return report.made(written=False, message=str(stop) or None)
        except AdminError as error:  # of all entities together, at the commit
            return report.made(written=False, message=why_refused(error))
        return report.made(written=True)


class _Import:
    """One round."""

    def __init__(
        self,
        session: WriteSession,
        document: Document,
        guards: Guards,
        report: Report,
        options: Options,
    ) -> None:
        self._session = session
        self._document = document
        self._guards = guards
        self._report = report
        self._options = options
        self._lost: set[Entity] = set()  # left out
        self._taken: list[Entity] = []
        self._unguarded = False

    def run(self) -> None:
        report, options = self._report, self._options
        for kind in sorted(self._document.by_kind.keys() - BY_NAME.keys()):
            for entity in self._document.of(kind):
                self._lose(entity, f"{kind} are not there")
        for resource in ordered():
            for entity in self._document.of(resource.name):
                self._take(resource, entity)
        for entity in self._taken:
            self._look_at(entity)
        if report.conflicts:
            raise _Stop("what is here already stands in the way")
        if self._unguarded:
            raise _Begin
        if options.tokens:
            take_tokens(self._session, self._document, report)
        if options.strict and not report.is_whole:
            raise _Stop("not all of it can be taken over, and strict was asked for")
        if options.dry_run:
            # Behind the checks that look at all entities together.
            self._session.before_commit(_stop)

    def _take(self, resource: Resource, entity: Entity) -> None:
        missing = self._guards.why(entity) or self._missing(resource, entity)
        if missing is not None:
            self._lose(entity, missing)
            return
        try:
            change = self._write(resource, entity)
        except UniqueViolation as error:
            self._report.conflict(entity, _in_the_way(error))
            self._lost.add(entity)
        except (Unfit, AdminError) as error:
            reason = str(error) if isinstance(error, Unfit) else why_refused(error)
            self._lose(entity, reason)
            if entity.kind == "plugins" and not self._options.unguarded:
                self._unguarded |= self._guards.lose(entity, reason)
        else:
            self._report.took(resource.name, change)
            self._taken.append(entity)

    def _write(self, resource: Resource, entity: Entity) -> str:
        values, row = known(self._session, resource, fitting(resource, entity))
        try:
            return _take_over(self._session, resource, values, row)
        except SchemaViolation as error:
            refused = error.body["fields"].keys()
            if not refused <= SPARED.get(entity.kind, frozenset()):
                raise
        rest = {name: value for name, value in values.items() if name not in refused}
        change = _take_over(self._session, resource, rest, row)
        self._report.note(entity, f"without its {', '.join(sorted(refused))}: not supported yet")
        return change

    def _missing(self, resource: Resource, entity: Entity) -> str | None:
        """Why it cannot be there alone: without what it refers to, or without its guards."""
        for name, field in resource.foreign_fields.items():
            parent = self._document.referred(field.reference or "", entity.values.get(name))
            if parent in self._lost:
                return f"its {name} was left out"
        guards = self._guards.before(entity)
        return f"is guarded by {', '.join(guards)}, which is not there" if guards else None

    def _lose(self, entity: Entity, reason: str) -> None:
        self._report.leave_out(entity, reason)
        self._lost.add(entity)

    def _look_at(self, entity: Entity) -> None:
        """Say what is taken over and does not do here what it did."""
        protocols = entity.values.get("protocols") or ["http"]
        if entity.kind == "routes" and CARRIED.isdisjoint(protocols):
            self._report.note(entity, f"kept, but only {', '.join(sorted(CARRIED))} are carried")
        host = self._document.referred("upstreams", entity.values.get("host"))
        if entity.kind == "services" and host in self._lost:
            self._report.note(entity, "its host is an upstream that was left out")


def _take_over(session: WriteSession, resource: Resource, values: Values, row: Row | None) -> str:
    """Create an entity, or change what differs in the one that is here; its times stay with it.

    What `values` does not hold stays as it is. Returns `created`, `updated` or `unchanged`.
    """
    if row is None:
        crud.create(session, resource, Body(values), dated=True)
        return "created"
    before = resource.shown(row)
    # Else an id that is made for it would stand where there is none in `values`.
    after = crud.patch(session, resource, row, Body({**values, "id": row["id"]}), dated=True)
    same = all(before[name] == value for name, value in after.items() if name != "updated_at")
    return "unchanged" if same else "updated"


def ordered() -> list[Resource]:
    """All resources but tokens, those that others refer to before these."""
    found: list[Resource] = []

    def add(resource: Resource) -> None:
        for field in resource.foreign_fields.values():
            add(BY_NAME[str(field.reference)])
        if resource not in found:
            found.append(resource)

    for resource in RESOURCES:
        if resource.name != TOKENS:
            add(resource)
    return found


def _in_the_way(error: UniqueViolation) -> str:
    key = key_text(error.body["fields"])
    return f"another one has {key} here: delete or rename it, or import into an empty database"


def _stop(_session: Session) -> None:
    raise _Stop
