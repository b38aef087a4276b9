"""The how-to from its first request to an echoed message: real processes, sockets and TLS.

Every step goes as a user goes it: Admin API by HTTP, token over TLS, then a WebSocket client.
"""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.control.test_declarative import HOW_TO
from tests.harness import Gateway, RecordingUpstream, running_gateway

CONFIG = {
    "scopes": ["email", "profile"],
    "global_credentials": True,
    "enable_client_credentials": True,
    "provision_key": str(uuid.uuid4()),
}
TOKEN_PATH = "/token-route/oauth2/token"
ACCESS_TOKEN = re.compile(r"[A-Za-z0-9]{32}")


@dataclass
class HowTo:
    """A configured gateway, the upstream behind it, and alex's credential."""

    gateway: Gateway
    upstream: RecordingUpstream
    credential: dict[str, str]


@pytest.fixture(scope="module", params=["1", "2"], ids=["one-worker", "two-workers"])
def how_to(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HowTo]:
    """Both planes under their supervisor, configured through the Admin API, WORKERS=1 and 2."""
    folder = tmp_path_factory.mktemp("how-to")
    with RecordingUpstream() as upstream, running_gateway(folder, WORKERS=request.param) as gateway:
        gateway.start()
        yield HowTo(gateway, upstream, configure(gateway, upstream.url))


def created(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 201, answer.text
    found: dict[str, str] = answer.json()
    return found


def configure(gateway: Gateway, upstream_url: str) -> dict[str, str]:
    """Steps 0 to 5 through the Admin API.  The credential of consumer alex."""
    admin = gateway.admin
    service = {"name": "example-websocket-service", "url": upstream_url}
    created(admin.post("/services", json=service))
    route = {
        "name": "example-websocket-route",
        "paths": ["/anything"],
        "protocols": ["ws"],
        "service": {"name": "example-websocket-service"},
    }
    created(admin.post("/routes", json=route))
    token_route = {
        "name": "websocket-token-route",
        "protocols": ["https"],
        "paths": ["/token-route"],
        "methods": ["POST"],
    }
    created(admin.post("/routes", json=token_route))
    for scope in ("services/example-websocket-service", "routes/websocket-token-route"):
        created(admin.post(f"/{scope}/plugins", json={"name": "oauth2", "config": CONFIG}))
    created(admin.post("/consumers", json={"username": "alex"}))
    application = {"name": "TestApp", "redirect_uris": ["http://localhost:8000/anything"]}
    return created(admin.post("/consumers/alex/oauth2", json=application))


def ask_for_token(gateway: Gateway, credential: dict[str, str], **more: str) -> httpx.Response:
    """Step 6, on a data plane that knows all of the configuration."""
    body = {
        "client_id": credential["client_id"],
        "client_secret": credential["client_secret"],
        "grant_type": "client_credentials",
        **more,
    }
    gateway.wait_carried()
    return gateway.request("POST", TOKEN_PATH, tls=True, json=body)


def token_of(gateway: Gateway, credential: dict[str, str], **more: str) -> str:
    answer = ask_for_token(gateway, credential, **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def test_token_is_given_over_tls_as_the_how_to_shows(how_to: HowTo) -> None:
    answer = ask_for_token(how_to.gateway, how_to.credential)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    issued = answer.json()
    assert ACCESS_TOKEN.fullmatch(issued.pop("access_token"))
    assert issued == {"token_type": "bearer", "expires_in": 7200}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_client_with_token_talks_through_the_gateway(how_to: HowTo, tls: bool) -> None:
    token = token_of(how_to.gateway, how_to.credential)
    path = "/anything"
    if tls:
        route = {"name": "tls-route", "paths": ["/tls"], "protocols": ["wss"]}
        admin = how_to.gateway.admin
        made = admin.put("/services/example-websocket-service/routes/tls-route", json=route)
        assert made.status_code == 200, made.text
        path = "/tls"
        how_to.gateway.wait_carried()
    with how_to.gateway.websocket(path, token, tls=tls) as socket:
        for message in ("hello", "", "größe ✓", b"", b"\x00\xff" * 1000, "x" * 300_000):
            socket.send(message)
            assert socket.recv(10) == message
    assert socket.close_code == 1000


def test_upstream_hears_whose_connection_it_is(how_to: HowTo) -> None:
    consumer = how_to.gateway.admin.get("/consumers/alex").json()
    token = token_of(how_to.gateway, how_to.credential, scope="email")
    with how_to.gateway.websocket("/anything", token) as socket:
        socket.send("x")
        assert socket.recv(10) == "x"
    headers = how_to.upstream.requests[-1].headers
    assert headers["X-Consumer-ID"] == consumer["id"]
    assert headers["X-Consumer-Username"] == "alex"
    assert headers["X-Credential-Identifier"] == how_to.credential["client_id"]
    assert headers["X-Authenticated-Scope"] == "email"


@pytest.mark.parametrize(
    ("token", "error", "said"),
    [
        (None, "invalid_request", "The access token is missing"),
        ("x" * 32, "invalid_token", "The access token is invalid or has expired"),
    ],
    ids=["no-token", "unknown-token"],
)
def test_handshake_is_refused_without_a_good_token(
    how_to: HowTo, token: str | None, error: str, said: str
) -> None:
    token_of(how_to.gateway, how_to.credential)  # the routes are there
    reached = len(how_to.upstream.requests)
    with pytest.raises(InvalidStatus) as refused:
        how_to.gateway.websocket("/anything", token)
    response = refused.value.response
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert json.loads(bytes(response.body)) == {"error": error, "error_description": said}
    assert len(how_to.upstream.requests) == reached


def test_token_route_answers_plain_http_with_426(how_to: HowTo) -> None:
    token_of(how_to.gateway, how_to.credential)
    answer = how_to.gateway.request("POST", TOKEN_PATH, tls=False, json={})
    assert answer.status_code == 426
    assert "access_token" not in answer.text


def test_path_without_route_answers_404(how_to: HowTo) -> None:
    answer = how_to.gateway.request("GET", "/nowhere", tls=False)
    assert answer.status_code == 404
    assert answer.json()["message"] == "no Route matched with those values"


def test_files_of_the_how_to_give_the_same_gateway(new_gateway: Callable[..., Gateway]) -> None:
    gateway = new_gateway()
    gateway.start()
    with RecordingUpstream() as upstream:
        files = {**HOW_TO, "A": HOW_TO["A"].replace("ws://echo.example/", upstream.url)}
        for text in files.values():
            applied = gateway.run("config", "apply", "-", stdin=text)
            assert applied.returncode == 0, applied.stderr
        again = gateway.run("config", "apply", "-", stdin=files["C"])
        assert again.stdout == "nothing to change\n", again.stderr
        application = {"name": "TestApp", "redirect_uris": ["http://localhost:8000/anything"]}
        credential = created(gateway.admin.post("/consumers/alex/oauth2", json=application))
        with gateway.websocket("/anything", token_of(gateway, credential)) as socket:
            socket.send("hello")
            assert socket.recv(10) == "hello"
