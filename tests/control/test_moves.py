"""The link when a token takes the place of another: order, what was missed, who answers."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest
import structlog
from sqlalchemy import event
from sqlmodel import select

from control.push import moves
from control.push.reading import Reader
from control.store import IssuedToken, Store, queries
from control.store.tables import OAuth2Token
from dataplane import wire
from tests.databases import new_store
from tests.linkkit import BarePeer, fill, issue, pushing, run, until
from tests.linkkit import peer as connected


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


@pytest.fixture
def credential(store: Store) -> str:
    return fill(store)


def refresh(store: Store, old: bytes, user: str | None = None) -> bytes:
    """As the grant does: one transaction for the new token and the end of the old; its digest."""
    with store.writing() as session:
        row = session.exec(select(OAuth2Token).where(OAuth2Token.access_token_digest == old)).one()
        new = queries.insert_token(
            session,
            credential_id=row.credential_id,
            access_token_digest=secrets.token_bytes(32),
            expires_in=3600,
            authenticated_userid=user,
        )
        session.note_refreshed(old, new)
        queries.delete_tokens(session, [row])
    return new.digest


def of_tokens(peer: BarePeer) -> list[wire.ToData]:
    """What was heard of tokens and their ends, in order."""
    kinds = (wire.Superseded, wire.Revocations)
    return [message for message in peer.heard if isinstance(message, kinds)]


def test_refresh_is_told_before_the_end_of_the_old_token(store: Store, credential: str) -> None:
    async def work() -> None:
        old = issue(store, credential)
        async with pushing(store) as push, connected(push) as peer:
            await peer.hear(wire.Heartbeat)
            new = await asyncio.to_thread(refresh, store, old)
            await peer.hear(wire.Revocations)
            superseded, ended = of_tokens(peer)
            assert isinstance(superseded, wire.Superseded) and superseded.id == 0
            assert (superseded.old, superseded.token.digest) == (old, new)
            assert isinstance(ended, wire.Revocations)
            assert [(r.kind, r.key) for r in ended.revocations] == [("token", old)]

    run(work())


def test_data_plane_that_was_away_hears_what_became_of_refreshed_tokens(
    store: Store, credential: str
) -> None:
    """Both tokens of a chain have become its last one; one that ended has become none."""

    async def work() -> None:
        one, other = issue(store, credential), issue(store, credential)
        two = refresh(store, one)
        three = refresh(store, two)
        ended = refresh(store, other)
        with store.writing() as session:
            row = session.exec(
                select(OAuth2Token).where(OAuth2Token.access_token_digest == ended)
            ).one()
            queries.delete_tokens(session, [row])
        async with pushing(store) as push, connected(push) as peer:
            await peer.hear(wire.Revocations)
            *superseded, last = of_tokens(peer)
            moved = {s.old: s.token.digest for s in superseded if isinstance(s, wire.Superseded)}
            assert moved == {one: three, two: three} and len(superseded) == 2
            assert isinstance(last, wire.Revocations)
            assert [r.key for r in last.revocations] == [one, two, other, ended]

    run(work())


def test_token_that_no_message_holds_does_not_end_the_link(store: Store, credential: str) -> None:
    """Made by hand for a user with a very long name, then refreshed."""

    async def work() -> None:
        old = issue(store, credential)
        async with pushing(store) as push, connected(push) as peer:
            await peer.hear(wire.Heartbeat)
            with structlog.testing.capture_logs() as logged:
                new = await asyncio.to_thread(refresh, store, old, "u" * wire.MESSAGE_BYTES_MAX)
                ended = await peer.hear(wire.Revocations)
            assert [r.key for r in ended.revocations] == [old]
            assert "link.message_too_large" in [line["event"] for line in logged]
        async with pushing(store) as push, connected(push) as peer:  # and comes back
            assert [r.key for r in (await peer.hear(wire.Revocations)).revocations] == [old]
            assert new not in [m.token.digest for m in peer.heard if isinstance(m, wire.Superseded)]

    run(work())


def test_long_chain_of_refreshes_is_followed_once(store: Store, credential: str) -> None:
    """A client may refresh as often as it likes: what is asked must not grow with the square."""
    chain = [issue(store, credential)]
    for _ in range(50):
        chain.append(refresh(store, chain[-1]))
    asked: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    moved, ended = asyncio.run(Reader(store).revocations_after(0, 40))  # the newest ten later
    assert [item.old for item in moved] == [item.key for item in ended] == chain[:40]
    assert {item.token.digest for item in moved} == {chain[-1]}
    assert len(asked) <= 40
    moved, ended = asyncio.run(Reader(store).revocations_after(40, 40))
    assert [item.old for item in moved] == chain[40:50]


def made(digest: bytes) -> IssuedToken:
    return IssuedToken(digest, "00000000-0000-0000-0000-000000000001", None, None, None, 0.0, 1)


def test_move_adds_up_what_all_data_planes_say(store: Store) -> None:
    async def work() -> None:
        async with (
            pushing(store) as push,
            connected(push, node_id=b"1" * 16) as one,
            connected(push, node_id=b"2" * 16) as two,
        ):
            await one.hear(wire.Heartbeat)
            await two.hear(wire.Heartbeat)
            asking = asyncio.create_task(push.move_sessions(b"o" * 32, made(b"n" * 32)))
            for peer, sessions in ((one, 3), (two, 4)):
                told = await peer.hear(wire.Superseded)
                assert (told.old, told.token.digest) == (b"o" * 32, b"n" * 32)
                assert told.id != 0
                await peer.send(wire.Moved(told.id + 1, 1000))  # of another question
                await peer.send(wire.Moved(told.id, sessions))
                await peer.send(wire.Moved(told.id, 1000))  # one answer counts
            assert await asking == 7

    run(work())


def test_data_plane_that_does_not_answer_is_named_and_not_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "MOVED_SECONDS", 0.3)

    async def work() -> None:
        async with (
            pushing(store) as push,
            connected(push, node_id=b"1" * 16, name="quick") as one,
            connected(push, node_id=b"2" * 16, name="silent") as two,
        ):
            await one.hear(wire.Heartbeat)
            await two.hear(wire.Heartbeat)
            with structlog.testing.capture_logs() as logged:
                asking = asyncio.create_task(push.move_sessions(b"o" * 32, made(b"n" * 32)))
                told = await one.hear(wire.Superseded)
                await one.send(wire.Moved(told.id, 2))
                assert await asking == 2
            assert [line["dataplanes"] for line in logged if "unanswered" in line["event"]] == [
                ["silent"]
            ]
            await two.send(wire.Moved(told.id, 5))  # too late, and nobody minds
            await two.send(wire.Question(1, b"q" * 32))
            assert (await two.hear(wire.Answer)).token is None

    run(work())


def test_move_without_a_data_plane_moves_nothing(store: Store) -> None:
    async def work() -> None:
        async with pushing(store) as push:
            assert await push.move_sessions(b"o" * 32, made(b"n" * 32)) == 0
            await until(lambda: not push.dataplanes())

    run(work())
