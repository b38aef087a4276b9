"""Tickets on the data plane's Python side: asked for each by itself, and never twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dataplane import answers, wire
from dataplane import link as module
from dataplane.link import LinkBusy, LinkDown
from tests.dataplane.fakes import make_snapshot, make_token
from tests.dataplane.fakes import until as soon
from tests.dataplane.test_answers import Bench, bench
from tests.linkkit import BareControl, Seen, bare_control, linked, run, until

PLACE = ("gateway.example", "/chat", "https://app.example")
TICKET = wire.Redeem(0, b"t" * 32, *PLACE)
TOKEN = make_token(1)


# --- the link -------------------------------------------------------------------------------------


def test_tickets_are_answered_each_by_its_own_reply(tmp_path: Path) -> None:
    """Two that look the same are two questions: one of them is spent."""

    async def work() -> None:
        seen = Seen()
        async with bare_control() as control, linked(control.url, tmp_path, seen) as made:
            await until(lambda: made.connected or None)
            asking = [asyncio.create_task(made.redeem(TICKET)) for _ in range(2)]
            first, second = [await control.hear(wire.Redeem) for _ in range(2)]
            assert first.id != second.id
            assert (first.digest, first.host, first.path, first.origin) == (b"t" * 32, *PLACE)
            await control.send(wire.Redeemed(second.id), wire.Redeemed(first.id, TOKEN))
            assert await asking[0] == TOKEN
            assert await asking[1] is None
            assert seen.tokens == {TOKEN.digest: TOKEN}
            await control.send(wire.Redeemed(999))  # nobody waits for it
            again = asyncio.create_task(made.redeem(TICKET))
            await control.send(wire.Redeemed((await control.hear(wire.Redeem)).id))
            assert await again is None

    run(work())


def test_token_of_a_ticket_went_through_the_callback_before_its_revocation(tmp_path: Path) -> None:
    async def work() -> None:
        seen = Seen()
        async with bare_control() as control, linked(control.url, tmp_path, seen) as made:
            await until(lambda: made.connected or None)
            asking = asyncio.create_task(made.redeem(TICKET))
            asked = await control.hear(wire.Redeem)
            ended = wire.Revocations([wire.Revocation(1, "token", TOKEN.digest)])
            await control.send(wire.Redeemed(asked.id, TOKEN), ended)
            assert await asking == TOKEN
            await until(lambda: seen.revocations or None)
            assert TOKEN.digest not in seen.tokens

    run(work())


def test_ticket_without_reply_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUESTION_SECONDS", 0.05)

    async def work(control: BareControl, made: module.Link) -> None:
        await until(lambda: made.connected or None)
        with pytest.raises(LinkDown):
            await made.redeem(TICKET)
        late = await control.hear(wire.Redeem)
        await control.send(wire.Redeemed(late.id, TOKEN))

    run(_with_link(tmp_path, work))


def test_tickets_in_flight_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDEEMS_IN_FLIGHT_MAX", 1)

    async def work(control: BareControl, made: module.Link) -> None:
        await until(lambda: made.connected or None)
        asking = asyncio.create_task(made.redeem(TICKET))
        asked = await control.hear(wire.Redeem)
        with pytest.raises(LinkBusy):
            await made.redeem(TICKET)
        await control.send(wire.Redeemed(asked.id))
        assert await asking is None

    run(_with_link(tmp_path, work))


def test_ticket_fails_with_the_link(tmp_path: Path) -> None:
    async def work(control: BareControl, made: module.Link) -> None:
        with pytest.raises(LinkDown):
            await made.redeem(TICKET)
        await until(lambda: made.connected or None)
        asking = asyncio.create_task(made.redeem(TICKET))
        await control.hear(wire.Redeem)
        await control.hang_up()
        with pytest.raises(LinkDown):
            await asking

    run(_with_link(tmp_path, work))


async def _with_link(folder: Path, work: Any) -> None:
    async with bare_control() as control, linked(control.url, folder, Seen()) as made:
        await work(control, made)


# --- the answers ----------------------------------------------------------------------------------


async def verdict(b: Bench, ref: int = 1) -> tuple[str, bytes | None]:
    b.engine.ask(("ticket", ref, TICKET.digest, *PLACE))
    await soon(lambda: ref in b.engine.redeemed)
    return b.engine.redeemed[ref]


@pytest.mark.anyio
async def test_ticket_that_is_good_gives_the_engine_its_token() -> None:
    async with bench() as b:
        b.link.tickets[TICKET.digest] = TOKEN
        assert await verdict(b) == ("known", TOKEN.digest)
        assert TOKEN.digest in b.engine.tokens.tokens
        assert b.link.redeems == [TICKET]
        assert await verdict(b, 2) == ("unknown", None)
        assert not b.engine.tokens.negative  # nothing is remembered of a ticket
        assert len(b.link.redeems) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("trouble", ["down", "lost", "busy", "fault", "full"])
async def test_ticket_that_cannot_be_asked_for_is_unavailable(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench() as b:
        b.link.tickets[TICKET.digest] = TOKEN
        if trouble == "down":
            b.link.connected = False
        elif trouble == "busy":
            b.link.busy = True
        elif trouble == "fault":
            b.link.fault = RuntimeError("x")
        elif trouble == "lost":
            b.link.fault = LinkDown("lost")
        else:
            monkeypatch.setitem(answers.TASKS_MAX, "ticket", 0)
        assert await verdict(b) == ("unavailable", None)


@pytest.mark.anyio
async def test_ticket_of_a_token_that_ended_meanwhile_is_unknown() -> None:
    async with bench() as b:
        b.link.tickets[TICKET.digest] = TOKEN
        ended = wire.Revocation(1, "token", TOKEN.digest)
        b.link.after_answer = lambda: b.known.revoke(ended)
        assert await verdict(b) == ("unknown", None)


@pytest.mark.anyio
async def test_ticket_of_a_jwt_gives_the_engine_its_token_unless_it_ended() -> None:
    """It is not among the known ones until it comes, and a ticket is as good as its coming."""
    async with bench() as b:
        keyed(b, "k1", "k2")
        jwt = make_token(2, jti=b"j" * 16, issuer="https://auth.example", kid="k1")
        b.link.tickets[TICKET.digest] = jwt
        assert await verdict(b) == ("known", jwt.digest)
        assert b.known.get(jwt.digest) == jwt
        ended = make_token(3, jti=b"e" * 16, issuer="https://auth.example", kid="k1")
        b.known.revoke(wire.Revocation(1, "jti", b"e" * 16))
        b.link.tickets[TICKET.digest] = ended
        assert await verdict(b, 2) == ("unknown", None)
        assert keyed(b, "k2") == [jwt.digest]  # its key was withdrawn
        assert not b.engine.tokens.tokens


def keyed(b: Bench, *kids: str) -> list[bytes]:
    """A configuration with these keys carries traffic."""
    keys = [wire.PublicKey(kid, "ES256", "{}") for kid in kids]
    return b.known.apply_snapshot(msgspec.structs.replace(make_snapshot(1, {1: 1}), keys=keys))


@pytest.mark.anyio
@pytest.mark.parametrize(("issuer", "kid"), [("https://auth.example", "k2"), (None, "k1")])
async def test_ticket_of_a_jwt_whose_key_does_not_verify_is_unknown(
    issuer: str | None, kid: str
) -> None:
    async with bench() as b:
        keyed(b, "k1")
        b.link.tickets[TICKET.digest] = make_token(2, jti=b"j" * 16, issuer=issuer, kid=kid)
        assert await verdict(b) == ("unknown", None)
        assert not b.engine.tokens.tokens


@pytest.mark.anyio
async def test_ticket_waits_for_the_configuration_of_its_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dataplane.answers.VERSION_WAIT_SECONDS", 0.05)
    async with bench() as b:
        b.link.tickets[TICKET.digest] = make_token(1, credential=9, version=5)
        assert await verdict(b) == ("unavailable", None)
