"""What the issuer's tests share: a store with a client, and requests called in process."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from sqlmodel import Session, select
from starlette.types import ASGIApp

from control.admin.plugin_types.oauth2 import CONFIG, PLUGIN
from control.app import create_issuer
from control.oauth2.context import TokenContext
from control.store.changes import Change
from control.store.columns import Secret
from control.store.session import Store
from control.store.tables import Consumer, OAuth2Credential, OAuth2Token, Plugin, Route, Service
from tests.databases import new_store

PROVISION_KEY = "provision-key-of-the-backend"
CONTEXT = TokenContext(
    plugin_id=str(uuid.UUID(int=1)),
    route_id=str(uuid.UUID(int=2)),
    service_id=None,
    client_ip="192.0.2.7",
    tls=True,
    peer_trusted=False,
    request_id="r1",
)
SERVICE_ID = str(uuid.UUID(int=3))

JSON = {"content-type": "application/json"}
CREDENTIALS = {"grant_type": "client_credentials", "client_id": "app", "client_secret": "s3cret"}
AUTHORIZE_PATH = "/r/oauth2/authorize"
AUTHORIZE = {
    "provision_key": PROVISION_KEY,
    "authenticated_userid": "u7",
    "response_type": "code",
    "client_id": "app",
}
INVALID_CLIENT = {
    "error": "invalid_client",
    "error_description": "Invalid client authentication",
}
UNSUPPORTED = {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Issuing:
    """An issuer, its store and what the store told its followers."""

    store: Store
    app: ASGIApp
    runner: asyncio.Runner
    changes: list[Change] = field(default_factory=list)

    def configure(self, **config: Any) -> None:
        """Change the plugin's config."""
        with self.store.writing() as session:
            plugin = session.get_one(Plugin, CONTEXT.plugin_id)
            plugin.config = {**plugin.config, **config}
            defaults = {name: field.default for name, field in CONFIG.items()}
            plugin.policy = PLUGIN.compile({**defaults, **plugin.config})
            session.add(plugin)
            session.note_config()

    def client(self, client_id: str = "app", **fields: Any) -> OAuth2Credential:
        """Add a credential; confidential, secret `s3cret`, unless told otherwise."""
        values = {"client_secret": "s3cret", "redirect_uris": ["https://app.example/cb"], **fields}
        row = OAuth2Credential(
            id=str(uuid.uuid4()),
            consumer_id=str(uuid.UUID(int=4)),
            name="App",
            client_id=client_id,
            created_at=int(time.time()),
            **values,
        )
        with self.store.writing() as session:
            session.add(row)
        return row

    def tokens(self) -> list[OAuth2Token]:
        with self.store.reading() as session:
            return list(session.exec(select(OAuth2Token)))

    def post(
        self,
        params: dict[str, Any] | None = None,
        *,
        query: str = "",
        headers: dict[str, str] | list[tuple[str, str]] | None = None,
        body: bytes | None = None,
        context: TokenContext | None = CONTEXT,
        path: str = "/token-route/oauth2/token",
        method: str = "POST",
        scheme: str = "http",
        app: ASGIApp | None = None,
    ) -> Answer:
        """One request; `params` become a form unless `body` is given."""
        scope, body = _request(
            params, query, headers, body, context, path=path, method=method, scheme=scheme
        )
        return self.runner.run(_call(app or self.app, scope, body))

    def post_at_once(self, requests: list[dict[str, Any]]) -> list[Answer]:
        """Requests side by side."""

        async def ask() -> list[Answer]:
            calls = (_call(self.app, *_request(params)) for params in requests)
            return await asyncio.gather(*calls)

        return self.runner.run(ask())

    def grant(self, **params: Any) -> Answer:
        """A client_credentials request of the client `app`."""
        return self.post(CREDENTIALS | params)

    def code(self, context: TokenContext = CONTEXT, **params: Any) -> str:
        """A code that the backend gets for the client `app`."""
        answer = self.post(AUTHORIZE | params, path=AUTHORIZE_PATH, context=context)
        assert answer.status == 200, answer.body
        (code,) = parse_qs(urlsplit(answer.json["redirect_uri"]).query)["code"]
        return code

    def redeem(self, code: object, context: TokenContext = CONTEXT, **params: Any) -> Answer:
        """An authorization_code request of the client `app`; None leaves a parameter out."""
        sent = CREDENTIALS | {"grant_type": "authorization_code", "code": code} | params
        return self.post({k: v for k, v in sent.items() if v is not None}, context=context)

    def refresh(self, token: object, context: TokenContext = CONTEXT, **params: Any) -> Answer:
        """A refresh_token request of the client `app`."""
        sent = CREDENTIALS | {"grant_type": "refresh_token", "refresh_token": token} | params
        return self.post({k: v for k, v in sent.items() if v is not None}, context=context)

    def revoked(self) -> set[bytes]:
        """Digests of the tokens that followers were told are revoked."""
        told = (item for change in self.changes for item in change.revocations)
        return {item.key for item in told if item.kind == "token"}


def refused(answer: Answer, body: dict[str, Any], status: int = 400) -> None:
    """Asserts that an answer is this error, with the headers every error has."""
    assert (answer.status, answer.json) == (status, body)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"


def scope_error(description: str) -> dict[str, str]:
    return {"error": "invalid_scope", "error_description": description}


def _request(
    params: dict[str, Any] | None,
    query: str = "",
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    body: bytes | None = None,
    context: TokenContext | None = CONTEXT,
    *,
    path: str = "/token-route/oauth2/token",
    method: str = "POST",
    scheme: str = "http",
) -> tuple[dict[str, Any], bytes]:
    """ASGI scope and body."""
    sent = list(headers.items() if isinstance(headers, dict) else headers or [])
    if body is None:
        body = urlencode(params or {}, doseq=True).encode()
        if not any(name == "content-type" for name, _ in sent):
            sent.append(("content-type", "application/x-www-form-urlencoded"))
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in sent],
        "client": ("192.0.2.7", 50000),
        "server": ("127.0.0.1", 8443),
    }
    if context is not None:
        scope["narthex"] = context
    return scope, body


async def _call(app: ASGIApp, scope: dict[str, Any], body: bytes) -> Answer:
    messages: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    start = messages[0]
    headers: dict[str, str] = {}
    for name, value in start["headers"]:
        assert name.decode() not in headers, f"{name!r} twice"
        headers[name.decode()] = value.decode("latin-1")
    return Answer(start["status"], headers, b"".join(m["body"] for m in messages[1:]))


def basic(client_id: str, secret: str) -> dict[str, str]:
    value = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
    return {"authorization": f"Basic {value}"}


@contextmanager
def issuing(folder: Path) -> Iterator[Issuing]:
    """An issuer with the how-to's plugin on a service-less route, a consumer and a service."""
    store = new_store(folder)
    with store.writing() as session:
        seed(session)
    with asyncio.Runner() as runner:
        made = Issuing(store, create_issuer(store), runner)
        store.subscribe(made.changes.append)
        yield made
    store.close()


def seed(session: Session) -> None:
    now = int(time.time())
    times = {"created_at": now, "updated_at": now}
    session.add(Consumer(id=str(uuid.UUID(int=4)), username="alex", **times))
    session.add(Service(id=SERVICE_ID, name="s", protocol="ws", host="h.example", **times))
    session.add(
        Route(id=CONTEXT.route_id, name="r", protocols=["https"], paths=["/token-route"], **times)
    )
    session.flush()
    config = {
        "scopes": ["email", "profile"],
        "mandatory_scope": False,
        "provision_key": Secret(PROVISION_KEY),
        "token_expiration": 7200,
        "refresh_token_ttl": 1209600,
        "enable_client_credentials": True,
        "global_credentials": True,
        "accept_http_if_already_terminated": False,
        "auth_header_name": "authorization",
        "realm": None,
    }
    session.add(
        Plugin(
            id=CONTEXT.plugin_id,
            name="oauth2",
            route_id=CONTEXT.route_id,
            config=config,
            protocols=["https"],
            **times,
        )
    )


ON_SERVICE = replace(CONTEXT, service_id=SERVICE_ID)
PLAIN = replace(CONTEXT, tls=False)
PLAIN_TRUSTED = replace(CONTEXT, tls=False, peer_trusted=True)
