"""Upstream names, and policies that sessions hold longer than any snapshot."""

from __future__ import annotations

import gc

import pytest

from dataplane._core import Reclaimer
from dataplane._policies import NameTable, PolicyBox, parse_address
from dataplane.compile import compile_snapshot
from tests.dataplane.memory import rss_kib
from tests.dataplane.snapshots import box_of, new_names, route, service, snapshot, uid


def held(kind: str) -> int:
    """Objects of one of _policies' types that are alive."""
    gc.collect()
    return sum(type(item).__name__ == kind for item in gc.get_objects())


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("2001:DB8::5", "2001:db8::5"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
    ],
)
def test_ip_address_has_its_address_at_once(host: str, shown: str) -> None:
    names, _ = new_names()
    box = names.intern(host)
    assert box.literal
    assert box.addresses == [shown]
    assert names.hosts_in_use() == []
    assert names.unresolved() == []


@pytest.mark.parametrize(
    "host", ["localhost", "1.2.3", "1.2.3.4.5", "256.1.1.1", "::g", "[::1", "fe80::1%lo", "", "[]"]
)
def test_what_is_no_ip_address_is_a_name(host: str) -> None:
    assert parse_address(host) is None
    assert not new_names()[0].intern(host).literal


def test_name_is_one_box_in_any_case() -> None:
    names, _ = new_names()
    box = names.intern("Up.Example")
    assert names.intern("up.example") is box
    assert box.host == "up.example"


def test_addresses_are_published_and_the_old_ones_retired() -> None:
    names, reclaimer = new_names()
    box = names.intern("up")
    assert names.unresolved() == ["up"]
    names.set_addresses("up", [("10.0.0.1", False), ("::1", True)])
    assert box.addresses == ["10.0.0.1", "::1"]
    assert names.unresolved() == []
    assert names.hosts_in_use() == ["up"]
    assert reclaimer.sweep() == 0
    box.set_addresses([("10.0.0.2", False)])
    assert box.addresses == ["10.0.0.2"]
    assert reclaimer.sweep() == 1


def test_same_addresses_are_not_published_again() -> None:
    names, reclaimer = new_names()
    box = names.intern("up")
    for _ in range(3):
        box.set_addresses([("10.0.0.1", False)])
    assert reclaimer.sweep() == 0


def test_name_keeps_its_first_sixteen_addresses() -> None:
    box = new_names()[0].intern("up")
    box.set_addresses([(f"10.0.0.{n}", False) for n in range(40)])
    assert box.addresses == [f"10.0.0.{n}" for n in range(16)]


@pytest.mark.parametrize("wrong", [[], [("up", False)], [("10.0.0.1", False), ("x", True)]])
def test_name_refuses_what_is_no_address(wrong: list[tuple[str, bool]]) -> None:
    box = new_names()[0].intern("up")
    box.set_addresses([("10.0.0.9", False)])
    with pytest.raises(ValueError, match="no addresses for 'up'"):
        box.set_addresses(wrong)
    assert box.addresses == ["10.0.0.9"]


def test_failed_name_keeps_its_last_good_addresses() -> None:
    names, _ = new_names()
    box = names.intern("up")
    names.mark_failed("up")
    assert box.failed
    box.set_addresses([("10.0.0.1", False)])
    assert not box.failed
    box.mark_failed()
    assert not box.failed
    assert box.addresses == ["10.0.0.1"]


def test_names_dropped_leave_memory_as_it_was() -> None:
    names, reclaimer = new_names()

    def use(rounds: int) -> None:
        for number in range(rounds):
            box = names.intern(f"host-{number}")
            box.set_addresses([("10.0.0.1", False)])
            box.set_addresses([("10.0.0.2", False)])
            reclaimer.sweep()

    use(2000)
    before = rss_kib()
    use(20_000)
    assert rss_kib() - before < 1024


def test_name_is_in_use_while_tables_or_a_session_hold_its_policy() -> None:
    names, reclaimer = new_names()
    tables = compile_snapshot(
        snapshot(service(1, host="Up"), route(2, paths=["/"], service=uid(1))), None, names
    )
    assert names.hosts_in_use() == ["up"]
    box_of(tables, 2).hold(3, 1)
    policy = box_of(tables, 2)
    names.intern("up").set_addresses([("10.0.0.1", False)])
    del tables
    assert names.hosts_in_use() == ["up"]
    del policy
    assert names.sweep() == 1
    assert names.hosts_in_use() == ["up"]
    names.set_addresses("up", [("10.0.0.2", False)])
    assert names.intern("up").addresses == ["10.0.0.2"]
    reclaimer.sweep()


# --- policies that outlive their box -------------------------------------------------------------


def test_users_are_counted_over_the_workers() -> None:
    names, _ = new_names()
    tables = compile_snapshot(snapshot(route(1, paths=["/"])), None, names)
    box = box_of(tables)
    assert box.users() == 0
    box.hold(0, 2)
    box.hold(63, 3)
    assert box.users() == 5
    box.hold(0, -2)
    box.hold(63, -3)
    assert box.users() == 0


def test_policy_is_freed_after_its_last_session() -> None:
    reclaimer = Reclaimer()
    names = NameTable(reclaimer)
    before = held("_Orphan")
    make = snapshot(service(1), route(2, paths=["/"], service=uid(1)))
    tables = compile_snapshot(make, None, names)
    box_of(tables, 2).hold(1, 1)
    del tables
    assert held("_Orphan") == before + 1
    assert names.sweep() == 1
    assert reclaimer.sweep() == 0
    orphan = next(item for item in gc.get_objects() if type(item).__name__ == "_Orphan")
    release(orphan)
    assert names.sweep() == 0
    assert reclaimer.sweep() == 1
    del orphan
    assert held("_Orphan") == before
    assert names.hosts_in_use() == []


def release(orphan: object) -> None:
    """As the last session's worker does."""
    orphan.hold(1, -1)  # type: ignore[attr-defined]


def test_policy_without_sessions_waits_out_the_grace_period_only() -> None:
    names, reclaimer = new_names()
    tables = compile_snapshot(snapshot(route(1, paths=["/"])), None, names)
    before = held("PolicyBox")
    del tables
    assert held("PolicyBox") == before - 1
    assert len(reclaimer) == 1
    assert reclaimer.sweep() == 1
    assert names.sweep() == 0


def test_box_refuses_ids_of_the_wrong_size() -> None:
    names, _ = new_names()
    with pytest.raises(ValueError, match="a route id must be 16 bytes"):
        PolicyBox(names, b"", (), b"short", bytes(16), 0, 426, None, None, (b"",) * 8)
