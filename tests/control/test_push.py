"""The control plane's end of the link, against data planes of single messages and real ones."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlmodel import select
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from control.oauth2.context import TokenContext
from control.push import LinkTLSError, hub, issuer, link_tls, peer, questions
from control.push.peer import token_messages
from control.push.questions import Recent
from control.push.tls import certificate_names
from control.store import Change, Revoked, Store, queries
from control.store.tables import OAuth2Token
from dataplane import wire
from dataplane.dial import client_tls
from tests.databases import again, new_store
from tests.linkkit import (
    BOUND_SECONDS,
    POLL_SECONDS,
    SECRET,
    Authority,
    Seen,
    asked,
    bare,
    edit,
    fill,
    issue,
    issue_many,
    linked,
    pushing,
    revoke,
    run,
    until,
    version,
)
from tests.linkkit import peer as connected

in_thread = asyncio.to_thread


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


@pytest.fixture
def credential(store: Store) -> str:
    return fill(store)


def epoch(store: Store) -> bytes:
    with store.reading() as session:
        return uuid.UUID(queries.cluster_state(session).epoch).bytes


async def row(push: hub.Push, **expected: Any) -> dict[str, object]:
    """The only row of GET /dataplanes, once it is as expected."""

    def find() -> dict[str, object] | None:
        rows = push.dataplanes()
        return rows[0] if rows and expected.items() <= rows[0].items() else None

    return await until(find)


# --- the greeting ---------------------------------------------------------------------------------


def test_push_proves_the_secret_and_says_its_epoch_first(store: Store, credential: str) -> None:
    async def work() -> None:
        async with pushing(store, software="narthex/1") as push, bare(push.port) as found:
            welcome = await found.greet()
            assert welcome.proof == wire.prove(SECRET, "control", found.nonce, welcome.nonce)
            assert welcome.version == "narthex/1"
            assert welcome.wire == (wire.WIRE_MAJOR, wire.WIRE_MINOR)
            found.heard.clear()
            await found.snapshot()
            first = found.heard[0]
            assert isinstance(first, wire.Heartbeat)
            assert (first.epoch, first.version) == (epoch(store), version(store))
            assert abs(first.now - time.time()) < 60

    run(work())


def test_heartbeat_says_when_all_revocations_went_before(store: Store, credential: str) -> None:
    async def work() -> None:
        revoke(store, *(issue(store, credential) for _ in range(5)))
        async with pushing(store) as push, connected(push) as found:
            beat = await found.hear(wire.Heartbeat)
            assert not beat.settled and beat.revocation_seq == 5
            while not beat.settled:
                beat = await found.hear(wire.Heartbeat)
            sent = [m for m in found.heard if isinstance(m, wire.Revocations)]
            assert [r.seq for m in sent for r in m.revocations] == [1, 2, 3, 4, 5]
        async with (
            pushing(store) as push,
            connected(push, epoch=epoch(store), revocation_seq=5) as known,
        ):
            assert (await known.hear(wire.Heartbeat)).settled

    run(work())


def refusal(store: Store, *messages: Any, **hello: Any) -> str:
    """Why a peer that says this is refused."""

    async def work() -> str:
        async with pushing(store) as push, bare(push.port) as found:
            if hello:
                await found.greet(**hello)
            for message in messages:
                raw = message if isinstance(message, bytes | str) else wire.encode(message)
                await found.connection.send(raw)
            reason = (await found.hear(wire.Refused)).reason
            with pytest.raises(ConnectionClosed) as closed:
                await found.hear(wire.Chunk)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
            assert not any(isinstance(m, wire.Heartbeat | wire.Chunk) for m in found.heard)
            return reason

    return run(work())


def test_s89_peer_that_cannot_prove_the_secret_is_refused(store: Store) -> None:
    assert "did not prove LINK_SECRET" in refusal(store, secret=b"another secret")
    assert "did not prove LINK_SECRET" in refusal(store, wire.Proof(b""), secret=b"")


def test_s89_proof_of_the_control_plane_itself_is_no_proof_of_a_data_plane(store: Store) -> None:
    async def work() -> str:
        async with pushing(store) as push, bare(push.port) as found:
            welcome = await found.greet(secret=b"")
            await found.send(wire.Proof(welcome.proof))
            return (await found.hear(wire.Refused)).reason

    assert "did not prove LINK_SECRET" in run(work())


def test_s89_peer_that_skips_the_proof_gets_nothing(store: Store) -> None:
    assert "has to be Proof" in refusal(store, wire.Question(1, b"d" * 32), secret=b"")
    assert "has to be Hello" in refusal(store, wire.Question(1, b"d" * 32))


def test_push_refuses_another_wire_version_in_words(store: Store) -> None:
    hello = wire.Hello(b"n" * 16, "dp", b"n" * 32, wire=(2, 5))
    assert "speaks wire 1, the data plane 2: run the same release" in refusal(store, hello)


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (wire.Hello(b"n" * 15, "dp", b"n" * 32), "wrong length"),
        (wire.Hello(b"n" * 16, "dp", b"n" * 31), "wrong length"),
        (wire.Hello(b"n" * 16, "x" * 256, b"n" * 32), "too long"),
        (b"\xc1", "not a message"),
        ("text", "not a message"),
    ],
    ids=["node-id", "nonce", "name", "junk", "text"],
)
def test_push_refuses_a_hello_out_of_bounds(store: Store, hello: Any, why: str) -> None:
    assert why in refusal(store, hello)


def test_push_refuses_another_subprotocol(store: Store) -> None:
    async def work() -> None:
        async with pushing(store) as push:
            with pytest.raises(InvalidStatus):
                async with bare(push.port, subprotocols=["narthex.link.2"]):
                    pass

    run(work())


@pytest.mark.parametrize("greets", [False, True], ids=["no-hello", "no-proof"])
def test_push_waits_only_so_long_for_the_greeting(
    store: Store, greets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from control.push import greeting

    monkeypatch.setattr(greeting, "HELLO_SECONDS", 0.05)

    async def work() -> None:
        async with pushing(store) as push, bare(push.port) as found:
            if greets:
                await found.greet(secret=b"")
            with pytest.raises(ConnectionClosed):
                await found.hear(wire.Heartbeat)
            assert push.dataplanes() == []

    run(work())


def test_push_bounds_the_connections_that_have_not_proved_themselves(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "GREETING_MAX", 1)

    async def work() -> None:
        async with pushing(store) as push, bare(push.port) as first:
            await until(lambda: push._greeting)
            with pytest.raises(InvalidStatus) as refused:
                async with bare(push.port):
                    pass
            assert refused.value.response.status_code == 503
            await first.greet()
            await first.hear(wire.Heartbeat)
            async with bare(push.port) as second:
                await second.greet(node_id=b"m" * 16)

    run(work())


@pytest.mark.parametrize("ahead", [{"version": 99}, {"revocation_seq": 99}])
def test_push_refuses_a_data_plane_that_knows_more(store: Store, ahead: dict[str, int]) -> None:
    reason = refusal(store, secret=SECRET, **{"epoch": epoch(store), "version": 0, **ahead})
    assert "put back to an older state" in reason


def test_push_says_that_its_database_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise OSError("disk I/O error")

    monkeypatch.setattr(store, "reading", fail)
    assert "cannot read its database" in refusal(store, secret=SECRET)


def test_push_bounds_its_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "DATAPLANES_MAX", 1)

    async def work() -> None:
        async with pushing(store) as push:
            async with connected(push, node_id=b"1" * 16) as first:
                await first.hear(wire.Heartbeat)
                async with bare(push.port) as second:
                    await second.greet(node_id=b"2" * 16)
                    assert "connected already" in (await second.hear(wire.Refused)).reason
            await row(push, connected=False)
            async with connected(push, node_id=b"3" * 16) as third:
                await third.hear(wire.Heartbeat)
                assert [r["id"] for r in push.dataplanes()] == [str(uuid.UUID(bytes=b"3" * 16))]

    run(work())


# --- certificates ---------------------------------------------------------------------------------


class Certificates:
    def __init__(self, folder: Path) -> None:
        self.ca = Authority(folder, "ca")
        self.foreign = Authority(folder, "foreign")
        self.control = self.ca.sign("control.test")
        self.good = self.ca.sign("dp-1.test")
        self.other = self.ca.sign("dp-2.test")

    def server(self, crl: Path | None = None) -> ssl.SSLContext:
        return link_tls(*self.control, self.ca.ca, crl)

    def client(self, pair: tuple[Path, Path]) -> ssl.SSLContext:
        return client_tls(*pair, self.ca.ca)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def greets(store: Store, server: ssl.SSLContext, client: ssl.SSLContext, **options: Any) -> bool:
    """Whether a peer with this TLS gets as far as the first heartbeat."""

    async def work() -> bool:
        async with pushing(store, ssl=server, **options) as push:
            try:
                async with bare(push.port, ssl=client) as found:
                    await found.greet(secret=b"no secret is asked for")
                    await found.hear(wire.Heartbeat)
                    return True
            except (ssl.SSLError, ConnectionError, ConnectionClosed, InvalidHandshake):
                assert push.dataplanes() == []
                return False

    return run(work())


def test_s89_listed_certificate_proves_the_data_plane(
    store: Store, certificates: Certificates
) -> None:
    crl = certificates.ca.revoke(certificates.other[0])
    server, client = certificates.server(crl), certificates.client(certificates.good)
    assert greets(store, server, client, names=["dp-1.test", "dp-9.test"])
    assert greets(store, server, client)


def test_s89_no_certificate_is_refused(store: Store, certificates: Certificates) -> None:
    nobody = ssl.create_default_context(cafile=str(certificates.ca.ca))
    assert not greets(store, certificates.server(), nobody)


def test_s89_expired_certificate_is_refused(store: Store, certificates: Certificates) -> None:
    expired = certificates.client(certificates.ca.sign("dp-1.test", days=-1))
    assert not greets(store, certificates.server(), expired)


def test_s89_certificate_of_a_foreign_authority_is_refused(
    store: Store, certificates: Certificates
) -> None:
    foreign = certificates.client(certificates.foreign.sign("dp-1.test"))
    assert not greets(store, certificates.server(), foreign)


def test_s89_certificate_that_is_not_listed_is_refused(
    store: Store, certificates: Certificates
) -> None:
    client = certificates.client(certificates.other)
    assert not greets(store, certificates.server(), client, names=["dp-1.test"])


def test_s89_revoked_certificate_is_refused(store: Store, certificates: Certificates) -> None:
    client = certificates.client(certificates.good)
    assert greets(store, certificates.server(), client)
    assert not greets(
        store, certificates.server(certificates.ca.revoke(certificates.good[0])), client
    )


def test_s89_data_plane_changes_no_row_but_its_own(
    store: Store, certificates: Certificates
) -> None:
    async def work() -> None:
        async with (
            pushing(store, ssl=certificates.server()) as push,
            bare(push.port, ssl=certificates.client(certificates.good)) as own,
        ):
            await own.greet(name="own")
            await own.hear(wire.Heartbeat)
            before = push.dataplanes()
            assert before[0]["certificate"] == "dp-1.test"
            async with bare(push.port, ssl=certificates.client(certificates.other)) as strange:
                await strange.greet(name="strange")
                reason = (await strange.hear(wire.Refused)).reason
                assert "another certificate" in reason
            assert push.dataplanes()[0] == before[0]
            async with bare(push.port, ssl=certificates.client(certificates.other)) as second:
                await second.greet(node_id=b"2" * 16, name="second")
                await second.snapshot()
                await second.send(wire.Nack(version(store), "not mine"))
                await second.send(wire.Counters(9, 9, 9.0))
                await until(lambda: push.dataplanes()[1]["sessions"] == 9)
                assert push.dataplanes()[0]["sessions"] == 0
                assert push.dataplanes()[0]["hostname"] == "own"

    run(work())


def test_link_tls_speaks_1_3_alone(certificates: Certificates) -> None:
    made = certificates.server()
    assert made.minimum_version == ssl.TLSVersion.TLSv1_3
    assert made.verify_mode == ssl.CERT_REQUIRED and made.num_tickets == 0


@pytest.mark.parametrize("name", ["cert", "key", "ca", "crl"])
@pytest.mark.parametrize("broken", ["missing", "junk"])
def test_link_tls_names_the_file_it_cannot_use(
    certificates: Certificates, tmp_path: Path, name: str, broken: str
) -> None:
    bad = tmp_path / "bad.pem"
    if broken == "junk":
        bad.write_text("no PEM")
    files = dict(zip(("cert", "key"), certificates.control, strict=True))
    files |= {"ca": certificates.ca.ca, "crl": certificates.ca.revoke()}
    link_tls(**files)
    with pytest.raises(LinkTLSError, match=str(bad)) as caught:
        link_tls(**{**files, name: bad})
    assert f"LINK_{name.upper()}" in str(caught.value)


def test_link_tls_refuses_a_certificate_for_a_revocation_list(certificates: Certificates) -> None:
    with pytest.raises(LinkTLSError, match="no certificate revocation list"):
        link_tls(*certificates.control, certificates.ca.ca, certificates.ca.ca)


# --- snapshots ------------------------------------------------------------------------------------


def test_push_sends_the_whole_configuration_and_records_the_ack(
    store: Store, credential: str
) -> None:
    async def work() -> None:
        async with pushing(store) as push:
            async with connected(push, software="narthex/1") as found:
                snapshot = await found.snapshot(ack=False)
                assert (snapshot.epoch, snapshot.version) == (epoch(store), version(store))
                assert [len(x) for x in (snapshot.services, snapshot.routes)] == [1, 1]
                assert snapshot.credentials[0].id == uuid.UUID(credential).bytes
                waiting = await row(push, sync_status="pending", connected=True)
                assert waiting["config_version"] == 0 and waiting["version"] == "narthex/1"
                await found.send(wire.Ack(snapshot.version))
                shown = await row(push, sync_status="normal", config_version=snapshot.version)
                assert (shown["hostname"], shown["ip"]) == ("bare", "127.0.0.1")
                assert abs(int(str(shown["last_seen"])) - time.time()) < 60
            await row(push, sync_status="disconnected", connected=False)

    run(work())


def test_push_sends_no_secret(store: Store, credential: str) -> None:
    async def work() -> bytes:
        async with pushing(store) as push, connected(push) as found:
            return wire.pack_snapshot(await found.snapshot())

    assert b"not to be sent" not in run(work())


def test_push_sends_nothing_to_who_has_it_all(store: Store, credential: str) -> None:
    async def work() -> None:
        async with pushing(store) as push:
            known = {"epoch": epoch(store), "version": version(store)}
            async with connected(push, **known) as found:
                shown = await row(push, sync_status="normal")
                assert shown["config_version"] == version(store)
                later = await in_thread(edit, store)
                assert (await found.snapshot()).version == later
                chunks = [m for m in found.heard if isinstance(m, wire.Chunk)]
                assert {chunk.version for chunk in chunks} == {later}

    run(work())


def test_push_sends_the_snapshot_to_who_has_that_version_of_another_epoch(
    store: Store, credential: str
) -> None:
    async def work() -> None:
        async with (
            pushing(store) as push,
            connected(push, epoch=b"x" * 16, version=version(store)) as found,
        ):
            assert (await found.snapshot()).version == version(store)

    run(work())


def test_push_records_a_refusal_and_goes_on_with_the_next_version(
    store: Store, credential: str
) -> None:
    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            first = await found.snapshot(ack=False)
            await found.send(wire.Nack(first.version, "two routes alike"))
            shown = await row(push, sync_status="refused")
            assert shown["refused_version"] == first.version
            assert shown["refused_reason"] == "two routes alike"
            later = await in_thread(edit, store)
            assert (await found.snapshot()).version == later
            shown = await row(push, sync_status="normal", config_version=later)
            assert shown["refused_reason"] is None

    run(work())


def test_push_has_one_snapshot_in_flight_and_the_newest_goes_next(
    store: Store, credential: str
) -> None:
    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            first = await found.snapshot(ack=False)
            seen = []
            for _ in range(4):
                seen.append(await in_thread(edit, store))
                await until(lambda: push._built and push._built.version == seen[-1])
            # What is queued would be sent before a token that is issued now.
            digest = await in_thread(issue, store, credential)
            assert digest in [t.digest for t in (await found.hear(wire.Tokens)).tokens]
            assert not any(isinstance(m, wire.Chunk) for m in found.heard[-1:])
            await found.send(wire.Ack(first.version - 1))  # not the one in flight: no effect
            await found.send(wire.Ack(first.version))
            assert (await found.snapshot()).version == seen[-1]
            versions = {m.version for m in found.heard if isinstance(m, wire.Chunk)}
            assert versions == {first.version, seen[-1]}

    run(work())


def test_push_puts_writes_together(store: Store, credential: str) -> None:
    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.snapshot()

            def write() -> int:
                for _ in range(30):
                    last = edit(store)
                return last

            last = await in_thread(write)
            versions = []
            while not versions or versions[-1] < last:
                versions.append((await found.snapshot()).version)
            assert versions == sorted(set(versions)) and len(versions) < 20

    run(work())


def test_push_notices_what_another_process_writes(store: Store, credential: str) -> None:
    """Another `Store` on the same database: nobody calls this one's subscribers."""
    other = again(store)

    async def work() -> None:
        digest = issue(store, credential, by_hand=True)
        async with pushing(store) as push, connected(push) as found:
            await found.snapshot()
            later = await in_thread(edit, other)
            assert (await found.snapshot()).version == later
            await in_thread(revoke, other, digest)
            heard = await found.hear(wire.Revocations)
            assert [r.key for r in heard.revocations] == [digest]

    run(work())


def test_push_builds_nothing_for_nobody(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with pushing(store) as push:
            later = await in_thread(edit, store)
            await until(lambda: push._state.version == later and not push._wanted.is_set())
            assert push._built is None
            async with connected(push) as found:
                await found.snapshot()
            built = push._built
            await row(push, connected=False)
            async with connected(push) as found:
                await found.snapshot()
            assert push._built is built is not None

    run(work())


def test_push_tries_again_when_a_snapshot_cannot_be_built(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(wire, "SNAPSHOT_BYTES_MAX", 10)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.hear(wire.Heartbeat)
            digest = await in_thread(issue, store, credential)
            heard = await found.hear(wire.Tokens)
            assert heard.tokens[0].digest == digest
            assert push._built is None
            monkeypatch.setattr(wire, "SNAPSHOT_BYTES_MAX", 10**6)
            assert (await found.snapshot()).version == version(store)

    run(work())


def test_push_drops_who_never_acks(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "ACK_SECONDS_MAX", 0.0)
    monkeypatch.setattr(wire, "HEARTBEAT_SECONDS", 0.01)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            with pytest.raises(ConnectionClosed):
                while True:
                    await found.hear(wire.Heartbeat)

    run(work())


# --- tokens and revocations -----------------------------------------------------------------------


def test_push_sends_a_token_the_moment_it_is_issued(store: Store, credential: str) -> None:
    async def work() -> None:
        async with (
            pushing(store) as push,
            connected(push) as one,
            connected(push, node_id=b"2" * 16) as two,
        ):
            await one.snapshot()
            await two.snapshot()
            digest = await in_thread(issue, store, credential)
            for found in (one, two):
                (token,) = (await found.hear(wire.Tokens)).tokens
                assert token.digest == digest
                assert token.credential == uuid.UUID(credential).bytes
                assert (token.scope, token.service) == ("email", None)
                assert token.version == version(store)
                assert abs(token.expires_at - time.time() - 3600) < 60

    run(work())


def test_push_replays_tokens_made_by_hand(store: Store, credential: str) -> None:
    by_hand = {issue(store, credential, by_hand=True) for _ in range(3)}
    issue(store, credential)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            heard = await found.hear(wire.Tokens)
            assert {token.digest for token in heard.tokens} == by_hand

    run(work())


def test_push_replays_the_revocations_that_were_missed(store: Store, credential: str) -> None:
    digests = [issue(store, credential) for _ in range(5)]
    for digest in digests:
        revoke(store, digest)

    async def hear(push: hub.Push, **hello: Any) -> list[int]:
        async with connected(push, **hello) as found:
            return [r.seq for r in (await found.hear(wire.Revocations)).revocations]

    async def work() -> None:
        async with pushing(store) as push:
            ours = epoch(store)
            assert await hear(push) == [1, 2, 3, 4, 5]
            assert await hear(push, epoch=ours, revocation_seq=2) == [3, 4, 5]
            assert await hear(push, epoch=b"x" * 16, revocation_seq=2) == [1, 2, 3, 4, 5]
            async with connected(push, epoch=ours, revocation_seq=5) as found:
                late = await in_thread(issue, store, credential)
                await in_thread(revoke, store, late)
                (heard,) = (await found.hear(wire.Revocations)).revocations
                assert (heard.seq, heard.kind, heard.key) == (6, "token", late)

    run(work())


def test_push_replays_in_messages_of_bounded_size(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TOKENS_PER_MESSAGE", 2)
    revoke(store, *[issue(store, credential) for _ in range(5)])
    for _ in range(3):
        issue(store, credential, by_hand=True)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            seqs: list[list[int]] = []
            while len(seqs) < 3:
                heard = await found.hear(wire.Revocations)
                seqs.append([r.seq for r in heard.revocations])
            assert seqs == [[1, 2], [3, 4], [5]]
            tokens = [m for m in found.heard if isinstance(m, wire.Tokens)]
            while sum(len(m.tokens) for m in tokens) < 3:
                tokens.append(await found.hear(wire.Tokens))
            assert max(len(m.tokens) for m in tokens) == 2

    run(work())


def test_push_leaves_no_hole_in_the_revocations(store: Store, credential: str) -> None:
    """One that comes out of turn makes the ones before it be read, in their order."""
    digests = [issue(store, credential) for _ in range(3)]

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.snapshot()
            (target,) = push._peers.values()
            await until(lambda: not target.catching_up)
            hearing = store._subscribers[:]
            store._subscribers.clear()  # two commits whose news gets lost
            await in_thread(revoke, store, digests[0])
            await in_thread(revoke, store, digests[1])
            store._subscribers[:] = hearing
            await in_thread(revoke, store, digests[2])
            seqs: list[int] = []
            while len(seqs) < 3:
                seqs += [r.seq for r in (await found.hear(wire.Revocations)).revocations]
            assert seqs == [1, 2, 3]

    run(work())


def test_push_ends_a_connection_whose_replay_fails(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError("disk I/O error")

    monkeypatch.setattr(queries, "tokens_to_replay", fail)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            with pytest.raises(ConnectionClosed):
                while True:
                    await found.hear(wire.Chunk)
            assert push.listening.is_set()

    run(work())


def test_push_says_a_fault_of_its_own_before_the_connection_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(hub.Push, "_handle", fail)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.send(wire.Counters(1, 2, 3.0))
            with pytest.raises(ConnectionClosed):
                await found.hear(wire.Answer)
            assert push.listening.is_set()

    with structlog.testing.capture_logs() as logged:
        run(work())
    assert [line["exc_info"] for line in logged if line["event"] == "link.fault"] == [True]


def test_push_starts_over_when_the_database_is_another(store: Store, credential: str) -> None:
    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.snapshot()
            with store.writing() as session:
                from sqlalchemy import text

                other = str(uuid.uuid4())
                session.execute(text("UPDATE cluster_state SET epoch = :e"), {"e": other})
            with pytest.raises(ConnectionClosed):
                while True:
                    await found.hear(wire.Chunk)
            async with connected(push) as again:
                assert (await again.snapshot()).epoch == uuid.UUID(other).bytes

    run(work())


def test_push_serves_on_while_the_database_cannot_be_read(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(wire, "HEARTBEAT_SECONDS", 0.02)
    failures: list[int] = []

    def fail() -> Any:
        failures.append(1)
        raise OSError("disk I/O error")

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.snapshot()
            looking, looked = push._questions._lookup, []

            async def look(digests: Any) -> Any:
                try:
                    return await looking(digests)
                finally:
                    looked.append(digests)

            push._questions._lookup = look
            with monkeypatch.context() as gone:
                gone.setattr(store, "reading", fail)
                await until(lambda: len(failures) > 2)
                await found.send(wire.Question(1, b"d" * 32))  # not answered, and no harm
                await found.hear(wire.Heartbeat)
                await until(lambda: looked)
            later = await in_thread(edit, store)
            assert (await found.snapshot()).version == later
            assert not any(isinstance(m, wire.Answer) for m in found.heard)

    run(work())


def test_token_messages_stay_within_one_message() -> None:
    def token(scope: str) -> wire.Token:
        return wire.Token(secrets.token_bytes(32), b"c" * 16, 0.0, scope=scope)

    tokens = [token("é" * 50_000) for _ in range(10)] + [token("x") for _ in range(2500)]
    messages = token_messages([*tokens, token("x" * wire.MESSAGE_BYTES_MAX)])
    assert max(map(len, messages)) <= wire.MESSAGE_BYTES_MAX
    found = [wire.decode_to_data(m) for m in messages]
    sent = [t for m in found if isinstance(m, wire.Tokens) for t in m.tokens]
    assert sent == tokens  # all but the one that fits no message
    assert token_messages([]) == []


def test_recent_knows_what_was_revoked_since() -> None:
    recent = Recent()
    one = wire.Token(b"1" * 32, b"c" * 16, 0.0)
    two = wire.Token(b"2" * 32, b"d" * 16, 0.0)
    with recent.reading() as start:
        recent.note([Revoked(1, "token", one.digest, 0.0)])
        assert recent.touched(one, start) and not recent.touched(two, start)
        with recent.reading() as start:
            assert not recent.touched(one, start)
            recent.note([Revoked(2, "credential", two.credential, 0.0)])
            assert recent.touched(two, start) and not recent.touched(one, start)
        with recent.reading() as start:
            recent.note([Revoked(3, "consumer", b"u" * 16, 0.0)])
            assert recent.touched(one, start) and recent.touched(two, start)


def test_recent_keeps_nothing_while_nobody_reads() -> None:
    recent = Recent()
    one = wire.Token(b"1" * 32, b"c" * 16, 0.0)
    recent.note([Revoked(1, "token", one.digest, 0.0)])
    assert not recent._keys
    with recent.reading():
        with recent.reading() as start:
            recent.note([Revoked(2, "token", one.digest, 0.0)])
        assert recent.touched(one, start)  # the first one reads on
    assert not recent._keys


def test_recent_is_bounded_and_errs_on_the_safe_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "RECENT_MAX", 2)
    recent = Recent()
    one = wire.Token(b"1" * 32, b"c" * 16, 0.0)
    with recent.reading() as start:
        recent.note([Revoked(1, "token", one.digest, 0.0)])
        recent.note([Revoked(n, "token", b"%032d" % n, 0.0) for n in (2, 3)])
        assert len(recent._keys) == 2
        assert recent.touched(one, start)


# --- questions ------------------------------------------------------------------------------------


def test_push_answers_questions(store: Store, credential: str) -> None:
    digest = issue(store, credential)
    expired = issue(store, credential, expires_in=-1)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            for id_, asked in enumerate((digest, expired, b"d" * 32)):
                await found.send(wire.Question(id_, asked))
            answers = [await found.hear(wire.Answer) for _ in range(3)]
            assert [a.id for a in answers] == [0, 1, 2]
            assert answers[0].token is not None and answers[0].token.digest == digest
            assert answers[1].token is None and answers[2].token is None

    run(work())


def test_push_answers_many_questions_in_batches(store: Store, credential: str) -> None:
    digests = [issue(store, credential) for _ in range(10)]

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            count = 3 * questions.BATCH_MAX
            for id_ in range(count):
                await found.send(wire.Question(id_, digests[id_ % 10]))
            answers = [await found.hear(wire.Answer) for _ in range(count)]
            assert [a.id for a in answers] == list(range(count))
            assert all(a.token and a.token.digest == digests[a.id % 10] for a in answers)

    run(work())


def test_push_asks_again_when_a_change_overtakes_the_answer(store: Store, credential: str) -> None:
    """The row was read, then it was made to end sooner: what was read must not undo that."""
    digest = issue(store, credential)
    looked, go_on = threading.Event(), threading.Event()

    def shorten() -> None:
        with store.writing() as session:
            (row,) = session.exec(select(OAuth2Token)).all()
            row.expires_in, row.scope = 7, "less"
            session.note_token(queries.issued_token(row))

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.snapshot()
            looking = push._questions._lookup

            async def slow(digests: Any) -> Any:
                tokens = await looking(digests)
                if not looked.is_set():
                    looked.set()
                    await in_thread(go_on.wait, 10)
                return tokens

            push._questions._lookup = slow
            await found.send(wire.Question(1, digest))
            await until(looked.is_set)
            await in_thread(shorten)
            pushed = (await found.hear(wire.Tokens)).tokens
            go_on.set()
            answer = (await found.hear(wire.Answer)).token
            assert answer is not None and answer.scope == "less"
            assert answer.expires_at == pushed[0].expires_at

    run(work())


def test_push_replays_no_token_that_changed_while_it_was_read(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = issue(store, credential, by_hand=True)
    reading = queries.tokens_to_replay

    def overtaken(*asked: Any) -> Any:
        found = list(reading(*asked))
        with store.writing() as writing:
            token = found[0]._replace(scope="less")
            writing.note_token(token)
        return found

    monkeypatch.setattr(queries, "tokens_to_replay", overtaken)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            heard = (await found.hear(wire.Tokens)).tokens
            assert [(t.digest, t.scope) for t in heard] == [(digest, "less")]
            await found.send(wire.Question(1, b"d" * 32))
            assert await found.hear(wire.Answer) == wire.Answer(1, None)
            later = [m for m in found.heard if isinstance(m, wire.Tokens)]
            assert [t.scope for m in later for t in m.tokens] == ["less"]

    run(work())


def test_push_replays_again_what_a_consumers_end_may_have_touched(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens do not name their consumer, so that any of them may have been its."""
    digest = issue(store, credential, by_hand=True)
    reading, reads = queries.tokens_to_replay, 0

    def overtaken(*asked: Any) -> Any:
        nonlocal reads
        reads += 1
        found = list(reading(*asked))
        if reads == 1:
            with store.writing() as writing:
                writing.note_revocation("consumer", b"c" * 16, 0.0)
        return found

    monkeypatch.setattr(queries, "tokens_to_replay", overtaken)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            heard = (await found.hear(wire.Tokens)).tokens
            assert [token.digest for token in heard] == [digest]
            assert reads == 2

    run(work())


async def replayed(found: Any, count: int) -> list[int]:
    """The sizes of the messages in which this many tokens came, each once."""
    digests: set[bytes] = set()
    sizes = []
    while len(digests) < count:
        heard = (await found.hear(wire.Tokens)).tokens
        sizes.append(len(heard))
        assert digests.isdisjoint(token.digest for token in heard)
        digests |= {token.digest for token in heard}
    return sizes


def test_push_replays_many_tokens_a_part_at_a_time(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "REPLAYED_AT_ONCE", 3)
    monkeypatch.setattr(peer, "ROOM_BYTES", 0)  # each part is taken before the next is read
    waiting: list[int] = []
    reading = queries.tokens_to_replay

    def watched(*asked: Any) -> Any:
        waiting.extend(p._urgent_bytes for p in push_of[0]._peers.values())
        return reading(*asked)

    monkeypatch.setattr(queries, "tokens_to_replay", watched)
    push_of: list[hub.Push] = []
    issue_many(store, credential, 8, by_hand=True)

    async def work() -> None:
        async with pushing(store) as push:
            push_of.append(push)
            async with connected(push) as found:
                assert await replayed(found, 8) == [3, 3, 2]
        assert waiting[1:] == [0, 0]

    run(work())


def test_push_replays_what_one_transaction_makes_too_many_of(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PUSHED_MAX", 4)
    monkeypatch.setattr(hub, "REPLAYED_AT_ONCE", 3)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.snapshot()
            await in_thread(issue_many, store, credential, 4, True)
            assert await replayed(found, 4) == [4]
            await in_thread(issue_many, store, credential, 5, True)
            digests: set[bytes] = set()
            while len(digests) < 9:
                heard = (await found.hear(wire.Tokens)).tokens
                assert len(heard) <= 3
                digests |= {token.digest for token in heard}

    run(work())


def test_push_asks_again_when_a_revocation_overtakes_the_answer(
    store: Store, credential: str
) -> None:
    """The row was read, then the token was revoked: the stale yes must not follow the no."""
    digest = issue(store, credential)
    looked, go_on = threading.Event(), threading.Event()

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.snapshot()
            looking = push._questions._lookup
            lookups: list[int] = []

            async def slow(digests: Any) -> Any:
                tokens = await looking(digests)
                lookups.append(len(tokens))
                if len(lookups) == 1:
                    looked.set()
                    await in_thread(go_on.wait, 10)
                return tokens

            push._questions._lookup = slow
            await found.send(wire.Question(1, digest))
            await until(looked.is_set)
            await in_thread(revoke, store, digest)
            await found.hear(wire.Revocations)
            go_on.set()
            assert await found.hear(wire.Answer) == wire.Answer(1, None)
            assert lookups == [1, 1]

    run(work())


def test_push_drops_questions_over_its_bound(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "QUESTIONS_MAX", 0)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.send(wire.Question(1, b"d" * 32))
            await found.send(wire.Counters(1, 2, 3.0))
            await row(push, sessions=1, handshakes=2, uptime=3)
            assert not push._questions._waiting

    run(work())


def test_push_answers_none_for_a_token_that_fits_no_message(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = issue(store, credential)
    monkeypatch.setattr(questions, "TOKENS_BYTES_MAX", 10)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.send(wire.Question(1, digest))
            assert await found.hear(wire.Answer) == wire.Answer(1, None)

    run(work())


# --- token requests -------------------------------------------------------------------------------


def request(id_: int = 1, **changed: Any) -> wire.TokenRequest:
    fields = {
        "plugin": b"p" * 16,
        "route": b"r" * 16,
        "client_ip": "2001:db8::1",
        "tls": True,
        "method": "POST",
        "path": "/token%20route/oauth2/token",
        **changed,
    }
    return wire.TokenRequest(id=id_, **fields)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An issuer that answers with what it was given."""
    message = await receive()
    assert message["type"] == "http.request" and not message["more_body"]
    context = scope["narthex"]
    assert isinstance(context, TokenContext)
    said = {
        "method": scope["method"],
        "scheme": scope["scheme"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "headers": [[k.decode(), v.decode()] for k, v in scope["headers"]],
        "client": scope["client"][0],
        "body": message["body"].decode(),
        "context": [
            context.plugin_id,
            context.route_id,
            context.service_id,
            context.client_ip,
            context.tls,
            context.peer_trusted,
            context.request_id,
        ],
    }
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": json.dumps(said).encode(), "more_body": True})
    await send({"type": "http.response.body"})
    assert (await receive())["type"] == "http.disconnect"


def test_push_hands_a_token_request_to_the_issuer(store: Store) -> None:
    async def work() -> wire.TokenReply:
        async with pushing(store, echo) as push, connected(push) as found:
            asked = request(
                7,
                service=b"s" * 16,
                query=b"a=1",
                headers=[(b"Authorization", b"Basic x")],
                body=b"grant_type=x",
                peer_trusted=True,
                request_id="req-1",
            )
            await found.send(asked)
            return await found.hear(wire.TokenReply)

    reply = run(work())
    assert (reply.id, reply.status, reply.headers) == (7, 200, [(b"x", b"y")])
    plugin, route, service = (str(uuid.UUID(bytes=c * 16)) for c in (b"p", b"r", b"s"))
    assert json.loads(reply.body) == {
        "method": "POST",
        "scheme": "https",
        "path": "/token route/oauth2/token",
        "raw_path": "/token%20route/oauth2/token",
        "query": "a=1",
        "headers": [["authorization", "Basic x"]],
        "client": "2001:db8::1",
        "body": "grant_type=x",
        "context": [plugin, route, service, "2001:db8::1", True, True, "req-1"],
    }


def issued(**changed: Any) -> tuple[wire.TokenReply, dict[str, Any]]:
    """The reply of a faulty issuer, and its body."""
    app = changed.pop("app")
    replies: list[wire.TokenReply] = []
    run(issuer.answer(issuer.Issuer(app), [request(**changed)], replies.append))
    (reply,) = replies
    return reply, json.loads(reply.body)


async def silent(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


async def breaking(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("client_secret=hunter2")


async def mute(scope: Any, receive: Any, send: Any) -> None:
    assert scope["scheme"] == "http" and scope["narthex"].service_id is None


async def endless(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})


def test_issuer_that_is_too_slow_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TOKEN_REQUEST_SECONDS", 0.05)
    reply, body = issued(app=silent)
    assert (reply.status, body["error"]) == (503, "temporarily_unavailable")
    assert body["error_description"] and (b"retry-after", b"1") in reply.headers
    assert (b"cache-control", b"no-store") in reply.headers


@pytest.mark.parametrize("app", [breaking, mute, endless])
def test_issuer_that_breaks_is_an_error_without_details(app: Any) -> None:
    reply, body = issued(app=app, tls=False)
    assert (reply.status, body["error"]) == (500, "server_error")
    assert b"hunter2" not in reply.body and b"RuntimeError" not in reply.body


def test_issuer_is_not_asked_with_a_body_beyond_the_bound() -> None:
    reply, body = issued(app=breaking, body=b"x" * (wire.TOKEN_REQUEST_BODY_MAX + 1))
    assert (reply.status, body["error"]) == (413, "invalid_request")


def test_push_answers_503_to_more_token_requests_than_it_takes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = asyncio.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    monkeypatch.setattr(wire, "TOKEN_REQUESTS_IN_FLIGHT_MAX", 3)

    async def work() -> None:
        async with pushing(store, waiting) as push, connected(push) as found:
            for id_ in range(4):
                await found.send(request(id_))
            reply = await found.hear(wire.TokenReply)
            assert (reply.id, reply.status) == (3, 503)
            assert json.loads(reply.body)["error"] == "temporarily_unavailable"
            assert (b"retry-after", b"1") in reply.headers
            go_on.set()
            replies = [await found.hear(wire.TokenReply) for _ in range(3)]
            assert {(r.id, r.status) for r in replies} == {(0, 200), (1, 200), (2, 200)}
            await found.send(request(9))
            assert (await found.hear(wire.TokenReply)).status == 200

    run(work())


@pytest.mark.parametrize("threaded", [True, False], ids=["in-a-thread", "in-the-loop"])
def test_push_sends_the_token_before_the_reply_that_has_it(
    store: Store, credential: str, threaded: bool
) -> None:
    async def issuing(scope: Any, receive: Any, send: Any) -> None:
        issued = await in_thread(issue, store, credential) if threaded else issue(store, credential)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": issued})

    async def work() -> None:
        async with pushing(store, issuing) as push, connected(push) as found:
            await found.hear(wire.Heartbeat)
            for id_ in range(20):
                await found.send(request(id_))
                reply = await found.hear(wire.TokenReply)
                known = [
                    t.digest for m in found.heard if isinstance(m, wire.Tokens) for t in m.tokens
                ]
                assert reply.body in known

    run(work())


# --- misuse and slowness --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (wire.encode(wire.Proof(b"")), "Proof is out of place"),
        (wire.encode(wire.Hello(b"n" * 16, "dp", b"n" * 32)), "Hello is out of place"),
        (b"\xc1", "not a message"),
    ],
)
def test_push_ends_a_connection_that_breaks_the_protocol(
    store: Store, message: bytes, why: str
) -> None:
    async def work() -> None:
        async with pushing(store) as push, connected(push) as found:
            await found.connection.send(message)
            assert why in (await found.hear(wire.Refused)).reason
            await row(push, connected=False)

    run(work())


def test_push_replaces_the_connection_a_data_plane_has_lost(store: Store) -> None:
    async def work() -> None:
        async with pushing(store) as push, connected(push, name="old") as old:
            await old.hear(wire.Heartbeat)
            async with connected(push, name="new") as new:
                await new.snapshot()
                with pytest.raises(ConnectionClosed):
                    while True:
                        await old.hear(wire.Chunk)
                await row(push, hostname="new", connected=True, sync_status="normal")
                assert len(push.dataplanes()) == 1

    run(work())


def test_push_drops_a_data_plane_that_takes_too_little(
    store: Store, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "URGENT_BYTES_MAX", 200_000)

    async def work() -> None:
        async with pushing(store) as push, connected(push) as slow:
            await slow.snapshot()
            scope = "x" * 60_000
            token = wire.Token(b"d" * 32, b"c" * 16, 0.0, scope=scope)
            (target,) = push._peers.values()
            (message,) = token_messages([token])
            while not target.slow:
                target.send(message)
            target.send(message)
            assert target._urgent_bytes < 400_000 and not target._urgent
            await row(push, connected=False)

    run(work())


def test_push_ignores_the_store_when_it_serves_no_more(store: Store, credential: str) -> None:
    async def work() -> hub.Push:
        async with pushing(store) as push:
            return push

    push = run(work())
    edit(store)
    issue(store, credential)
    push._loop = loop = asyncio.new_event_loop()
    loop.close()
    push._committed(Change(1, (), ()))
    assert push.dataplanes() == []


def test_push_says_goodbye_when_it_ends(store: Store) -> None:
    async def work() -> None:
        async with pushing(store) as push:
            task = asyncio.current_task()
            assert task is not None
            async with connected(push) as found:
                await found.snapshot()
                port = push.port
        with pytest.raises(OSError):
            async with bare(port):
                pass

    run(work())


def test_push_raises_when_its_port_is_taken(store: Store) -> None:
    async def work() -> None:
        async with pushing(store) as push:
            other = hub.Push(store, issuer.Issuer(echo), SECRET)
            with pytest.raises(OSError):
                await other.serve("127.0.0.1", push.port)

    run(work())


def test_certificate_names_of_a_plain_connection_are_none(store: Store) -> None:
    async def work() -> list[str]:
        async with pushing(store) as push, connected(push) as found:
            await found.hear(wire.Heartbeat)
            (target,) = push._peers.values()
            return certificate_names(target.connection)

    assert run(work()) == []


# --- both planes ----------------------------------------------------------------------------------


def test_link_follows_push(store: Store, credential: str, tmp_path: Path) -> None:
    async def work() -> None:
        seen = Seen()
        async with (
            pushing(store, echo) as push,
            linked(f"ws://127.0.0.1:{push.port}", tmp_path, seen) as link,
        ):
            await until(lambda: link.config_version == version(store))
            later = await in_thread(edit, store)
            await until(lambda: link.config_version >= later)
            digest = await in_thread(issue, store, credential)
            await until(lambda: digest in seen.tokens)
            assert await link.ask(digest) == seen.tokens[digest]
            await in_thread(revoke, store, digest)
            await until(lambda: digest not in seen.tokens)
            assert await link.ask(digest) is None
            assert (await asked(link.request, request())).status == 200
            await row(push, sync_status="normal", config_version=later)

    run(work())


def test_link_comes_back_when_the_control_plane_does(
    store: Store, credential: str, tmp_path: Path
) -> None:
    async def work() -> None:
        seen = Seen()
        async with pushing(store) as push:
            port = push.port
            async with linked(f"ws://127.0.0.1:{port}", tmp_path, seen) as link:
                await until(lambda: link.config_version)
                digest = await in_thread(issue, store, credential)
                await until(lambda: digest in seen.tokens)
                push._loop = None  # what happens from here on, nobody is told
                for found in list(push._peers.values()):
                    found.connection.transport.abort()
                await until(lambda: link.lost)
                await in_thread(revoke, store, digest)
                later = await in_thread(edit, store)
                push._loop = asyncio.get_running_loop()
                await until(lambda: link.config_version == later)
                await until(lambda: digest not in seen.tokens)

    run(work())


@pytest.mark.alone
def test_push_issues_tokens_quickly_while_large_snapshots_are_built(
    store: Store, tmp_path: Path
) -> None:
    """5,000 services and routes, written without a pause; one slow reply in ten is the machine."""
    credential = fill(store, 5000)
    stop = threading.Event()

    async def issuing(scope: Any, receive: Any, send: Any) -> None:
        issued = await in_thread(issue, store, credential)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": issued})

    def write() -> int:
        while not stop.is_set():
            edit(store)
        return version(store)

    async def work() -> None:
        seen = Seen()
        async with (
            pushing(store, issuing) as push,
            linked(f"ws://127.0.0.1:{push.port}", tmp_path, seen) as link,
        ):
            await until(lambda: link.config_version)
            writing = asyncio.create_task(in_thread(write))
            try:
                took = []
                while len(took) < 100 or len(seen.snapshots) < 4:
                    began = time.monotonic()
                    assert (await asked(link.request, request())).status == 200
                    took.append(time.monotonic() - began)
            finally:
                stop.set()
            assert sorted(took)[len(took) * 9 // 10] <= 0.2
            last, ended = await writing, time.monotonic()
            await until(lambda: link.config_version >= last)
            assert time.monotonic() - ended < BOUND_SECONDS

    run(work())


@pytest.mark.alone
def test_s91_revocations_overtake_a_large_snapshot(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 revocations while a snapshot of 30 MB is on its way: each applied within B."""
    credential = fill(store, 400, filling=40_000)  # 32 MB that no compression makes small
    digests = issue_many(store, credential, 1000)

    async def work() -> None:
        seen, took = Seen(), []
        ended: dict[bytes, float] = {}
        applying = seen.on_revocations

        def on_revocations(found: list[wire.Revocation]) -> None:
            applying(found)
            ended.update((r.key, time.monotonic()) for r in found)

        seen.on_revocations = on_revocations  # type: ignore[method-assign]
        async with (
            pushing(store) as push,
            linked(f"ws://127.0.0.1:{push.port}", tmp_path, seen) as link,
        ):
            await until(lambda: link.connected)
            target = await until(lambda: next(iter(push._peers.values()), None))
            overlap = 0

            def revoke_all() -> dict[bytes, float]:
                committed = {}
                for start in range(0, len(digests), 5):
                    some = digests[start : start + 5]
                    revoke(store, *some)
                    committed.update(dict.fromkeys(some, time.monotonic()))
                return committed

            await until(lambda: target._chunks or link.config_version)
            revoking = asyncio.create_task(in_thread(revoke_all))
            while not revoking.done():
                if not target._chunks and target._in_flight is None:
                    target.offered = (b"", 0)  # have the same again: some is always in flight
                    assert push._built is not None
                    target.offer(push._built)
                overlap += bool(target._chunks)
                await asyncio.sleep(POLL_SECONDS)
            committed = await revoking
            await until(lambda: len(ended) == len(digests))
            took = [ended[digest] - committed[digest] for digest in digests]
            assert max(took) <= BOUND_SECONDS
            assert overlap, "no revocation met a snapshot in flight"
            built = push._built
            assert built is not None and sum(map(len, built.chunks)) > 12_000_000

    run(work(), seconds=110)
