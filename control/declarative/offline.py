"""A file by itself, without a gateway: what its schemas say of it."""

from __future__ import annotations

from collections.abc import Sequence

from control.declarative import plan
from control.declarative.items import chosen_tags, content
from control.declarative.plan import Plan
from control.declarative.problems import FileRefused
from control.declarative.reading import read
from control.declarative.state import State

__all__ = ["FileRefused", "check_text"]


def check_text(text: str, tags: Sequence[str] = ()) -> Plan:
    """What the file would do to an empty gateway; `unresolved` has what only a gateway can judge.

    Raises:
        FileRefused: with every error.
    """
    found = content(read(text))
    tags = chosen_tags(tags, found.select_tags)
    return plan.make(found.items, State(), tags=tags, offline=True)
