"""The workers' questions: every one gets one answer, the right one, whatever the link does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import structlog

from dataplane import answers as module
from dataplane import wire
from dataplane.answers import Answers
from dataplane.known import KnownTokens
from dataplane.verify import Verifier
from tests.dataplane.fakes import FakeEngine, FakeLink, make_snapshot, make_token, until

pytestmark = pytest.mark.anyio

REQUEST = {
    "plugin": b"p" * 16, "route": b"r" * 16, "service": None, "client_ip": "192.0.2.1",
    "tls": True, "peer_trusted": False, "method": "POST", "path": "/oauth2/token",
    "query": b"", "headers": [(b"content-type", b"application/json")], "body": b"{}",
    "request_id": "abc",
}  # fmt: skip


class FakeResolver:
    def __init__(self) -> None:
        self.fault: Exception | None = None

    async def resolve(self, host: str) -> bool:
        if self.fault is not None:
            raise self.fault
        if host == "slow.example":
            await asyncio.Event().wait()
        return host == "good.example"


class Bench:
    """Answers between a fake engine and a fake link."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.link = FakeLink()
        self.resolver = FakeResolver()
        self.verifier = Verifier()
        self.ahead = 0.0  # of the control plane's clock
        self.known = KnownTokens(cast("Any", self.engine.tokens), 100, self.now)
        self.link.on_tokens = lambda tokens: [self.known.put(t) for t in tokens] and None
        self.answers = Answers(
            cast("Any", self.engine),
            self.known,
            cast("Any", self.link),
            cast("Any", self.resolver),
            self.verifier,
            self.now,
        )
        self.apply(1, {1: 1})

    def now(self) -> float:
        return time.time() + self.ahead

    def apply(self, version: int, credentials: dict[int, int]) -> None:
        self.known.apply_snapshot(make_snapshot(version, credentials))
        self.answers.applied(version)

    async def verdict(self, token: wire.Token, check_passed: bool = True, ref: int = 1) -> str:
        self.engine.ask(("token", ref, token.digest, check_passed))
        await until(lambda: ref in self.engine.verdicts)
        return self.engine.verdicts[ref]

    async def reply(self, ref: int = 1) -> tuple[int, dict[bytes, bytes], bytes]:
        self.engine.ask(("request", ref, dict(REQUEST)))
        await until(lambda: ref in self.engine.replies)
        status, headers, body = self.engine.replies[ref]
        return status, dict(headers), body


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    made.answers.start()
    try:
        yield made
    finally:
        made.answers.stop()
        made.engine.close()


async def test_known_token_is_answered_without_asking() -> None:
    async with bench() as b:
        token = make_token(1)
        b.known.put(token)
        b.engine.tokens.tokens.clear()  # as if the cache had evicted it
        b.link.connected = False
        assert await b.verdict(token) == "known"
        assert token.digest in b.engine.tokens.tokens
        assert b.link.asks == 0


async def test_revoked_token_is_refused_without_asking() -> None:
    async with bench() as b:
        token = make_token(1, expires_at=time.time() + 60)
        b.known.revoke(wire.Revocation(1, "token", token.digest, token.expires_at))
        b.engine.tokens.negative.clear()
        assert await b.verdict(token) == "unknown"
        assert b.engine.tokens.negative[token.digest] <= time.time() + 1
        assert b.link.asks == 0


async def test_expired_token_is_refused_with_the_link_down() -> None:
    async with bench() as b:
        token = make_token(1, expires_at=time.time() - 1)
        b.known.put(token)
        b.link.connected = False
        assert await b.verdict(token) == "unknown"


@pytest.mark.parametrize("check_passed", [True, False])
async def test_token_only_the_control_plane_knows_is_asked_for(check_passed: bool) -> None:
    async with bench() as b:
        b.known.incomplete = not check_passed
        token = make_token(1)
        b.link.knows[token.digest] = token
        assert await b.verdict(token, check_passed) == "known"
        assert token.digest in b.engine.tokens.tokens
        assert b.link.asks == 1


@pytest.mark.parametrize("check_passed", [True, False])
async def test_token_nobody_knows_is_refused_and_remembered_for_a_second(
    check_passed: bool,
) -> None:
    async with bench() as b:
        b.known.incomplete = not check_passed
        token = make_token(1)
        before = time.time()
        assert await b.verdict(token, check_passed) == "unknown"
        assert before + 1 <= b.engine.tokens.negative[token.digest] <= time.time() + 1


@pytest.mark.parametrize("when", ["before", "while asking"])
@pytest.mark.parametrize(("check_passed", "verdict"), [(True, "unavailable"), (False, "unknown")])
async def test_unseen_token_with_the_link_down_is_unavailable_if_its_check_passed(
    check_passed: bool, verdict: str, when: str
) -> None:
    async with bench() as b:
        b.known.incomplete = not check_passed
        if when == "before":
            b.link.connected = False
        else:
            b.link.gate.clear()
        b.engine.ask(("token", 1, make_token(1).digest, check_passed))
        if when == "while asking":
            await until(lambda: b.link.asks)
            b.link.connected = False
            b.link.gate.set()
        await until(lambda: b.engine.verdicts)
        assert b.engine.verdicts == {1: verdict}


async def test_token_is_unavailable_when_the_link_is_busy_or_fails() -> None:
    async with bench() as b:
        b.link.busy = True
        assert await b.verdict(make_token(1), ref=1) == "unavailable"
        b.link.fault = ZeroDivisionError("ours")
        with structlog.testing.capture_logs() as logged:
            assert await b.verdict(make_token(2), ref=2) == "unavailable"
        assert [line["error"] for line in logged] == ["ZeroDivisionError: ours"]


async def test_token_revoked_right_behind_its_answer_is_refused() -> None:
    async with bench() as b:
        token = make_token(1)
        b.link.knows[token.digest] = token
        b.link.after_answer = lambda: b.known.revoke(
            wire.Revocation(1, "credential", token.credential)
        )
        assert await b.verdict(token) == "unknown"
        assert not b.engine.tokens.tokens


@pytest.mark.parametrize("where", ["pushed", "asked for"])
async def test_new_token_waits_for_its_configuration(where: str) -> None:
    async with bench() as b:
        token = make_token(1, 9, version=2)
        if where == "pushed":
            b.known.put(token)
        b.link.knows[token.digest] = token
        b.engine.ask(("token", 1, token.digest, True))
        await until(lambda: b.answers.pending and token.digest in b.engine.tokens.tokens)
        assert not b.engine.verdicts
        b.apply(2, {1: 1, 9: 1})
        await until(lambda: b.engine.verdicts)
        assert b.engine.verdicts == {1: "known"}


async def test_new_token_is_unavailable_when_its_configuration_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "VERSION_WAIT_SECONDS", 0.02)
    async with bench() as b:
        b.known.put(make_token(1, 9, version=2))
        assert await b.verdict(make_token(1)) == "unavailable"


async def test_new_token_of_a_credential_that_is_there_does_not_wait() -> None:
    async with bench() as b:
        b.known.put(make_token(1, 1, version=50))
        b.engine.ask(("token", 1, make_token(1).digest, True))
        b.answers.turn()
        assert b.engine.verdicts == {1: "known"}


async def test_s75_token_whose_check_fails_is_refused_without_asking() -> None:
    async with bench() as b:
        assert await b.verdict(make_token(1), check_passed=False) == "unknown"
        assert b.link.asks == 0


async def test_token_made_by_hand_that_the_cache_evicted_is_known() -> None:
    async with bench() as b:
        b.known.put(make_token(1))
        b.engine.tokens.tokens.clear()
        assert await b.verdict(make_token(1), check_passed=False) == "known"
        b.known.put(make_token(2, 9, version=2))  # and one waits for its configuration
        b.engine.ask(("token", 2, make_token(2).digest, False))
        await until(lambda: b.answers.pending)
        b.apply(2, {1: 1, 9: 1})
        await until(lambda: 2 in b.engine.verdicts)
        assert b.engine.verdicts[2] == "known"
        assert b.link.asks == 0


async def test_junk_cannot_take_all_questions() -> None:
    async with bench() as b:
        b.known.incomplete = True  # else junk takes none
        b.link.gate.clear()
        count = 3 * module.UNCHECKED_ASKS_MAX
        b.engine.ask(*(("token", n, make_token(n).digest, False) for n in range(count)))
        await until(lambda: b.link.asking == module.UNCHECKED_ASKS_MAX)
        good = make_token(9999)
        b.link.knows[good.digest] = good
        b.engine.ask(("token", 9999, good.digest, True))
        await until(lambda: b.link.asking == module.UNCHECKED_ASKS_MAX + 1)
        b.link.gate.set()
        await until(lambda: len(b.engine.verdicts) == count + 1)
        assert b.engine.verdicts.pop(9999) == "known"
        assert set(b.engine.verdicts.values()) == {"unknown"}
        assert b.link.asking_most == module.UNCHECKED_ASKS_MAX + 1


async def test_questions_past_the_bound_are_answered_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TASKS_MAX", {"token": 2, "name": 0})
    async with bench() as b:
        b.link.gate.clear()
        b.engine.ask(*(("token", n, make_token(n).digest, True) for n in range(2)))
        await until(lambda: b.answers.pending == 2)
        b.engine.ask(
            ("token", 3, make_token(3).digest, True),
            ("request", 4, dict(REQUEST)),
            ("name", 6, "good.example"),
        )
        await until(lambda: b.engine.named)
        assert b.engine.verdicts == {3: "unavailable"}
        assert b.engine.named == {6: False}
        # A storm of tokens leaves the places of requests alone.
        assert 4 not in b.engine.replies and b.answers.pending == 3
        b.link.gate.set()
        await until(lambda: len(b.engine.verdicts) == 3)


async def test_more_questions_than_one_turn_takes_are_all_answered() -> None:
    async with bench() as b:
        count = 3 * module.QUESTIONS_PER_TURN
        b.engine.ask(*(("token", n, make_token(n).digest, True) for n in range(count)))
        await until(lambda: len(b.engine.verdicts) == count)


async def test_stop_answers_what_is_in_flight() -> None:
    async with bench() as b:
        b.link.gate.clear()
        b.engine.ask(("token", 1, make_token(1).digest, True), ("request", 2, dict(REQUEST)))
        await until(lambda: b.link.asking == 2)
        b.answers.stop()
        await until(lambda: not b.answers.pending)
        assert b.engine.verdicts == {1: "unavailable"}
        assert b.engine.replies[2][0] == 503


async def test_token_request_travels_the_link_and_its_answer_comes_back() -> None:
    async with bench() as b:
        headers = [(b"Content-Type", b"application/json"), (b"Content-Length", b"9"),
                   (b"connection", b"close"), (b"Cache-Control", b"no-store")]  # fmt: skip
        b.link.reply = wire.TokenReply(7, 401, headers, b'{"error":1}')
        b.engine.ask(("request", 1, dict(REQUEST)))
        await until(lambda: b.engine.replies)
        assert b.engine.replies == {1: (401, headers, b'{"error":1}')}
        sent = b.link.requests[0]
        assert {name: getattr(sent, name) for name in REQUEST} == REQUEST
        wire.decode_to_control(wire.encode(sent))


@pytest.mark.parametrize("what", ["down", "busy", "lost", "fault", "header"])
async def test_token_request_is_temporarily_unavailable_without_the_link(what: str) -> None:
    async with bench() as b:
        if what == "down":
            b.link.connected = False
        elif what == "busy":
            b.link.busy = True
        elif what == "fault":
            b.link.fault = ValueError("ours")
        elif what == "header":
            b.link.reply = wire.TokenReply(7, 200, [(b"x", b"a\r\nb")], b"")
        else:
            b.link.gate.clear()
            b.engine.ask(("request", 2, dict(REQUEST)))
            await until(lambda: b.link.asking)
            b.link.connected = False
            b.link.gate.set()
            await until(lambda: b.engine.replies)
        status, headers, body = await b.reply()
        assert status == 503
        assert int(headers[b"Retry-After"]) >= 1
        assert headers[b"Cache-Control"] == b"no-store"
        assert headers[b"Pragma"] == b"no-cache"
        assert headers[b"Content-Type"] == b"application/json; charset=utf-8"
        answer = json.loads(body)
        assert answer["error"] == "temporarily_unavailable"
        assert set(answer) == {"error", "error_description"}


async def test_name_that_takes_too_long_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NAME_SECONDS", 0.01)
    async with bench() as b:
        b.engine.ask(("name", 1, "slow.example"))
        await until(lambda: b.engine.named)
        assert b.engine.named == {1: False}


async def test_name_is_resolved_or_not() -> None:
    async with bench() as b:
        b.engine.ask(("name", 1, "good.example"), ("name", 2, "bad.example"))
        await until(lambda: len(b.engine.named) == 2)
        assert b.engine.named == {1: True, 2: False}
        b.resolver.fault = RuntimeError("ours")
        b.engine.ask(("name", 3, "good.example"), ("moon", 4))  # a kind nobody knows is left
        await until(lambda: 3 in b.engine.named)
        assert b.engine.named[3] is False
