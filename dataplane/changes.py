"""What a new configuration does to live sessions: nothing, but to those of what changed.

A route whose policy another one takes was edited; one that is in no table any more, since it was
deleted or its service disabled, is gone; and a plugin that ran on it and runs no more was removed.
`websocket-session` says what becomes of the sessions (spec/routing-and-proxy.md §12.6): for an
edit by the new policy, as an operator sets `on_edit` before or with the edit that it is for; for a
removal by the old one. Sessions that an earlier edit kept on an older policy of the route go the
same way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dataplane._policies import CHANGES, PARTING

if TYPE_CHECKING:
    from dataplane._engine import Engine
    from dataplane._policies import PolicyBox
    from dataplane._tables import Tables

_SHUT = PARTING["shut"]
_GONE = PARTING["gone"] | _SHUT
_ENDS = PARTING["drain"] | PARTING["close"]
_ENDING = {
    CHANGES["keep"]: 0,
    CHANGES["drain"]: PARTING["drain"] | _SHUT,
    CHANGES["close"]: PARTING["close"] | _SHUT,
}


class Changes:
    """Marks the policies that a publication replaced, and tells the workers that hold them.

    Call it from the one Python thread, right after each `Engine.publish`. `drain_seconds`: over how
    long the sessions of a policy end that says `drain`.
    """

    def __init__(self, engine: Engine, drain_seconds: float) -> None:
        self._engine = engine
        self._drain_ms = round(drain_seconds * 1000)
        # By route: policies that no tables have and sessions hold. Each is let go of in `_held`.
        self._parted: dict[bytes, list[PolicyBox]] = {}

    def published(self, before: Tables | None, now: Tables) -> None:
        """These tables took the place of those `before`."""
        self._sweep()
        old = {} if before is None else before.boxes
        replaced = [box for content, box in old.items() if content not in now.boxes]
        if not replaced:
            return
        fresh = {box.route: box for content, box in now.boxes.items() if content not in old}
        workers: set[int] = set()
        for box in replaced:
            workers.update(self._part(box, parting(box, fresh.get(box.route))))
        self._engine.tell_parted(sorted(workers))

    def __len__(self) -> int:
        """Parted policies that are still in use."""
        return sum(map(len, self._parted.values()))

    def _part(self, box: PolicyBox, parting: int) -> set[int]:
        """The workers that have sessions to end, on this policy of the route or an earlier one."""
        from_ms = time.monotonic_ns() // 1_000_000
        workers: set[int] = set()
        held = []
        for each in (*self._parted.pop(box.route, ()), box):
            holders = each.part(parting, from_ms, from_ms + self._drain_ms)
            if parting & _ENDS:
                workers.update(holders)
            if holders or _held(each):
                held.append(each)
        if held:
            self._parted[box.route] = held
        return workers

    def _sweep(self) -> None:
        """Let go of policies whose last session has ended."""
        for route, boxes in list(self._parted.items()):
            held = [box for box in boxes if _held(box)]
            if held:
                self._parted[route] = held
            else:
                del self._parted[route]


def _held(box: PolicyBox) -> bool:
    """Whether sessions hold a parted policy; it is shut before we lose sight of it."""
    return bool(box.users() or box.part(_SHUT))


def parting(old: PolicyBox, new: PolicyBox | None) -> int:
    """What becomes of a policy and its sessions once `new`, or nothing, has its route."""
    if new is None:
        return _GONE | _ENDING[old.on_delete]
    if old.content[: old.own] == new.content[: new.own]:
        return 0  # the anonymous consumer changed, and not what sessions are held to
    return _ENDING[old.on_delete if old.plugins & ~new.plugins else new.on_edit]
