"""A proxy before the Admin API that writes down what goes through it."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import httpx

KEPT = ("content-type", "server")  # headers of an answer that decK looks at
PASSED_ON = ("Content-Type", "Kong-Admin-Token")  # of a request
CONNECTIONS = 64  # at a time: decK reads all collections at once


@dataclass(frozen=True)
class Seen:
    """One request and its answer, bytes as they were."""

    method: str
    path: str  # with its query
    body: bytes
    status: int
    answer: bytes


class Recorder:
    """Listens on `url` and passes on to `admin_url`; `take` hands out what was seen since."""

    def __init__(self, admin_url: str) -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        self.client = httpx.Client(base_url=admin_url, trust_env=False, timeout=30, limits=limits)
        self._seen: list[Seen] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Recorder:
        recorder = self

        class Handler(_Handler):
            def answer(self, method: str, body: bytes) -> httpx.Response:
                headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
                return recorder._pass_on(method, self.path, body, headers)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        self.client.close()

    def take(self) -> list[Seen]:
        with self._lock:
            seen, self._seen = self._seen, []
        return seen

    def _pass_on(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> httpx.Response:
        answer = self.client.request(method, path, content=body, headers=headers)
        with self._lock:
            self._seen.append(Seen(method, path, body, answer.status_code, answer.content))
        return answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, method: str, body: bytes) -> httpx.Response:
        raise NotImplementedError

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # decK ends with connections open
            super().handle()

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        answer = self.answer(self.command, self.rfile.read(length))
        self.send_response_only(answer.status_code)
        for name in KEPT:
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        if answer.status_code != 204:
            self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what went through is in the recording."""
