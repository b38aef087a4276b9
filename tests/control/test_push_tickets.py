"""Tickets that data planes redeem: once, for the handshake they were made for.  oauth2.md §14."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlmodel import select

from control.push import hub
from control.push.hub import Push
from control.store import Store
from control.store.tables import Ticket
from control.store.tickets import insert_ticket, take_ticket
from dataplane import wire
from tests.databases import new_store
from tests.linkkit import (
    BarePeer,
    Seen,
    fill,
    issue,
    linked,
    pushing,
    revoke,
    run,
    until,
)
from tests.linkkit import peer as connected

PLACE = ("gateway.example", "/chat")
PAGE = "https://app.example"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


@pytest.fixture
def credential(store: Store) -> str:
    return fill(store)


def make_ticket(store: Store, token: bytes, number: int = 1, **fields: Any) -> bytes:
    """The digest of a new ticket for PLACE, made by PAGE."""
    digest = hashlib.sha256(b"ticket %d" % number).digest()
    given = {"host": PLACE[0], "path": PLACE[1], "origin": PAGE, "expires_at": time.time() + 30}
    with store.writing() as session:
        ticket = Ticket(digest=digest, token_digest=token, **{**given, **fields})
        insert_ticket(session, ticket, time.time())
    return digest


def tickets(store: Store) -> int:
    with store.reading() as session:
        return len(session.exec(select(Ticket)).all())


async def redeem(
    peer: BarePeer, digest: bytes, host: str = PLACE[0], path: str = PLACE[1], origin: Any = PAGE
) -> wire.Token | None:
    await peer.send(wire.Redeem(7, digest, host, path, origin))
    answer = await peer.hear(wire.Redeemed)
    assert answer.id == 7
    return answer.token


def test_ticket_gives_its_token_once(store: Store, credential: str) -> None:
    token = issue(store, credential)
    digest = make_ticket(store, token)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as peer:
            found = await redeem(peer, digest)
            assert found is not None and found.digest == token
            assert tickets(store) == 0
            assert await redeem(peer, digest) is None
            assert await redeem(peer, b"x" * 32) is None

    run(work())


def test_ticket_of_a_jwt_says_issuer_key_and_audience(store: Store, credential: str) -> None:
    said = {"issuer": "https://auth.example", "kid": "k1", "audience": ["https://a.example"]}
    digest = make_ticket(store, issue(store, credential), **said)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as peer:
            found = await redeem(peer, digest)
            assert found is not None
            assert {name: getattr(found, name) for name in said} == said

    run(work())


@pytest.mark.parametrize(
    "shown",
    [
        {"host": "other.example"},
        {"path": "/chat/"},
        {"path": "/"},
        {"origin": "https://evil.example"},
        {"origin": None},
    ],
)
def test_ticket_shown_elsewhere_is_spent_for_nothing(
    store: Store, credential: str, shown: dict[str, Any]
) -> None:
    digest = make_ticket(store, issue(store, credential))

    async def work() -> None:
        async with pushing(store) as push, connected(push) as peer:
            assert await redeem(peer, digest, **shown) is None
            assert await redeem(peer, digest) is None

    run(work())
    assert tickets(store) == 0


def test_ticket_made_for_no_page_is_good_from_any(store: Store, credential: str) -> None:
    token = issue(store, credential)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as peer:
            for number, origin in enumerate([None, PAGE, "https://other.example"]):
                digest = make_ticket(store, token, number, origin=None)
                assert await redeem(peer, digest, origin=origin) is not None

    run(work())


def test_expired_ticket_and_one_of_a_token_that_is_gone_give_nothing(
    store: Store, credential: str
) -> None:
    token, gone = issue(store, credential), issue(store, credential)
    expired = make_ticket(store, token, 1, expires_at=time.time() - 0.001)
    orphan = make_ticket(store, gone, 2)
    revoke(store, gone)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as peer:
            assert await redeem(peer, expired) is None
            assert await redeem(peer, orphan) is None

    run(work())
    assert tickets(store) == 0


def test_ticket_shown_to_two_data_planes_at_once_is_good_at_one(
    store: Store, credential: str
) -> None:
    token = issue(store, credential)

    async def work() -> None:
        async with (
            pushing(store) as push,
            connected(push, node_id=b"1" * 16) as one,
            connected(push, node_id=b"2" * 16) as two,
        ):
            for number in range(25):
                digest = make_ticket(store, token, number)
                found = await asyncio.gather(redeem(one, digest), redeem(two, digest))
                assert sum(answer is not None for answer in found) == 1

    run(work())


def test_revocation_that_overtakes_the_answer_is_in_it(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token was read, then revoked, then the answer was to go."""
    token = issue(store, credential)
    digest = make_ticket(store, token)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as peer:
            lookup, reads = push._tickets._lookup, 0

            async def slow(digests: Any) -> Any:
                nonlocal reads
                found = await lookup(digests)
                reads += 1
                if reads == 1:
                    await asyncio.to_thread(revoke, store, token)
                    await until(lambda: push._recent.moment or None)
                return found

            monkeypatch.setattr(push._tickets, "_lookup", slow)
            assert await redeem(peer, digest) is None
            assert reads == 2

    run(work())


def test_database_that_fails_leaves_the_data_plane_without_an_answer(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = make_ticket(store, issue(store, credential))

    async def work() -> None:
        async with pushing(store) as push, connected(push) as peer:
            take = push._tickets._take

            async def fail(_: bytes) -> Any:
                raise OSError("no disk")

            monkeypatch.setattr(push._tickets, "_take", fail)
            with structlog.testing.capture_logs() as logs:
                await peer.send(wire.Redeem(1, digest, *PLACE, PAGE))
                await until(lambda: [x for x in logs if x["event"] == "link.ticket_unanswered"])
            assert [x["why"] for x in logs if "ticket" in x["event"]] == ["OSError"]
            monkeypatch.setattr(push._tickets, "_take", take)
            assert await redeem(peer, digest) is not None  # the link lives, and nothing was spent

    run(work())


def test_tickets_in_flight_are_bounded(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "REDEEMS_IN_FLIGHT_MAX", 2)
    token = issue(store, credential)

    async def held(push: Push, peer: BarePeer) -> None:
        gate, begun, take = asyncio.Event(), 0, push._tickets._take

        async def wait(digest: bytes) -> Any:
            nonlocal begun
            begun += 1
            await gate.wait()
            return await take(digest)

        monkeypatch.setattr(push._tickets, "_take", wait)
        for number in range(3):
            ticket = make_ticket(store, token, number)
            await peer.send(wire.Redeem(number, ticket, *PLACE, PAGE))
        await peer.send(wire.Question(9, token))
        await peer.hear(wire.Answer)  # what was sent before has been looked at
        assert begun == 2
        gate.set()
        answered = {(await peer.hear(wire.Redeemed)).id for _ in range(2)}
        assert answered == {0, 1}
        assert await redeem(peer, make_ticket(store, token, 4)) is not None

    async def work() -> None:
        async with pushing(store) as push, connected(push) as peer:
            await held(push, peer)

    run(work())


def test_new_ticket_clears_those_nobody_came_for(store: Store, credential: str) -> None:
    token = issue(store, credential)
    for number in range(20):
        make_ticket(store, token, number, expires_at=time.time() - 1)
    assert tickets(store) == 1  # each cleared the one before
    kept = make_ticket(store, token, 99)
    assert tickets(store) == 1
    with store.writing() as session:
        taken = take_ticket(session, kept)
    assert taken is not None and (taken.host, taken.path, taken.origin) == (*PLACE, PAGE)
    assert tickets(store) == 0


def test_link_redeems_from_push(store: Store, credential: str, tmp_path: Path) -> None:
    token = issue(store, credential)
    digest = make_ticket(store, token)

    async def work() -> None:
        seen = Seen()
        async with (
            pushing(store) as push,
            linked(f"ws://127.0.0.1:{push.port}", tmp_path, seen) as link,
        ):
            await until(lambda: link.connected or None)
            found = await link.redeem(wire.Redeem(0, digest, *PLACE, PAGE))
            assert found is not None and seen.tokens[token] == found
            assert await link.redeem(wire.Redeem(0, digest, *PLACE, PAGE)) is None

    run(work())
