"""An engine in this process, and raw sockets on both of its sides.

A test drives everything from one thread: the client's socket, the engine, and the upstream's end,
which it accepts itself, so that every cut and every order is the test's own.  What is left open at
the end of a `Rig` is closed, and then the engine must hold nothing any more.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import select
import socket
import ssl
import struct
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from dataplane import compile as compiling
from dataplane import wire
from dataplane._engine import Engine
from dataplane._policies import FLAGS, SESSION_DEFAULTS, NameTable, PolicyBox
from dataplane._tables import Tables
from dataplane.compile import compile_snapshot
from tests.dataplane.snapshots import uid

SECONDS = 10.0  # for anything that should happen at once
POLL_SECONDS = 0.002
CHECK_KEY = b"k" * 32
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK = b"\x37\xfa\x21\x3d"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
UPGRADE = (
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: " + KEY,
    b"Sec-WebSocket-Version: 13",
)
SESSION_FIELDS = (  # of a policy, in the order of SESSION_DEFAULTS
    "client_message_max",
    "upstream_message_max",
    "ping_interval_ms",
    "ping_timeout_ms",
    "idle_timeout_ms",
    "stall_timeout_ms",
    "buffered_max",
    "on_edit",
    "on_delete",
)
SERVICE, ROUTE, PLUGIN, CONSUMER, CREDENTIAL = uid(1), uid(2), uid(3), uid(4), uid(5)

Found = TypeVar("Found")


def until(probe: Callable[[], Found], seconds: float = SECONDS) -> Found:
    """The first true value of `probe`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {seconds} s: last {found!r}"
        time.sleep(POLL_SECONDS)
    return found


def text_id(raw: bytes) -> str:
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# --- frames ---------------------------------------------------------------------------------------


def frame(
    opcode: int, payload: bytes = b"", *, mask: bytes | None = None, fin: bool = True, rsv: int = 0
) -> bytes:
    """One frame, right or wrong; `mask` None: not masked, as a server sends it."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    flag = 0x80 if mask is not None else 0
    if len(payload) < 126:
        head += bytes([flag | len(payload)])
    elif len(payload) < 65536:
        head += struct.pack("!BH", flag | 126, len(payload))
    else:
        head += struct.pack("!BQ", flag | 127, len(payload))
    return head + (payload if mask is None else mask + masked(payload, mask))


def up(opcode: int, payload: bytes = b"", **options: Any) -> bytes:
    """A frame as a client sends it."""
    return frame(opcode, payload, mask=MASK, **options)


def masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def close(code: int | None = None, reason: bytes = b"", *, mask: bytes | None = None) -> bytes:
    payload = b"" if code is None else struct.pack("!H", code) + reason
    return frame(CLOSE, payload, mask=mask)


@dataclass(frozen=True)
class Frame:
    opcode: int
    payload: bytes  # unmasked
    fin: bool
    masked: bool
    raw: bytes

    @property
    def code(self) -> int | None:
        """Of a Close."""
        assert self.opcode == CLOSE, self
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None


@dataclass(frozen=True)
class Head:
    """A request's or answer's head, split as plainly as can be."""

    line: str
    fields: list[tuple[str, str]]

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        assert b"\n" not in raw.replace(b"\r\n", b"") and b"\r" not in raw.replace(b"\r\n", b"")
        line, *rest = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = [field.partition(":") for field in rest]
        return cls(line, [(name, value.strip(" \t")) for name, _, value in pairs])

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The value of a field that must not be there twice."""
        found = self.all(name)
        assert len(found) < 2, (name, found)
        return found[0] if found else None

    def names(self) -> list[str]:
        return [key.lower() for key, _ in self.fields]


class Line:
    """One TCP connection with a memory: what was read and not asked for yet."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(SECONDS)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.data = b""

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def fill(self) -> bool:
        """Read some more; False at the end, however it came."""
        try:
            more = self.sock.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            more = b""
        self.data += more
        return bool(more)

    def exactly(self, size: int) -> bytes:
        parts, have = [self.data], len(self.data)
        self.data = b""
        while have < size:
            assert self.fill(), f"ended after {have} of {size} bytes: {b''.join(parts)[-200:]!r}"
            parts.append(self.data)
            have += len(self.data)
            self.data = b""
        whole = b"".join(parts)
        self.data = whole[size:]
        return whole[:size]

    def head(self) -> Head:
        while b"\r\n\r\n" not in self.data:
            assert self.fill(), f"ended within a head: {self.data[-200:]!r}"
        return Head.parse(self.exactly(self.data.index(b"\r\n\r\n") + 4))

    def answer(self, *, body: bool = True) -> tuple[Head, bytes]:
        """An answer's head and its body by Content-Length."""
        head = self.head()
        size = int(head.get("Content-Length") or 0) if body else 0
        return head, self.exactly(size)

    def chunks(self) -> list[bytes]:
        """The chunks of a body up to its last, which has no trailers."""
        found: list[bytes] = []
        while True:
            while b"\r\n" not in self.data:
                assert self.fill(), f"ended within a chunk's size: {self.data[-200:]!r}"
            size = int(self.exactly(self.data.index(b"\r\n") + 2), 16)
            chunk = self.exactly(size + 2)
            assert chunk.endswith(b"\r\n"), chunk[-20:]
            if size == 0:
                return found
            found.append(chunk[:-2])

    def message(self) -> tuple[Head, bytes]:
        """A head and the body that it announces: chunked, by length, or none."""
        head = self.head()
        if head.get("Transfer-Encoding") is not None:
            assert head.get("Transfer-Encoding") == "chunked" and not head.all("Content-Length")
            return head, b"".join(self.chunks())
        return head, self.exactly(int(head.get("Content-Length") or 0))

    def frame(self) -> Frame:
        first, second = self.exactly(2)
        raw = bytes([first, second])
        size = second & 127
        if size == 126:
            raw += self.exactly(2)
            size = int.from_bytes(raw[2:4], "big")
        elif size == 127:
            raw += self.exactly(8)
            size = int.from_bytes(raw[2:10], "big")
        mask = self.exactly(4) if second & 128 else b""
        payload = self.exactly(size)
        clear = masked(payload, mask) if mask else payload
        return Frame(first & 15, clear, first >= 128, bool(mask), raw + mask + payload)

    def frames(self, count: int) -> list[Frame]:
        return [self.frame() for _ in range(count)]

    def rest(self) -> bytes:
        """All that comes up to the end of the stream."""
        while self.fill():
            pass
        rest, self.data = self.data, b""
        return rest

    def silent(self, seconds: float = 0.05) -> bool:
        """Whether nothing has come, and nothing comes for a moment."""
        ready, _, _ = select.select([self.sock], [], [], seconds)
        return not ready and not self.data

    def shut(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    @property
    def local(self) -> str:
        host, port = self.sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def accept_of(key: bytes) -> bytes:
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(key + guid).digest())


def switching(*fields: bytes, accept: bytes = ACCEPT) -> bytes:
    """An upstream's 101."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        *fields,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Upstream:
    """A listener whose connections the test accepts and answers itself."""

    def __init__(self, host: str = "127.0.0.1", backlog: int = 512) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((host, 0))
        self.sock.listen(backlog)
        self.sock.settimeout(SECONDS)
        self.host, self.port = host, self.sock.getsockname()[1]
        self.lines: list[Line] = []

    def accept(self) -> Line:
        line = Line(self.sock.accept()[0])
        self.lines.append(line)
        return line

    def untouched(self) -> bool:
        """Whether nobody connects, now or in a moment."""
        return not select.select([self.sock], [], [], 0.02)[0]

    def close(self) -> None:
        for line in self.lines:
            line.close()
        self.sock.close()


# --- the engine -----------------------------------------------------------------------------------


def service(port: int, **fields: Any) -> wire.Service:
    given = {"protocol": "ws", "host": "127.0.0.1", "port": port, **fields}
    return wire.Service(given.pop("id", SERVICE), **given)


def route(**fields: Any) -> wire.Route:
    given = {"protocols": ["ws", "wss"], "service": SERVICE, "oauth2": PLUGIN, **fields}
    return wire.Route(given.pop("id", ROUTE), **given)


def plugin(**fields: Any) -> wire.OAuth2:
    given = {"global_credentials": True, **fields}
    return wire.OAuth2(given.pop("id", PLUGIN), **given)


def request(target: bytes = b"/", *fields: bytes, method: bytes = b"GET") -> bytes:
    """A request's head; Host is put in unless it is among the fields."""
    lines = [method + b" " + target + b" HTTP/1.1"]
    if not any(field.lower().startswith(b"host:") for field in fields):
        lines.append(b"Host: gateway.test")
    return b"\r\n".join([*lines, *fields]) + b"\r\n\r\n"


def handshake(target: bytes = b"/", *fields: bytes) -> bytes:
    return request(target, *UPGRADE, *fields)


class Mark:
    """An object that can be seen to go."""


class Rig:
    """One engine, one upstream unless told otherwise, and the sockets a test opens."""

    def __init__(self, workers: int, **options: Any) -> None:
        self.given = {
            "workers": workers,
            "token_cache": 1024,
            "max_sessions": 512,
            "server_token": "narthex/test",
            "seed": os.urandom(32),
            **options,
        }
        self.engine = Engine(**self.given)
        self.names = NameTable(self.engine.reclaimer, self.engine.tickets)
        self.port = self.engine.listen("127.0.0.1", 0, False)
        self.upstream = Upstream()
        self.lines: list[Line] = []
        self.closing: list[Upstream] = [self.upstream]
        self.tables: list[Tables] = []
        self.version = 0
        self.tls_port = 0
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.pending: list[tuple[Any, ...]] = []

    # configuration

    def use_tls(self, pair: tuple[Path, Path]) -> None:
        self.tls_port = self.engine.listen("127.0.0.1", 0, True)
        self.engine.certificate(str(pair[0]), str(pair[1]))

    def publish(self, *parts: Any) -> Tables:
        """Tables of these services, routes and plugins, with one consumer and its credential."""

        def of(kind: type) -> list[Any]:
            return [part for part in parts if isinstance(part, kind)]

        self.version += 1
        snapshot = wire.Snapshot(
            b"e" * 16,
            self.version,
            CHECK_KEY,
            of(wire.Service),
            of(wire.Route),
            of(wire.OAuth2),
            of(wire.Consumer) or [wire.Consumer(CONSUMER, "alex", "custom-7")],
            of(wire.Credential) or [wire.Credential(CREDENTIAL, "client-1", CONSUMER)],
            size_limits=of(wire.SizeLimit),
            sessions=of(wire.SessionRules),
            certificates=of(wire.Certificate),
            ca_certificates=of(wire.CaCertificate),
            issuers=of(wire.Issuer),
            upstreams=of(wire.Upstream),
        )
        previous = self.tables[-1] if self.tables else None
        self.tables.append(compile_snapshot(snapshot, previous, self.names))
        self.engine.publish(self.tables[-1])
        return self.tables[-1]

    @contextlib.contextmanager
    def session_policy(
        self, *, validate_utf8: bool = False, refuse_deflate: bool = False, **changed: int
    ) -> Iterator[None]:
        """What is published within has these session fields and else the defaults.

        The engine is driven here without the plugins that set them.
        """
        values = dict(zip(SESSION_FIELDS, SESSION_DEFAULTS, strict=True))
        assert set(changed) <= set(values)
        session = tuple({**values, **changed}.values())

        def box(*given: Any, **named: Any) -> PolicyBox:
            flags = given[5] | (FLAGS["validate_utf8"] if validate_utf8 else 0)
            flags |= FLAGS["refuse_deflate"] if refuse_deflate else 0
            return PolicyBox(*given[:5], flags, *given[6:10], session, *given[11:], **named)

        with mock.patch.object(compiling, "PolicyBox", box):
            yield

    def open_route(self, service_fields: dict[str, Any] | None = None, **fields: Any) -> None:
        """A ws route to the upstream, `/` unless told otherwise, that asks for no token."""
        given = {"paths": ["/"], "oauth2": None, **fields}
        self.publish(service(self.upstream.port, **(service_fields or {})), route(**given))

    def http_route(self, service_fields: dict[str, Any] | None = None, **fields: Any) -> None:
        """An http route to the upstream, `/` unless told otherwise, that asks for no token."""
        given = {"paths": ["/"], "oauth2": None, "protocols": ["http", "https"], **fields}
        self.publish(
            service(self.upstream.port, **{"protocol": "http", **(service_fields or {})}),
            route(**given),
        )

    def guarded_route(self, plugin_fields: dict[str, Any] | None = None, **fields: Any) -> None:
        """A ws route to the upstream that asks for a token."""
        self.publish(
            service(self.upstream.port),
            route(**{"paths": ["/"], **fields}),
            plugin(**(plugin_fields or {})),
        )

    def token(self, number: int = 1, *, put: bool = True, **claims: Any) -> bytes:
        """A token whose check passes; known to the engine unless `put` is False."""
        random_part = f"{number:026d}"
        text = random_part + wire.token_check(CHECK_KEY, random_part)
        if put:
            self.put(text, **claims)
        return text.encode()

    def put(self, text: str, **claims: Any) -> None:
        given = {
            "credential": CREDENTIAL,
            "service": None,
            "scope": None,
            "user_id": None,
            "expires_at": time.time() + 1000,
            "version": 1,
            **claims,
        }
        self.engine.tokens.put(wire.token_digest(text), **given)

    # sockets

    def connect(self, *, port: int | None = None, host: str = "127.0.0.1") -> Line:
        line = Line(socket.create_connection((host, port or self.port), SECONDS))
        self.lines.append(line)
        return line

    def client(self, *parts: bytes, **where: Any) -> Line:
        """A connection that has sent these bytes."""
        line = self.connect(**where)
        line.send(*parts)
        return line

    def secure(self, *parts: bytes, **settings: Any) -> Line:
        """The same over TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(settings.get("alpn", ["http/1.1"]))
        raw = socket.create_connection(("127.0.0.1", self.tls_port), SECONDS)
        line = Line(context.wrap_socket(raw, server_hostname="localhost"))
        self.lines.append(line)
        line.send(*parts)
        return line

    def another_upstream(self, host: str = "127.0.0.1") -> Upstream:
        made = Upstream(host)
        self.closing.append(made)
        return made

    def session(self, *fields: bytes, target: bytes = b"/") -> tuple[Line, Line]:
        """An established WebSocket: the client's end and the upstream's."""
        client = self.client(handshake(target, *fields))
        upstream = self.upstream.accept()
        upstream.head()
        upstream.send(switching())
        assert client.head().status == 101
        return client, upstream

    # the Python thread's part

    def question(self) -> tuple[Any, ...]:
        """The next question of a worker."""
        while not self.pending:
            ready, _, _ = select.select([self.engine.question_fd], [], [], SECONDS)
            assert ready, "no question came"
            self.pending += self.engine.questions()
        return self.pending.pop(0)

    def record(self, kind: str) -> dict[str, Any]:
        """The next record of this kind."""

        def look() -> dict[str, Any] | None:
            self.records += self.engine.records()
            for at, (found, fields) in enumerate(self.records):
                if found == kind:
                    del self.records[at]
                    return fields
            return None

        return until(look)

    def turns_end(self) -> None:
        """Until the turns that workers are in have ended.

        What they count or let go of behind an answer that was heard is so by then.
        """
        mark = Mark()
        held = weakref.ref(mark)
        self.engine.reclaimer.retire_object(mark)
        del mark

        def ended() -> bool:
            self.engine.reclaimer.sweep()
            return held() is None

        until(ended)

    def counters(self) -> dict[str, Any]:
        self.turns_end()
        return self.engine.counters()

    def count(self, name: str) -> Any:
        return self.counters()[name]

    def users(self) -> int:
        """Sessions and requests that hold a policy of any tables published so far."""
        self.turns_end()
        boxes = {id(box): box for tables in self.tables for box in tables.boxes.values()}
        return sum(box.users() for box in boxes.values())

    def idle(self) -> None:
        """Nothing is held any more: no connection, session, policy or retired memory."""

        def at_rest() -> bool:
            now = self.engine.counters()
            self.engine.sweep()
            return (now["connections"], now["live_sessions"], self.users()) == (0, 0, 0)

        until(at_rest)

    def close_lines(self) -> None:
        for line in self.lines:
            line.close()
        for upstream in self.closing:
            upstream.close()

    def end(self) -> None:
        self.engine.stop()
        assert self.engine.join(SECONDS)


@contextlib.contextmanager
def rig(workers: int, **options: Any) -> Iterator[Rig]:
    """A started engine; at the end all is closed and nothing may be left in it."""
    made = Rig(workers, **options)
    made.engine.start()
    try:
        yield made
        made.close_lines()
        made.idle()
    finally:
        made.close_lines()
        made.end()
