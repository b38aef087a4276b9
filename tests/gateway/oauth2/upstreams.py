"""Upstreams that tell what reached them: one for HTTP, one for WebSockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from websockets.http11 import Request
from websockets.sync.server import ServerConnection, serve


@dataclass(frozen=True)
class Seen:
    """A request as an upstream got it."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: str = ""

    def __getitem__(self, name: str) -> str | None:
        """The one value of this header; None without the header."""
        values = [value for key, value in self.fields if key.lower() == name.lower()]
        assert len(values) < 2, (name, values)
        return values[0] if values else None

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    def mentions(self, text: str) -> bool:
        """Whether this stands anywhere in the request."""
        head = [self.target, *(part for pair in self.fields for part in pair)]
        return any(text.lower() in part.lower() for part in [*head, self.body])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        seen = {
            "method": self.command,
            "target": self.path,
            "fields": self.headers.items(),
            "body": self.rfile.read(length).decode("utf-8", "replace"),
        }
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


class HttpUpstream:
    """Answers every request with what it saw of it, as JSON."""

    def __enter__(self) -> HttpUpstream:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


CHOSEN = "chat"  # the subprotocol that the WebSocket upstream speaks


def _choose(_: ServerConnection, offered: Sequence[str]) -> str | None:
    return CHOSEN if CHOSEN in offered else None


@dataclass
class WebSocketUpstream:
    """Sends every message back, speaks `chat` where offered, and keeps the handshakes it saw."""

    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> WebSocketUpstream:
        self._server = serve(
            self._handle,
            "127.0.0.1",
            0,
            compression=None,
            process_request=self._note,
            subprotocols=[CHOSEN],  # type: ignore[list-item]
            select_subprotocol=_choose,  # type: ignore[arg-type]
        )
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def _note(self, _: ServerConnection, request: Request) -> None:
        self.requests.append(request)

    def _handle(self, connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    def last(self) -> Seen:
        """The newest handshake."""
        request = self.requests[-1]
        return Seen("GET", request.path, list(request.headers.raw_items()))

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
