"""The Admin API in process, for its tests."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from fastapi import APIRouter, FastAPI
from httpx import Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from control.admin.edge import Counts, Manners, Stamp
from control.admin.router import install
from control.app import create_app
from control.guard.callers import Role
from control.guard.tokens import make_token
from control.settings import load
from control.store import Change, Store, queries
from tests.databases import new_store


class Admin:
    """A client of the Admin API, and a look behind it."""

    def __init__(self, client: TestClient, store: Store) -> None:
        self.client = client
        self.store = store
        self.changes: list[Change] = []
        store.subscribe(self.changes.append)

    def call(self, method: str, path: str, **options: Any) -> Response:
        return self.client.request(method, path, **options)

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.call("POST", path, json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.call("PUT", path, json=body)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.call("PATCH", path, json=body)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def delete(self, path: str, status: int = 204) -> Response:
        answer = self.call("DELETE", path)
        assert answer.status_code == status, answer.text
        return answer

    def refused(self, method: str, path: str, status: int = 400, **options: Any) -> dict[str, Any]:
        """The body of an answer that must have this status."""
        answer = self.call(method, path, **options)
        assert answer.status_code == status, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def fields(self, path: str, body: Any, method: str = "POST") -> Any:
        """The `fields` of the schema violation that this body is."""
        refused = self.refused(method, path, json=body)
        assert refused["code"] == 2, refused
        return refused["fields"]

    def version(self) -> int:
        with self.store.reading() as session:
            return queries.cluster_state(session).config_version

    # --- entities that tests need around the one they are about ---------------------------

    def service(self, **fields: Any) -> dict[str, Any]:
        return self.post("/services", {"name": unique("svc"), "host": "up.example"} | fields)

    def route(self, **fields: Any) -> dict[str, Any]:
        return self.post("/routes", {"name": unique("route"), "paths": ["/a"]} | fields)

    def consumer(self, **fields: Any) -> dict[str, Any]:
        return self.post("/consumers", {"username": unique("alex")} | fields)

    def plugin(self, **fields: Any) -> dict[str, Any]:
        config = {"enable_client_credentials": True}
        return self.post("/plugins", {"name": "oauth2", "config": config} | fields)

    def credential(self, **fields: Any) -> dict[str, Any]:
        if "consumer" not in fields:
            fields["consumer"] = {"id": self.consumer()["id"]}
        return self.post("/oauth2", {"name": "app"} | fields)

    def token(self, **fields: Any) -> dict[str, Any]:
        if "credential" not in fields:
            fields["credential"] = {"id": self.credential()["id"]}
        return self.post("/oauth2_tokens", {"expires_in": 60} | fields)


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


class _Switch:
    """A store that is another one for each test, so that the application is built once."""

    current: Store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)


@cache
def _application(*more: Callable[[Store], APIRouter]) -> tuple[_Switch, Stamp]:
    switch, counts, app = _Switch(), Counts(), FastAPI()
    install(app, cast(Store, switch), counts)
    for router in more:
        app.include_router(router(cast(Store, switch)))
    return switch, Stamp(Manners(app, app), "narthex/0.1.0", counts)


@contextmanager
def running_admin(folder: Path, *more: Callable[[Store], APIRouter]) -> Iterator[Admin]:
    """The Admin API, and routers beside it."""
    store = new_store(folder)
    switch, edge = _application(*more)
    switch.current = store
    with TestClient(edge, base_url="http://localhost:8001") as client:
        yield Admin(client, store)
    store.close()


@contextmanager
def running_app(folder: Path, make: Callable[[Store], FastAPI]) -> Iterator[Admin]:
    """As `running_admin`, with an application of its own."""
    store = new_store(folder)
    app = make(store)
    edge = Stamp(Manners(app, app), "narthex/0.1.0", Counts())
    with TestClient(edge, base_url="http://localhost:8001") as client:
        yield Admin(client, store)
    store.close()


class Guarded:
    """The whole Admin API as ADMIN_LISTEN serves it, for holders of tokens."""

    def __init__(self, app: ASGIApp, store: Store, tokens: dict[str, str], file: Path) -> None:
        self.app = app
        self.store = store
        self.tokens = tokens  # by role, each of whom is named as the role is
        self.file = file

    def client(self, role: str | None = None, address: str = "192.0.2.1") -> TestClient:
        headers = {"Kong-Admin-Token": self.tokens[role]} if role else {}
        return TestClient(
            self.app,
            base_url="http://localhost:8001",
            headers=headers,
            client=(address, 5),
            raise_server_exceptions=False,
        )


@contextmanager
def guarded_admin(folder: Path, **settings: Any) -> Iterator[Guarded]:
    file, made = folder / "admin-tokens", {role: make_token(role, role) for role in Role}
    file.write_text("".join(line + "\n" for _, line in made.values()))
    file.chmod(0o600)
    store = new_store(folder)
    app = create_app(load(admin_tokens_file=file, **settings), store, dataplanes=list)
    yield Guarded(app, store, {role: token for role, (token, _) in made.items()}, file)
    store.close()
