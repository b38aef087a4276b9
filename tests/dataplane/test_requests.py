"""Token requests over the link: together where they come together, each answered once."""

from __future__ import annotations

import asyncio

import pytest

from dataplane import requests, wire
from dataplane.requests import LinkBusy, LinkDown, Requests
from tests.linkkit import asked

pytestmark = pytest.mark.anyio

ID = b"i" * 16


def message(body: bytes = b"") -> wire.TokenRequest:
    return wire.TokenRequest(0, ID, ID, "::1", True, "POST", "/oauth2/token", body=body)


class Line:
    """What went out; `gate` holds it."""

    def __init__(self) -> None:
        self.sent: list[wire.ToControl] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, data: bytes) -> None:
        await self.gate.wait()
        self.sent.append(wire.decode_to_control(data))


def attached() -> tuple[Requests, Line]:
    made, line = Requests(), Line()
    made.attach(line.send)
    return made, line


def reply(id_: int) -> wire.TokenReply:
    return wire.TokenReply(id_, 200, [], b"%d" % id_)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_request_goes_by_itself() -> None:
    made, line = attached()
    future = asked(made.ask, message())
    await turns()
    assert line.sent == [wire.TokenRequest(1, ID, ID, "::1", True, "POST", "/oauth2/token")]
    made.replied(reply(1))
    assert (await future).body == b"1"
    assert len(made) == 0


async def test_requests_of_one_turn_go_together_in_their_order() -> None:
    made, line = attached()
    futures = [asked(made.ask, message(b"%d" % n)) for n in range(3)]
    await turns()
    (sent,) = line.sent
    assert isinstance(sent, wire.TokenRequests)
    assert [(one.id, one.body) for one in sent.requests] == [(1, b"0"), (2, b"1"), (3, b"2")]
    for one in reversed(sent.requests):
        made.replied(reply(one.id))
    assert [found.body for found in await asyncio.gather(*futures)] == [b"1", b"2", b"3"]


async def test_requests_that_come_while_one_is_sent_go_next() -> None:
    made, line = attached()
    line.gate.clear()
    asked(made.ask, message())
    await turns()
    asked(made.ask, message())
    asked(made.ask, message())
    line.gate.set()
    await turns()
    assert [type(one).__name__ for one in line.sent] == ["TokenRequest", "TokenRequests"]


async def test_a_message_takes_no_more_than_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made, line = attached()
    for _ in range(9):
        asked(made.ask, message(b"x" * (64 * 1024)))
    await turns(20)
    counts = [len(getattr(one, "requests", [one])) for one in line.sent]
    assert counts == [3, 3, 3]
    assert all(len(wire.encode(one)) < wire.MESSAGE_BYTES_MAX for one in line.sent)
    monkeypatch.setattr(wire, "TOKEN_REQUESTS_PER_MESSAGE", 2)
    for _ in range(3):
        asked(made.ask, message())
    await turns(20)
    assert [len(getattr(one, "requests", [one])) for one in line.sent[3:]] == [2, 1]


async def test_reply_that_nobody_waits_for_is_passed_over() -> None:
    made, _ = attached()
    made.replied(reply(9))
    future = asked(made.ask, message())
    made.replied(reply(1))
    made.replied(reply(1))
    assert (await future).body == b"1"
    assert len(made) == 0


async def test_lost_link_fails_what_waits_and_takes_no_more() -> None:
    made, line = attached()
    line.gate.clear()
    futures = [asked(made.ask, message()) for _ in range(2)]
    await turns()
    made.detach()
    for future in futures:
        with pytest.raises(LinkDown):
            await future
    with pytest.raises(LinkDown):
        asked(made.ask, message())
    made.attach(line.send)
    line.gate.set()
    asked(made.ask, message())
    await turns()
    assert [one.id for one in line.sent] == [3]  # type: ignore[union-attr]


async def test_request_that_nobody_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REPLY_SECONDS", 0.02)
    monkeypatch.setattr(requests, "SWEEP_SECONDS", 0.02)
    made, _ = attached()
    for _ in range(2):
        futures = [asked(made.ask, message()) for _ in range(2)]
        for future in futures:
            with pytest.raises(LinkDown, match=r"no answer in 0\.02 s"):
                await asyncio.wait_for(future, 10)
        assert len(made) == 0


async def test_requests_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TOKEN_REQUESTS_IN_FLIGHT_MAX", 1)
    made, _ = attached()
    asked(made.ask, message())
    with pytest.raises(LinkBusy):
        asked(made.ask, message())
    made.replied(reply(1))
    asked(made.ask, message())
