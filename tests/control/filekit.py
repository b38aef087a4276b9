"""Files in decK's format for tests, and what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from control.declarative import FileRefused, How, Problem, What, carry, dump_text
from control.declarative.plan import Change, Plan
from control.store import columns
from control.store.session import Store


def versioned(text: str) -> str:
    return f'_format_version: "3.0"\n{text}'


def apply_text(store: Store, text: str) -> Sequence[Change]:
    return carry(store, text, How()).changes


def sync(store: Store, text: str, *tags: str) -> list[str]:
    return told(carry(store, text, How(delete=True, tags=tags)))


def diff(store: Store, text: str, *tags: str) -> list[str]:
    return told(carry(store, text, How(delete=True, dry_run=True, tags=tags)))


def told(plan: Plan) -> list[str]:
    """`created services example`, one for each change."""
    return [f"{one.change} {one.type} {one.name}" for one in plan.changes]


def problems(store: Store, text: str, how: How = How()) -> list[Problem]:  # noqa: B008
    """What a file that must be refused is refused for."""
    with pytest.raises(FileRefused) as refused:
        carry(store, text, how)
    return refused.value.problems


def dumped(store: Store, *tags: str, **options: bool) -> dict[str, Any]:
    """The dump as the values that it holds."""
    found: dict[str, Any] = yaml.safe_load(dump_text(store, What(tags, **options)))
    return found


def opened_secrets(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every secret that is decrypted from now on."""
    opened: list[bytes] = []
    original = columns._open

    def noting(*words: Any) -> bytes:
        opened.append(original(*words))
        return opened[-1]

    monkeypatch.setattr(columns, "_open", noting)
    return opened
