"""A Kong for tests: its Admin API as far as it is read, from collections by their file names."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PATHS = {"oauth2": "oauth2_credentials", "key-auths": "keyauth_credentials"}


class FakeKong:
    """Pages in the order of ids, as Kong does; `token` is then asked for.

    `absent`: collections that this Kong has not. `paths`: what was asked for.
    """

    def __init__(
        self,
        collections: dict[str, list[dict[str, Any]]],
        *,
        token: str | None = None,
        version: Any = "3.9.1",
        page: int = 1000,
        absent: frozenset[str] = frozenset({"partials", "vaults", "workspaces"}),
    ) -> None:
        self.collections = collections
        self.token = token
        self.version = version
        self.page = page
        self.absent = absent
        self.paths: list[str] = []

    def __enter__(self) -> FakeKong:
        kong = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                kong.paths.append(self.path)
                status, body = kong.answer(self.path, self.headers.get("Kong-Admin-Token"))
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def answer(self, target: str, token: str | None) -> tuple[int, Any]:
        parts = urlsplit(target)
        path = parts.path.strip("/")
        if self.token is not None and token != self.token:
            return 401, {"message": "Unauthorized"}
        if not path:
            return 200, {"tagline": "Welcome to kong", "version": self.version}
        if path in self.absent:
            return 404, {"message": "Not found"}
        query = parse_qs(parts.query)
        return 200, self._page(path, int(query["size"][0]), query.get("offset", [""])[0])

    def _page(self, path: str, size: int, offset: str) -> dict[str, Any]:
        after = json.loads(base64.b64decode(offset))[0] if offset else ""
        rows = [row for row in self._rows(path) if row["id"] > after]
        size = min(size, self.page)
        if len(rows) <= size:
            return {"data": rows, "next": None}
        offset = base64.b64encode(json.dumps([rows[size - 1]["id"]]).encode()).decode()
        return {"data": rows[:size], "next": f"/{path}?offset={offset}", "offset": offset}

    def _rows(self, path: str) -> list[dict[str, Any]]:
        if path.startswith("upstreams/"):
            upstream = path.split("/")[1]
            targets = self.collections.get("targets", [])
            rows = [row for row in targets if row["upstream"]["id"] == upstream]
        else:
            rows = self.collections.get(_PATHS.get(path, path), [])
        return sorted(rows, key=lambda row: str(row["id"]))
