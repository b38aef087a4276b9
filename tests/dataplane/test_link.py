"""The data plane's end of the link, against a control plane that says what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from dataplane import dial, link, requests, wire
from dataplane.dial import LinkFault, backoff_seconds, client_tls
from dataplane.disk import DiskState
from dataplane.link import Link
from dataplane.requests import LinkBusy, LinkDown
from tests.dataplane.fakes import make_snapshot
from tests.linkkit import Authority, BareControl, Seen, asked, bare_control, linked, run, until

KEY = Fernet(Fernet.generate_key())
EPOCH = b"e" * 16
ID = b"i" * 16


def snapshot(version: int, epoch: bytes = EPOCH, routes: int = 1) -> wire.Snapshot:
    found = [wire.Route(secrets.token_bytes(16), ["ws"], secrets.token_hex(20))] * routes
    return wire.Snapshot(epoch, version, b"k" * 32, routes=found)


def token(**changed: Any) -> wire.Token:
    return wire.Token(
        **{"digest": secrets.token_bytes(32), "credential": ID, "expires_at": 0.0, **changed}
    )


def request(body: bytes = b"") -> wire.TokenRequest:
    return wire.TokenRequest(0, ID, ID, "::1", True, "POST", "/oauth2/token", body=body)


@contextlib.asynccontextmanager
async def pair(
    folder: Path, seen: Seen | None = None, **options: Any
) -> AsyncIterator[tuple[BareControl, Link, Seen]]:
    """A bare control plane and a link that is connected to it."""
    seen = seen or Seen()
    async with (
        bare_control() as control,
        linked(control.url, folder, seen, KEY, **options) as made,
    ):
        await until(lambda: made.connected)
        yield control, made, seen


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnecting waits for no one here; how long it would is tested by itself."""
    monkeypatch.setattr(link, "backoff_seconds", lambda failures: 0.01 * failures)


# --- the proofs -----------------------------------------------------------------------------------


def test_link_says_who_it_is_and_proves_the_secret(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path, name="dp-1", software="narthex/1") as (control, made, _):
            (hello,) = control.hellos
            assert (hello.name, hello.software) == ("dp-1", "narthex/1")
            assert (hello.epoch, hello.version, hello.revocation_seq) == (b"", 0, 0)
            assert len(hello.node_id) == 16 and len(hello.nonce) == wire.NONCE_BYTES
            assert hello.wire == (wire.WIRE_MAJOR, wire.WIRE_MINOR)
            assert len(control.proofs[0]) == 32
            assert made.lost is None

    run(work())


def refused(tmp_path: Path, **changed: Any) -> str:
    """What the link says about a control plane that is `changed`."""

    async def work() -> str:
        async with bare_control(**changed.pop("server", {})) as control:
            for name, value in changed.items():
                setattr(control, name, value)
            async with linked(control.url, tmp_path, Seen(), KEY) as made:
                why = await until(lambda: made.lost)
                assert not made.connected
                assert made.epoch == b"" and control.proofs == []
                with pytest.raises(LinkDown):
                    await made.ask(b"d" * 32)
                return why

    return run(work())


def test_link_refuses_a_control_plane_without_the_secret(tmp_path: Path) -> None:
    assert "did not prove LINK_SECRET" in refused(tmp_path, secret=b"another secret")


def test_link_refuses_another_wire_version_in_words(tmp_path: Path) -> None:
    welcome = wire.Welcome(b"n" * wire.NONCE_BYTES, b"", wire=(2, 0))
    assert "speaks wire 2" in refused(tmp_path, welcome=welcome)


def test_link_refuses_a_short_nonce(tmp_path: Path) -> None:
    assert "did not begin with Welcome" in refused(tmp_path, welcome=wire.Welcome(b"n", b""))


def test_link_says_why_it_was_refused(tmp_path: Path) -> None:
    assert "run the same release" in refused(tmp_path, welcome=wire.Refused("run the same release"))


def test_link_refuses_a_server_of_another_protocol(tmp_path: Path) -> None:
    assert "subprotocol" in refused(tmp_path, server={"subprotocols": ["other"]})
    assert "does not speak narthex.link.1" in refused(tmp_path, server={"subprotocols": None})


def test_link_says_that_the_control_plane_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> str:
        monkeypatch.setattr(dial, "HELLO_SECONDS", 0.05)
        async with bare_control() as control:
            control.beats = False
            async with linked(control.url, tmp_path, Seen(), KEY) as made:
                return await until(lambda: made.lost)

    assert "silent" in run(work())


def test_link_says_what_an_http_server_answered(tmp_path: Path) -> None:
    async def work() -> str:
        def forbid(connection: Any, request: Any) -> Any:
            return connection.respond(403, "not you\n")

        async with (
            bare_control(process_request=forbid) as control,
            linked(control.url, tmp_path, Seen(), KEY) as made,
        ):
            return await until(lambda: made.lost)

    assert run(work()) == "the control plane answered 403 not you"


def test_link_needs_a_secret_or_certificates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LINK_SECRET or certificates"):
        Link(
            url="ws://127.0.0.1:1",
            secret=None,
            state=DiskState(tmp_path, KEY),
            on_snapshot=Seen().on_snapshot,
            on_tokens=Seen().on_tokens,
            on_revocations=Seen().on_revocations,
        )


def test_link_goes_by_certificates_instead_of_the_secret(tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ca")
    cert, key = ca.sign("control.test")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    server.load_verify_locations(ca.ca)
    server.verify_mode = ssl.CERT_REQUIRED

    async def work() -> None:
        trusting = client_tls(*ca.sign("data.test"), ca.ca)
        strange = client_tls(*ca.sign("data.test"), Authority(tmp_path, "other").ca)
        async with bare_control(ssl=server) as control:
            control.secret = b"whatever"
            url = f"wss://127.0.0.1:{control.port}"
            async with linked(url, tmp_path, Seen(), KEY, ssl=trusting, secret=None) as made:
                await until(lambda: made.connected)
                assert control.proofs == [b""]
            options = {"ssl": trusting, "secret": None, "server_hostname": "wrong.test"}
            async with linked(url, tmp_path, Seen(), KEY, **options) as made:
                assert "wrong.test" in await until(lambda: made.lost)
            async with linked(url, tmp_path, Seen(), KEY, ssl=strange, secret=None) as made:
                assert "certificate verify failed" in await until(lambda: made.lost)

    run(work())


# --- snapshots ------------------------------------------------------------------------------------


def test_link_applies_and_acks_a_snapshot(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            large = snapshot(3, routes=1)
            await control.send_snapshot(large)
            assert await control.hear(wire.Ack) == wire.Ack(3)
            assert seen.snapshots == [large]
            assert (made.config_version, made.epoch, made.refused) == (3, EPOCH, None)

    run(work())


def test_link_acks_the_version_it_has_without_applying_it_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, _, seen):
            for _ in range(2):
                await control.send_snapshot(snapshot(3))
                assert await control.hear(wire.Ack) == wire.Ack(3)
            assert len(seen.snapshots) == 1

    run(work())


async def nacked(control: BareControl, version: int) -> str:
    nack = await control.hear(wire.Nack)
    assert nack.version == version
    assert not any(isinstance(m, wire.Ack) for m in control.heard)
    return nack.reason


def test_s90_link_never_goes_back_to_a_lower_version(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            await control.send_snapshot(snapshot(5))
            await control.hear(wire.Ack)
            await control.send_snapshot(snapshot(4))
            assert "older than 5" in await nacked(control, 4)
            assert made.config_version == 5 and len(seen.snapshots) == 1
            await control.send_snapshot(snapshot(6))
            assert await control.hear(wire.Ack) == wire.Ack(6)

    run(work())


def test_s90_link_never_goes_back_after_a_restart_either(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, _, _):
            await control.send_snapshot(snapshot(5))
            await control.hear(wire.Ack)
        async with pair(tmp_path) as (control, made, seen):
            assert control.hellos[0].version == 5
            await control.send_snapshot(snapshot(4))
            assert "older than 5" in await nacked(control, 4)
            assert [s.version for s in seen.snapshots] == [5]
            assert made.config_version == 5

    run(work())


def test_s90_link_detects_a_flipped_byte_and_serves_the_last_good_one(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            await control.send_snapshot(snapshot(3))
            await control.hear(wire.Ack)
            (chunk,) = wire.split_snapshot(4, wire.pack_snapshot(snapshot(4)))
            data = bytearray(chunk.data)
            data[len(data) // 2] ^= 1
            damaged = wire.Chunk(4, 0, 1, chunk.digest, bytes(data))
            control.connection, first = None, control.connection
            assert first is not None
            await first.send(wire.encode(damaged))
            assert await nacked(control, 4)
            assert (made.config_version, len(seen.snapshots)) == (3, 1)
            # What one damaged connection spoilt, the next one brings whole.
            await control.send_snapshot(snapshot(4))
            assert await control.hear(wire.Ack) == wire.Ack(4)
            assert made.refused is None and control.hellos[-1].version == 3

    run(work())


def test_link_refuses_what_the_callback_refuses_and_stays(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            await control.send_snapshot(snapshot(3))
            await control.hear(wire.Ack)
            seen.unfit = "two routes alike " + "x" * 2000
            await control.send_snapshot(snapshot(4))
            reason = await nacked(control, 4)
            assert reason.startswith("two routes alike") and len(reason) == dial.REASON_CHARS_MAX
            assert (made.config_version, made.refused) == (3, reason)
            seen.unfit = None
            await control.send_snapshot(snapshot(5))
            await control.hear(wire.Ack)
            assert made.refused is None

    run(work())


def unsound(**changed: Any) -> bytes:
    route = wire.Route(ID, ["ws"], service=b"gone" * 4)
    return wire.pack_snapshot(wire.Snapshot(EPOCH, 4, b"k" * 32, routes=[route]))


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (unsound(), "a service that is not there"),
        (b"\xc1", "not a snapshot"),
        (wire.pack_snapshot(snapshot(9)), "says version 9"),
    ],
    ids=["dangling", "junk", "other-version"],
)
def test_link_refuses_an_unsound_snapshot(tmp_path: Path, packed: bytes, why: str) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            await control.send(*wire.split_snapshot(4, packed))
            assert why in await nacked(control, 4)
            assert seen.snapshots == [] and made.config_version == 0

    run(work())


# --- tokens and revocations -----------------------------------------------------------------------


def test_link_hands_on_tokens_and_revocations_in_order(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            one, two = token(), token()
            end = wire.Revocation(4, "token", one.digest)
            await control.send(wire.Tokens([one, two]), wire.Revocations([end]))
            await until(lambda: seen.revocations)
            assert (seen.tokens, seen.revocations) == ({two.digest: two}, [end])
            assert made.revocation_seq == 4
            await control.send(wire.Revocations([]))

    run(work())


def test_link_hands_on_heartbeats_after_entering_their_epoch(tmp_path: Path) -> None:
    heard: list[wire.Heartbeat] = []

    async def work() -> None:
        async with pair(tmp_path, on_heartbeat=heard.append) as (control, made, _):
            beat = wire.Heartbeat(b"f" * 16, 1, 2, 3.0, settled=True)
            await control.send(beat)
            await until(lambda: heard[-1:] == [beat])
            assert made.epoch == beat.epoch

    run(work())


def test_disk_is_told_when_revocations_that_it_lacked_were_sent_again(tmp_path: Path) -> None:
    ends = [wire.Revocation(seq, "jti", bytes([seq]) * 16) for seq in (1, 2)]

    async def work(settled: bool, *sent: wire.Revocation) -> None:
        async with pair(tmp_path) as (control, _, seen):
            await control.send(wire.Revocations(list(sent)))
            await control.send(wire.Heartbeat(control.epoch, 0, 2, 0.0, settled=settled))
            await control.send(wire.Tokens([mark := token()]))
            await until(lambda: mark.digest in seen.tokens)

    def kept() -> tuple[int, bool]:
        state = DiskState(tmp_path / "state", KEY)
        try:
            loaded = state.load()
        finally:
            state.close()
        return loaded.revocation_seq, loaded.complete

    state = DiskState(tmp_path / "state", KEY)
    state.save_snapshot(wire.pack_snapshot(make_snapshot(3)), b"e" * 16, 3)
    state.close()
    run(work(True, *ends))
    assert kept() == (2, True)
    log = tmp_path / "state" / "stream.log"
    log.write_bytes(b"x" * log.stat().st_size)
    run(work(False, ends[1]))
    assert kept() == (0, False)
    run(work(True, *ends))
    assert kept() == (2, True)


def test_link_keeps_no_jwt_on_the_disk(tmp_path: Path) -> None:
    opaque, jwt = token(), token(jti=ID)

    async def before() -> None:
        async with pair(tmp_path) as (control, _, seen):
            heir = wire.Superseded(secrets.token_bytes(32), jwt)
            await control.send(heir, wire.Tokens([jwt, opaque]))
            await until(lambda: len(seen.tokens) == 2)

    async def after() -> None:
        seen = Seen()
        async with linked("ws://127.0.0.1:1", tmp_path, seen, KEY) as made:
            await until(lambda: made.lost)
            assert set(seen.tokens) == {opaque.digest}

    run(before())
    run(after())


def test_link_keeps_what_it_heard_over_a_restart(tmp_path: Path) -> None:
    one, two, three = token(), token(), token()
    end = wire.Revocation(4, "token", one.digest)

    async def before() -> None:
        async with pair(tmp_path) as (control, made, _):
            await control.send(wire.Tokens([one, two]), wire.Revocations([end]))
            await control.send_snapshot(snapshot(3))
            await control.hear(wire.Ack)
            asking = asyncio.create_task(made.ask(three.digest))
            question = await control.hear(wire.Question)
            await control.send(wire.Answer(question.id, three))
            assert await asking == three

    async def after() -> None:
        seen = Seen()
        async with linked("ws://127.0.0.1:1", tmp_path, seen, KEY) as made:
            await until(lambda: made.lost)
            assert set(seen.tokens) == {two.digest, three.digest}
            assert seen.revocations == [end]
            assert [s.version for s in seen.snapshots] == [3]
            assert (made.epoch, made.config_version, made.revocation_seq) == (EPOCH, 3, 4)
        async with pair(tmp_path) as (control, _, _):
            (hello,) = control.hellos
            assert (hello.epoch, hello.version, hello.revocation_seq) == (EPOCH, 3, 4)

    run(before())
    run(after())


def test_link_keeps_a_refresh_as_a_token_and_the_end_of_another(tmp_path: Path) -> None:
    old, new = token(), token()

    async def before() -> None:
        heard: list[wire.Superseded] = []
        async with pair(tmp_path, on_superseded=heard.append) as (control, made, _):
            await control.send(wire.Tokens([old]), wire.Superseded(old.digest, new))
            await until(lambda: heard)
            assert heard == [wire.Superseded(old.digest, new)]
            moved = wire.Superseded(new.digest, old, 9)  # asked for: nothing ends
            await control.send(moved)
            await until(lambda: heard[1:] == [moved])
            made.report_moved(9, 4)
            assert await control.hear(wire.Moved) == wire.Moved(9, 4)

    async def after() -> None:
        seen = Seen()
        async with linked("ws://127.0.0.1:1", tmp_path, seen, KEY) as made:
            await until(lambda: made.lost)
            assert set(seen.tokens) == {new.digest}
            assert [r.key for r in seen.revocations] == [old.digest]
            assert made.revocation_seq == 0

    run(before())
    run(after())


def test_restore_passes_over_a_snapshot_that_fits_no_more(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, _, _):
            await control.send_snapshot(snapshot(3))
            await control.hear(wire.Ack)
        seen = Seen()
        seen.unfit = "not by this release"
        async with pair(tmp_path, seen) as (control, made, _):
            assert control.hellos[0].version == 0 and made.config_version == 0

    run(work())


def test_link_forgets_tokens_of_another_epoch(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            await control.send(
                wire.Tokens([token()]), wire.Revocations([wire.Revocation(9, "token", b"d" * 32)])
            )
            await control.send_snapshot(snapshot(7))
            await control.hear(wire.Ack)
            assert seen.forgotten == 0  # the first epoch replaces none
            other = b"E" * 16
            kept = token()
            await control.send(wire.Heartbeat(other, 1, 0, 0.0), wire.Tokens([kept]))
            await until(lambda: set(seen.tokens) == {kept.digest})
            assert (seen.forgotten, made.epoch) == (1, other)
            assert (made.config_version, made.revocation_seq) == (0, 0)
            await control.send_snapshot(snapshot(1, other))
            assert await control.hear(wire.Ack) == wire.Ack(1)

    run(work())


# --- questions ------------------------------------------------------------------------------------


def test_identical_questions_are_asked_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            one = token()
            asking = [asyncio.create_task(made.ask(one.digest)) for _ in range(5)]
            question = await control.hear(wire.Question)
            asking[0].cancel()  # whoever asked first may leave without harm to the others
            await control.send(wire.Answer(question.id, one))
            assert await asyncio.gather(*asking[1:]) == [one] * 4
            assert not any(isinstance(m, wire.Question) for m in control.heard)
            assert seen.tokens == {one.digest: one}

    run(work())


def test_question_about_nothing_is_answered_none(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            asking = asyncio.create_task(made.ask(b"d" * 32))
            question = await control.hear(wire.Question)
            assert question.digest == b"d" * 32
            await control.send(wire.Answer(12345), wire.Answer(question.id))
            assert await asking is None
            assert seen.tokens == {}

    run(work())


def test_question_is_answered_by_a_token_that_comes_by_itself(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, _):
            one = token()
            asking = asyncio.create_task(made.ask(one.digest))
            question = await control.hear(wire.Question)
            await control.send(wire.Tokens([one]), wire.Answer(question.id))
            assert await asking == one

    run(work())


def test_answer_has_been_through_the_callback_before_its_revocation(tmp_path: Path) -> None:
    """A token and its end arrive at once: the one who asked must not bring the token back."""

    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            one = token()
            asking = asyncio.create_task(made.ask(one.digest))
            question = await control.hear(wire.Question)
            end = wire.Revocation(1, "token", one.digest)
            await control.send(wire.Answer(question.id, one), wire.Revocations([end]))
            assert await asking == one
            await until(lambda: seen.revocations)
            assert seen.tokens == {}

    run(work())


def test_question_without_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "QUESTION_SECONDS", 0.05)

    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            one = token()
            with pytest.raises(LinkDown, match=r"no answer in 0\.05 s"):
                await made.ask(one.digest)
            late = await control.hear(wire.Question)
            await control.send(wire.Answer(late.id, one))
            monkeypatch.setattr(link, "QUESTION_SECONDS", 10)
            asking = asyncio.create_task(made.ask(one.digest))
            question = await control.hear(wire.Question)
            assert question.id != late.id
            await control.send(wire.Answer(question.id, one))
            assert await asking == one and seen.tokens == {one.digest: one}

    run(work())


def test_questions_in_flight_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "QUESTIONS_IN_FLIGHT_MAX", 1)

    async def work() -> None:
        async with pair(tmp_path) as (control, made, _):
            asking = asyncio.create_task(made.ask(b"1" * 32))
            await control.hear(wire.Question)
            with pytest.raises(LinkBusy):
                await made.ask(b"2" * 32)
            asking.cancel()

    run(work())


def test_link_drops_a_control_plane_that_answers_with_another_token(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, seen):
            asking = asyncio.create_task(made.ask(b"1" * 32))
            question = await control.hear(wire.Question)
            await control.send(wire.Answer(question.id, token()))
            with pytest.raises(LinkDown):
                await asking
            assert seen.tokens == {}

    run(work())


# --- token requests -------------------------------------------------------------------------------


def test_requests_are_answered_each_by_its_own_reply(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, _):
            asking = [asked(made.request, request(b"%d" % n)) for n in range(3)]
            heard = [await control.hear(wire.TokenRequest) for _ in range(3)]
            assert len({m.id for m in heard}) == 3
            await control.send(wire.TokenReply(99999, 500, [], b""))
            for message in reversed(heard):
                await control.send(wire.TokenReply(message.id, 200, [], message.body))
            replies = await asyncio.gather(*asking)
            assert [reply.body for reply in replies] == [b"0", b"1", b"2"]

    run(work())


def test_request_without_reply_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REPLY_SECONDS", 0.05)

    async def work() -> None:
        async with pair(tmp_path) as (_, made, _):
            with pytest.raises(LinkDown, match=r"no answer in 0\.05 s"):
                await asked(made.request, request())

    run(work())


def test_requests_in_flight_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TOKEN_REQUESTS_IN_FLIGHT_MAX", 1)

    async def work() -> None:
        async with pair(tmp_path) as (control, made, _):
            asking = asked(made.request, request())
            message = await control.hear(wire.TokenRequest)
            with pytest.raises(LinkBusy):
                await asked(made.request, request())
            await control.send(wire.TokenReply(message.id, 200, [], b""))
            assert (await asking).status == 200
            asked(made.request, request())
            await control.hear(wire.TokenRequest)

    run(work())


# --- losing and finding it again ------------------------------------------------------------------


def test_link_fails_what_waits_when_it_is_lost_and_comes_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, _):
            asking = asyncio.create_task(made.ask(b"1" * 32))
            requesting = asked(made.request, request())
            await control.hear(wire.Question)
            await control.hear(wire.TokenRequest)
            await control.hang_up()
            for task in (asking, requesting):
                with pytest.raises(LinkDown):
                    await task
            await until(lambda: len(control.hellos) == 2 and made.connected)

    run(work())


def test_link_is_down_before_it_was_ever_up(tmp_path: Path) -> None:
    async def work() -> None:
        async with linked("ws://127.0.0.1:1", tmp_path, Seen(), KEY) as made:
            assert "refused" in (await until(lambda: made.lost)).lower() or made.lost
            with pytest.raises(LinkDown):
                await made.ask(b"1" * 32)
            with pytest.raises(LinkDown):
                await asked(made.request, request())

    run(work())


def test_link_leaves_a_control_plane_that_has_gone_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, _):
            monkeypatch.setattr(link, "SILENCE_SECONDS", 0.05)
            await control.send(wire.Heartbeat(EPOCH, 0, 0, 0.0))
            await until(lambda: len(control.hellos) > 1)
            monkeypatch.setattr(link, "SILENCE_SECONDS", 10)
            await until(lambda: made.connected)

    run(work())


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (wire.Refused("the database is gone"), "refused: the database is gone"),
        (wire.Welcome(b"n" * 32, b""), "Welcome out of place"),
        (b"\xc1", "no message"),
        ("text", "no message"),
    ],
    ids=["refused", "out-of-place", "junk", "text"],
)
def test_link_leaves_a_control_plane_that_breaks_the_protocol(
    tmp_path: Path, message: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with pair(tmp_path) as (control, made, _):
            monkeypatch.setattr(link, "backoff_seconds", lambda failures: 60)
            connection = await until(lambda: control.connection)
            assert connection is not None
            raw = message if isinstance(message, bytes | str) else wire.encode(message)
            await connection.send(raw)
            assert why in await until(lambda: made.lost)

    run(work())


def test_link_survives_a_fault_in_a_callback(tmp_path: Path) -> None:
    async def work() -> None:
        seen = Seen()
        faulty = iter([True, False])
        taking = seen.on_tokens

        def on_tokens(tokens: list[wire.Token]) -> None:
            if next(faulty):
                raise RuntimeError("a fault of ours")
            taking(tokens)

        seen.on_tokens = on_tokens  # type: ignore[method-assign]
        async with pair(tmp_path, seen) as (control, made, _):
            control.connection, first = None, control.connection
            assert first is not None
            one = token()
            await first.send(wire.encode(wire.Tokens([one])))
            await control.send(wire.Tokens([one]))
            await until(lambda: seen.tokens)
            assert len(control.hellos) == 2 and made.connected

    run(work())


def test_link_reports_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "COUNTERS_SECONDS", 0.01)

    async def work() -> None:
        said = iter(range(1000))
        counters = lambda: wire.Counters(next(said), 0, 0.0)  # noqa: E731
        async with pair(tmp_path, counters=counters) as (control, _, _):
            assert (await control.hear(wire.Counters)).sessions == 0
            assert (await control.hear(wire.Counters)).sessions == 1

    run(work())


def test_link_waits_longer_only_while_it_gets_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(link, "backoff_seconds", lambda failures: waits.append(failures) or 0.0)

    async def work() -> None:
        async with bare_control() as control:
            control.secret = b"another"
            async with linked(control.url, tmp_path, Seen(), KEY) as made:
                await until(lambda: len(waits) >= 3)
                assert waits[:3] == [1, 2, 3]
                control.secret = b"a secret that both ends know"
                await until(lambda: made.connected)
                waits.clear()
                await control.hang_up()
                await until(lambda: made.connected)
                assert waits[0] == 1
                waits.clear()
                await control.send(wire.Refused("no"))
                await until(lambda: waits)
                assert waits[0] == 2

    run(work())


def test_backoff_doubles_and_is_spread() -> None:
    for failures, ceiling in ((1, 0.2), (2, 0.4), (5, 3.2), (6, 5.0), (10_000, 5.0)):
        found = [backoff_seconds(failures) for _ in range(300)]
        assert dial.BACKOFF_SECONDS_MIN <= min(found) <= max(found) <= ceiling
        assert max(found) - min(found) > (ceiling - dial.BACKOFF_SECONDS_MIN) / 2


def test_client_tls_is_strict(tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ca")
    made = client_tls(*ca.sign("data.test"), ca.ca)
    assert made.minimum_version == ssl.TLSVersion.TLSv1_3
    assert made.check_hostname and made.verify_mode == ssl.CERT_REQUIRED
    with pytest.raises(OSError):
        client_tls(tmp_path / "none", tmp_path / "none", ca.ca)


def test_refusal_is_cut_to_a_line_an_operator_can_read() -> None:
    with pytest.raises(LinkFault) as caught:
        dial.decode(wire.encode(wire.Refused("x" * 5000)))
    assert len(str(caught.value)) < 1100
