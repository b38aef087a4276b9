"""Whose request this is: the token that it shows, or nobody's.

401 without one, 403 where its role does not go that far, 429 for an address that showed too many
wrong ones: guessing is hopeless (238 bits), what it does to the log is not. A token that is good is
good whatever its address did before.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control.guard.answers import refuse
from control.guard.callers import ANYBODY, Caller, caller
from control.guard.tokens import TokensFile
from control.oauth2.throttle import ADDRESSES_MAX, Failures, network_of
from control.store import audit

FAILURES_MAX = 20  # wrong tokens a minute from one address, before it gets 429
CHALLENGE = (b"www-authenticate", b'Bearer realm="narthex-admin"')

NO_TOKEN = "a token of the Admin API is needed, as Kong-Admin-Token or Authorization: Bearer"
WRONG_TOKEN = "this is no token of the Admin API"
FORBIDDEN = "the role %s may read and not write"
TOO_MANY = "too many wrong tokens from this address, try again later"

# One of our own paths ends with an access token, which may hold slashes and whatever else.
_TOKEN_PATH = re.compile(r"(/oauth2_tokens/).+", re.DOTALL)

log = structlog.get_logger("control")


def shown_path(scope: Scope) -> str:
    """The path as a log may show it."""
    return _TOKEN_PATH.sub(r"\1[redacted]", scope["path"])


class Login:
    """ASGI middleware that passes on only what the caller's role allows.

    `tokens` None: everybody may everything, for only this machine reaches the listeners.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: TokensFile | None,
        failures_max: int = FAILURES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._failures = Failures(failures_max, ADDRESSES_MAX)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        known = await self._caller(scope, send)
        if known is None:
            return None
        if not known.may_use(scope["method"]):
            _log_refusal(scope, 403, known)
            return await refuse(send, 403, FORBIDDEN % known.role)
        await self._answer(known, scope, receive, send)

    async def _caller(self, scope: Scope, send: Send) -> Caller | None:
        """Who is calling; None for nobody, who was then answered."""
        if self._tokens is None:
            return ANYBODY
        shown = _shown(scope["headers"])
        found = self._tokens.find(shown[0]) if len(shown) == 1 else None
        if found is not None:
            return found
        wait = self._note_failure(scope) if shown else 0
        if wait:
            await refuse(send, 429, TOO_MANY, [(b"retry-after", b"%d" % wait)])
            return None
        _log_refusal(scope, 401, None, "wrong token" if shown else "no token")
        await refuse(send, 401, WRONG_TOKEN if shown else NO_TOKEN, [CHALLENGE])
        return None

    def _note_failure(self, scope: Scope) -> int:
        """Seconds until this address may fail again; 0 when it might this time."""
        network, now = network_of(_address(scope)), self._clock()
        wait = self._failures.wait(network, now)
        if not wait and self._failures.note(network, now):
            log.warning("admin.throttled", address=network, failures=self._failures.limit)
        return math.ceil(wait)

    async def _answer(self, known: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope.get("request_id", "")

        def tell(written: Sequence[audit.Written]) -> None:
            _log_written(by, written)

        by = audit.Writer(known.name, known.role, _address(scope), request_id, tell)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 403:
                _log_refusal(scope, 403, known)
            await send(message)

        calling, writing = caller.set(known), audit.writer.set(by)
        try:
            await self._app(scope, receive, noting)
        finally:
            caller.reset(calling)
            audit.writer.reset(writing)


def _shown(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The different tokens that a request shows: one may be right, two are wrong.

    Authorization counts where Kong-Admin-Token is not sent: it may be for whoever stands before us.
    """
    own, bearer = set(), set()
    for name, value in headers:
        if name == b"kong-admin-token":
            own.add(value)
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer.add(value[7:])
    return [value.strip().decode("latin-1") for value in own or bearer]


def _address(scope: Scope) -> str:
    peer = scope.get("client")
    return str(peer[0]) if peer else ""


def _log_refusal(scope: Scope, status: int, known: Caller | None, why: str = "role") -> None:
    log.warning(
        "admin.refused",
        status=status,
        why=why,
        who=known and known.name,
        role=known and str(known.role),
        address=_address(scope),
        method=scope["method"],
        path=shown_path(scope),
        request_id=scope.get("request_id", ""),
    )


def _log_written(by: audit.Writer, written: Sequence[audit.Written]) -> None:
    for one in written:
        log.info(
            "admin.written",
            who=by.who,
            role=str(by.role),
            address=by.address,
            request_id=by.request_id,
            change=one.change,
            type=one.type,
            entity_id=one.entity_id,
            name=one.name,
            before=one.before,
            after=one.after,
        )
