"""From the revocation of a token to the Close on the wire, on two data planes.

Each of the tokens has two sessions on each data plane. One token after the other is revoked through
the Admin API, and each of its sessions is timed from the moment at which the request is sent to the
one at which its Close can be read.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.target import PATH, Gateway
from bench.tools import Trouble

SESSIONS_EACH = 2  # of a token, on each data plane
SECONDS_TO_CLOSE = 10.0
SECONDS_TO_ARRIVE = 5.0
DESCRIPTORS_BESIDE = 200  # of sessions
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Authorization: Bearer {token}\r\n\r\n"
)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(gateway: Gateway, ports: Sequence[int], revocations: int) -> list[float]:
    """Milliseconds of each session to its Close."""
    enough_descriptors(revocations * SESSIONS_EACH * len(ports))
    (client,) = call(gateway, "GET", "/consumers/alex/oauth2")["data"]
    waits: list[float] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        tokens = []
        for _ in range(revocations):
            body = {"credential": {"id": client["id"]}, "expires_in": 3600}
            made = call(gateway, "POST", "/oauth2_tokens", body)
            tokens.append(made["id"])
            for port in ports:
                for _ in range(SESSIONS_EACH):
                    session = stack.enter_context(opened(port, made["access_token"]))
                    selector.register(session, selectors.EVENT_READ, made["id"])
        for token in tokens:
            waits += revoked(gateway, selector, token, SESSIONS_EACH * len(ports))
    return waits


def revoked(
    gateway: Gateway, selector: selectors.DefaultSelector, token: str, sessions: int
) -> Iterator[float]:
    """Revoke a token; how long each of its sessions took to hear of it."""
    began = time.monotonic()
    with asked(gateway, "DELETE", f"/oauth2_tokens/{token}") as connection:
        left = sessions
        while left:
            events = selector.select(SECONDS_TO_CLOSE)
            now = time.monotonic()
            if not events:
                raise Trouble(f"{left} of {sessions} sessions heard nothing of a revocation")
            for key, _ in events:
                check_close(key, token)
                selector.unregister(key.fileobj)
                left -= 1
                yield (now - began) * 1000
        answer = connection.recv(4096)
        if not answer.startswith(b"HTTP/1.1 204"):
            raise Trouble(f"the Admin API answered {answer[:60]!r}")


def check_close(key: selectors.SelectorKey, token: str) -> None:
    session = key.fileobj
    assert isinstance(session, socket.socket)
    frame = session.recv(4096)
    if key.data != token or frame[:1] != b"\x88" or frame[2:4] != (4401).to_bytes(2, "big"):
        raise Trouble(f"a session heard {frame[:40]!r} for the revocation of another's token")


@contextmanager
def asked(gateway: Gateway, method: str, path: str) -> Iterator[socket.socket]:
    """A request without a body that is on its way."""
    host, _, port = gateway.admin.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        yield connection


def opened(port: int, token: str) -> socket.socket:
    """An established session; the token, made by hand, may still be on its way there."""
    deadline = time.monotonic() + SECONDS_TO_ARRIVE
    while True:
        session = socket.create_connection(("127.0.0.1", port), 10)
        session.sendall(HANDSHAKE.format(path=PATH, token=token).encode())
        answer = b""
        while b"\r\n\r\n" not in answer and (more := session.recv(4096)):
            answer += more
        if answer.startswith(b"HTTP/1.1 101"):
            return session
        session.close()
        if not answer.startswith(b"HTTP/1.1 401") or time.monotonic() > deadline:
            raise Trouble(f"a handshake got {answer[:60]!r}")


def call(gateway: Gateway, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{gateway.admin}{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def enough_descriptors(sessions: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sessions + DESCRIPTORS_BESIDE
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise Trouble(f"{wanted} descriptors are needed, and {hard} are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
