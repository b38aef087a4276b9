"""What an import did, or would do: counted, and what was left out grouped by why."""

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, Field

from control.kong.document import Entity

EXAMPLES_MAX = 5


class Taken(BaseModel):
    type: str
    created: int = 0
    updated: int = 0
    unchanged: int = 0


class LeftOut(BaseModel):
    """Entities of one kind, for one reason."""

    type: str
    reason: str
    count: int
    examples: list[str] = Field(description=f"The names of the first {EXAMPLES_MAX}.")


class Conflict(BaseModel):
    type: str
    name: str
    reason: str


class ImportReport(BaseModel):
    written: bool = Field(description="False for a dry run, and when the import was refused.")
    message: str | None = Field(None, description="Why the import was refused.")
    taken: list[Taken]
    left_out: list[LeftOut]
    notes: list[LeftOut] = Field(description="Taken over, and yet not what it was.")
    conflicts: list[Conflict]


class _Group(NamedTuple):
    kind: str
    reason: str


class Report:
    """Collects while an import runs."""

    def __init__(self) -> None:
        self._taken: dict[str, Taken] = {}
        self._left_out: dict[_Group, list[str]] = {}
        self._notes: dict[_Group, list[str]] = {}
        self.conflicts: list[Conflict] = []

    def took(self, kind: str, change: str, count: int = 1) -> None:
        """`change`: created, updated or unchanged."""
        if count == 0:
            return
        taken = self._taken.setdefault(kind, Taken(type=kind))
        setattr(taken, change, getattr(taken, change) + count)

    def leave_out(self, entity: Entity, reason: str) -> None:
        self._left_out.setdefault(_Group(entity.kind, reason), []).append(entity.name)

    def note(self, entity: Entity, text: str) -> None:
        self._notes.setdefault(_Group(entity.kind, text), []).append(entity.name)

    def conflict(self, entity: Entity, reason: str) -> None:
        self.conflicts.append(Conflict(type=entity.kind, name=entity.name, reason=reason))

    @property
    def is_whole(self) -> bool:
        return not self._left_out

    def made(self, *, written: bool, message: str | None = None) -> ImportReport:
        return ImportReport(
            written=written,
            message=message,
            taken=list(self._taken.values()),
            left_out=_groups(self._left_out.items()),
            notes=_groups(self._notes.items()),
            conflicts=self.conflicts,
        )


def _groups(found: Iterable[tuple[_Group, list[str]]]) -> list[LeftOut]:
    return [
        LeftOut(type=kind, reason=why, count=len(names), examples=names[:EXAMPLES_MAX])
        for (kind, why), names in found
    ]
