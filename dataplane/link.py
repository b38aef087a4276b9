"""The data plane's end of the link: configuration, tokens and revocations in; questions out.

`Link.run` keeps one WebSocket to the control plane for ever. What arrives is handed to the
callbacks in the order in which it arrived, from the task that reads, so that a token and its
revocation can never change places: whoever asked a question gets a yes or no, and the token has
been through `on_tokens` by then. `docs/link.md` has the messages and what happens on each failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl as tls
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from dataplane import wire
from dataplane.dial import REASON_CHARS_MAX, LinkFault, backoff_seconds, decode, introduce, why_lost
from dataplane.disk import DiskState, Loaded
from dataplane.requests import Done, LinkBusy, LinkDown, Requests

CONNECT_SECONDS = 5.0  # TCP, TLS and the HTTP handshake
SILENCE_SECONDS = 6.0  # without a message (a heartbeat at least) the link counts as lost
QUESTION_SECONDS = 2.0
QUESTIONS_IN_FLIGHT_MAX = 10_000
REDEEMS_IN_FLIGHT_MAX = 256
COUNTERS_SECONDS = 10.0

log = structlog.get_logger()


@dataclass(frozen=True)
class _Question:
    id: int
    digest: bytes
    answer: asyncio.Future[wire.Token | None]


class Link:
    """One data plane's connection to its control plane.  All methods: from the asyncio thread."""

    def __init__(
        self,
        *,
        url: str,
        secret: bytes | None,
        state: DiskState,
        on_snapshot: Callable[[wire.Snapshot], None],
        on_tokens: Callable[[list[wire.Token]], None],
        on_revocations: Callable[[list[wire.Revocation]], None],
        on_superseded: Callable[[wire.Superseded], None] | None = None,
        on_heartbeat: Callable[[wire.Heartbeat], None] | None = None,
        on_forget: Callable[[], None] | None = None,
        counters: Callable[[], wire.Counters] | None = None,
        ssl: tls.SSLContext | None = None,
        server_hostname: str | None = None,
        name: str = "",
        software: str = "",
    ) -> None:
        """`secret` None: certificates prove both ends, which takes `ssl` (see `client_tls`).

        `on_snapshot` raises what makes a snapshot unfit (`CompileError`); its text goes to the
        operator. `on_forget` is called when the control plane's epoch is another: no token known
        so far is good any more.
        """
        if secret is None and ssl is None:
            raise ValueError("a link needs LINK_SECRET or certificates")
        self.connected = False
        self.epoch = b""
        self.config_version = 0  # of the snapshot that carries traffic; 0: none of this epoch
        self.revocation_seq = 0
        self.last_heard = 0.0  # time.monotonic() of the last message
        self.refused: str | None = None  # why the newest snapshot was refused
        self.lost: str | None = None  # why there is no link; None while there is one
        self._url, self._secret, self._ssl, self._host = url, secret, ssl, server_hostname
        self._name, self._software = name or socket.gethostname(), software
        self._state = state
        self._on_snapshot, self._on_tokens = on_snapshot, on_tokens
        self._on_revocations, self._on_forget = on_revocations, on_forget
        self._on_superseded = on_superseded
        self._reports: set[asyncio.Task[None]] = set()  # Moved on their way
        self._on_heartbeat = on_heartbeat
        self._counters = counters
        self._restored = False
        self._has_all = False  # no revocation is missing on the disk that was heard before
        self._worked = False  # the connection got past the proofs
        self._socket: ClientConnection | None = None
        self._assembler = wire.SnapshotAssembler()
        self._last_id = 0
        self._questions: dict[bytes, _Question] = {}  # by digest
        self._asked: dict[int, _Question] = {}  # the same ones by id
        self.requests = Requests()
        self._redeems: dict[int, asyncio.Future[wire.Token | None]] = {}

    # --- state from the disk ---

    def restore(self) -> Loaded:
        """Hand what the disk holds to the callbacks; `run` does it if nobody did before."""
        self._restored = True
        loaded = self._state.load()
        self.epoch, self.revocation_seq = loaded.epoch, loaded.revocation_seq
        self._has_all = loaded.complete
        if loaded.snapshot is not None:
            try:
                self._on_snapshot(loaded.snapshot)
                self.config_version = loaded.version
            except Exception as error:
                log.warning("link.stored_snapshot_refused", version=loaded.version, why=str(error))
        if loaded.revocations:
            self._on_revocations(loaded.revocations)
        if loaded.tokens:
            self._on_tokens(loaded.tokens)
        return loaded

    # --- what the rest of the data plane asks ---

    async def ask(self, digest: bytes) -> wire.Token | None:
        """The token with this digest, or None when there is none.

        It went through `on_tokens` already: do not put it anywhere again, since a revocation may
        have followed it.

        Raises:
            LinkDown: no link, or no answer within QUESTION_SECONDS.
            LinkBusy: QUESTIONS_IN_FLIGHT_MAX questions wait.
        """
        if not self.connected:
            raise LinkDown("the control plane cannot be reached")
        question = self._questions.get(digest)
        if question is not None:
            return await asyncio.shield(question.answer)
        if len(self._questions) >= QUESTIONS_IN_FLIGHT_MAX:
            raise LinkBusy("too many questions in flight")
        question = self._open_question(digest)
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                await self._send(wire.Question(question.id, digest))
        except (LinkDown, TimeoutError):
            self._give_up(question)
        return await asyncio.shield(question.answer)

    def _open_question(self, digest: bytes) -> _Question:
        loop = asyncio.get_running_loop()
        self._last_id += 1
        question = _Question(self._last_id, digest, loop.create_future())
        self._questions[digest] = self._asked[question.id] = question
        loop.call_later(QUESTION_SECONDS, self._give_up, question)
        return question

    def _give_up(self, question: _Question) -> None:
        if self._asked.pop(question.id, None) is not None:
            del self._questions[question.digest]
            _fail(question.answer, LinkDown(f"no answer in {QUESTION_SECONDS:g} s"))

    def request(self, message: wire.TokenRequest, done: Done) -> None:
        """Have `done` called with the issuer's answer: see `Requests.ask`.

        Raises:
            LinkDown, LinkBusy: it cannot be asked now.
        """
        if not self.connected:
            raise LinkDown("the control plane cannot be reached")
        self.requests.ask(message, done)

    async def redeem(self, ticket: wire.Redeem) -> wire.Token | None:
        """The token of a ticket, which is spent by that; None when it is no good here.

        `ticket.id` is replaced by one of ours. The token went through `on_tokens` already.

        Raises:
            LinkDown: no link, or no answer within QUESTION_SECONDS: it may have been spent.
            LinkBusy: REDEEMS_IN_FLIGHT_MAX tickets wait.
        """
        if len(self._redeems) >= REDEEMS_IN_FLIGHT_MAX:
            raise LinkBusy("too many tickets in flight")
        if not self.connected:
            raise LinkDown("the control plane cannot be reached")
        self._last_id += 1
        id_ = self._last_id
        future: asyncio.Future[wire.Token | None] = asyncio.get_running_loop().create_future()
        self._redeems[id_] = future
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                await self._send(msgspec.structs.replace(ticket, id=id_))
                return await future
        except TimeoutError:
            raise LinkDown(f"no answer in {QUESTION_SECONDS:g} s") from None
        finally:
            del self._redeems[id_]

    async def _send(self, message: wire.ToControl) -> None:
        await self._send_bytes(wire.encode(message))

    async def _send_bytes(self, data: bytes) -> None:
        if self._socket is None:
            raise LinkDown("the link was lost")
        try:
            await self._socket.send(data)
        except WebSocketException:
            raise LinkDown("the link was lost") from None

    # --- the connection ---

    async def run(self) -> None:
        """Connect, follow, and connect again, for ever."""
        if not self._restored:
            self.restore()
        failures, said = 0, ""
        while True:
            self.lost = why = await self._follow_until_lost()
            # A connection that worked and broke is tried again soon; one refused or damaged is not.
            failures = 1 if self._worked else failures + 1
            if self._worked or why != said:
                log.warning("link.down", url=self._url, why=why)
                said = why
            await asyncio.sleep(backoff_seconds(failures))

    async def _follow_until_lost(self) -> str:
        """One connection; why it ended."""
        self._worked = False
        try:
            await self._follow()
        except LinkFault as error:
            self._worked = False
            return str(error)
        except (OSError, WebSocketException, TimeoutError) as error:
            return why_lost(error)
        except Exception as error:  # a fault of ours must not end the data plane's hearing
            where = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__} at {where.filename}:{where.lineno}"
            log.error("link.fault", error=fault)
            self._worked = False
            return f"fault: {fault}"
        finally:
            self._lose()

    async def _follow(self) -> NoReturn:
        """One connection, from the first byte to the last."""
        async with connect(
            self._url,
            subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
            compression=None,
            max_size=wire.MESSAGE_BYTES_MAX,
            ssl=self._ssl,
            server_hostname=self._host,
            open_timeout=CONNECT_SECONDS,
            close_timeout=1,
            ping_interval=None,  # heartbeats tell more
            proxy=None,
            user_agent_header=None,
        ) as connection:
            first = await introduce(connection, self._hello(), self._secret)
            self._socket = connection
            self.requests.attach(self._send_bytes)
            reporting = asyncio.create_task(self._report(connection))
            try:
                await self._handle(connection, first)
                while True:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        data = await connection.recv()
                    await self._handle(connection, decode(data))
            finally:
                reporting.cancel()

    def _hello(self) -> wire.Hello:
        return wire.Hello(
            node_id=self._state.node_id,
            name=self._name,
            nonce=secrets.token_bytes(wire.NONCE_BYTES),
            epoch=self.epoch,
            version=self.config_version,
            revocation_seq=self.revocation_seq,
            software=self._software,
        )

    async def _report(self, connection: ClientConnection) -> None:
        with contextlib.suppress(WebSocketException):
            while self._counters is not None:
                await connection.send(wire.encode(self._counters()))
                await asyncio.sleep(COUNTERS_SECONDS)

    def _lose(self) -> None:
        self.connected, self._socket = False, None
        self._assembler = wire.SnapshotAssembler()
        down = LinkDown("the link was lost")
        for question in self._questions.values():
            _fail(question.answer, down)
        self.requests.detach()
        for redeem in self._redeems.values():
            _fail(redeem, down)
        self._questions.clear()
        self._asked.clear()

    # --- messages ---

    async def _handle(self, connection: ClientConnection, message: wire.ToData) -> None:
        if not self.connected:
            self.connected, self._worked, self.lost = True, True, None
            log.info("link.up", url=self._url)
        self.last_heard = time.monotonic()
        match message:
            case wire.Chunk():
                await self._on_chunk(connection, message)
            case wire.Tokens():
                self._take_tokens(message.tokens)
            case wire.Superseded():
                self._take_superseded(message)
            case wire.Revocations():
                self._take_revocations(message.revocations)
            case wire.Answer():
                self._take_answer(message)
            case wire.TokenReply():
                self.requests.replied(message)
            case wire.TokenReplies():
                for reply in message.replies:
                    self.requests.replied(reply)
            case wire.Redeemed():
                if message.token is not None:
                    self._take_tokens([message.token])
                redeem = self._redeems.get(message.id)
                if redeem is not None and not redeem.done():
                    redeem.set_result(message.token)
            case wire.Heartbeat():
                self._enter(message.epoch)
                if message.settled and not self._has_all:
                    self._has_all = True
                    self._state.note_whole()
                if self._on_heartbeat is not None:
                    self._on_heartbeat(message)
            case _:
                raise LinkFault(f"the control plane sent {type(message).__name__} out of place")

    def _enter(self, epoch: bytes) -> None:
        """Another epoch: a database that is not the continuation of the one we know."""
        if epoch == self.epoch:
            return
        if self.epoch:
            log.warning("link.epoch_changed", effect="known tokens are forgotten")
            if self._on_forget is not None:
                self._on_forget()
        self.epoch, self.config_version, self.revocation_seq = epoch, 0, 0
        self._state.forget(epoch)

    def _take_tokens(self, tokens: list[wire.Token]) -> None:
        self._on_tokens(tokens)
        self._keep(tokens)
        for token in tokens:
            self._resolve(token.digest, token)

    def _keep(self, tokens: list[wire.Token]) -> None:
        """On the disk; a JWT proves itself after a restart too."""
        self._state.append_tokens([token for token in tokens if token.jti is None])

    def _take_superseded(self, message: wire.Superseded) -> None:
        """A refresh is kept as what it comes to: a token, and the end of the one before it."""
        if self._on_superseded is not None:
            self._on_superseded(message)
        if message.id == 0:
            self._keep([message.token])
            end = wire.Revocation(self.revocation_seq, "token", message.old)
            self._state.append_revocations([end])
            self._resolve(message.token.digest, message.token)

    def report_moved(self, id_: int, sessions: int) -> None:
        """Answer a Superseded that has an id."""
        task = asyncio.get_running_loop().create_task(self._report_moved(id_, sessions))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _report_moved(self, id_: int, sessions: int) -> None:
        with contextlib.suppress(LinkDown):
            await self._send(wire.Moved(id_, sessions))

    def _take_revocations(self, revocations: list[wire.Revocation]) -> None:
        self._on_revocations(revocations)
        self._state.append_revocations(revocations)
        self.revocation_seq = max(self.revocation_seq, *(r.seq for r in revocations), 0)

    def _take_answer(self, answer: wire.Answer) -> None:
        question = self._asked.get(answer.id)
        if question is None:
            return
        if answer.token is None:
            self._resolve(question.digest, None)
        elif answer.token.digest == question.digest:
            self._take_tokens([answer.token])
        else:
            raise LinkFault("the control plane answered with another token than was asked for")

    def _resolve(self, digest: bytes, token: wire.Token | None) -> None:
        question = self._questions.pop(digest, None)
        if question is not None:
            del self._asked[question.id]
            question.answer.set_result(token)

    # --- snapshots ---

    async def _on_chunk(self, connection: ClientConnection, chunk: wire.Chunk) -> None:
        try:
            packed = self._assembler.add(chunk)
        except ValueError as error:
            await self._refuse(connection, chunk.version, str(error))
            raise LinkFault(f"a snapshot arrived damaged: {error}") from None
        if packed is None:
            return
        try:
            snapshot = wire.unpack_snapshot(packed)
        except msgspec.MsgspecError as error:
            return await self._refuse(connection, chunk.version, f"not a snapshot: {error}")
        if snapshot.version != chunk.version:
            reason = f"the snapshot says version {snapshot.version}"
            return await self._refuse(connection, chunk.version, reason)
        await self._apply(connection, snapshot, packed)

    async def _apply(
        self, connection: ClientConnection, snapshot: wire.Snapshot, packed: bytes
    ) -> None:
        """Publish, or refuse and stay as we are; never back to a lower version of one epoch."""
        version = snapshot.version
        self._enter(snapshot.epoch)
        if version < self.config_version:
            reason = f"version {version} is older than {self.config_version}, which is in use"
            return await self._refuse(connection, version, reason)
        if version > self.config_version:
            if problems := snapshot.problems():
                return await self._refuse(connection, version, "; ".join(problems))
            try:
                self._on_snapshot(snapshot)
            except Exception as error:  # whatever it is, the last good one must go on serving
                return await self._refuse(connection, version, str(error) or type(error).__name__)
            self.config_version = version
            self._state.save_snapshot(packed, snapshot.epoch, version)
            log.info("link.applied", version=version)
        self.refused = None
        await connection.send(wire.encode(wire.Ack(version)))

    async def _refuse(self, connection: ClientConnection, version: int, reason: str) -> None:
        self.refused = reason = reason[:REASON_CHARS_MAX]
        log.error("link.snapshot_refused", version=version, serving=self.config_version, why=reason)
        await connection.send(wire.encode(wire.Nack(version, reason)))


def _fail(future: asyncio.Future[Any], why: LinkDown) -> None:
    if not future.done():
        future.set_exception(why)
        future.exception()  # nobody need be waiting for it
