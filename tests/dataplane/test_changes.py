"""Which policies part, and how, when tables follow tables."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dataplane import wire
from dataplane._policies import PARTING, PolicyBox
from dataplane._tables import Tables
from dataplane.changes import Changes
from dataplane.compile import compile_snapshot
from tests.dataplane.snapshots import box_of, new_names, route, service, snapshot, uid

SHUT, GONE, DRAIN, CLOSE = (PARTING[name] for name in ("shut", "gone", "drain", "close"))
DRAIN_MS = 7000


class Told:
    """An engine as `Changes` sees it."""

    def __init__(self) -> None:
        self.workers: list[list[int]] = []

    def tell_parted(self, workers: list[int]) -> None:
        self.workers.append(workers)


class Planes:
    """Tables one after the other, and what their changes were told as."""

    def __init__(self) -> None:
        self.told = Told()
        self.changes = Changes(self.told, DRAIN_MS / 1000)  # type: ignore[arg-type]
        self.names, _ = new_names()
        self.tables: Tables | None = None

    def publish(self, *parts: Any) -> list[int]:
        """The workers that were told of it."""
        before, count = self.tables, len(self.told.workers)
        self.tables = compile_snapshot(snapshot(*parts), before, self.names)
        self.changes.published(before, self.tables)
        return [worker for told in self.told.workers[count:] for worker in told]

    def held(self, number: int = 1, worker: int = 3) -> PolicyBox:
        """The policy of a route, with one session in a worker."""
        assert self.tables is not None
        box = box_of(self.tables, number)
        box.hold(worker, 1)
        return box


@pytest.fixture
def planes() -> Planes:
    return Planes()


def rules(on_edit: str = "keep", on_delete: str = "drain") -> wire.SessionRules:
    return wire.SessionRules(uid(90), on_edit=on_edit, on_delete=on_delete)


def ruled(**fields: Any) -> wire.Route:
    return route(1, **{"service": uid(5), "session": uid(90), **fields})


UP = service(5)
LIMIT = wire.SizeLimit(uid(80))
OAUTH2 = wire.OAuth2(uid(50))
ON = {"keep": 0, "drain": SHUT | DRAIN, "close": SHUT | CLOSE}


# --- one change ----------------------------------------------------------------------------------


@pytest.mark.parametrize("on_delete", ON)
@pytest.mark.parametrize(
    "left",
    [[], [route(2, service=uid(5)), UP], [UP]],
    ids=["everything gone", "its route deleted", "only the service left"],
)
def test_route_that_is_gone_parts_as_on_delete_says(
    on_delete: str, left: list[Any], planes: Planes
) -> None:
    planes.publish(UP, ruled(), rules("close", on_delete))
    box = planes.held()
    told = planes.publish(*left)
    assert box.parting == GONE | SHUT | ON[on_delete]
    assert told == ([] if on_delete == "keep" else [3])


EDITS: dict[str, list[Any]] = {
    "route": [UP, ruled(paths=["/other"])],
    "service": [service(5, port=9001), ruled()],
    "plugin added": [UP, ruled(size_limit=uid(80)), LIMIT],
    "service taken away": [ruled(service=None)],
    "other service": [service(6), ruled(service=uid(6))],
}


@pytest.mark.parametrize("on_edit", ON)
@pytest.mark.parametrize("what", EDITS)
def test_route_that_was_edited_parts_as_the_new_policy_says(
    on_edit: str, what: str, planes: Planes
) -> None:
    planes.publish(UP, ruled(), rules("keep" if on_edit == "close" else "close"))
    box = planes.held()
    told = planes.publish(*EDITS[what], rules(on_edit))
    assert box.parting == ON[on_edit]
    assert told == ([] if on_edit == "keep" else [3])


@pytest.mark.parametrize("on_edit", ON)
def test_edit_of_a_plugin_is_an_edit(on_edit: str, planes: Planes) -> None:
    planes.publish(UP, ruled(oauth2=uid(50)), rules(on_edit), OAUTH2)
    box = planes.held()
    planes.publish(UP, ruled(oauth2=uid(50)), rules(on_edit), wire.OAuth2(uid(50), realm="r"))
    assert box.parting == ON[on_edit]


REMOVED = {
    "oauth2": [UP, ruled(size_limit=uid(80)), LIMIT],
    "size limit": [UP, ruled(oauth2=uid(50)), OAUTH2],
}


@pytest.mark.parametrize("on_delete", ON)
@pytest.mark.parametrize("what", REMOVED)
def test_plugin_that_runs_no_more_parts_as_on_delete_says(
    on_delete: str, what: str, planes: Planes
) -> None:
    planes.publish(
        UP, ruled(oauth2=uid(50), size_limit=uid(80)), rules("keep", on_delete), LIMIT, OAUTH2
    )
    box = planes.held()
    planes.publish(*REMOVED[what], rules("keep", "keep"))
    assert box.parting == ON[on_delete]


@pytest.mark.parametrize("on_delete", ON)
def test_session_rules_that_are_removed_part_as_they_said(on_delete: str, planes: Planes) -> None:
    planes.publish(UP, ruled(), rules("close", on_delete))
    box = planes.held()
    planes.publish(UP, ruled(session=None))
    assert box.parting == ON[on_delete]


def test_route_without_session_rules_keeps_on_edit_and_drains_on_delete(planes: Planes) -> None:
    planes.publish(UP, route(1, service=uid(5)), route(2, service=uid(5)))
    edited, deleted = planes.held(1), planes.held(2)
    planes.publish(UP, route(1, paths=["/x"], service=uid(5)))
    assert (edited.parting, deleted.parting) == (0, GONE | SHUT | DRAIN)


def test_anonymous_consumer_is_no_part_of_a_route(planes: Planes) -> None:
    plugin = wire.OAuth2(uid(50), anonymous=uid(60))
    parts = [UP, ruled(oauth2=uid(50)), rules("close", "close"), plugin]
    planes.publish(*parts, wire.Consumer(uid(60), "alex"))
    box = planes.held()
    assert planes.publish(*parts, wire.Consumer(uid(60), "alexa")) == []
    assert box.parting == 0
    assert planes.tables is not None and box_of(planes.tables) is not box


# --- who is told ---------------------------------------------------------------------------------


def test_unrelated_edits_tell_nobody(planes: Planes) -> None:
    sessions = [UP, ruled(), rules("close", "close")]
    planes.publish(*sessions)
    box = planes.held()
    for number in range(100):
        others = [service(6, port=1 + number), route(2, paths=[f"/{number}"], service=uid(6))]
        assert planes.publish(*sessions, *others) == []
    assert box.parting == 0
    assert len(planes.changes) == 0


def test_policy_without_sessions_is_shut_and_nobody_told(planes: Planes) -> None:
    planes.publish(UP, ruled(), rules("close", "close"))
    assert planes.tables is not None
    box = box_of(planes.tables)
    assert planes.publish(UP, ruled(paths=["/x"]), rules("close")) == []
    assert box.parting == SHUT | CLOSE
    assert len(planes.changes) == 0


def test_kept_policy_without_sessions_is_shut_before_it_is_forgotten(planes: Planes) -> None:
    planes.publish(UP, ruled(), rules())
    assert planes.tables is not None
    box = box_of(planes.tables)
    planes.publish(UP, ruled(paths=["/x"]), rules())
    assert box.parting == SHUT


def test_workers_that_hold_it_are_told_once(planes: Planes) -> None:
    parts = [route(2, service=uid(5)), route(3, service=uid(5))]
    planes.publish(UP, *parts)
    planes.held(2, 0)
    planes.held(2, 7)
    planes.held(3, 7)
    planes.held(3, 63)
    assert planes.publish(UP) == [0, 7, 63]


# --- several changes -----------------------------------------------------------------------------


def test_kept_sessions_of_an_earlier_edit_go_with_their_route(planes: Planes) -> None:
    planes.publish(UP, ruled(), rules())
    first = planes.held(worker=1)
    planes.publish(UP, ruled(paths=["/x"]), rules())
    second = planes.held(worker=2)
    assert (first.parting, len(planes.changes)) == (0, 1)
    assert planes.publish(UP, ruled(paths=["/y"]), rules("keep", "close")) == []
    assert planes.publish(UP) == [1, 2]
    assert first.parting == second.parting == GONE | SHUT | CLOSE


def test_kept_sessions_of_an_earlier_edit_go_with_the_next_one_that_ends(planes: Planes) -> None:
    planes.publish(UP, ruled(), rules())
    first = planes.held(worker=1)
    planes.publish(UP, ruled(paths=["/x"]), rules())
    assert planes.publish(UP, ruled(paths=["/y"]), rules("drain")) == [1]
    assert first.parting == SHUT | DRAIN


def test_close_overtakes_a_drain_under_way(planes: Planes) -> None:
    planes.publish(UP, ruled(), rules("drain", "close"))
    box = planes.held()
    planes.publish(UP, ruled(paths=["/x"]), rules("drain", "close"))
    assert box.parting == SHUT | DRAIN
    assert planes.publish() == [3]
    assert box.parting == SHUT | DRAIN | GONE | CLOSE


def test_drain_keeps_its_window_when_another_follows(planes: Planes) -> None:
    planes.publish(UP, ruled(), rules("drain"))
    box = planes.held()
    began = time.monotonic_ns() // 10**6
    planes.publish(UP, ruled(paths=["/x"]), rules("drain"))
    ended = time.monotonic_ns() // 10**6
    window = box.describe()["drain_ms"]
    assert began <= window[0] <= ended
    assert window[1] - window[0] == DRAIN_MS
    time_before = time.monotonic_ns() // 10**6
    while time.monotonic_ns() // 10**6 == time_before:
        pass
    planes.publish(UP, ruled(paths=["/y"]), rules("drain"))
    assert box.describe()["drain_ms"] == window


def test_parted_policies_are_let_go_of_with_their_last_session(planes: Planes) -> None:
    planes.publish(UP, ruled(), rules())
    boxes = []
    for number in range(5):
        boxes.append(planes.held())
        planes.publish(UP, ruled(paths=[f"/{number}"]), rules())
        assert len(planes.changes) == number + 1
    for box in boxes:
        assert box.parting == 0
        box.hold(3, -1)
    planes.publish(UP, ruled(paths=["/4"]), rules())
    assert len(planes.changes) == 0
    assert {box.parting for box in boxes} == {SHUT}
