"""From the revocation of a token to the Close on the wire, on two data planes.

Each of the tokens has two sessions on each data plane. One token after the other is revoked, in
turns by the Admin API (DELETE) and by its client (RFC 7009, through a data plane), and each of its
sessions is timed from the moment at which the request is sent to that at which its Close is there.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlencode

from bench.target import PATH, Gateway
from bench.tools import Trouble

Request = tuple[socket.socket, bytes]  # a connection, and what is to be sent on it

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
            tokens.append(made)
            for port in ports:
                for _ in range(SESSIONS_EACH):
                    session = stack.enter_context(opened(port, made["access_token"]))
                    selector.register(session, selectors.EVENT_READ, made["id"])
        for number, token in enumerate(tokens):
            way = by_client if number % 2 else by_admin
            waits += revoked(way(gateway, token), selector, token, SESSIONS_EACH * len(ports))
    return waits


def revoked(
    request: Request, selector: selectors.DefaultSelector, token: dict[str, Any], sessions: int
) -> Iterator[float]:
    """Revoke a token; how long each of its sessions took to hear of it."""
    connection, sent = request
    with connection:
        began = time.monotonic()
        connection.sendall(sent)
        left = sessions
        while left:
            events = selector.select(SECONDS_TO_CLOSE)
            now = time.monotonic()
            if not events:
                said = connection.recv(4096)
                raise Trouble(f"{left} of {sessions} sessions heard nothing; the answer: {said!r}")
            for key, _ in events:
                check_close(key, token["id"])
                selector.unregister(key.fileobj)
                left -= 1
                yield (now - began) * 1000
        answer = connection.recv(4096)
        if not answer.startswith((b"HTTP/1.1 204", b"HTTP/1.1 200")):
            raise Trouble(f"a revocation got {answer[:60]!r}")


def check_close(key: selectors.SelectorKey, token: str) -> None:
    session = key.fileobj
    assert isinstance(session, socket.socket)
    frame = session.recv(4096)
    if key.data != token or frame[:1] != b"\x88" or frame[2:4] != (4401).to_bytes(2, "big"):
        raise Trouble(f"a session heard {frame[:40]!r} for the revocation of another's token")


def by_admin(gateway: Gateway, token: dict[str, Any]) -> Request:
    host, _, port = gateway.admin.removeprefix("http://").partition(":")
    head = f"DELETE /oauth2_tokens/{token['id']} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
    return socket.create_connection((host, int(port)), 10), head.encode()


def by_client(gateway: Gateway, token: dict[str, Any]) -> Request:
    plain = socket.create_connection(("127.0.0.1", gateway.tls_port), 10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its hello is not acked at once
    connection = ssl._create_unverified_context().wrap_socket(plain)
    body = urlencode({**gateway.client, "token": token["access_token"]})
    head = (
        "POST /token/oauth2/revoke HTTP/1.1\r\nHost: bench\r\nContent-Length: "
        f"{len(body)}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    return connection, (head + body).encode()


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
