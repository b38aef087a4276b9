"""A real browser opens WebSockets through the gateway in each way that a page has.

    python -m tests.compliance.browser.run

Chromium and its driver are Debian's. The page comes from a loopback origin that `allowed_origins`
lists, another one from an origin that it does not list. Exit status: 0 all went well, 1 something
did not, 3 there is no Chromium to be had.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from websockets.sync.server import ServerConnection, serve

from tests.compliance import needs
from tests.compliance.browser.driver import Browser, chromium
from tests.compliance.judged import Instance, Judged, judged_gateway

HERE = Path(__file__).resolve().parent
COOKIE = "narthex-token"
CARRIERS = ["header", "query", "subprotocol", "ticket", "cookie"]
SHORT_SECONDS = 3


class Page(BaseHTTPRequestHandler):
    """The one page, whatever the path."""

    def do_GET(self) -> None:
        body = (HERE / "page.html").read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the driver has its own log."""


@contextlib.contextmanager
def pages() -> Iterator[str]:
    """A server of the page; its origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def choose_chat(_connection: ServerConnection, offered: Any) -> Any:
    return next((one for one in offered if one == "chat"), None)


@contextlib.contextmanager
def chat_upstream() -> Iterator[tuple[str, list[Any]]]:
    """An echo that speaks `chat` where it is offered; its URL, and the handshakes that it saw."""
    seen: list[Any] = []

    def echo(connection: ServerConnection) -> None:
        seen.append(connection.request)
        for message in connection:
            connection.send(message)

    server = serve(echo, "127.0.0.1", 0, select_subprotocol=choose_chat)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/", seen
    finally:
        server.shutdown()
        thread.join(10)


class Scene:
    """The page in the browser, the gateway, and a client of it."""

    def __init__(self, judged: Judged, browser: Browser, origin: str, seen: list[Any]) -> None:
        self.judged, self.browser, self.origin, self.seen = judged, browser, origin, seen
        made = judged.client("page")
        self.client = {name: made[name] for name in ("client_id", "client_secret")}
        self.at = f"{judged.base}/page"
        self.plain = f"{judged.plain.replace('http', 'ws', 1)}/page/ws"
        self.secure = f"{judged.base.replace('http', 'ws', 1)}/page/ws"

    def token(self, instance: str = "page") -> str:
        """Fetched by the page, across origins."""
        form = {"grant_type": "client_credentials", "scope": "email", **self.client}
        url = f"{self.judged.base}/{instance}/oauth2/token"
        said = self.browser.run("return await page.post(...arguments)", url, form)
        assert said["status"] == 200, said
        return str(said["body"]["access_token"])

    def talk(self, url: str, protocols: list[str]) -> dict[str, Any]:
        """Open, send, hear the echo, close; what the page saw of it."""
        found: dict[str, Any] = self.browser.run(
            "return await page.talk(...arguments)", url, protocols
        )
        return found

    def hold(self, url: str, protocols: list[str]) -> None:
        """Open and leave it open; `closed` tells its end."""
        self.browser.run("return await page.hold(...arguments)", url, protocols)

    def closed(self) -> dict[str, Any]:
        found: dict[str, Any] = self.browser.run("return await page.closed()")
        return found


def echoed(said: dict[str, Any], protocol: str) -> None:
    assert said["echo"] == "hello" and said["protocol"] == protocol, said


def subprotocol_token(scene: Scene) -> None:
    token = scene.token()
    echoed(scene.talk(scene.plain, ["bearer", token]), "bearer")
    echoed(scene.talk(scene.secure, ["bearer", token, "chat"]), "chat")
    for request in scene.seen[-2:]:
        assert token not in str(request.headers) + request.path, "the token reached the upstream"


def kubernetes_subprotocol(scene: Scene) -> None:
    token = scene.token()
    encoded = scene.browser.run("return btoa(arguments[0]).replaceAll('=', '')", token)
    offered = [f"base64url.bearer.authorization.k8s.io.{encoded}", "chat"]
    echoed(scene.talk(scene.secure, offered), "chat")


def prefixed_subprotocol(scene: Scene) -> None:
    echoed(scene.talk(scene.plain, [f"page.token.{scene.token()}", "chat"]), "chat")


def ticket(scene: Scene) -> str:
    """As the page gets one: a POST with Authorization, so a preflight goes before it."""
    script = "return await page.ticket(...arguments)"
    said = scene.browser.run(script, f"{scene.at}/oauth2/ticket", scene.token(), scene.secure)
    assert said["status"] == 201 and said["body"]["expires_in"] == 30, said
    return str(said["body"]["ticket"])


def ticket_in_the_query(scene: Scene) -> None:
    one = ticket(scene)
    echoed(scene.talk(f"{scene.secure}?ticket={one}", []), "")
    assert "ticket" not in scene.seen[-1].path, "the ticket reached the upstream"
    again = scene.talk(f"{scene.secure}?ticket={one}", [])
    assert again["echo"] is None and again["code"] == 4401, again


def ticket_as_subprotocol(scene: Scene) -> None:
    echoed(scene.talk(scene.secure, [f"ticket.{ticket(scene)}", "chat"]), "chat")


def cookie(scene: Scene) -> None:
    set_it = "document.cookie = `${arguments[0]}=${arguments[1]}; path=/`"
    scene.browser.run(set_it, COOKIE, scene.token())
    # Not over TLS: to the browser a page of http and a wss: URL are two sites, and this cookie,
    # which says nothing of SameSite, is not for the other.
    echoed(scene.talk(scene.plain, []), "")
    echoed(scene.talk(scene.plain, ["chat"]), "chat")
    assert COOKIE not in str(scene.seen[-1].headers), "the cookie reached the upstream"
    scene.browser.run(set_it, COOKIE, "; max-age=0")


def query(scene: Scene) -> None:
    echoed(scene.talk(f"{scene.plain}?access_token={scene.token()}", []), "")


def close_code_after_a_revocation(scene: Scene) -> None:
    token = scene.token()
    scene.hold(scene.secure, ["bearer", token])
    found = scene.judged.gateway.admin.get(f"/oauth2_tokens/{token}").json()
    answer = scene.judged.gateway.admin.delete(f"/oauth2_tokens/{found['id']}")
    assert answer.status_code == 204, answer.text
    said = scene.closed()
    assert said["code"] == 4401 and said["clean"] and said["reason"], said


def close_code_at_the_end_of_a_token(scene: Scene) -> None:
    url = scene.secure.replace("/page/", "/short/")
    scene.hold(url, ["bearer", scene.token("short")])
    said = scene.closed()
    assert said["code"] == 4401 and said["clean"] and said["reason"], said


def readable_refusal(scene: Scene) -> None:
    said = scene.talk(scene.secure, ["bearer", "A" * 32])
    assert said["echo"] is None and said["code"] == 4401, said
    assert json.loads(said["reason"])["error"] == "invalid_token", said
    none = scene.talk(scene.secure, [])
    assert none["echo"] is None and none["code"] == 4401, none


def foreign_origin(scene: Scene) -> None:
    """Another origin, with the user's cookie and even with a token: nothing opens."""
    token = scene.token()
    scene.browser.run("document.cookie = `${arguments[0]}=${arguments[1]}; path=/`", COOKIE, token)
    contacted = len(scene.seen)
    with pages() as other:
        scene.browser.open(other)
        assert COOKIE in scene.browser.run("return document.cookie")
        for protocols in ([], ["bearer", token]):
            said = scene.talk(scene.plain, protocols)
            assert said["echo"] is None and said["code"] == 4403, said
            assert json.loads(said["reason"])["error"] == "access_denied", said
        form = {"grant_type": "client_credentials", **scene.client}
        script = "return await page.post(...arguments).then(() => 'read', () => 'refused')"
        assert scene.browser.run(script, f"{scene.at}/oauth2/token", form) == "refused"
    scene.browser.run("document.cookie = `${arguments[0]}=; path=/; max-age=0`", COOKIE)
    scene.browser.open(scene.origin)
    assert len(scene.seen) == contacted, "the upstream was contacted"


SCENES: dict[str, Callable[[Scene], Any]] = {
    "a token by subprotocol": subprotocol_token,
    "a token by subprotocol, as Kubernetes has it": kubernetes_subprotocol,
    "a token by subprotocol, under a prefix": prefixed_subprotocol,
    "a ticket in the query, once": ticket_in_the_query,
    "a ticket by subprotocol": ticket_as_subprotocol,
    "a token by cookie": cookie,
    "a token in the query": query,
    "4401 after a revocation": close_code_after_a_revocation,
    "4401 when the token ends": close_code_at_the_end_of_a_token,
    "a refusal that the page can read": readable_refusal,
    "a foreign origin is refused": foreign_origin,
}


def configure(judged: Judged, upstream: str, origin: str) -> None:
    judged.post("/services", {"name": "chat", "url": upstream})
    for name, more in (("page", {}), ("short", {"token_expiration": SHORT_SECONDS})):
        judged.instance(
            Instance(name, "kong", "opaque"),
            "chat",
            token_carriers=CARRIERS,
            subprotocol_prefix="page.token.",
            cookie_name=COOKIE,
            **more,
        )
        rules = {"allowed_origins": [origin], "on_auth_failure": "auto"}
        for route in (name, f"{name}-ws"):
            plugin = {"name": "websocket-session", "config": rules}
            judged.post(f"/routes/{route}/plugins", plugin)
    judged.gateway.wait_carried()


def play(scene: Scene) -> int:
    failed = 0
    for name, act in SCENES.items():
        try:
            act(scene)
            print(f"ok {name}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAILED {name}: {error!r}", flush=True)
            scene.browser.open(scene.origin)
    return failed


def main() -> int:
    try:
        found = needs.debian("chromium", "chromium-driver", programs=("chromium", "chromedriver"))
    except needs.Absent as absent:
        print(f"browser: NOT RUN: {absent}", file=sys.stderr)
        return needs.NOT_HERE
    with (
        tempfile.TemporaryDirectory(
            prefix="narthex-browser-", ignore_cleanup_errors=True
        ) as folder,
        chat_upstream() as (upstream, seen),
        pages() as origin,
        judged_gateway(Path(folder)) as judged,
    ):
        configure(judged, upstream, origin)
        # A home of its own: what Chromium leaves there goes with it.
        environment = {"PATH": os.environ["PATH"], "HOME": folder}
        with chromium(Path(folder), *found, environment) as browser:
            browser.open(origin)
            failed = play(Scene(judged, browser, origin, seen))
    print(f"browser: {len(SCENES)} scenes, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
