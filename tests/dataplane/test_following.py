"""What live sessions are told of tokens: `Following` beside known tokens and a recording engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest

from dataplane import wire
from dataplane.following import SIBLINGS_MAX, Following
from dataplane.known import KnownTokens
from tests.dataplane.fakes import FakeEngine, make_snapshot, make_token
from tests.dataplane.snapshots import uid


class Bench:
    def __init__(self, capacity: int = 10_000) -> None:
        self.engine = FakeEngine()
        self.known = KnownTokens(cast("Any", self.engine.tokens), capacity)
        self.reports: list[tuple[int, int]] = []
        self.following = Following(
            cast("Any", self.engine), self.known, lambda id_, n: self.reports.append((id_, n))
        )

    def configure(self, *, follow: str = "credential", **owners: Any) -> None:
        snapshot = make_snapshot(1, owners.get("owners"))
        oauth2 = [wire.OAuth2(uid(90), session_follow=follow)]
        self.following.configured(msgspec.structs.replace(snapshot, oauth2=oauth2))

    def issue(self, number: int, lasts: float = 100.0, **fields: Any) -> wire.Token:
        token = make_token(number, expires_at=time.time() + lasts, **fields)
        self.known.put(token)
        self.following.issued(token)
        return token

    def told(self) -> list[tuple[Any, ...]]:
        said, self.engine.followed = self.engine.followed, []
        return said


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.engine.close()


def test_revocations_reach_sessions_batched_by_kind(bench: Bench) -> None:
    kinds = ["token", "token", "credential", "consumer", "plugin", "jti"]
    ended = [wire.Revocation(n, kind, uid(n) * 2) for n, kind in enumerate(kinds)]
    bench.following.revoked(ended)
    keys = [one.key for one in ended]
    gone = {f"{kind}s": {key} for kind, key in zip(kinds[2:], keys[2:], strict=True)}
    assert bench.told() == [("end", keys[:2]), ("gone", gone)]


def test_snapshot_ends_the_sessions_of_what_it_has_no_more(bench: Bench) -> None:
    """Also of what ended while we were away, and whose revocation has expired."""
    bench.configure(owners={1: 1, 2: 1, 3: 2})
    assert bench.told() == []
    bench.configure(owners={1: 1})
    gone = {"credentials": {uid(2), uid(3)}, "consumers": {uid(2)}}
    assert bench.told() == [("gone", gone)]
    bench.configure(owners={1: 1})
    assert bench.told() == []


def test_newer_token_takes_over_those_of_its_client_and_user(bench: Bench) -> None:
    bench.configure()
    one = {"user_id": "u", "service": uid(5), "plugin": uid(6), "scope": "a b"}
    old = bench.issue(1, **one)
    for number, other in enumerate(
        ({"user_id": "v"}, {"service": None}, {"plugin": uid(7)}, {"scope": "a"}), start=2
    ):
        bench.issue(number, **{**one, **other})
    bench.told()
    new = bench.issue(9, **one)
    assert bench.told() == [
        ("renewed", [old.digest], new.digest, new.expires_at, 0, uid(6), None)
    ]  # the one of scope "a" does not allow b


def test_narrower_scope_takes_over_and_wider_does_not(bench: Bench) -> None:
    bench.configure()
    old = bench.issue(1, scope="a b")
    bench.issue(2, scope="a b c")
    assert bench.told() == []
    bench.issue(3, scope="b")
    ((how, olds, *_),) = bench.told()
    assert (how, old.digest in olds) == ("renewed", True)


@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        ([], [], True),
        (["a"], ["a"], True),
        (["a"], ["b", "a"], True),
        (["a"], [], True),
        (["a", "b"], ["a"], False),
        (["a"], ["b"], False),
        ([], ["a"], False),
    ],
)
def test_token_takes_over_only_where_it_is_meant_for_all_that_the_older_one_is(
    bench: Bench, old: list[str], new: list[str], moves: bool
) -> None:
    bench.configure()
    bench.issue(1, audience=old)
    bench.issue(2, audience=new)
    assert len(bench.told()) == moves


def test_token_that_ended_is_not_taken_over_from(bench: Bench) -> None:
    bench.configure()
    old = bench.issue(1)
    bench.known.revoke(wire.Revocation(1, "token", old.digest))
    bench.issue(2)
    assert bench.told() == []


def test_nothing_is_looked_for_unless_an_instance_says_so(bench: Bench) -> None:
    bench.configure(follow="token")
    old = bench.issue(1)
    bench.issue(2)
    assert bench.told() == []
    bench.configure()  # from now on, the ones that were there included
    bench.issue(3)
    ((_, olds, *_),) = bench.told()
    assert old.digest in olds


def test_memory_of_siblings_is_bounded() -> None:
    bench = Bench(capacity=3 * SIBLINGS_MAX)
    bench.configure()
    for number in range(2 * SIBLINGS_MAX):
        bench.issue(number)
    assert len(bench.told()[-1][1]) == SIBLINGS_MAX
    for number in range(4 * SIBLINGS_MAX):
        bench.issue(number, user_id=f"user-{number}")
    assert bench.following._sibling_count <= bench.known.capacity
    assert bench.following._sibling_count == sum(map(len, bench.following._siblings.values()))
    bench.engine.close()


def test_refresh_moves_and_reports_to_nobody(bench: Bench) -> None:
    new = make_token(2)
    bench.following.superseded(wire.Superseded(b"o" * 32, new))
    assert bench.told() == [("refreshed", [b"o" * 32], new.digest, new.expires_at, 0, None, None)]


def test_move_that_is_asked_for_is_reported_once_all_workers_have_said(bench: Bench) -> None:
    new = make_token(2)
    bench.following.superseded(wire.Superseded(b"o" * 32, new, 42))
    assert bench.told()[0][:2] == ("asked", [b"o" * 32])
    bench.following.moved(42, 3)
    bench.following.moved(41, 100)  # of nobody
    assert bench.reports == []
    bench.following.moved(42, 4)
    assert bench.reports == [(42, 7)]
    bench.following.moved(42, 1)
    assert bench.reports == [(42, 7)]
