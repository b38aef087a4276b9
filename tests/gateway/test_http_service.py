"""An HTTP service behind OAuth 2.0: real processes, a real upstream, a client that keeps on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.gateway import howto
from tests.harness import Gateway

BODY = bytes(range(256)) * 8192  # 2 MiB


class Handler(BaseHTTPRequestHandler):
    """Tells what it was asked; a GET of /big answers with BODY in chunks."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        super().setup()
        type(self).connections += 1

    def do_GET(self) -> None:
        if self.path.startswith("/base/big"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(BODY), 65536):
                self.wfile.write(b"10000\r\n" + BODY[at : at + 65536] + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        self._say(f"{self.command} {self.path} {self.headers['X-Consumer-Username']}".encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._say(hashlib.sha256(body).hexdigest().encode())

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Authorization-Seen", self.headers["Authorization"] or "none")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def upstream_port() -> Iterator[int]:
    Handler.connections = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield int(server.server_address[1])
    server.shutdown()
    thread.join()
    server.server_close()


def set_up(gateway: Gateway, url: str) -> str:
    """An http service at /api and a token for it."""
    service = howto.post(gateway, "/services", name="api", url=url)
    howto.post(gateway, "/services/api/routes", name="api-route", paths=["/api"])
    token_route = howto.post(
        gateway, "/routes", name="token-route", protocols=["https"], paths=["/token-route"]
    )
    for owner in ({"service": {"id": service["id"]}}, {"route": {"id": token_route["id"]}}):
        config = {**howto.OAUTH2, "hide_credentials": True}
        howto.post(gateway, "/plugins", name="oauth2", config=config, **owner)
    howto.post(gateway, "/consumers", username="alex")
    credential = howto.post(
        gateway, "/consumers/alex/oauth2", name="app", redirect_uris=["http://localhost/x"]
    )
    gateway.wait_carried()
    return howto.HowTo(gateway, credential["client_id"], credential["client_secret"]).token()


def test_http_service_is_reached_with_a_token_and_not_without(
    gateway: Gateway, upstream_port: int
) -> None:
    token = set_up(gateway, f"http://127.0.0.1:{upstream_port}/base")
    url = f"http://127.0.0.1:{gateway.ports.proxy}/api"
    with httpx.Client(timeout=10, trust_env=False) as client:
        refused = client.get(f"{url}/x")
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.json()["error"] == "invalid_request"
        client.headers["Authorization"] = f"Bearer {token}"
        found = client.get(f"{url}/x/../y?z=1")
        assert (found.status_code, found.text) == (200, "GET /base/y?z=1 alex")
        assert found.headers["X-Authorization-Seen"] == "none"
        assert found.headers["Via"].startswith("1.1 narthex/")
        for _ in range(3):
            assert client.get(f"{url}/big").content == BODY
        digest = hashlib.sha256(BODY).hexdigest()
        assert client.post(f"{url}/", content=BODY).text == digest
        assert client.head(f"{url}/").status_code == 501  # as the upstream has it
    assert Handler.connections <= 2  # 501 closes
    tls = gateway.request("GET", "/api", tls=True, headers={"Authorization": f"Bearer {token}"})
    assert tls.text == "GET /base alex"
    metrics = gateway.status("/metrics").text
    assert 'narthex_proxied_total{status="2xx"} 6.0' in metrics
    assert 'narthex_proxied_total{status="5xx"} 1.0' in metrics


def test_websocket_on_an_http_route_works(gateway: Gateway, echo_url: str) -> None:
    token = set_up(gateway, echo_url.replace("ws:", "http:"))
    with gateway.websocket("/api/chat", token) as socket:
        for text in ("one", "two" * 50_000):
            socket.send(text)
            assert socket.recv(timeout=10) == text
