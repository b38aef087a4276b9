"""Small stand-ins for the engine and the link, as far as the asyncio side looks at them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from dataplane import wire
from dataplane.requests import Done, LinkBusy, LinkDown

POLL_SECONDS = 0.001


async def until(probe: Callable[[], object]) -> None:
    """Let the loop run until `probe` gives something true; TimeoutError after ten seconds."""
    async with asyncio.timeout(10):
        while not probe():
            await asyncio.sleep(POLL_SECONDS)


def make_token(number: int = 1, credential: int = 1, **fields: Any) -> wire.Token:
    """A token; by default one that never expires."""
    return wire.Token(
        digest=number.to_bytes(32, "big"),
        credential=credential.to_bytes(16, "big"),
        **{"expires_at": 0.0, **fields},
    )


def make_snapshot(version: int = 1, credentials: dict[int, int] | None = None) -> wire.Snapshot:
    """A snapshot of this version; `credentials`: credential number to consumer number."""
    owners = {1: 1} if credentials is None else credentials
    return wire.Snapshot(
        epoch=b"e" * 16,
        version=version,
        check_key=b"k" * 32,
        consumers=[wire.Consumer(n.to_bytes(16, "big")) for n in sorted(set(owners.values()))],
        credentials=[
            wire.Credential(c.to_bytes(16, "big"), f"client-{c}", owner.to_bytes(16, "big"))
            for c, owner in owners.items()
        ],
    )


class FakeCache:
    """TokenCache as a dict."""

    def __init__(self) -> None:
        self.tokens: dict[bytes, tuple[object, ...]] = {}
        self.negative: dict[bytes, float] = {}

    def put(self, digest: bytes, *claims: object, **grant: object) -> None:
        assert len(claims) == 8 and set(grant) <= {"plugin", "jti"}
        self.tokens[digest] = claims
        self.negative.pop(digest, None)

    def remove(self, digest: bytes) -> None:
        self.tokens.pop(digest, None)

    def put_negative(self, digest: bytes, until: float) -> None:
        self.negative[digest] = until

    def __len__(self) -> int:
        return len(self.tokens)


class FakeEngine:
    """An engine whose questions and records the test puts in and whose answers it reads."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.calls: list[str] = []  # in order
        self.published: list[Any] = []
        self.sessions = 0
        self.joins = True
        self.reclaimer = object()
        self.blocked: set[Any] = set()  # signals, in start
        self.on_start: Callable[[], None] = lambda: None
        self.faults: dict[str, Exception] = {}  # by method
        self.tokens = FakeCache()
        self.question_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.asked: list[tuple[Any, ...]] = []
        self.verdicts: dict[int, str] = {}
        self.redeemed: dict[int, tuple[str, bytes | None]] = {}
        self.replies: dict[int, tuple[int, list[tuple[bytes, bytes]], bytes]] = {}
        self.unseen: dict[int, tuple[int, list[tuple[bytes, bytes]], bytes]] = {}
        self.named: dict[int, bool] = {}
        self.recorded: list[tuple[str, dict[str, Any]]] = []
        self.totals: dict[str, Any] = {"handshakes": {101: 2, 401: 1}}
        self.swept = 0
        self.parted: list[tuple[int, int]] = []  # (worker told, snapshots published by then)
        self.followed: list[tuple[Any, ...]] = []  # what sessions were told of tokens
        self.worker_count = 2

    def ask(self, *questions: tuple[Any, ...]) -> None:
        self.asked += questions
        os.eventfd_write(self.question_fd, 1)

    def questions(self, limit: int = 256) -> list[tuple[Any, ...]]:
        taken, self.asked = self.asked[:limit], self.asked[limit:]
        if not self.asked:
            os.eventfd_read(self.question_fd)
        return taken

    def tell_parted(self, workers: list[int]) -> None:
        self.parted += [(worker, len(self.published)) for worker in workers]

    def end_tokens(self, digests: list[bytes]) -> None:
        assert not any(digest in self.tokens.tokens for digest in digests), "still in the cache"
        self.followed.append(("end", digests))

    def end_sessions(self, credentials: Any = (), consumers: Any = (), **more: Any) -> None:
        kinds = {"credentials": credentials, "consumers": consumers, **more}
        self.followed.append(("gone", {kind: set(ids) for kind, ids in kinds.items() if ids}))

    def move_sessions(
        self, olds: list[bytes], digest: bytes, expires_at: float, how: str, *more: Any
    ) -> None:
        self.followed.append((how, olds, digest, expires_at, *more))

    def answer_token(self, ref: int, verdict: str) -> None:
        assert ref not in self.verdicts, "answered twice"
        self.verdicts[ref] = verdict

    def answer_ticket(self, ref: int, verdict: str, token: bytes | None = None) -> None:
        assert ref not in self.redeemed, "answered twice"
        assert (verdict == "known") == (token is not None)
        self.redeemed[ref] = (verdict, token)

    def answer_request(
        self,
        ref: int,
        status: int,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        wake: bool = True,
    ) -> None:
        assert ref not in self.replies | self.unseen, "answered twice"
        if any(b"\r" in value for _, value in headers):
            raise ValueError("a header has a control byte")
        self.unseen[ref] = (status, headers, body)
        if wake:
            self.wake()

    def wake(self) -> None:
        """Only now do workers have to see what they were told."""
        self.replies |= self.unseen
        self.unseen.clear()

    def answer_name(self, ref: int, found: bool) -> None:
        assert ref not in self.named, "answered twice"
        self.named[ref] = found

    def records(self, limit: int = 4096) -> list[tuple[str, dict[str, Any]]]:
        taken, self.recorded = self.recorded[:limit], self.recorded[limit:]
        return taken

    def record_lines(self, ts: str, limit: int = 4096) -> tuple[int, bytes]:
        """The records left, as lines without their fields: those are tested with the engine."""
        lines = "".join(f'{{"event": "{kind}"}}\n' for kind, _ in self.records(limit))
        return lines.count("\n"), lines.encode()

    def counters(self) -> dict[str, Any]:
        return self.totals

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.faults:
            raise self.faults[name]

    def certificate(self, cert: str, key: str) -> None:
        self._called("certificate")

    def listen(self, address: str, port: int, tls: bool) -> int:
        self._called("listen")
        return port or 4242

    def start(self) -> None:
        self._called("start")
        self.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self.on_start()

    def publish(self, tables: Any) -> None:
        self._called("publish")
        self.published.append(tables)

    def set_clock_offset(self, seconds: float) -> None:
        self.clock_offset = seconds

    def drain(self, seconds: float) -> None:
        self._called(f"drain {seconds:g}")

    def stop(self) -> None:
        self._called("stop")

    def join(self, seconds: float) -> bool:
        self._called("join")
        return self.joins

    def live_exchanges(self) -> int:
        return 0

    def live_sessions(self) -> int:
        return self.sessions

    def sweep(self) -> int:
        self.swept += 1
        return 0

    def close(self) -> None:
        os.close(self.question_fd)


class FakeLink:
    """A link that knows some tokens and hands them over as the real one does."""

    def __init__(self) -> None:
        self.connected = True
        self.busy = False
        self.knows: dict[bytes, wire.Token] = {}
        self.on_tokens: Callable[[list[wire.Token]], None] = lambda tokens: None
        self.after_answer: Callable[[], None] = lambda: None
        self.gate = asyncio.Event()  # asks and requests wait for it
        self.gate.set()
        self.asks = 0
        self.asking = self.asking_most = 0
        self.requests: list[wire.TokenRequest] = []
        self.tickets: dict[bytes, wire.Token] = {}
        self.redeems: list[wire.Redeem] = []
        self.reply = wire.TokenReply(0, 200, [], b"")
        self.fault: Exception | None = None
        self._replying: set[asyncio.Future[None]] = set()

    async def _answer(self) -> None:
        self.asking += 1
        self.asking_most = max(self.asking_most, self.asking)
        await self.gate.wait()
        self.asking -= 1
        if self.fault is not None:
            raise self.fault
        if self.busy:
            raise LinkBusy("busy")
        if not self.connected:
            raise LinkDown("down")

    async def ask(self, digest: bytes) -> wire.Token | None:
        self.asks += 1
        await self._answer()
        token = self.knows.get(digest)
        if token is not None:
            self.on_tokens([token])
        self.after_answer()
        return token

    async def redeem(self, ticket: wire.Redeem) -> wire.Token | None:
        self.redeems.append(ticket)
        await self._answer()
        token = self.tickets.pop(ticket.digest, None)
        if token is not None:
            self.on_tokens([token])
        self.after_answer()
        return token

    def request(self, message: wire.TokenRequest, done: Done) -> None:
        self.requests.append(message)
        if self.fault is not None:
            raise self.fault
        if self.busy:
            raise LinkBusy("busy")
        self._replying.add(asyncio.ensure_future(self._reply(done)))

    async def _reply(self, done: Done) -> None:
        try:
            await self._answer()
        except LinkDown as down:
            done(down)
        else:
            done(self.reply)


class FakeBox:
    def __init__(self) -> None:
        self.addresses: list[tuple[str, bool]] = []
        self.failed = 0

    def set_addresses(self, addresses: list[tuple[str, bool]]) -> None:
        self.addresses = addresses

    def mark_failed(self) -> None:
        self.failed += 1


class FakeNames:
    """NameTable whose hosts in use the test sets."""

    def __init__(self, *hosts: str) -> None:
        self.boxes: dict[str, FakeBox] = {}
        self.in_use = list(hosts)

    def intern(self, host: str) -> FakeBox:
        return self.boxes.setdefault(host, FakeBox())

    def hosts_in_use(self) -> list[str]:
        return self.in_use

    def unresolved(self) -> list[str]:
        return [host for host in self.in_use if not self.intern(host).addresses]
