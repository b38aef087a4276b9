"""Kong's how-to, set up through the Admin API: a WebSocket route and the route tokens come from."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.exceptions import InvalidStatus

from tests.harness import Gateway, eventually

PATH = "/anything"
TOKEN_PATH = "/token-route/oauth2/token"
OAUTH2 = {
    "scopes": ["email", "profile"],
    "global_credentials": True,
    "provision_key": "provision-key-of-the-how-to",
    "enable_client_credentials": True,
}


@dataclass
class HowTo:
    """A configured gateway and an application that may get tokens from it."""

    gateway: Gateway
    client_id: str
    client_secret: str

    def ask_token(self, **more: str) -> httpx.Response:
        """One request to the token endpoint, on the TLS port."""
        body = {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "grant_type": "client_credentials",
            **more,
        }
        return self.gateway.request("POST", TOKEN_PATH, tls=True, json=body)

    def token(self) -> str:
        """A new access token, once the data plane answers for the control plane."""

        def issued() -> str:
            answer = self.ask_token()
            assert answer.status_code == 200, answer.text
            return str(answer.json()["access_token"])

        return eventually(issued, 10, "a token")

    def echoes(self, token: str, text: str = "hello", *, tls: bool = False) -> None:
        """Open a WebSocket with this token and get one message back."""
        with self.gateway.websocket(PATH, token, tls=tls) as socket:
            socket.send(text)
            assert socket.recv(timeout=10) == text

    def refusal(self, token: str | None) -> httpx.Response | None:
        """How a handshake with this token is refused; None when it is not."""
        try:
            with self.gateway.websocket(PATH, token):
                return None
        except InvalidStatus as refused:
            answer = refused.response
            return httpx.Response(
                answer.status_code,
                headers=list(answer.headers.raw_items()),
                content=bytes(answer.body or b""),
            )

    def status_of(self, token: str | None) -> int:
        """The status of a handshake with this token."""
        refused = self.refusal(token)
        return 101 if refused is None else refused.status_code


def set_up(gateway: Gateway, echo_url: str) -> HowTo:
    """The how-to on a running gateway; returns once the data plane carries it."""
    made = configure(gateway, echo_url)
    # Not by trying the route: until its plugin is there it lets anyone open a session.
    gateway.wait_carried()
    assert made.status_of(None) == 401
    return made


def configure(gateway: Gateway, echo_url: str) -> HowTo:
    """The how-to's entities, made through the Admin API."""
    service = post(gateway, "/services", name="ws-service", url=echo_url)
    post(
        gateway, "/services/ws-service/routes",
        name="ws-route", protocols=["ws", "wss"], paths=[PATH],
    )  # fmt: skip
    token_route = post(
        gateway, "/routes",
        name="token-route", protocols=["https"], methods=["POST"], paths=["/token-route"],
    )  # fmt: skip
    for owner in ({"service": {"id": service["id"]}}, {"route": {"id": token_route["id"]}}):
        post(gateway, "/plugins", name="oauth2", config=OAUTH2, **owner)
    post(gateway, "/consumers", username="alex")
    credential = post(
        gateway, "/consumers/alex/oauth2",
        name="app", redirect_uris=["http://localhost:8000/anything"],
    )  # fmt: skip
    return HowTo(gateway, credential["client_id"], credential["client_secret"])


def post(gateway: Gateway, path: str, **body: Any) -> dict[str, Any]:
    """POST to the Admin API; what was made."""
    answer = gateway.admin.post(path, json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def log_lines(output: str) -> Iterator[dict[str, Any]]:
    """The JSON lines in what a process wrote."""
    for line in output.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def tls_of(host: str, port: int) -> str:
    """The certificate that a TLS listener shows, as PEM."""
    return ssl.get_server_certificate((host, port))
