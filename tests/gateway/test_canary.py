"""S95: secrets of every kind, by every carrier and at every endpoint, are seen again nowhere.

Each value is one of a kind. What is looked through in the end: the logs of both planes at
LOG_LEVEL debug, /metrics, /status, every answer (head and body) but for what it issues itself, and
the closes of refused WebSockets.
"""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.gateway.howto import log_lines, post
from tests.harness import Gateway, RecordingUpstream, eventually, running_gateway

PAGE = "https://app.example"
CALLBACK = "https://app.example/cb"
COOKIE, PREFIX = "canarycookie", "canary.token."
K8S = "base64url.bearer.authorization.k8s.io."
GRANTS = ("authorization_code", "implicit_grant", "client_credentials", "password_grant")
SECONDS = 10.0


@dataclass
class Canaries:
    """What must not be seen, and all that was said."""

    gateway: Gateway
    secrets: dict[str, str] = field(default_factory=dict)  # value → what it is
    said: list[tuple[str, str, frozenset[str]]] = field(default_factory=list)
    made: int = 0

    def new(self, what: str) -> str:
        """A value that is nowhere yet, 40 letters and digits."""
        self.made += 1
        digest = hashlib.sha256(f"{what} {self.made}".encode()).hexdigest()
        return self.keep(what, f"Canary{self.made:03d}{digest[:31]}")

    def keep(self, what: str, value: str) -> str:
        assert len(value) >= 16, value  # it cannot be there by chance
        self.secrets[value] = what
        return value

    def hear(self, where: str, text: str, *issued: str) -> None:
        self.said.append((where, text, frozenset(issued)))

    def ask(self, method: str, path: str, *issued: str, **request: Any) -> httpx.Response:
        """One request to the TLS port; the answer may have in it what it issues (by name)."""
        answer = self.gateway.request(method, path, tls=True, **request)
        return self.heard(answer, *issued)

    def admin(self, method: str, path: str, *shown: str, **request: Any) -> httpx.Response:
        """One request to the Admin API; `shown` is what it shows as Kong does."""
        answer = self.gateway.admin.request(method, path, **request)
        self.hear(f"Admin API {method}", text_of(answer), *shown)
        return answer

    def heard(self, answer: httpx.Response, *names: str) -> httpx.Response:
        body: dict[str, Any] = answer.json() if names else {}
        for name in names:
            if "redirect_uri" in body:
                where = urlsplit(body["redirect_uri"])
                body |= {n: v[0] for n, v in parse_qs(where.query or where.fragment).items()}
            self.keep(name, body[name])
        issued = [body[name] for name in names]
        self.hear(f"{answer.request.method} {answer.request.url.path}", text_of(answer), *issued)
        return answer

    def handshake(self, target: str, *protocols: str, route: str = "/ws", **headers: str) -> int:
        """The status of a handshake, or the code of the Close that came for it."""
        url = f"ws://127.0.0.1:{self.gateway.ports.proxy}{route}{target}"
        options: dict[str, Any] = {"proxy": None, "open_timeout": SECONDS}
        try:
            with connect(
                url,
                subprotocols=list(protocols) or None,  # type: ignore[arg-type]
                additional_headers={k.replace("_", "-"): v for k, v in headers.items()},
                **options,
            ) as socket_:
                answer = socket_.response
                assert answer is not None
                self.hear("101", f"{list(answer.headers.raw_items())}")
                if route == "/close":
                    with pytest.raises(ConnectionClosed) as closed:
                        socket_.recv(timeout=SECONDS)
                    assert closed.value.rcvd is not None
                    self.hear("Close", closed.value.rcvd.reason)
                    return closed.value.rcvd.code
                socket_.send("hello")
                assert socket_.recv(timeout=SECONDS) == "hello"
                return 101
        except InvalidStatus as refused:
            answer = refused.response
            self.hear("refusal", f"{list(answer.headers.raw_items())} {answer.body!r}")
            return answer.status_code

    def raw(self, text: str) -> str:
        """What the plain port answers to these bytes."""
        with socket.create_connection(("127.0.0.1", self.gateway.ports.proxy), SECONDS) as line:
            line.sendall(text.encode())
            line.shutdown(socket.SHUT_WR)
            said = b"".join(iter(lambda: line.recv(65536), b"")).decode("latin-1")
        self.hear("raw", said)
        return said.split("\r\n", 1)[0]

    def leaks(self) -> list[str]:
        """Where which secret was seen; never the secret itself."""
        return [
            f"{what} in {where}"
            for where, text, issued in self.said
            for value, what in self.secrets.items()
            if value in text and value not in issued
        ]


def text_of(answer: httpx.Response) -> str:
    return f"{answer.headers.multi_items()} {answer.text}"


@contextmanager
def canaries(folder: Path) -> Iterator[Canaries]:
    with (
        running_gateway(folder, LOG_LEVEL="debug") as gateway,
        RecordingUpstream() as upstream,
    ):
        made = Canaries(gateway)
        log_in(made, folder / "admin-tokens")
        gateway.start_control()
        gateway.start_dataplane()
        set_up(made, upstream.url)
        yield made


def log_in(c: Canaries, file: Path) -> None:
    """A token for the Admin API, which every call of this test shows."""
    c.gateway.settings["ADMIN_TOKENS_FILE"] = str(file)
    made = c.gateway.run("admin-token", "canary", "super")
    token = c.keep("token of the Admin API", made.stdout.strip())
    c.hear("the output of a command", made.stderr)
    c.hear("the file of tokens", file.read_text())
    c.gateway.admin.headers["Kong-Admin-Token"] = token


def set_up(c: Canaries, url: str) -> None:
    provision_key = c.new("provision key")
    secret = c.new("client secret")
    config: dict[str, Any] = {
        "global_credentials": True,
        "provision_key": provision_key,
        "scopes": ["email"],
        "token_carriers": ["header", "query", "subprotocol", "ticket", "cookie"],
        "cookie_name": COOKIE,
        "subprotocol_prefix": PREFIX,
        "endpoints": "all",
        **{f"enable_{name}": True for name in GRANTS},
    }
    service = {"id": post(c.gateway, "/services", name="s", url=url)["id"]}
    for name in ("ws", "close"):
        fields: dict[str, Any] = {"protocols": ["ws"], "paths": [f"/{name}"], "service": service}
        route = {"id": post(c.gateway, "/routes", name=name, **fields)["id"]}
        rules: dict[str, Any] = {"allowed_origins": [PAGE]}
        if name == "close":
            rules["on_auth_failure"] = "close"
        post(c.gateway, "/plugins", name="websocket-session", config=rules, route=route)
        post(c.gateway, "/plugins", name="oauth2", config=config, route=route)
    auth = {"id": post(c.gateway, "/routes", name="a", protocols=["https"], paths=["/auth"])["id"]}
    post(c.gateway, "/plugins", name="oauth2", config=config, route=auth)
    post(c.gateway, "/consumers", username="alex")
    post(
        c.gateway, "/consumers/alex/oauth2",
        name="app", client_id="canary-app", client_secret=secret, redirect_uris=[CALLBACK],
    )  # fmt: skip
    c.gateway.wait_carried()


def value_of(c: Canaries, what: str) -> str:
    return next(value for value, name in c.secrets.items() if name == what)


def basic(c: Canaries, secret: str) -> dict[str, str]:
    text = base64.b64encode(f"canary-app:{secret}".encode()).decode()
    return {"Authorization": "Basic " + c.keep("Basic credentials", text)}


def s256(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def issue(c: Canaries) -> dict[str, str]:
    """Every grant, refused and accepted; the last tokens."""
    secret, key = value_of(c, "client secret"), value_of(c, "provision key")
    at, client = "/auth/oauth2/token", {"client_id": "canary-app", "client_secret": secret}
    user = {"provision_key": key, "authenticated_userid": "u1"}
    for grant in (
        {"grant_type": "client_credentials", "client_secret": c.new("wrong secret")},
        {"grant_type": "authorization_code", "code": c.new("unknown code"), **client},
        {"grant_type": "refresh_token", "refresh_token": c.new("unknown refresh"), **client},
        {"grant_type": "password", "provision_key": c.new("wrong key"), **client},
        {"grant_type": c.new("grant"), "username": "u", "password": c.new("password"), **client},
    ):
        assert c.ask("POST", at, data={"client_id": "canary-app", **grant}).status_code >= 400
        assert c.ask("GET", at, params=grant).status_code == 405
    wrong = basic(c, c.new("wrong secret in a header"))
    grant = {"grant_type": "client_credentials"}
    assert c.ask("POST", at, data=grant, headers=wrong).status_code == 401
    answer = c.ask("POST", at, "access_token", data=grant, headers=basic(c, secret))
    assert answer.status_code == 200, answer.text
    assert c.ask("POST", at, "access_token", params=grant | client).status_code == 200
    verifier = c.new("code verifier") + "x" * 10
    c.keep("code verifier with its end", verifier)
    asked = {
        **user,
        "client_id": "canary-app",
        "response_type": "code",
        "code_challenge": s256(verifier),
        "code_challenge_method": "S256",
    }
    bad = asked | {"provision_key": c.new("wrong key at authorize")}
    assert c.ask("POST", "/auth/oauth2/authorize", data=bad).status_code == 400
    code = c.ask("POST", "/auth/oauth2/authorize", "code", json=asked).json()["redirect_uri"]
    implicit = {**user, "client_id": "canary-app", "response_type": "token"}
    c.ask("POST", "/auth/oauth2/authorize", "access_token", data=implicit)
    redeem = {
        "grant_type": "authorization_code",
        "code": parse_qs(urlsplit(code).query)["code"][0],
        "code_verifier": c.new("wrong verifier") + "y" * 10,
        **client,
    }
    assert c.ask("POST", at, data=redeem).status_code == 400
    redeem["code_verifier"] = verifier
    names = ("access_token", "refresh_token")
    found = c.ask("POST", at, *names, data=redeem).json()
    assert c.ask("POST", at, data=redeem).status_code == 400  # a code is good once
    refresh = {"grant_type": "refresh_token", "refresh_token": found["refresh_token"], **client}
    assert c.ask("POST", at, *names, json=refresh).status_code == 200
    assert c.ask("POST", at, json=refresh).status_code == 400
    by_password = {"grant_type": "password", **user, **client}
    tokens: dict[str, str] = c.ask("POST", at, *names, data=by_password).json()
    return tokens


def ask_endpoints(c: Canaries, token: str) -> None:
    """Revocation, introspection, tickets and sessions, refused and accepted."""
    client = {"client_id": "canary-app", "client_secret": value_of(c, "client secret")}
    bearer = {"Authorization": f"Bearer {token}"}
    for name in ("revoke", "introspect", "ticket", "sessions"):
        junk = c.new(f"junk at {name}")
        at = f"/auth/oauth2/{name}"
        c.ask("POST", at, data={"token": junk, "client_secret": c.new("wrong secret")})
        c.ask("POST", at, data={"token": junk, **client})
        c.ask("POST", at, json={"token": junk}, headers={"Authorization": f"Bearer {junk}"})
        c.ask("POST", at, params={"token": junk, "access_token": junk})
        c.ask("GET", at, params={"token": junk}, headers=bearer)
        c.ask("OPTIONS", at, params={"token": junk}, headers={"Origin": PAGE})
    for name, value in (("introspect", token), ("revoke", value_of(c, "access_token"))):
        c.ask("POST", f"/auth/oauth2/{name}", data={"token": value, **client})
    answer = c.ask("POST", "/auth/oauth2/sessions", json={"token": token}, headers=bearer)
    assert answer.json() == {"sessions": 0}
    answer = c.ask("POST", "/auth/oauth2/ticket", json={"uri": "bad"}, headers=bearer)
    assert answer.status_code == 400


def ticket(c: Canaries, token: str) -> str:
    uri = {"uri": f"ws://127.0.0.1:{c.gateway.ports.proxy}/ws"}
    bearer = {"Authorization": f"Bearer {token}"}
    answer = c.ask("POST", "/auth/oauth2/ticket", "ticket", json=uri, headers=bearer)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["ticket"])


def encoded(c: Canaries, token: str) -> str:
    text = base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode()
    return K8S + c.keep("token in base64url", text)


def dial(c: Canaries, token: str, tickets: tuple[str, str], expected: int, route: str) -> None:
    """A handshake by every carrier."""
    page = {"Origin": PAGE, "Cookie": f"a=1; {COOKIE}={token}"}
    statuses = {
        "header": c.handshake("", route=route, Authorization=f"Bearer {token}"),
        "bare header": c.handshake("", route=route, Authorization=token),
        "query": c.handshake(f"?access_token={token}", route=route),
        "subprotocol": c.handshake("", "bearer", token, route=route),
        "encoded": c.handshake("", encoded(c, token), "chat", route=route),
        "prefix": c.handshake("", PREFIX + token, "chat", route=route),
        "cookie": c.handshake("", route=route, **page),
        "ticket": c.handshake(f"?ticket={tickets[0]}", route=route),
        "ticket protocol": c.handshake("", f"ticket.{tickets[1]}", "chat", route=route),
    }
    assert statuses == dict.fromkeys(statuses, expected)


def refuse(c: Canaries, token: str) -> None:
    """What ends before a token is looked at, or because of how it was sent."""
    assert c.handshake("", "bearer", token, "bearer", c.new("second token")) == 400
    assert c.handshake("", encoded(c, token)) == 400
    foreign = {"Origin": "https://evil.example", "Cookie": f"{COOKIE}={token}"}
    assert c.handshake("", **foreign) == 403
    assert c.handshake("", Cookie=f"{COOKIE}={token}") == 401
    hidden = c.new("token in what is no request")
    for line in (
        f"GET /ws?access_token={hidden} HTTP/1.1\r\nHost: h\r\n\r\n",
        f"GET /ws?access_token={hidden} HTTP/1.1\r\nHost: h\r\nAuthorization : {hidden}\r\n\r\n",
        f"GET /nowhere?access_token={hidden} HTTP/1.1\r\nHost: h\r\nCookie: x={hidden}\r\n\r\n",
        f"GET /{hidden}/%00 HTTP/1.1\r\nHost: h\r\n\r\n",
        f"GET /ws?access_token={hidden}{'a' * 9000} HTTP/1.1\r\nHost: h\r\n\r\n",
        f"POST /auth/oauth2/token?client_secret={hidden} HTTP/1.1\r\nHost: h\r\n"
        "Content-Length: 99999\r\n\r\n",
    ):
        assert " 4" in c.raw(line)


def ask_admin(c: Canaries, token: str) -> None:
    """The Admin API is told tokens and secrets, and shows tokens to nobody again."""
    found = c.gateway.admin.get("/oauth2").json()["data"][0]
    by_hand = c.new("token by hand")
    secret, key = value_of(c, "client secret"), value_of(c, "provision key")
    given = {"credential": {"id": found["id"]}, "expires_in": 60, "access_token": by_hand}
    made = c.admin("POST", "/oauth2_tokens", by_hand, json=given).json()
    assert made["access_token"] == by_hand
    refresh = {"refresh_token": c.new("refresh token by hand")}
    shown = refresh["refresh_token"]
    c.admin("PATCH", f"/oauth2_tokens/{made['id']}", shown, json=refresh)
    assert c.admin("POST", "/oauth2_tokens", json=given).status_code == 409
    bad = {"client_secret": [c.new("secret of a wrong type")], "redirect_uris": "x"}
    assert c.admin("POST", "/consumers/alex/oauth2", json=bad).status_code == 400
    wrong = {"name": "oauth2", "config": {"provision_key": c.new("key of a bad plugin")}}
    assert c.admin("POST", "/plugins", json=wrong).status_code == 400
    for path in (f"/oauth2_tokens/{token}", f"/oauth2_tokens/{c.new('token in a path')}"):
        c.admin("GET", path)
        c.admin("DELETE", f"{path}/x")
    for path in ("/oauth2_tokens", "/dataplanes", "/status", "/consumers", "/routes", "/nowhere"):
        c.admin("GET", path)
    audit = c.admin("GET", "/narthex/audit?size=1000").json()["data"]
    assert {"plugins", "oauth2_credentials", "oauth2_tokens"} <= {one["type"] for one in audit}
    for name in ("Kong-Admin-Token", "Authorization"):
        wrong_token = {name: f"Bearer {c.new('wrong token of the Admin API')}"}
        good = c.gateway.admin.headers.pop("Kong-Admin-Token")
        assert c.admin("GET", "/services", headers=wrong_token).status_code == 401
        c.gateway.admin.headers["Kong-Admin-Token"] = good
    c.admin("GET", "/plugins", key)  # as Kong shows them
    c.admin("GET", "/oauth2", secret)


def look_at_the_rest(c: Canaries) -> None:
    for path in ("/metrics", "/status", "/status/ready"):
        c.hear(path, c.gateway.status(path).text)
    for process in c.gateway.processes:
        process.stop()  # with its last lines written
        c.hear(process.log.name, process.output())


def test_s95_no_secret_is_seen_again(tmp_path: Path) -> None:
    with canaries(tmp_path) as c:
        token = issue(c)["access_token"]
        ask_endpoints(c, token)
        dial(c, token, (ticket(c, token), ticket(c, token)), 101, "/ws")
        junk = c.new("junk token")
        dial(c, junk, (c.new("junk ticket"), ticket(c, token)[:-1] + "!"), 401, "/ws")
        dial(c, junk, (c.new("junk ticket"), c.new("junk ticket")), 4401, "/close")
        used = ticket(c, token)
        assert [c.handshake(f"?ticket={used}") for _ in range(2)] == [101, 401]
        refuse(c, token)
        ask_admin(c, token)
        last = ticket(c, token)
        c.gateway.processes[0].stop()
        eventually(lambda: not c.gateway.status("/status").json()["link"]["connected"])
        assert c.handshake(f"?ticket={last}") == 503
        assert c.ask("POST", "/auth/oauth2/token", data={"code": last}).status_code == 503
        look_at_the_rest(c)
        assert c.leaks() == []
        # The net has no hole: both planes logged at length, and a leak would be found.
        events = {
            (line.get("plane"), line["event"])
            for process in c.gateway.processes
            for line in log_lines(process.output())
        }
        assert ("data", "handshake.refused") in events and len({plane for plane, _ in events}) > 1
        assert len(c.secrets) > 45 and len(c.said) > 100
        c.hear("a log", f"GET /ws?access_token={token}")
        assert c.leaks() == ["access_token in a log"]
