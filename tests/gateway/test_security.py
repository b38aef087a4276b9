"""What an attacker meets at the whole gateway; by the numbers of the security checklist."""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import howto
from tests.harness import ROOT, Gateway, free_ports, insecure_tls, running_gateway

MUTANTS = 250  # of each kind of request
SECONDS = 10.0

# --- what no error body may show ---------------------------------------------------------------

# Stack traces and other insides, SQL, file paths, versions (and not addresses).
_TELLING = re.compile(
    r"Traceback|File \"|line \d+, in |\.py\b|\.pyx\b|\.so\b|site-packages|0x[0-9a-f]{8}"
    r"|\b(?:SELECT|INSERT|UPDATE|DELETE|PRAGMA)\b.{0,80}\b(?:FROM|INTO|SET|WHERE)\b"
    r"|constraint failed|no such table|IntegrityError|OperationalError|Exception\b"
    r"|(?:^|[\s\"'(:=])/(?:usr|home|root|tmp|var|etc|opt|proc|work)/"
    r"|(?<![\d.])\d+\.\d+\.\d+(?!\.?\d)",
    re.IGNORECASE,
)
# As words: the short ones are words of the trade as well.
_LIBRARIES = re.compile(
    r"\b(?:sqlite3?|alembic|fastapi|starlette|pydantic|uvicorn|sqlalchemy|sqlmodel|websockets|h11"
    r"|httptools|openssl|cython|cryptography|msgspec|structlog|anyio|pyyaml|python[ /]?\d)\b",
    re.IGNORECASE,
)


def showing(body: str, folder: Path) -> str | None:
    """What in this body tells of our insides; None when nothing does."""
    for found in (_TELLING.search(body), _LIBRARIES.search(body)):
        if found is not None:
            return found[0]
    return next((str(p) for p in (ROOT, folder) if str(p) in body), None)


def test_what_must_not_be_shown_is_recognised(tmp_path: Path) -> None:
    version = next(d.version for d in distributions() if d.name == "starlette")
    for body in (
        'Traceback (most recent call last):\n  File "control/app.py", line 3, in create_app',
        "(sqlite3.OperationalError) no such table: routes",
        "SELECT id FROM routes WHERE name = ?",
        "UNIQUE constraint failed: routes.name",
        f"cannot read {tmp_path}/narthex.db",
        '{"message":"starlette"}',
        f"made with {version}",
        "<Session object at 0x7f3a1c2b4d50>",
    ):
        assert showing(body, tmp_path), body
    for body in (
        '{"message":"no Route matched with those values"}',
        '{"message":"schema violation (host: invalid value: 127.0.0.1)","code":2}',
        '{"error_description":"Invalid client authentication","error":"invalid_client"}',
    ):
        assert showing(body, tmp_path) is None, body


# --- asking ------------------------------------------------------------------------------------

_TLS = insecure_tls()


@dataclass(frozen=True)
class Answer:
    status: int
    server: str
    body: str


@dataclass(frozen=True)
class Face:
    """One of the gateway's ports, asked in bytes."""

    port: int
    tls: bool = False

    def send(self, request: bytes, *, ends: bool = False) -> Answer | None:
        """The first answer to these bytes; None without one.

        `ends`: our side ends behind them, lest the rest of what is no whole request is waited for.
        """
        with ExitStack() as stack:
            sock = socket.create_connection(("127.0.0.1", self.port), SECONDS)
            stack.enter_context(sock)
            if self.tls:
                sock = stack.enter_context(_TLS.wrap_socket(sock))
            try:
                sock.sendall(request)
                if ends and not self.tls:
                    sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before all of it was read; the answer may be there
            answer = stack.enter_context(closing(http.client.HTTPResponse(sock)))
            try:
                answer.begin()
                body = answer.read().decode("utf-8", "replace")
            except (http.client.HTTPException, ssl.SSLError, ConnectionError):
                return None
            return Answer(answer.status, answer.headers.get("Server", ""), body)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: tuple[bytes, ...] = ()
    ) -> Answer:
        """One whole request, however wrong its parts are."""
        lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: localhost", b"Connection: close"]
        lines += [*headers, b"Content-Length: %d" % len(body)]
        answer = self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        assert answer is not None, (method, path, body[:80], headers)
        return answer


@dataclass(frozen=True)
class Target:
    """A gateway that is set up, and its faces."""

    gateway: Gateway
    made: howto.HowTo
    proxy: Face
    tls: Face
    admin: Face

    def check(self, answer: Answer | None, what: Any) -> None:
        """An error that tells nothing; answers that are no errors may say what they like."""
        if answer is None or answer.status < 400:
            return
        assert answer.status != 500, (what, answer)
        shown = showing(answer.body, self.gateway.folder)
        assert shown is None, (shown, what, answer)
        assert not _LIBRARIES.search(answer.server), (what, answer)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, echo_url: str) -> Iterator[Target]:
    with running_gateway(tmp_path_factory.mktemp("security")) as gateway:
        gateway.start()
        made = howto.set_up(gateway, echo_url)
        (closed,) = free_ports(1)
        for name, host in (("down", f"127.0.0.1:{closed}"), ("nowhere", "no-such-host.invalid")):
            howto.post(gateway, "/services", name=name, url=f"ws://{host}/")
            howto.post(
                gateway, f"/services/{name}/routes", protocols=["ws", "wss"], paths=[f"/{name}"]
            )
        howto.post(gateway, "/services", name="victim", host="localhost")
        ports = gateway.ports
        yield Target(gateway, made, Face(ports.proxy), Face(ports.tls, tls=True), Face(ports.admin))


# --- broken inputs -----------------------------------------------------------------------------

JSON = b"Content-Type: application/json"
FORM = b"Content-Type: application/x-www-form-urlencoded"
MULTIPART = b"Content-Type: multipart/form-data; boundary=x"
UPGRADE = (
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)

# Whole requests to the proxy's ports.
RAW = {
    "noise": bytes(range(256)),
    "request line": b"GET\r\n\r\n",
    "version": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "long target": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40000 + b"\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n  2\r\n\r\n",
    "nul": b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    "lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello",
    "smuggling": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk": b"POST /token-route/oauth2/token HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "escape": b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
    "no route": b"GET /nothing-here HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n",
    "not a handshake": b"GET /anything HTTP/1.1\r\nHost: a\r\n\r\n",
    "handshake with a body": b"GET /anything HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n"
    + b"\r\n".join(UPGRADE)
    + b"\r\nContent-Length: 2\r\n\r\nhi",
}

TEXTS = {
    "nothing": b"",
    "half": b'{"name": "x",',
    "array": b"[1, 2]",
    "number": b"1e400",
    "bytes": b"\xff\xfe\x00{",
    "nul": b'{"name": "a\\u0000b"}',
    "surrogate": b'{"name": "\\ud800", "client_id": "\\udfff", "grant_type": "\\ud834"}',
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "large number": b'{"name": 123456789012345678901234567890, "port": 1e300}',
    "large body": b'{"name": "' + b"a" * 200_000 + b'"}',
    "types": b'{"name": {}, "paths": "x", "protocols": 7, "config": [], "grant_type": []}',
    "quotes": b'{"name": "\'; DROP TABLE routes; --", "host": "\' OR 1=1"}',
    "template": b'{"name": "{{7*7}}${7*7}%s%n", "username": "../../etc/passwd"}',
    "multipart": b"--x\r\nContent-Disposition: form-data; name=\r\n\r\n--x",
    "form": b"a[b][c]=1&a=2&a[]=%zz&%=&=&;",
}
KINDS = (JSON, FORM, MULTIPART, b"Content-Type: \xff\xfe; charset=utf-7", b"X-None: 1")

ADMIN = {
    "list offset": ("GET", "/services?offset=%00%ff"),
    "list size": ("GET", "/services?size=-1"),
    "list tags": ("GET", "/services?tags=a,b/c"),
    "no such entity": ("GET", "/services/no-such-service"),
    "odd key": ("GET", "/routes/%00%ff%2e%2e%2f"),
    "no such path": ("GET", "/../../etc/passwd"),
    "no such collection": ("POST", "/nothing"),
    "wrong method": ("PATCH", "/services"),
    "schema": ("GET", "/schemas/no-such-schema"),
    "parent": ("POST", "/services/none/routes"),
    "delete in use": ("DELETE", "/services/down"),
}

YAML = {
    "broken": b"a: [1,",
    "tag": b"!!python/object/apply:os.system ['true']",
    "bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
    b"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"
    b"g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]",
    "bytes": b"\xff\xff",
    "control": b'_format_version: "3.0"\nservices: "\x07"',
    "date": b'_format_version: "3.0"\nservices: [{name: 2020-01-01, host: x}]',
    "keys": b'_format_version: "3.0"\nservices: [{1: 2}]',
    "reference": b'_format_version: "3.0"\nroutes: [{name: r, paths: [/], service: {name: none}}]',
}


@pytest.mark.parametrize("name", RAW)
def test_s97_broken_requests_to_the_proxy_are_told_nothing(target: Target, name: str) -> None:
    for face in (target.proxy, target.tls) if name != "noise" else (target.proxy,):
        answer = face.send(RAW[name], ends=True)
        assert answer is not None and answer.status >= 400, (name, answer)
        target.check(answer, name)


def test_s97_refused_handshakes_are_told_nothing(target: Target) -> None:
    upgrade = (*UPGRADE, b"Accept: application/xml")
    junk = b"Authorization: Bearer " + b"A" * 32
    seen = set()
    for path in (howto.PATH, "/down", "/nowhere"):
        for more in ((), (junk,), (b"Authorization: \xff\xfe",)):
            request = b"\r\n".join(
                [
                    f"GET {path} HTTP/1.1".encode(),
                    b"Host: localhost",
                    b"Connection: upgrade",
                    *upgrade,
                    *more,
                ]
            )
            answer = target.proxy.send(request + b"\r\n\r\n")
            assert answer is not None, (path, more)
            seen.add(answer.status)
            target.check(answer, (path, more))
    assert {401, 502} <= seen <= {400, 401, 502, 503}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k[:30].decode("latin-1"))
def test_s97_broken_bodies_are_told_nothing_by_the_admin_api(target: Target, kind: bytes) -> None:
    refused = 0
    for name, body in TEXTS.items():
        for method, path in (
            ("POST", "/services"),
            ("PATCH", "/services/victim"),
            ("PUT", "/consumers/somebody"),
            ("POST", "/routes"),
            ("POST", "/plugins"),
            ("POST", "/oauth2_tokens"),
        ):
            answer = target.admin.ask(method, path, body, (kind,))
            refused += answer.status >= 400
            target.check(answer, (name, method, path))
    assert refused > len(TEXTS)


def test_s97_broken_queries_and_paths_are_told_nothing_by_the_admin_api(target: Target) -> None:
    for name, (method, path) in ADMIN.items():
        answer = target.admin.ask(method, path, b"{}" if method == "POST" else b"", (JSON,))
        assert answer.status >= 400, (name, answer)
        target.check(answer, name)
    for name in ("version", "no host", "two hosts", "folded", "nul", "lengths", "smuggling"):
        answered = target.admin.send(RAW[name])
        assert answered is not None and answered.status >= 400, (name, answered)
        target.check(answered, name)
    for more in (b"Origin: https://evil.example", b"Content-Length: 7"):
        target.check(target.admin.ask("GET", "/services", b"", (more,)), more)


@pytest.mark.parametrize("name", YAML)
def test_s97_broken_files_are_told_nothing(target: Target, name: str) -> None:
    answer = target.admin.ask("POST", "/narthex/config/apply", YAML[name])
    assert answer.status == 400
    target.check(answer, name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k[:30].decode("latin-1"))
def test_s97_broken_token_requests_are_told_nothing(target: Target, kind: bytes) -> None:
    for name, body in TEXTS.items():
        answer = target.tls.ask("POST", howto.TOKEN_PATH, body, (kind,))
        assert answer.status >= 400, (name, answer)
        target.check(answer, name)
    for basic in (b"Basic", b"Basic !!!", b"Basic /////w==", b"Basic Og==", b"Bearer x", b"\xff"):
        answer = target.tls.ask(
            "POST",
            howto.TOKEN_PATH,
            b"grant_type=client_credentials",
            (FORM, b"Authorization: " + basic),
        )
        assert answer.status >= 400, (basic, answer)
        target.check(answer, basic)
    for method in ("GET", "PUT", "DELETE", "TRACE"):
        answer = target.tls.ask(method, howto.TOKEN_PATH)
        assert answer.status >= 400, (method, answer)
        target.check(answer, method)


# --- requests changed at random ------------------------------------------------------------------


def mutant(seed: random.Random, data: bytes) -> bytes:
    """`data` with a few bytes changed, left out, doubled or put elsewhere."""
    found = bytearray(data)
    for _ in range(seed.randint(1, 4)):
        at = seed.randrange(len(found) + 1)
        match seed.randrange(4):
            case 0:
                found[at : at + 1] = bytes([seed.randrange(256)])
            case 1:
                del found[at : at + seed.randint(1, 8)]
            case 2:
                found[at:at] = found[at : at + seed.randint(1, 16)]
            case 3:
                found[at:at] = seed.choice(
                    [b"\0", b'"', b"{", b"%00", b"\r\n", b"\xff", b"'", b"[]"]
                )
    return bytes(found)


@pytest.mark.parametrize("face", ["admin", "proxy", "token"])
def test_s97_requests_changed_at_random_are_told_nothing(target: Target, face: str) -> None:
    number = random.randrange(1 << 30)
    print(f"seed {number}")
    seed = random.Random(number)
    made = target.made
    secret = {"client_id": made.client_id, "client_secret": made.client_secret}
    bodies = {
        "admin": {"name": "n", "paths": ["/n"], "methods": ["GET"], "headers": {"x": ["1"]}},
        "token": {"grant_type": "client_credentials", "scope": "email", **secret},
    }
    body = json.dumps(bodies.get(face)).encode()
    refused = 0
    for turn in range(MUTANTS):
        answer: Answer | None
        if face == "proxy":
            head = [b"GET /anything?a=b HTTP/1.1", b"Host: localhost", *UPGRADE, b"", b""]
            changed = mutant(seed, b"\r\n".join(head))
            answer = target.proxy.send(changed, ends=True)
        else:
            changed = mutant(seed, body)
            asked, path = (
                (target.tls, howto.TOKEN_PATH) if face == "token" else (target.admin, "/routes")
            )
            answer = asked.ask("POST", path, changed, (JSON,))
        refused += answer is not None and answer.status >= 400
        target.check(answer, (turn, changed))
    assert refused > MUTANTS // 10


# --- faults of ours ------------------------------------------------------------------------------


def test_s97_broken_database_shows_nothing_of_itself(
    new_gateway: Callable[..., Gateway], echo_url: str
) -> None:
    gateway = new_gateway()
    process = gateway.start()
    made = howto.set_up(gateway, echo_url)
    with closing(sqlite3.connect(gateway.data_dir / "narthex.db", timeout=SECONDS)) as database:
        for table in ("consumers", "oauth2_credentials", "plugins"):
            database.execute(f"ALTER TABLE {table} RENAME TO {table}_gone")
    for method, path in (
        ("GET", "/consumers"),
        ("POST", "/consumers"),
        ("GET", "/plugins"),
        ("POST", "/consumers/alex/oauth2"),
    ):
        answer = gateway.admin.request(method, path, json={"username": "bob"})
        assert answer.status_code in (500, 503), (method, path)
        assert showing(answer.text, gateway.folder) is None, answer.text
    answer = made.ask_token()
    assert answer.status_code in (500, 503)
    assert showing(answer.text, gateway.folder) is None
    # An operator is told, in the log; not what the statement's values were.
    assert "no such table" in process.output()
    assert made.client_secret not in process.output()
