"""What a sync deletes: whatever it may touch and the file does not have."""

from __future__ import annotations

from collections.abc import Container

from control.declarative.layout import ORDER
from control.declarative.state import Held, State


def leaving(state: State, staying: Container[str]) -> list[Held]:
    """The entities to delete, what refers to others first.

    What belongs to one of them goes too, whether or not the tags pick it.
    """
    gone = {held.id: held for held in state.read if held.id not in staying}
    waiting = list(gone.values())
    while waiting:
        for held in state.belonging(waiting.pop()):
            if held.id not in gone and held.id not in staying:
                gone[held.id] = held
                waiting.append(held)
    place = {name: number for number, name in enumerate(ORDER)}
    return sorted(gone.values(), key=lambda held: -place[held.resource.name])
