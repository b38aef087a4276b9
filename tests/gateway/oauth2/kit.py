"""One gateway configured through its Admin API, spoken to in bytes: for tests of the contract.

`Site` makes what tests need around their case and gives it names of its own: an `Api` is a service
behind OAuth 2.0, an `App` a client of it. `Site.ask` sends a request just as it is given, whatever
path or headers it has, and every answer is compared whole: status, headers, body.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx

from tests.gateway.oauth2.answers import REDIRECT_URI, Answer
from tests.gateway.oauth2.apis import (
    CONFIG,
    FORM_TYPE,
    OTHER_URI,
    UPGRADE,
    Api,
    App,
    Sockets,
    unique,
)
from tests.gateway.oauth2.upstreams import HttpUpstream, WebSocketUpstream
from tests.harness import Gateway, insecure_tls

TRUSTED = "127.0.0.2"  # the address whose X-Forwarded-Proto counts; tests come from 127.0.0.1

_TLS = insecure_tls()


@dataclass
class Site:
    """A running gateway and its upstreams."""

    gateway: Gateway
    http: HttpUpstream
    ws: WebSocketUpstream
    _apis: dict[str, Any] = field(default_factory=dict)
    _consumer: dict[str, Any] | None = None
    _apps: dict[str, App] = field(default_factory=dict)
    _connections: dict[tuple[bool, str], http.client.HTTPConnection] = field(default_factory=dict)

    # --- the proxy -------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        target: str,
        *,
        form: Mapping[str, Any] | None = None,
        json_body: Any = None,
        body: bytes | str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        tls: bool = True,
        source: str = "127.0.0.1",
    ) -> Answer:
        """One request, target and headers as given; `form` may repeat a name by a list."""
        fields = list(headers)
        if form is not None:
            body = urlencode(form, doseq=True)
            fields.append(("Content-Type", FORM_TYPE))
        elif json_body is not None:
            body = json.dumps(json_body)
            fields.append(("Content-Type", "application/json"))
        data = body.encode() if isinstance(body, str) else body
        if data is not None:
            fields.append(("Content-Length", str(len(data))))
        if not any(name.lower() == "host" for name, _ in fields):
            fields.insert(0, ("Host", "gateway.test"))
        used = (tls, source) in self._connections
        connection = self._connect(tls, source)
        try:
            answer = self._exchange(connection, method, target, fields, data)
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError):
            if not used:
                raise
            # The gateway had ended it while it was idle.
            answer = self._exchange(connection, method, target, fields, data)
        if answer.status == 101:
            connection.close()
        return answer

    def _connect(self, tls: bool, source: str) -> http.client.HTTPConnection:
        key = (tls, source)
        if key not in self._connections:
            self._connections[key] = self.connection(tls=tls, source=source)
        return self._connections[key]

    def connection(
        self, *, tls: bool = True, source: str = "127.0.0.1"
    ) -> http.client.HTTPConnection:
        """A connection of one's own, for requests side by side."""
        ports, at = self.gateway.ports, (source, 0)
        if tls:
            return http.client.HTTPSConnection(
                "127.0.0.1", ports.tls, timeout=20, context=_TLS, source_address=at
            )
        return http.client.HTTPConnection("127.0.0.1", ports.proxy, timeout=20, source_address=at)

    @staticmethod
    def _exchange(
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        fields: list[tuple[str, str]],
        body: bytes | None,
    ) -> Answer:
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in fields:
                connection.putheader(name, value)
            # Refused before all of it was read: the answer may be there all the same.
            with contextlib.suppress(BrokenPipeError):
                connection.endheaders(body)
            got = connection.getresponse()
            return Answer(got.status, got.getheaders(), got.read())
        except BaseException:
            connection.close()  # or the next request would find it half used
            raise

    def handshake(
        self, target: str, headers: Iterable[tuple[str, str]] = (), **options: Any
    ) -> Answer:
        """A WebSocket's opening handshake; what comes after a 101 is not looked at."""
        return self.ask("GET", target, headers=[*UPGRADE, *headers], **{"tls": False} | options)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    # --- the Admin API ---------------------------------------------------------------------

    def admin(self, method: str, path: str, status: int, body: Any = None) -> Any:
        """A call that must have this status; the JSON of its answer."""
        answer = self.admin_call(method, path, body)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def admin_call(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        if body is not None:
            more["json"] = body
        return self.gateway.admin.request(method, path, **more)

    def post(self, path: str, **body: Any) -> Any:
        return self.admin("POST", path, 201, body)

    def carried(self) -> None:
        """Until the data plane serves what was configured last."""
        self.gateway.wait_carried()

    def consumer(self, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.post("/consumers", **{"username": unique("user")} | fields)
        return made

    @property
    def alex(self) -> dict[str, Any]:
        """The consumer that clients belong to where nothing else is said."""
        if self._consumer is None:
            self._consumer = self.consumer(custom_id=unique("custom"))
        return self._consumer

    def app(self, consumer: Mapping[str, Any] | None = None, **fields: Any) -> App:
        """A new client, confidential and with REDIRECT_URI first where nothing else is said."""
        owner = consumer or self.alex
        body = {"name": "app", "redirect_uris": [REDIRECT_URI, OTHER_URI]} | fields
        secret = body.get("client_secret")
        made = self.post(f"/consumers/{owner['id']}/oauth2", **body)
        return App(made, secret or made["client_secret"], dict(owner))

    def shared_app(self, **fields: Any) -> App:
        """A client like others of these fields had it; for tests that do not break it."""
        key = json.dumps(fields, sort_keys=True)
        if key not in self._apps:
            self._apps[key] = self.app(**fields)
        return self._apps[key]

    def api(self, **config: Any) -> Api:
        """An HTTP service behind OAuth 2.0 with every grant; one for each different config."""
        return self._cached("api", config, self._make_api)

    def new_api(self, **config: Any) -> Api:
        """One of its own, for a test that changes it."""
        made = self._make_api(config)
        self.carried()
        return made

    def _make_api(self, config: Mapping[str, Any]) -> Api:
        name = unique("api")
        service = self.post("/services", name=name, url=self.http.url)
        route = self.post(
            f"/services/{name}/routes",
            name=name, paths=[f"/{name}"], protocols=["http", "https"],
        )  # fmt: skip
        plugin = self.plugin({"service": {"id": service["id"]}}, config)
        return Api(self, f"/{name}", CONFIG | config, service, route, plugin)

    def routed(self, api: Api, **config: Any) -> Api:
        """A further route of this API's service, with a plugin of its own."""
        name = unique("route")
        route = self.post(
            f"/services/{api.service['id']}/routes",
            name=name, paths=[f"/{name}"], protocols=["http", "https"],
        )  # fmt: skip
        plugin = self.plugin({"route": {"id": route["id"]}}, config)
        self.carried()
        return Api(self, f"/{name}", CONFIG | config, api.service, route, plugin)

    def serviceless(self, **config: Any) -> Api:
        """A route without a service: its tokens are global where the config says so."""
        return self._cached("serviceless", config, self._make_serviceless)

    def _make_serviceless(self, config: Mapping[str, Any]) -> Api:
        name = unique("bare")
        route = self.post("/routes", name=name, paths=[f"/{name}"], protocols=["http", "https"])
        plugin = self.plugin({"route": {"id": route["id"]}}, config)
        return Api(self, f"/{name}", CONFIG | config, None, route, plugin)

    def sockets(self, session: Mapping[str, Any] | None = None, **config: Any) -> Sockets:
        """A WebSocket service behind OAuth 2.0, and the route without service it has tokens from.

        `session`: config of a websocket-session plugin beside it.
        """
        return self._cached("ws", dict(config), self._make_sockets, session)

    def new_sockets(self, session: Mapping[str, Any] | None = None, **config: Any) -> Sockets:
        """One of its own, for a test that changes it."""
        made = self._make_sockets(config, session)
        self.carried()
        return made

    def _make_sockets(
        self, config: Mapping[str, Any], session: Mapping[str, Any] | None = None
    ) -> Sockets:
        name = unique("ws")
        # Bound to no service unless asked otherwise: tokens come from another route (§7).
        config = {"global_credentials": True} | dict(config)
        service = self.post("/services", name=name, url=self.ws.url)
        route = self.post(
            f"/services/{name}/routes",
            name=name, paths=[f"/{name}"], protocols=["ws", "wss"], strip_path=False,
        )  # fmt: skip
        token_route = self.post(
            "/routes",
            name=f"{name}-token", paths=[f"/{name}-token"], protocols=["https"], methods=["POST"],
        )  # fmt: skip
        plugin = self.plugin({"service": {"id": service["id"]}}, config)
        tokens = self.plugin({"route": {"id": token_route["id"]}}, config)
        if session:
            for owner in ({"service": {"id": service["id"]}}, {"route": {"id": token_route["id"]}}):
                self.post("/plugins", name="websocket-session", config=dict(session), **owner)
        issuer = Api(self, f"/{name}-token", CONFIG | config, None, token_route, tokens)
        return Sockets(self, f"/{name}", issuer, service, route, plugin)

    def plugin(self, owner: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = self.post(
            "/plugins", name="oauth2", config=CONFIG | dict(config), **owner
        )
        return made

    def _cached(self, kind: str, config: Mapping[str, Any], make: Any, *more: Any) -> Any:
        key = json.dumps([kind, config, *more], sort_keys=True)
        if key not in self._apis:
            self._apis[key] = make(config, *more)
            self.carried()
        return self._apis[key]

    def change_row(self, statement: str, *values: Any) -> int:
        """Change rows behind the gateway's back, as time would; how many."""
        with contextlib.closing(sqlite3.connect(self.gateway.data_dir / "narthex.db")) as database:
            database.execute("PRAGMA busy_timeout = 10000")
            count = database.execute(statement, values).rowcount
            database.commit()
            return count


def at_once(site: Site, api: Api, forms: list[dict[str, Any]]) -> Iterator[Answer]:
    """The answers to these token requests, sent side by side on connections of their own."""
    connections = [site.connection() for _ in forms]
    try:
        for connection in connections:
            connection.connect()
        for connection, form in zip(connections, forms, strict=True):
            body = urlencode(form, doseq=True)
            headers = {"Content-Type": FORM_TYPE, "Host": "gateway.test"}
            connection.request("POST", f"{api.path}/oauth2/token", body, headers)
        for connection in connections:
            got = connection.getresponse()
            yield Answer(got.status, got.getheaders(), got.read())
    finally:
        for connection in connections:
            connection.close()
