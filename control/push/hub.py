"""Which data plane has which version, and what each of them is sent.

Everything about connections happens on the event loop's thread; the database is read in worker
threads. The store calls `_committed` in the order of commits, and tokens and revocations are
queued in that order. What was read from the database in between may be older than a change or a
revocation that is already queued: `Recent` tells, and such a token is never sent on trust.
`docs/link.md` has the messages, their order and what happens on each failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import ssl as tls
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

import structlog
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from control.push import issuer as token_endpoint
from control.push.greeting import Unwelcome, decode, greet
from control.push.moves import Moves
from control.push.peer import Built, DataPlane, Peer, revocation_messages, token_messages
from control.push.questions import Questions, Recent
from control.push.reading import Reader, State, to_revocation, to_token
from control.push.tickets import REDEEMS_IN_FLIGHT_MAX, Tickets
from control.push.tls import certificate_names
from control.store import Change, IssuedToken, Revoked, Store
from dataplane import wire

POLL_SECONDS = 0.5  # for what another process did to the database
DEBOUNCE_SECONDS = 0.05  # between two snapshots, and at least…
DEBOUNCE_FACTOR = 2  # … this many times as long as the last one took: token requests go on
DEBOUNCE_SECONDS_MAX = 1.0  # however long it took: its thread may have waited for others
RETRY_SECONDS = 1.0  # after a snapshot could not be built
REPLAYED_AT_ONCE = 5000  # tokens, some 800 KiB
PUSHED_MAX = 10_000  # tokens of one transaction; those of a larger one are replayed
PING_SECONDS = 10.0
PONG_SECONDS = 20.0
GREETING_MAX = 64  # connections that have not proved themselves
DATAPLANES_MAX = 1000  # rows, connected or not

log = structlog.get_logger()
_websockets_log = logging.getLogger("control.push.websockets")
_websockets_log.setLevel(logging.CRITICAL)  # what happens to a connection is logged here, in words


class Push:
    """The link's server.  Made anywhere; serves in one event loop."""

    def __init__(
        self,
        store: Store,
        issuer: token_endpoint.Issuer,
        secret: bytes,
        *,
        names: Collection[str] = (),
        software: str = "",
    ) -> None:
        """`issuer` answers token requests. `names`: which certificates may connect, by a DNS name,
        URI or common name in them; none given: each that the CA signed.
        """
        self.port = 0  # once it listens
        self.listening = asyncio.Event()
        self._reader = Reader(store)
        self._issuer = issuer
        self._secret = secret
        self._names = frozenset(names)
        self._software = software
        self._certificates = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state = State()
        self._built: Built | None = None
        self._wanted = asyncio.Event()  # a peer may lack the newest snapshot
        self._peers: dict[bytes, Peer] = {}  # by node id
        self._rows: dict[bytes, DataPlane] = {}  # by node id, oldest first
        self._greeting = 0
        self._recent = Recent()
        self._moves = Moves()
        self._questions = Questions(self._reader.tokens, self._recent)
        self._tickets = Tickets(self._reader.take_ticket, self._reader.tokens, self._recent)
        store.subscribe(self._committed)

    def dataplanes(self) -> list[dict[str, object]]:
        """The rows of `GET /dataplanes`; from any thread."""
        return [row.shown(self._state.version) for row in list(self._rows.values())]

    async def move_sessions(self, old: bytes, token: IssuedToken) -> int:
        """Have the sessions of the token with the digest `old` belong to `token`; how many did."""
        return await self._moves.ask(list(self._peers.values()), old, to_token(token))

    async def serve(self, host: str, port: int, ssl: tls.SSLContext | None = None) -> None:
        """Serve until cancelled.  With `ssl` that asks for certificates, those prove both ends."""
        self._loop = asyncio.get_running_loop()
        self._certificates = ssl is not None and ssl.verify_mode == tls.CERT_REQUIRED
        server = serve(
            self._connected,
            host,
            port,
            subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
            compression=None,
            max_size=wire.MESSAGE_BYTES_MAX,
            ssl=ssl,
            process_request=self._admit,
            open_timeout=5,
            close_timeout=1,
            ping_interval=PING_SECONDS,
            ping_timeout=PONG_SECONDS,
            server_header=None,
            logger=_websockets_log,
        )
        try:
            async with server as listening, asyncio.TaskGroup() as group:
                self.port = listening.sockets[0].getsockname()[1]
                self.listening.set()
                group.create_task(self._build_for_ever())
                group.create_task(self._poll_for_ever())
                group.create_task(self._beat_for_ever())
                group.create_task(self._questions.answer_for_ever())
        finally:
            self._loop = None
            self.listening.clear()

    # --- what the store says ---

    def _committed(self, change: Change) -> None:
        """Called in the committing thread, in the order of commits."""
        loop = self._loop
        if loop is None:
            return
        if asyncio._get_running_loop() is loop:
            self._publish(change)
        else:
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
                loop.call_soon_threadsafe(self._publish, change)

    def _publish(self, change: Change) -> None:
        self._recent.note(change.revocations, change.tokens)
        for item in change.refreshed:
            message = wire.encode(wire.Superseded(item.old, to_token(item.token)))
            for peer in self._peers.values():
                peer.send(message)
        if change.revocations:  # behind what saves the sessions of a refreshed token
            self._revoke(change.revocations)
        self._tell(change.tokens)
        if change.version is not None:
            self._state.version = max(self._state.version, change.version)
            self._wanted.set()

    def _tell(self, tokens: Sequence[IssuedToken]) -> None:
        """Push what was made or changed; more of it than waits for a peer was made by hand."""
        if len(tokens) > PUSHED_MAX:
            for peer in self._peers.values():
                self._spawn(peer, partial(self._replay_tokens, peer))
            return
        for message in token_messages([to_token(token) for token in tokens]):
            for peer in self._peers.values():
                peer.send(message)

    def _revoke(self, revocations: Sequence[Revoked]) -> None:
        """Queue them where they are the next ones; elsewhere they are read in their order."""
        first, last = revocations[0].seq, revocations[-1].seq
        self._state.revocation_seq = max(self._state.revocation_seq, last)
        messages = revocation_messages([to_revocation(r) for r in revocations])
        for peer in self._peers.values():
            if not peer.catching_up and peer.cursor + 1 == first:
                peer.cursor = last
                for message in messages:
                    peer.send(message)
            else:
                self._catch_up(peer)

    async def _poll_for_ever(self) -> None:
        """Notice what another process did, and a database that cannot be read."""
        failing = False
        while True:
            try:
                self._learn(await self._reader.state())
                failing = False
            except Exception as error:
                if not failing:
                    log.error("link.database_unreadable", why=type(error).__name__)
                failing = True
            await asyncio.sleep(POLL_SECONDS)

    def _learn(self, state: State) -> None:
        """Take over what was read; older than what is known is no news."""
        known = self._state
        if state.epoch != known.epoch:
            self._state, self._built = state, None
            for peer in self._peers.values():  # they come back and start over
                peer.connection.transport.abort()
            return
        if state.version > known.version:
            known.version = state.version
            self._wanted.set()
        if state.revocation_seq > known.revocation_seq:
            known.revocation_seq = state.revocation_seq
            for peer in self._peers.values():
                self._catch_up(peer)

    # --- snapshots ---

    async def _build_for_ever(self) -> None:
        """Offer each peer the newest snapshot: the first change at once, later ones together."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not self._peers:
                continue  # whoever connects asks again
            began = time.monotonic()
            try:
                built = await self._newest()
            except Exception as error:
                why = str(error) if isinstance(error, ValueError) else type(error).__name__
                log.error("link.snapshot_failed", version=self._state.version, why=why)
                await asyncio.sleep(RETRY_SECONDS)
                self._wanted.set()
                continue
            took = time.monotonic() - began
            for peer in self._peers.values():
                peer.offer(built)
            pause = min(DEBOUNCE_FACTOR * took, DEBOUNCE_SECONDS_MAX)
            await asyncio.sleep(max(DEBOUNCE_SECONDS, pause))

    async def _newest(self) -> Built:
        built = self._built
        newest = (self._state.epoch, self._state.version)
        if built is None or (built.epoch, built.version) != newest:
            self._built = built = await self._reader.snapshot()
        return built

    # --- connections ---

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if self._names and self._names.isdisjoint(certificate_names(connection)):
            self._say_refused(connection, "the certificate's name is not in LINK_NAMES")
            return connection.respond(
                http.HTTPStatus.FORBIDDEN, "the certificate's name is not in LINK_NAMES\n"
            )
        if self._greeting >= GREETING_MAX:
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections say Hello at once\n"
            )
        return None

    async def _connected(self, connection: ServerConnection) -> None:
        try:
            peer = await self._welcome(connection)
            await self._follow(peer)
        except Unwelcome as error:
            self._say_refused(connection, str(error))
            with contextlib.suppress(ConnectionClosed):
                await connection.send(wire.encode(wire.Refused(str(error))))
                await connection.close(1008)
        except TimeoutError:
            self._say_refused(connection, "it did not say Hello in time")
        except ConnectionClosed:
            pass
        except Exception:  # ours, not the peer's; the library would end the connection unheard
            log.exception("link.fault", peer=_address(connection))

    def _say_refused(self, connection: ServerConnection, why: str) -> None:
        log.warning("link.refused", peer=_address(connection), why=why)

    async def _welcome(self, connection: ServerConnection) -> Peer:
        """Let the peer prove itself, and register it."""
        self._greeting += 1
        try:
            hello = await greet(
                connection,
                self._secret,
                certificates=self._certificates,
                software=self._software,
            )
            try:
                self._learn(await self._reader.state())
            except Exception:
                raise Unwelcome("the control plane cannot read its database") from None
        finally:
            self._greeting -= 1
        known = self._state
        peer = Peer(connection, hello, self._row(connection, hello))
        if hello.epoch != known.epoch:
            peer.cursor = peer.row.version = 0
        elif hello.version > known.version or hello.revocation_seq > known.revocation_seq:
            raise Unwelcome(
                f"the data plane knows version {hello.version} of this configuration, the control "
                f"plane only {known.version}: its database was put back to an older state"
            )
        return peer

    def _row(self, connection: ServerConnection, hello: wire.Hello) -> DataPlane:
        """The row of this data plane, which only the certificate that made it may change."""
        identity = next(iter(certificate_names(connection)), "") if self._certificates else ""
        row = self._rows.get(hello.node_id)
        if row is None:
            if len(self._rows) >= DATAPLANES_MAX:
                gone = next((k for k, r in self._rows.items() if not r.connected), None)
                if gone is None:
                    raise Unwelcome(f"{DATAPLANES_MAX} data planes are connected already")
                del self._rows[gone]
            row = self._rows[hello.node_id] = DataPlane(hello.node_id, identity)
        elif row.identity != identity:
            raise Unwelcome("this node id belongs to a data plane with another certificate")
        row.name, row.software, row.ip = hello.name, hello.software, _address(connection)
        row.version, row.refused_version, row.refused_reason = hello.version, None, None
        return row

    async def _follow(self, peer: Peer) -> None:
        """One connection, from the proofs to its end."""
        node_id, row = peer.row.node_id, peer.row
        if node_id in self._peers:  # it noticed the loss of the old connection before we did
            self._peers[node_id].connection.transport.abort()
        self._peers[node_id] = peer
        row.connected, row.last_seen = True, time.time()
        log.info("link.up", dataplane=row.name, ip=row.ip, version=row.version)
        peer.send(self._heartbeat(peer))  # the epoch, before anything that belongs to it
        self._catch_up(peer)
        self._spawn(peer, partial(self._replay_tokens, peer))
        self._spawn(peer, peer.send_for_ever)
        if peer.offered != (self._state.epoch, self._state.version):
            self._wanted.set()
        try:
            async for data in peer.connection:
                row.last_seen = time.time()
                self._handle(peer, decode(data))
        finally:
            for task in peer.tasks:
                task.cancel()
            if self._peers.get(node_id) is peer:
                del self._peers[node_id]
                row.connected = False
            why = "it took too little of what it was sent" if peer.slow else "the connection ended"
            log.warning("link.down", dataplane=row.name, ip=row.ip, why=why)

    def _handle(self, peer: Peer, message: wire.ToControl) -> None:
        row = peer.row
        match message:
            case wire.Ack(version=version):
                if peer.settle(version):
                    row.version, row.refused_version, row.refused_reason = version, None, None
            case wire.Nack(version=version, reason=reason):
                if peer.settle(version):
                    row.refused_version, row.refused_reason = version, reason
                    log.error(
                        "link.snapshot_refused", dataplane=row.name, version=version, why=reason
                    )
            case wire.Question():
                self._questions.put(peer, message)
            case wire.TokenRequest():
                self._take_requests(peer, [message])
            case wire.TokenRequests():
                self._take_requests(peer, message.requests)
            case wire.Redeem():
                self._take_redeem(peer, message)
            case wire.Moved():
                self._moves.answered(peer, message)
            case wire.Counters():
                row.counters = message
            case _:
                raise Unwelcome(f"{type(message).__name__} is out of place")

    def _take_requests(self, peer: Peer, requests: Sequence[wire.TokenRequest]) -> None:
        room = wire.TOKEN_REQUESTS_IN_FLIGHT_MAX - peer.requests_in_flight
        taken = requests[:room]
        if taken:
            peer.requests_in_flight += len(taken)
            replied = partial(self._replied, peer)
            self._spawn(peer, partial(token_endpoint.answer, self._issuer, taken, replied))
        for request in requests[room:]:
            peer.reply(token_endpoint.unavailable(request.id, "Too many token requests at a time"))

    def _replied(self, peer: Peer, reply: wire.TokenReply) -> None:
        peer.requests_in_flight -= 1
        peer.reply(reply)

    def _take_redeem(self, peer: Peer, ticket: wire.Redeem) -> None:
        if peer.redeems_in_flight < REDEEMS_IN_FLIGHT_MAX:
            peer.redeems_in_flight += 1
            self._spawn(peer, partial(self._redeem, peer, ticket))

    async def _redeem(self, peer: Peer, ticket: wire.Redeem) -> None:
        try:
            redeemed = await self._tickets.redeem(ticket)
        except Exception as error:  # no answer is an answer: the data plane says 503
            log.error("link.ticket_unanswered", why=type(error).__name__)
        else:
            peer.send(wire.encode(redeemed))
        finally:
            peer.redeems_in_flight -= 1

    def _spawn(self, peer: Peer, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._guard(peer, work))
        peer.tasks.add(task)
        task.add_done_callback(peer.tasks.discard)

    async def _guard(self, peer: Peer, work: Callable[[], Awaitable[None]]) -> None:
        """A connection that cannot be served whole is ended: it comes back and starts over."""
        try:
            await work()
        except ConnectionClosed:
            pass
        except Exception:
            log.exception("link.fault", dataplane=peer.row.name)
            peer.connection.transport.abort()

    # --- what goes out besides ---

    def _catch_up(self, peer: Peer) -> None:
        if not peer.catching_up:
            peer.catching_up = True
            self._spawn(peer, partial(self._replay_revocations, peer))

    async def _replay_revocations(self, peer: Peer) -> None:
        """Send what comes after the peer's cursor, in order and without a hole."""
        limit = wire.TOKENS_PER_MESSAGE
        while peer.cursor < self._state.revocation_seq:
            goal = self._state.revocation_seq
            moved, found = await self._reader.revocations_after(peer.cursor, limit)
            for superseded in moved:
                peer.send(wire.encode(superseded))
            for message in revocation_messages(found):
                peer.send(message)
            last = found[-1].seq if found else 0
            peer.cursor = last if len(found) == limit else max(goal, last)
        peer.catching_up = False

    async def _replay_tokens(self, peer: Peer) -> None:
        """Send the tokens made by hand, a part at a time, as the peer takes them.

        One changed or made anew meanwhile was pushed already. Where something else happened to
        what a token belongs to, it may have ended or not: the part is read again.
        """
        after = b""
        while True:
            await peer.wait_for_room()
            with self._recent.reading() as since:
                tokens = await self._reader.tokens_by_hand(after, REPLAYED_AT_ONCE)
                current: list[wire.Token] = []
                touched: list[wire.Token] = []
                for token in tokens:
                    (touched if self._recent.touched(token, since) else current).append(token)
                told = all(self._recent.told(token, since) for token in touched)
            for message in token_messages(current):
                peer.send(message)
            if not told:
                continue
            if len(tokens) < REPLAYED_AT_ONCE:
                return
            after = tokens[-1].digest

    async def _beat_for_ever(self) -> None:
        while True:
            for peer in self._peers.values():
                peer.send(self._heartbeat(peer))
                if peer.overdue():
                    log.error("link.no_ack", dataplane=peer.row.name)
                    peer.connection.transport.abort()
            await asyncio.sleep(wire.HEARTBEAT_SECONDS)

    def _heartbeat(self, peer: Peer) -> bytes:
        state = self._state
        settled = not peer.catching_up and peer.cursor >= state.revocation_seq
        return wire.encode(
            wire.Heartbeat(state.epoch, state.version, state.revocation_seq, time.time(), settled)
        )


def _address(connection: ServerConnection) -> str:
    address = connection.remote_address
    return str(address[0]) if address else ""
