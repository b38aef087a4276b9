"""What is wrong with a file: every error with its entity, field, line and column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control.admin.errors import ENTITY, AdminError
from control.declarative.layout import PROBLEMS_MAX


@dataclass(frozen=True)
class Problem:
    """One error.  Line and column count from 1; None where no line is to blame."""

    message: str
    entity: str | None = None
    field: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ": ".join(part for part in (self.entity, self.field, self.message) if part)


TEXT_CHARS_MAX = 500  # of each part of an error that is told: some quote what is in the file


class FileRefused(Exception):
    """The file cannot be taken; nothing was written."""

    def __init__(self, problems: Sequence[Problem], status: int = 400) -> None:
        first = sorted(problems, key=_by_line)[:PROBLEMS_MAX]
        self.problems = [_shortened(problem) for problem in first]
        super().__init__("; ".join(str(problem) for problem in self.problems[:3]))
        self.count = len(problems)
        self.status = status

    @property
    def message(self) -> str:
        """The one error, or how many there are."""
        return str(self.problems[0]) if self.count == 1 else f"{self.count} errors"


def _shortened(one: Problem) -> Problem:
    parts = (one.message, one.entity, one.field)
    message, entity, field = (part and _cut(part) for part in parts)
    return Problem(message or "", entity, field, one.line, one.column)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[:TEXT_CHARS_MAX]}…"


def _by_line(problem: Problem) -> tuple[bool, int, int]:
    return (problem.line is None, problem.line or 0, problem.column or 0)


def refused(message: str, status: int = 400) -> FileRefused:
    """The file as a whole is at fault."""
    return FileRefused([Problem(message)], status)


Path = tuple[str | int, ...]  # steps from an entity down to a value; places in lists from 0


def field_errors(errors: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Each text in the `fields` of an error, with the path of the value that it is about."""
    if isinstance(errors, str):
        yield path, errors
    elif isinstance(errors, Mapping):
        for name, error in errors.items():
            if name == ENTITY:  # a list of texts, none of which is about one field
                yield from ((path, text) for text in error)
            else:
                yield from field_errors(error, (*path, name))
    elif isinstance(errors, list):
        for place, error in enumerate(errors):
            if error is not None:
                yield from field_errors(error, (*path, place))


def of_admin_error(error: AdminError) -> list[tuple[Path, str]]:
    """What the Admin API would answer, by field where it says fields."""
    message = str(error.body.get("message") or error.body)
    if error.body.get("name") == "schema violation":
        return list(field_errors(error.body.get("fields"))) or [((), message)]
    fields = error.body.get("fields") or {}
    return [(tuple(list(fields)[:1]), message)]


def dotted(path: Path) -> str | None:
    """`config.scopes.2`, places counted from 1 as in Kong's errors; None for the entity itself."""
    steps = (str(step + 1) if isinstance(step, int) else step for step in path)
    return ".".join(steps) or None
