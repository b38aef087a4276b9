"""The how-to from its first request to an echoed message: real processes, sockets and TLS.

Every step goes as a user goes it: Admin API by HTTP, token over TLS, then a WebSocket client.
"""

import re
import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.control.test_declarative import HOW_TO
from tests.harness import Gateway, RecordingUpstream, eventually

CONFIG = {
    "scopes": ["email", "profile"],
    "global_credentials": True,
    "enable_client_credentials": True,
    "provision_key": str(uuid.uuid4()),
}
TOKEN_PATH = "/token-route/oauth2/token"
ACCESS_TOKEN = re.compile(r"[A-Za-z0-9]{32}")


@pytest.fixture
def upstream() -> Iterator[RecordingUpstream]:
    with RecordingUpstream() as made:
        yield made


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
    """Step 6, once the data plane knows the route."""
    body = {
        "client_id": credential["client_id"],
        "client_secret": credential["client_secret"],
        "grant_type": "client_credentials",
        **more,
    }

    def routed() -> httpx.Response | None:
        answer = gateway.request("POST", TOKEN_PATH, tls=True, json=body)
        return None if answer.status_code == 404 else answer

    return eventually(routed, what="the token route on the data plane")


def token_of(gateway: Gateway, credential: dict[str, str], **more: str) -> str:
    answer = ask_for_token(gateway, credential, **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_client_gets_token_and_talks_through_the_gateway(
    gateway: Gateway, upstream: RecordingUpstream, tls: bool
) -> None:
    credential = configure(gateway, upstream.url)
    if tls:
        changed = gateway.admin.patch(
            "/routes/example-websocket-route", json={"protocols": ["wss"]}
        )
        assert changed.status_code == 200, changed.text
    answer = ask_for_token(gateway, credential)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    issued = answer.json()
    assert issued == {
        "access_token": issued["access_token"],
        "token_type": "bearer",
        "expires_in": 7200,
    }
    assert ACCESS_TOKEN.fullmatch(issued["access_token"])
    with gateway.websocket("/anything", issued["access_token"], tls=tls) as socket:
        for message in ("hello", "", "größe ✓", b"", b"\x00\xff" * 1000, "x" * 300_000):
            socket.send(message)
            assert socket.recv(10) == message
    assert socket.close_code == 1000


def test_upstream_hears_whose_connection_it_is(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    credential = configure(gateway, upstream.url)
    consumer = gateway.admin.get("/consumers/alex").json()
    token = token_of(gateway, credential, scope="email")
    with gateway.websocket("/anything", token) as socket:
        socket.send("x")
        assert socket.recv(10) == "x"
    headers = upstream.requests[-1].headers
    assert headers["X-Consumer-ID"] == consumer["id"]
    assert headers["X-Consumer-Username"] == "alex"
    assert headers["X-Credential-Identifier"] == credential["client_id"]
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
    gateway: Gateway, upstream: RecordingUpstream, token: str | None, error: str, said: str
) -> None:
    token_of(gateway, configure(gateway, upstream.url))  # the routes are there
    with pytest.raises(InvalidStatus) as refused:
        gateway.websocket("/anything", token)
    response = refused.value.response
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    body = httpx.Response(401, content=response.body or b"").json()
    assert body == {"error": error, "error_description": said}
    assert upstream.requests == []


def test_token_route_answers_plain_http_with_426(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    token_of(gateway, configure(gateway, upstream.url))
    answer = gateway.request("POST", TOKEN_PATH, tls=False, json={})
    assert answer.status_code == 426
    assert "access_token" not in answer.text


def test_path_without_route_answers_404(gateway: Gateway) -> None:
    answer = gateway.request("GET", "/nowhere", tls=False)
    assert answer.status_code == 404
    assert answer.json()["message"] == "no Route matched with those values"


def test_files_of_the_how_to_give_the_same_gateway(
    new_gateway: Callable[..., Gateway], upstream: RecordingUpstream
) -> None:
    gateway = new_gateway()
    gateway.start()
    files = {**HOW_TO, "A": HOW_TO["A"].replace("ws://echo.example/", upstream.url)}
    for text in files.values():
        applied = gateway.run("config", "apply", "-", stdin=text)
        assert applied.returncode == 0, applied.stderr
        again = gateway.run("config", "apply", "-", stdin=text)
        assert again.stdout == "nothing to change\n", again.stderr
    application = {"name": "TestApp", "redirect_uris": ["http://localhost:8000/anything"]}
    credential = created(gateway.admin.post("/consumers/alex/oauth2", json=application))
    with gateway.websocket("/anything", token_of(gateway, credential)) as socket:
        socket.send("hello")
        assert socket.recv(10) == "hello"
