"""Walks along the links of openapi.json, in process, each from an empty database.

A walk makes something, and goes on to what can be done with it. As each begins with nothing, what
it meets depends on its own steps alone, so that Hypothesis may repeat it; that is what the command
line of schemathesis cannot have against a server that remembers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import hypothesis
import schemathesis
from schemathesis.generation.stateful.state_machine import APIStateMachine
from schemathesis.python.asgi import get_client

from control.admin.edge import Manners, Stamp
from control.app import admin_app
from control.store import Store
from tests.compliance.openapi import hooks  # noqa: F401 - registers them
from tests.databases import new_store
from tests.harness import ROOT

STEPS = 8


class Switch:
    """A store that is another one for each walk, so that the application is built once."""

    def __init__(self, store: Store) -> None:
        self.current = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)


@contextmanager
def machine(folder: Path, seen: Counter[str]) -> Iterator[type[APIStateMachine]]:
    """The walks; `seen` counts links that were followed to an answer of success."""
    switch = Switch(new_store(folder))
    app = admin_app(cast(Store, switch), list)
    client = get_client(Stamp(Manners(app, app), "narthex/0"))
    config = schemathesis.Config.from_path(Path(__file__).with_name("schemathesis.toml"))
    document = schemathesis.openapi.from_path(ROOT / "openapi.json", config=config)
    document = document.exclude(tag="oauth")
    document.app = client.app
    base: type[APIStateMachine] = document.as_state_machine()

    class Walk(base):  # type: ignore[misc, valid-type]
        def setup(self) -> None:
            switch.current.close()
            switch.current = new_store(folder)

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"session": client}

        def step(self, input: Any) -> Any:
            output = super().step(input)
            if input.transition is not None and output.response.status_code < 400:
                seen[input.transition.id] += 1
            return output

    try:
        yield Walk
    finally:
        client.close()
        switch.current.close()


def walks(count: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=count,
        stateful_step_count=STEPS,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
