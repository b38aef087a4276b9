"""Live sessions and handshakes when their policy parts: exactly those, and as it says."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dataplane import wire
from dataplane.changes import Changes
from tests.dataplane.engine_kit import (
    CLOSE,
    MASK,
    ROUTE,
    TEXT,
    Line,
    Rig,
    close,
    frame,
    handshake,
    masked,
    route,
    service,
    switching,
    until,
    up,
)
from tests.dataplane.snapshots import uid

OTHER = uid(12)
CHANGED, GONE = b"configuration changed", b"route or service is gone"


class Publisher:
    """Publishes as the plane does."""

    def __init__(self, rig: Rig, drain_seconds: float) -> None:
        self.rig, self.changes = rig, Changes(rig.engine, drain_seconds)

    def publish(self, *parts: Any) -> None:
        before = self.rig.tables[-1] if self.rig.tables else None
        self.changes.published(before, self.rig.publish(*parts))

    def routes(self, *routes: wire.Route, on_edit: str = "keep", on_delete: str = "drain") -> None:
        rules = wire.SessionRules(uid(90), on_edit=on_edit, on_delete=on_delete)
        self.publish(service(self.rig.upstream.port), *routes, rules)


def mine(**fields: Any) -> wire.Route:
    return route(**{"paths": ["/mine"], "oauth2": None, "session": uid(90), **fields})


def other(**fields: Any) -> wire.Route:
    return mine(**{"id": OTHER, "paths": ["/other"], **fields})


def echoes(client: Line, upstream: Line, text: bytes = b"still there") -> bool:
    """Whether the session carries a message each way."""
    client.send(up(TEXT, text))
    upstream.send(frame(TEXT, masked(upstream.frame().payload, b"\0\0\0\0")))
    return client.frame().payload == text


def ended(client: Line, upstream: Line, reason: bytes) -> bool:
    """Whether both sides hear the Close of a configuration change, and answer it."""
    told, other_told = client.frame(), upstream.frame()
    assert (told.opcode, told.code, told.payload[2:]) == (CLOSE, 1012, reason)
    assert (other_told.opcode, other_told.code, other_told.masked) == (CLOSE, 1001, True)
    client.send(close(1012, mask=MASK))
    upstream.send(close(1001))
    return client.rest() == upstream.rest() == b""


# --- sessions ------------------------------------------------------------------------------------


def test_deleted_route_closes_its_sessions_at_once_and_no_other(rig: Rig) -> None:
    publisher = Publisher(rig, 1000)
    publisher.routes(mine(), other(), on_delete="close")
    going = [rig.session(target=b"/mine") for _ in range(5)]
    staying = [rig.session(target=b"/other") for _ in range(5)]
    publisher.routes(other(), on_delete="close")
    assert all(ended(*pair, GONE) for pair in going)
    assert all(echoes(*pair) for pair in staying)
    record = rig.record("ended")
    assert (record["why"], record["ended_by"]) == (GONE.decode(), "gateway")
    assert (record["client_code"], record["upstream_code"]) == (1012, 1001)
    until(lambda: rig.count("live_sessions") == 5)


def test_edited_route_closes_its_sessions_when_its_new_policy_says_so(rig: Rig) -> None:
    publisher = Publisher(rig, 1000)
    publisher.routes(mine(), other())
    going, staying = rig.session(target=b"/mine"), rig.session(target=b"/other")
    publisher.routes(mine(), other())
    publisher.routes(mine(strip_path=False), other())
    assert echoes(*going) and echoes(*staying)
    # `close` comes with an edit of the plugin, which is one of both routes.
    publisher.routes(mine(strip_path=False), other(), on_edit="close")
    assert ended(*going, CHANGED) and ended(*staying, CHANGED)


def test_drained_sessions_end_spread_over_the_time_given(rig: Rig) -> None:
    publisher = Publisher(rig, 1.0)
    publisher.routes(mine(), other())
    going = [rig.session(target=b"/mine") for _ in range(40)]
    staying = rig.session(target=b"/other")
    began = time.monotonic()
    publisher.routes(other())
    until(lambda: rig.counters()["closes"].get((1012, "client"), 0) >= 1)
    first = time.monotonic() - began
    assert echoes(*staying)
    until(lambda: rig.counters()["closes"].get((1012, "client"), 0) == 40)
    last = time.monotonic() - began
    assert all(ended(*pair, GONE) for pair in going)
    assert echoes(*staying)
    # Each has its own random moment: of 40, none in the second half is a chance of 1e-12.
    assert first < last
    assert last > 0.5


def test_two_drains_run_at_the_same_time(rig: Rig) -> None:
    publisher = Publisher(rig, 0.5)
    third = mine(id=uid(13), paths=["/third"])
    publisher.routes(mine(), other(), third)
    first = [rig.session(target=b"/mine") for _ in range(8)]
    second = [rig.session(target=b"/other") for _ in range(8)]
    staying = rig.session(target=b"/third")
    publisher.routes(other(), third)
    publisher.routes(third)
    assert all(ended(*pair, GONE) for pair in [*first, *second])
    assert echoes(*staying)


def test_close_overtakes_a_drain(rig: Rig) -> None:
    publisher = Publisher(rig, 1000)
    publisher.routes(mine(), on_edit="drain", on_delete="close")
    going = [rig.session(target=b"/mine") for _ in range(8)]
    publisher.routes(mine(preserve_host=True), on_edit="drain", on_delete="close")
    assert all(echoes(*pair) for pair in going)
    publisher.routes(other())
    assert all(ended(*pair, GONE) for pair in going)


def test_kept_sessions_live_on_without_their_route(rig: Rig) -> None:
    publisher = Publisher(rig, 0)
    publisher.routes(mine(), on_delete="keep")
    staying = rig.session(target=b"/mine")
    publisher.publish()
    assert echoes(*staying)
    client = rig.client(handshake(b"/mine"))
    assert client.head().status == 404


def test_more_sessions_than_one_turn_ends_all_end(rig: Rig) -> None:
    publisher = Publisher(rig, 0)
    publisher.routes(mine(), other(), on_delete="close")
    going = [rig.session(target=b"/mine") for _ in range(150)]
    publisher.routes(other(), on_delete="close")
    assert all(ended(*pair, GONE) for pair in going)


def test_session_in_the_middle_of_a_frame_ends_after_it(rig: Rig) -> None:
    publisher = Publisher(rig, 0)
    publisher.routes(mine(), on_delete="close")
    client, upstream = rig.session(target=b"/mine")
    whole = frame(TEXT, b"x" * 100)
    upstream.send(whole[:50])
    assert client.exactly(50) == whole[:50]
    publisher.publish()
    assert upstream.frame().code == 1001
    upstream.send(whole[50:])
    assert client.exactly(52) == whole[50:]
    assert client.frame().code == 1012


# --- handshakes under way ------------------------------------------------------------------------


def waiting(rig: Rig) -> tuple[Line, Line]:
    """A handshake that has reached the upstream, which has not answered."""
    client = rig.client(handshake(b"/mine"))
    upstream = rig.upstream.accept()
    upstream.head()
    return client, upstream


@pytest.mark.parametrize("on_delete", ["keep", "drain", "close"])
def test_handshake_does_not_establish_on_a_route_deleted_meanwhile(
    on_delete: str, rig: Rig
) -> None:
    publisher = Publisher(rig, 0)
    publisher.routes(mine(), on_delete=on_delete)
    client, upstream = waiting(rig)
    publisher.publish()
    upstream.send(switching())
    head, body = client.answer()
    assert head.status == 404
    assert b"no Route matched with those values" in body
    assert upstream.rest() == b""
    assert rig.count("sessions_total") == 0


def test_handshake_is_told_to_come_again_when_its_route_was_edited_to_close(rig: Rig) -> None:
    publisher = Publisher(rig, 0)
    publisher.routes(mine(), on_edit="close")
    client, upstream = waiting(rig)
    publisher.routes(mine(preserve_host=True), on_edit="close")
    upstream.send(switching())
    head, _ = client.answer()
    assert (head.status, head.get("Retry-After")) == (503, "1")
    assert rig.record("refused")["why"] == "configuration changed during the handshake"


def test_handshake_establishes_when_an_edit_of_its_route_keeps_sessions(rig: Rig) -> None:
    publisher = Publisher(rig, 0)
    publisher.routes(mine(), on_delete="close")
    client, upstream = waiting(rig)
    publisher.routes(mine(preserve_host=True), on_delete="close")
    upstream.send(switching())
    assert client.head().status == 101
    assert echoes(client, upstream)
    publisher.publish()
    assert ended(client, upstream, GONE)


def test_parked_handshake_is_judged_on_the_tables_of_its_answer(rig: Rig) -> None:
    publisher = Publisher(rig, 0)
    named = service(rig.upstream.port, host="up.test")
    publisher.publish(named, mine(session=None))
    client = rig.client(handshake(b"/mine"))
    kind, ref, host = rig.question()
    assert (kind, host) == ("name", "up.test")
    publisher.publish(named)
    rig.names.set_addresses("up.test", [("127.0.0.1", False)])
    rig.engine.answer_name(ref, True)
    head, _ = client.answer()
    assert head.status == 404
    assert rig.upstream.untouched()


# --- nobody else ---------------------------------------------------------------------------------


def test_edits_elsewhere_wake_no_worker_and_touch_no_session(rig: Rig) -> None:
    publisher = Publisher(rig, 0)
    publisher.routes(mine(), other(), on_edit="close", on_delete="close")
    pair = rig.session(target=b"/mine")
    for number in range(200):
        publisher.routes(mine(), other(paths=[f"/{number}"]), on_edit="close", on_delete="close")
    assert echoes(*pair)
    assert rig.counters()["closes"] == {}
    assert next(box for box in rig.tables[-1].boxes.values() if box.route == ROUTE).users() == 1


def test_parted_policies_are_freed_after_their_sessions(rig: Rig) -> None:
    publisher = Publisher(rig, 0)
    publisher.routes(mine(), on_delete="close")
    for number in range(20):
        pair = rig.session(target=b"/mine")
        publisher.routes(mine(paths=["/mine", f"/{number}"]), on_edit="close")
        assert ended(*pair, CHANGED)
    until(lambda: rig.count("live_sessions") == 0)
    publisher.publish()
    assert len(publisher.changes) == 0
    rig.tables[:-1] = []

    def freed() -> bool:
        rig.engine.sweep()
        return rig.names.sweep() == 0 and len(rig.engine.reclaimer) == 0

    until(freed)
