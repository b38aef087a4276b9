"""JWTs among the workers' questions: verified here, and nobody is asked."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import msgspec
import pytest
import structlog

from dataplane import answers as module
from dataplane import wire
from tests import tokens
from tests.dataplane.fakes import make_snapshot, until
from tests.dataplane.test_answers import Bench, bench

pytestmark = pytest.mark.anyio

OWNER = uuid.UUID(int=1)  # the credential of `Bench.apply(…, {1: 1})`


def snapshot(version: int, *keys: wire.PublicKey, credentials: bool = True) -> wire.Snapshot:
    made = make_snapshot(version, {1: 1} if credentials else {})
    return msgspec.structs.replace(made, keys=list(keys or [tokens.public_key()]))


def configure(b: Bench, version: int = 1, *keys: wire.PublicKey, **options: bool) -> None:
    """A snapshot carries traffic."""
    made = snapshot(version, *keys, **options)
    b.verifier.use(b.verifier.read(made.keys), b.now())
    b.known.apply_snapshot(made)
    b.known.revocations_complete = True
    b.answers.applied(version)


def minted(**changed: Any) -> str:
    return tokens.access_token(time.time(), **{"cid": str(OWNER), **changed})


def ask(b: Bench, token: str, ref: int = 1) -> None:
    b.engine.ask(("jwt", ref, wire.token_digest(token), token))


async def verdict(b: Bench, token: str, ref: int = 1) -> str:
    ask(b, token, ref)
    await until(lambda: ref in b.engine.verdicts)
    return b.engine.verdicts[ref]


def revoke(b: Bench, kind: str, key: bytes, version: int = 2) -> None:
    b.known.revoke(wire.Revocation(1, kind, key, 0.0, version))


async def test_jwt_is_good_without_a_control_plane() -> None:
    async with bench() as b:
        configure(b)
        b.link.connected = False
        token = minted(scope="a", aud=["x", "y"], svc=str(tokens.SERVICE))
        assert await verdict(b, token) == "known"
        held = b.engine.tokens.tokens[wire.token_digest(token)]
        assert held[:3] == (OWNER.bytes, tokens.SERVICE.bytes, "a")
        assert held[6:8] == (tokens.ISSUER, ["x", "y"])
        assert b.link.asks == 0


@pytest.mark.parametrize(
    "token",
    ["a.b.c", "e30.e30.AA", minted(exp=1), minted(number=2), minted(iss=None), minted(jti="x")],
    ids=range(6),
)
async def test_bad_jwt_is_refused_and_remembered_for_a_second(token: str) -> None:
    async with bench() as b:
        configure(b)
        before = b.now()
        assert await verdict(b, token) == "unknown"
        until_ = b.engine.tokens.negative[wire.token_digest(token)]
        assert before + 1 <= until_ <= b.now() + 1
        assert b.link.asks == 0
        assert b.engine.tokens.tokens == {}


async def test_s08_expiry_is_judged_by_the_control_planes_clock() -> None:
    async with bench() as b:
        configure(b)
        token = minted(exp=int(time.time()) + 60)
        b.ahead = 61.0
        assert await verdict(b, token, 1) == "unknown"
        b.ahead = 0.0
        assert await verdict(b, token, 2) == "known"
        b.ahead = 61.0
        assert await verdict(b, token, 3) == "unknown"  # although it is known
        b.ahead = -100.0
        configure(b)
        assert await verdict(b, minted(), 4) == "unknown"  # not valid yet


@pytest.mark.parametrize("seen", [True, False], ids=["seen before", "first seen after"])
@pytest.mark.parametrize("spelling", [str, tokens.other_spelling], ids=["same text", "other text"])
async def test_s05_revoked_jti_refuses_every_text_of_it(seen: bool, spelling: Any) -> None:
    async with bench() as b:
        configure(b)
        jti = uuid.uuid4()
        token = minted(jti=str(jti))
        if seen:
            assert await verdict(b, token, 1) == "known"
            assert await verdict(b, tokens.other_spelling(token), 2) == "known"
        revoke(b, "jti", jti.bytes)
        assert b.engine.tokens.tokens == {}
        b.engine.tokens.negative.clear()  # as if the engine had forgotten
        assert await verdict(b, spelling(token), 3) == "unknown"
        assert await verdict(b, minted(), 4) == "known"  # any other


async def test_s05_revoking_one_text_by_its_digest_revokes_the_others() -> None:
    async with bench() as b:
        configure(b)
        token = minted()
        assert await verdict(b, token, 1) == "known"
        revoke(b, "token", wire.token_digest(token))
        assert await verdict(b, tokens.other_spelling(token), 2) == "unknown"


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("credential", OWNER.bytes),
        ("consumer", (1).to_bytes(16, "big")),
        ("plugin", tokens.PLUGIN.bytes),
    ],
)
@pytest.mark.parametrize("seen", [True, False], ids=["seen before", "first seen after"])
async def test_s37_end_of_an_owner_ends_its_jwts_and_an_id_made_again_has_new_ones(
    kind: str, key: bytes, seen: bool
) -> None:
    async with bench() as b:
        configure(b, 5)
        token = minted(cv=5)
        if seen:
            assert await verdict(b, token, 1) == "known"
        revoke(b, kind, key, version=6)
        assert await verdict(b, token, 2) == "unknown"
        configure(b, 7)  # where the same ids are there again
        b.engine.tokens.negative.clear()
        assert await verdict(b, token, 3) == "unknown"
        assert await verdict(b, minted(cv=7), 4) == "known"


async def test_credential_made_again_under_its_client_id_has_none_of_the_old_jwts() -> None:
    async with bench() as b:
        configure(b)
        other = minted(cid=str(uuid.UUID(int=99)))  # client_id is the same
        assert await verdict(b, other) == "known"  # a token: whose, the engine judges at each
        assert b.engine.tokens.tokens[wire.token_digest(other)][0] == uuid.UUID(int=99).bytes


async def test_jwt_newer_than_the_configuration_waits_for_it() -> None:
    async with bench() as b:
        configure(b, 1, credentials=False)
        ask(b, minted(cv=2))
        await until(lambda: b.answers.pending)
        assert b.engine.verdicts == {}
        configure(b, 2)
        await until(lambda: b.engine.verdicts)
        assert b.engine.verdicts == {1: "known"}


async def test_jwt_that_is_revoked_while_it_waits_is_refused() -> None:
    async with bench() as b:
        configure(b, 1, credentials=False)
        jti = uuid.uuid4()
        ask(b, minted(cv=2, jti=str(jti)))
        await until(lambda: b.answers.pending)
        revoke(b, "jti", jti.bytes)
        configure(b, 2)
        await until(lambda: b.engine.verdicts)
        assert b.engine.verdicts == {1: "unknown"}


async def test_configuration_that_does_not_come_is_not_the_tokens_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "VERSION_WAIT_SECONDS", 0.05)
    async with bench() as b:
        configure(b, 1, credentials=False)
        assert await verdict(b, minted(cv=2)) == "unavailable"


@pytest.mark.parametrize("known", [True, False])
async def test_while_revocations_may_be_missing_the_control_plane_is_asked(known: bool) -> None:
    async with bench() as b:
        configure(b)
        b.known.revocations_complete = False
        token = minted()
        if known:
            digest = wire.token_digest(token)
            b.link.knows[digest] = wire.Token(digest, OWNER.bytes, 0.0, jti=b"j" * 16)
        assert await verdict(b, token) == ("known" if known else "unknown")
        assert b.link.asks == 1
        assert bool(b.engine.tokens.tokens) is known


async def test_while_revocations_may_be_missing_nothing_is_good_without_a_link() -> None:
    async with bench() as b:
        configure(b)
        b.known.revocations_complete = False
        b.link.connected = False
        assert await verdict(b, minted()) == "unavailable"


async def test_pushed_jwt_waits_to_prove_itself() -> None:
    async with bench() as b:
        configure(b)
        token = minted()
        digest = wire.token_digest(token)
        b.known.put(wire.Token(digest, OWNER.bytes, 0.0, jti=b"j" * 16))
        assert b.engine.tokens.tokens == {} and len(b.known) == 0
        assert await verdict(b, token) == "known"


async def test_s18_key_that_is_taken_away_takes_its_tokens_with_it() -> None:
    async with bench() as b:
        old, new = tokens.public_key(), tokens.public_key(number=2)
        configure(b, 1, old, new)
        first, second = minted(), minted(number=2)
        assert await verdict(b, first, 1) == await verdict(b, second, 2) == "known"
        configure(b, 2, new)
        assert list(b.engine.tokens.tokens) == [wire.token_digest(second)]
        assert await verdict(b, first, 3) == "unknown"


async def test_many_sessions_with_one_token_pay_for_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench() as b:
        configure(b)
        verified: list[bytes] = []
        real = b.verifier.verify

        def counted(text: str, digest: bytes, now: float) -> wire.Token:
            verified.append(digest)
            return real(text, digest, now)

        monkeypatch.setattr(b.verifier, "verify", counted)
        token = minted()
        for ref in range(500):
            ask(b, token, ref)
        await until(lambda: len(b.engine.verdicts) == 500)
        assert set(b.engine.verdicts.values()) == {"known"}
        assert len(verified) == 1


async def test_loop_breathes_while_thousands_are_verified() -> None:
    async with bench() as b:
        configure(b)
        made = [minted() for _ in range(1000)]
        for ref, token in enumerate(made):
            ask(b, token, ref)
        turns = 0
        while len(b.engine.verdicts) < len(made):
            await asyncio.sleep(0)
            turns += 1
            assert turns < 100_000
        assert set(b.engine.verdicts.values()) == {"known"}
        assert turns > 5  # and not one turn for all of them


async def test_too_many_waiting_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JWTS_WAITING_MAX", 10)
    async with bench() as b:
        configure(b)
        for ref in range(30):
            ask(b, minted(), ref)
        await until(lambda: len(b.engine.verdicts) == 30)
        told = list(b.engine.verdicts.values())
        assert told.count("unavailable") == 20 and told.count("known") == 10


async def test_fault_of_ours_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as b:
        configure(b)

        def broken(*_: Any) -> wire.Token:
            raise RuntimeError("secret.token.text")

        monkeypatch.setattr(b.verifier, "verify", broken)
        with structlog.testing.capture_logs() as logs:
            assert await verdict(b, minted(), 1) == "unavailable"
            assert await verdict(b, minted(), 2) == "unavailable"
        assert [entry["event"] for entry in logs] == ["answer.fault"] * 2


async def test_jwt_the_engine_cannot_hold_is_refused() -> None:
    async with bench() as b:
        configure(b)

        def refuse(*_: object, **__: object) -> None:
            raise ValueError("a scope is too long")

        b.engine.tokens.put = refuse  # type: ignore[method-assign]
        with structlog.testing.capture_logs() as logs:
            assert await verdict(b, minted()) == "unknown"
        assert [entry["event"] for entry in logs] == ["token.unusable"]


async def test_reasons_do_not_tell_a_token_from_another() -> None:
    """Whatever is wrong, the worker hears the same word, and no log has anything of the token."""
    async with bench() as b:
        configure(b)
        with structlog.testing.capture_logs() as logs:
            for ref, token in enumerate([minted(exp=1), minted(number=2), "a.b.c"]):
                assert await verdict(b, token, ref) == "unknown"
        assert logs == []
