"""The workers' questions, answered: who is this token, this token request, this name's address.

A worker parks a session and asks; it never waits. Every question taken gets exactly one answer,
whatever fails on the way. What can be answered from memory is answered at once; the rest becomes
a task, and of each kind there are at most so many: past that the answer is "unavailable", and a
storm of unknown tokens takes no place from requests and names.

A token whose check characters fail is junk, or it was made by hand. Those are all pushed, and
replayed on connect, so that one we do not have is no good and nobody is asked (S75): 401, as it is
before the replay of a first connection is through. Only when there are more of them than we may
remember is the control plane asked, for few at a time.

A JWT is verified here, in the event loop and not in threads: most of the work holds the GIL anyway.
VERIFY_SECONDS at a time, so that the loop breathes in between, whatever a flood of them wants; what
waits is bounded by JWTS_WAITING_MAX.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from dataplane import jws, wire
from dataplane.known import KnownTokens
from dataplane.link import Link
from dataplane.names import Resolver
from dataplane.requests import LinkBusy, LinkDown
from dataplane.verify import Verifier

if TYPE_CHECKING:
    from dataplane._engine import Engine

QUESTIONS_PER_TURN = 256
TASKS_MAX = {"token": 2048, "jwt": 1024, "ticket": 512, "name": 1024}  # at a time, of each
JWTS_WAITING_MAX = 4096  # to be verified: some tenths of a second's work
VERIFY_SECONDS = 0.002  # of verifying before the event loop goes on
UNCHECKED_ASKS_MAX = 64  # asks at a time for tokens whose check failed: mostly junk
NEGATIVE_SECONDS = 1.0  # how long an unknown token is refused without asking again
VERSION_WAIT_SECONDS = 1.0  # for the configuration that a new token belongs to
NAME_SECONDS = 4.0  # the look-up itself goes on: the next session may find its result
RETRY_AFTER_SECONDS = 5  # said to clients of the token endpoint

KNOWN, UNKNOWN, UNAVAILABLE = "known", "unknown", "unavailable"

log = structlog.get_logger()


class Answers:
    """Reads the engine's questions in the asyncio thread and answers each."""

    def __init__(
        self,
        engine: Engine,
        known: KnownTokens,
        link: Link,
        resolver: Resolver,
        verifier: Verifier,
        now: Callable[[], float] = time.time,
        moved: Callable[[int, int], None] = lambda _id, _sessions: None,
    ) -> None:
        """`moved`: hears how many sessions of a worker went over, see `Engine.move_sessions`."""
        self._moved = moved
        self._engine = engine
        self._verifier = verifier
        self._now = now  # the control plane's clock
        self._jwts: deque[tuple[int, bytes, str]] = deque()  # ref, digest, token; to be verified
        self._known = known
        self._link = link
        self._resolver = resolver
        self._tasks: dict[str, set[asyncio.Task[None]]] = {kind: set() for kind in TASKS_MAX}
        self._requests: set[int] = set()  # refs of those that wait for the issuer
        self._replied_to: list[tuple[int, wire.TokenReply | LinkDown]] = []
        self._unchecked = asyncio.Semaphore(UNCHECKED_ASKS_MAX)
        self._version = 0
        self._version_moved = asyncio.Event()

    def start(self) -> None:
        """From now on questions are answered; the running loop watches the engine's eventfd."""
        asyncio.get_running_loop().add_reader(self._engine.question_fd, self.turn)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._engine.question_fd)
        for tasks in self._tasks.values():
            for task in tasks:
                task.cancel()
        for ref in self._requests:
            self._refuse_request(ref)
        self._requests.clear()

    @property
    def pending(self) -> int:
        """Questions taken and not answered yet."""
        tasks = sum(map(len, self._tasks.values()))
        return tasks + len(self._requests) + len(self._jwts)

    def applied(self, version: int) -> None:
        """The configuration of this version carries traffic: tokens that waited for it go on."""
        self._version = version
        self._version_moved.set()
        self._version_moved = asyncio.Event()

    def turn(self) -> None:
        """Take what the workers ask; the eventfd calls again while there is more."""
        for kind, ref, *asked in self._engine.questions(QUESTIONS_PER_TURN):
            if kind == "token":
                self._token(ref, *asked)
            elif kind == "ticket":
                self._ticket(ref, *asked)
            elif kind == "jwt":
                self._jwt(ref, *asked)
            elif kind == "request":
                self._request(ref, *asked)
            elif kind == "name":
                self._name(ref, *asked)
            elif kind == "moved":
                self._moved(ref, *asked)

    # --- tokens ---

    def _token(self, ref: int, digest: bytes, check_passed: bool) -> None:
        verdict = self._remembered(digest)
        if verdict is None and not (self._link.connected and self._may_be(digest, check_passed)):
            verdict = UNAVAILABLE if check_passed else UNKNOWN
        if verdict is not None:
            self._engine.answer_token(ref, verdict)
        elif not self._begin("token", self._answer_token(ref, digest, check_passed)):
            self._engine.answer_token(ref, UNAVAILABLE)

    def _may_be(self, digest: bytes, check_passed: bool) -> bool:
        """Whether there may be such a token, as far as can be told without asking."""
        known = self._known
        return check_passed or known.incomplete or known.get(digest) is not None

    def _remembered(self, digest: bytes) -> str | None:
        """The verdict that needs nobody else; None when somebody must be asked or waited for."""
        until = self._known.ended_until(digest)
        if until is not None:
            self._refuse_for_now(digest, until)
            return UNKNOWN
        token = self._known.get(digest)
        if token is None:
            return None
        if token.expires_at and token.expires_at <= self._now():
            return UNKNOWN
        if not self._has_reached(token):
            return None
        self._known.to_cache(token)
        return KNOWN

    def _has_reached(self, token: wire.Token) -> bool:
        """Whether the applied configuration is the token's or a later one, or has what it needs."""
        return token.version <= self._version or self._known.has_credential(token.credential)

    async def _answer_token(self, ref: int, digest: bytes, check_passed: bool) -> None:
        verdict = UNAVAILABLE
        try:
            verdict = await self._verdict(digest, check_passed)
        except LinkDown:
            verdict = UNAVAILABLE if check_passed else UNKNOWN
        except LinkBusy:
            pass
        except Exception as error:  # a fault of ours must not leave the session parked
            log.error("answer.fault", question="token", error=f"{type(error).__name__}: {error}")
        finally:
            self._engine.answer_token(ref, verdict)

    async def _verdict(self, digest: bytes, check_passed: bool) -> str:
        token = self._known.get(digest)
        if token is None:
            # It may also have been pushed while we were not running.
            token = await self._ask(digest, check_passed) or self._known.get(digest)
        if token is None:
            self._refuse_for_now(digest)
            return UNKNOWN
        if not await self._reach(token):
            return UNAVAILABLE
        # It may have been revoked while we waited.
        return self._remembered(digest) or UNKNOWN

    async def _ask(self, digest: bytes, check_passed: bool) -> wire.Token | None:
        """What the control plane says. The link has put a token among the known ones by then."""
        if check_passed:
            return await self._link.ask(digest)
        async with self._unchecked:
            return await self._link.ask(digest)

    async def _reach(self, token: wire.Token) -> bool:
        """Wait for the configuration a new token belongs to, VERSION_WAIT_SECONDS at the most."""
        try:
            async with asyncio.timeout(VERSION_WAIT_SECONDS):
                while not self._has_reached(token):
                    await self._version_moved.wait()
        except TimeoutError:
            return False
        return True

    def _refuse_for_now(self, digest: bytes, until: float = math.inf) -> None:
        """Have the workers refuse a token for a second without asking again."""
        self._engine.tokens.put_negative(digest, min(until, self._now() + NEGATIVE_SECONDS))

    # --- JWTs ---

    def _jwt(self, ref: int, digest: bytes, text: str) -> None:
        if len(self._jwts) >= JWTS_WAITING_MAX:
            self._engine.answer_token(ref, UNAVAILABLE)
            return
        self._jwts.append((ref, digest, text))
        if len(self._jwts) == 1:
            asyncio.get_running_loop().call_soon(self._verify_some)

    def _verify_some(self) -> None:
        until = time.monotonic() + VERIFY_SECONDS
        try:
            while self._jwts and time.monotonic() < until:
                self._verify_one(*self._jwts.popleft())
        finally:
            if self._jwts:
                asyncio.get_running_loop().call_soon(self._verify_some)

    def _verify_one(self, ref: int, digest: bytes, text: str) -> None:
        try:
            verdict = self._verify(ref, digest, text)
        except Exception as error:  # a fault of ours must not leave the session parked
            log.error("answer.fault", question="jwt", error=f"{type(error).__name__}: {error}")
            verdict = UNAVAILABLE
        if verdict is not None:
            self._engine.answer_token(ref, verdict)

    def _verify(self, ref: int, digest: bytes, text: str) -> str | None:
        """The verdict on a JWT, or None: a task will find it, since somebody must be waited for."""
        verdict = self._remembered(digest)  # of many sessions with one token the first pays
        if verdict is not None:
            return verdict
        try:
            token = self._verifier.verify(text, digest, self._now())
        except jws.Rejected:
            self._refuse_for_now(digest)
            return UNKNOWN
        if self._has_reached(token) and not self._known.unsure(token):
            return self._accept(token)
        return None if self._begin("jwt", self._answer_jwt(ref, token)) else UNAVAILABLE

    def _accept(self, token: wire.Token) -> str:
        """Put a verified JWT among the known ones, unless it was revoked."""
        try:
            if self._known.put_jwt(token):
                return KNOWN
        except ValueError as error:  # its scope, say, is too long
            log.warning("token.unusable", why=str(error), credential=token.credential.hex())
        self._refuse_for_now(token.digest)
        return UNKNOWN

    async def _answer_jwt(self, ref: int, token: wire.Token) -> None:
        verdict = UNAVAILABLE
        try:
            if not self._known.unsure(token) or await self._link.ask(token.digest) is not None:
                if await self._reach(token):
                    verdict = self._accept(token)
            else:
                self._refuse_for_now(token.digest)
                verdict = UNKNOWN
        except (LinkDown, LinkBusy):
            pass
        except Exception as error:
            log.error("answer.fault", question="jwt", error=f"{type(error).__name__}: {error}")
        finally:
            self._engine.answer_token(ref, verdict)

    # --- tickets ---

    def _ticket(self, ref: int, digest: bytes, host: str, path: str, origin: str | None) -> None:
        ticket = wire.Redeem(0, digest, host, path, origin)
        if not self._link.connected or not self._begin("ticket", self._answer_ticket(ref, ticket)):
            self._engine.answer_ticket(ref, UNAVAILABLE)

    async def _answer_ticket(self, ref: int, ticket: wire.Redeem) -> None:
        """Whatever comes of it, nobody asks about this ticket again."""
        verdict, token = UNAVAILABLE, None
        try:
            token = await self._link.redeem(ticket)
            if token is None:
                verdict = UNKNOWN
            elif await self._reach(token):
                # A JWT was not put among the known ones: it proves itself, and here the ticket did.
                proved = token.jti is not None and self._known.has_key_of(token)
                known = self._remembered(token.digest)
                verdict = known or (self._accept(token) if proved else UNKNOWN)
        except (LinkDown, LinkBusy):
            pass
        except Exception as error:  # a fault of ours must not leave the session parked
            log.error("answer.fault", question="ticket", error=f"{type(error).__name__}: {error}")
        finally:
            digest = token.digest if token is not None and verdict == KNOWN else None
            self._engine.answer_ticket(ref, verdict, digest)

    # --- token requests ---

    def _request(self, ref: int, asked: dict[str, Any]) -> None:
        """Pass a request on; `_replied` hears of it, whatever comes of it."""
        self._requests.add(ref)
        try:
            self._link.request(wire.TokenRequest(id=0, **asked), partial(self._replied, ref))
        except Exception as error:
            if not isinstance(error, LinkDown | LinkBusy):  # of ours; the client is answered
                log.error("answer.fault", question="request", error=repr(error))
            self._requests.discard(ref)
            self._refuse_request(ref)

    def _replied(self, ref: int, reply: wire.TokenReply | LinkDown) -> None:
        """Answer with all the others whose replies came in this turn of the loop."""
        if not self._replied_to:
            asyncio.get_running_loop().call_soon(self._answer_requests)
        self._replied_to.append((ref, reply))

    def _answer_requests(self) -> None:
        """A worker that is woken for each answer takes as long for waking as for the answer."""
        answered, self._replied_to = self._replied_to, []
        for ref, reply in answered:
            if ref not in self._requests:  # we stopped, and it was refused
                continue
            self._requests.discard(ref)
            if isinstance(reply, LinkDown):
                self._refuse_request(ref)
                continue
            try:
                # The engine frames the answer itself; what else the issuer said goes as it is.
                self._engine.answer_request(
                    ref, reply.status, reply.headers, reply.body, wake=False
                )
            except Exception as error:  # a header the engine refuses, or a fault of ours
                log.error(
                    "answer.fault", question="request", error=f"{type(error).__name__}: {error}"
                )
                self._refuse_request(ref)
        self._engine.wake()

    def _refuse_request(self, ref: int) -> None:
        body = {
            "error": "temporarily_unavailable",
            "error_description": "The authorization server cannot be reached at the moment",
        }
        headers = [
            (b"Content-Type", b"application/json; charset=utf-8"),
            (b"Cache-Control", b"no-store"),
            (b"Pragma", b"no-cache"),
            (b"X-Content-Type-Options", b"nosniff"),
            (b"Retry-After", str(RETRY_AFTER_SECONDS).encode()),
        ]
        encoded = json.dumps(body, separators=(",", ":")).encode()
        self._engine.answer_request(ref, 503, headers, encoded)

    # --- names ---

    def _name(self, ref: int, host: str) -> None:
        if not self._begin("name", self._answer_name(ref, host)):
            self._engine.answer_name(ref, False)

    async def _answer_name(self, ref: int, host: str) -> None:
        found = False
        try:
            async with asyncio.timeout(NAME_SECONDS):
                found = await self._resolver.resolve(host)
        except TimeoutError:
            pass
        except Exception as error:
            log.error("answer.fault", question="name", error=f"{type(error).__name__}: {error}")
        finally:
            self._engine.answer_name(ref, found)

    def _begin(self, kind: str, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` as a task; False, and not run, when there are too many of its kind."""
        tasks = self._tasks[kind]
        if len(tasks) >= TASKS_MAX[kind]:
            work.close()
            return False
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return True
