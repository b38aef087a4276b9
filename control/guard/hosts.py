"""Which requests reach the Admin API at all: the first thing that each one meets.

A web page can make its visitor's browser call a loopback address: with a foreign `Origin`, or by
DNS rebinding with a foreign `Host`.  Both are refused here, whatever the method, before routing
(S86).  Decisions read the headers and `scope["path"]` as they came, never a URL put together from
Host (S87, CVE-2026-48710).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from control.guard.answers import refuse
from control.settings import Listen, is_loopback

# uri-host [":" port] of RFC 9112 §3.2, without what only a trick would use (userinfo, escapes).
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([\w-]+(?:\.[\w-]+)*\.?))(?::([0-9]{1,5}))?")

FORBIDDEN_HOST = "the Admin API does not answer to this Host; see ADMIN_HOSTS"
FORBIDDEN_ORIGIN = "the Admin API does not answer to this Origin; see ADMIN_ORIGINS"


class Guard:
    """ASGI middleware that passes on only requests of an allowed Host and Origin."""

    def __init__(
        self,
        app: ASGIApp,
        listeners: Iterable[Listen],
        hosts: Iterable[str],
        origins: Iterable[str],
    ) -> None:
        self._app = app
        own = (listen.host for listen in listeners)
        self._hosts = frozenset(_canonical(host) for host in (*own, *hosts))
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        refusal = self._refusal(scope)
        if refusal is None:
            return await self._app(scope, receive, send)
        if scope["type"] == "http":
            await refuse(send, 403, refusal)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> str | None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not self._host_allowed(hosts[0]):
            return FORBIDDEN_HOST
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if origins and (len(origins) > 1 or origins[0] not in self._origins):
            return FORBIDDEN_ORIGIN
        return None

    def _host_allowed(self, value: bytes) -> bool:
        found = _HOST.fullmatch(value)
        if found is None or int(found[3] or 0) > 65535:
            return False
        host = _canonical((found[1] or found[2]).decode("ascii"))
        return is_loopback(host) or host in self._hosts


def _canonical(host: str) -> str:
    """One spelling for each name or address: lower case, no final dot, shortest IPv6."""
    host = host.strip("[]").lower()
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.removesuffix(".")
