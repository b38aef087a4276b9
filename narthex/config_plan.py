"""A plan as people read it, and the errors of a file with the place of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from narthex.config_file import Files

SHOWN_CHARS = 160  # of a value; what is longer is cut
_DOING = {"created": "creating", "updated": "updating", "deleted": "deleting"}


def plan_lines(plan: Mapping[str, Any], *, done: bool) -> Iterator[str]:
    """Each entity with the fields that change, and the counts; `done`: it has happened."""
    for change in plan["changes"]:
        verb = change["change"] if done else _DOING[change["change"]]
        yield f"{verb} {change['type']} {change['name']}"
        for field in change["fields"]:
            yield f"  {field['field']}: {_value(change['change'], field)}"
    if not plan["changes"]:
        yield "nothing to change"
        return
    counts = ", ".join(f"{what} {plan[what]}" for what in _DOING)
    yield counts if done else f"{counts}; nothing was written"
    if not done and not plan["tried"]:
        yield "so many changes are planned and not tried: a sync may still find an error"


def _value(change: str, field: Mapping[str, Any]) -> str:
    new = _short(field["new"])
    return new if change == "created" else f"{_short(field['old'])} → {new}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}… ({len(text)} characters)"


def error_lines(errors: Sequence[Mapping[str, Any]], files: Files) -> list[str]:
    """`kong.yaml:12:5: services example: port: value should be between 0 and 65535`."""
    return [
        ": ".join(
            (
                files.place(error.get("line"), error.get("column")),
                *(str(error[part]) for part in ("entity", "field", "message") if error.get(part)),
            )
        )
        for error in errors
    ]
