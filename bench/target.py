"""Start a gateway for a load tool, and print where it is: NAME:PORT:PID:PATH:HEADER.

    .venv/bin/python -m bench.target --echo-port 9001 [--workers 1] [--tls]

The upstream is whatever WebSocket server listens on --echo-port.  The gateway runs as a user would
run it: a bearer token is checked at every handshake, message sizes are limited, metrics and close
records are on.  It ends with SIGTERM or when standard input ends.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run by its file name
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.tools import Process, Trouble, family, free_ports, quiet_environment

SECONDS_TO_START = 60
SLOWER = 10  # times that, under valgrind
PATH = "/anything"
TOKEN_PATH = "/token/oauth2/token"


class Gateway:
    """A gateway of its own folder and ports; `stop` ends it.

    Each of `plugins` is put on the service, beside oauth2.  With `wrap`, a command such as
    valgrind's, the planes are started one by one and the data plane under it.
    """

    def __init__(
        self,
        folder: Path,
        echo_port: int,
        workers: int = 1,
        plugins: Sequence[dict[str, Any]] = (),
        wrap: Sequence[str] = (),
        settings: dict[str, str] | None = None,
    ) -> None:
        self.port, self.tls_port, admin, link, self.status_port = free_ports(5)
        self.admin = f"http://127.0.0.1:{admin}"
        self._patience = SECONDS_TO_START * (SLOWER if wrap else 1)
        own = {
            "PROXY_LISTEN": f"127.0.0.1:{self.port}, 127.0.0.1:{self.tls_port} ssl",
            "ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "LINK_LISTEN": f"127.0.0.1:{link}",
            "LINK_URL": f"ws://127.0.0.1:{link}",
            "LINK_SECRET": secrets.token_hex(32),
            "STATUS_LISTEN": f"127.0.0.1:{self.status_port}",
            "DATA_DIR": f"{folder}/data",
            "WORKERS": str(workers),
            "DRAIN_SECONDS": "1",
        } | (settings or {})
        self._own = own
        self.env = env = _environment(own)
        self._processes: list[Process] = []
        try:
            self._start(folder, env, wrap)
            self._configure(echo_port, plugins)
        except BaseException:
            self.stop()
            raise

    def _start(self, folder: Path, env: dict[str, str], wrap: Sequence[str]) -> None:
        narthex = [sys.executable, "-m", "narthex"]
        commands = [[*narthex, "start"]]
        if wrap:
            commands = [[*narthex, "control"], [*wrap, *narthex, "dataplane"]]
        for command in commands:
            self._processes.append(Process(command, folder / "log", env))
            self._once_up(f"{self.admin}/status")
        self._once_up(f"http://127.0.0.1:{self.status_port}/status/ready")
        last = self._processes[-1]
        self.pid = last.pid if wrap else data_plane_pid(last.pid)

    def _configure(self, echo_port: int, plugins: Sequence[dict[str, Any]]) -> None:
        """The how-to's entities, with the load's upstream, and a token."""
        self.post("/services", {"name": "bench", "url": f"ws://127.0.0.1:{echo_port}/"})
        route = {"name": "bench", "paths": [PATH], "protocols": ["ws", "wss"]}
        self.post("/services/bench/routes", route)
        tokens = {"name": "token", "paths": ["/token"], "protocols": ["https"], "methods": ["POST"]}
        self.post("/routes", tokens)
        config = {
            "scopes": ["email", "profile"],
            "global_credentials": True,
            "enable_client_credentials": True,
        }
        for owner in ("services/bench", "routes/token"):
            self.post(f"/{owner}/plugins", {"name": "oauth2", "config": config})
        for plugin in plugins:
            self.post("/services/bench/plugins", plugin)
        self.post("/consumers", {"username": "alex"})
        made = self.post("/consumers/alex/oauth2", {"name": "bench"})
        self.client = {name: made[name] for name in ("client_id", "client_secret")}
        body = self.client | {"grant_type": "client_credentials"}
        url = f"https://127.0.0.1:{self.tls_port}{TOKEN_PATH}"
        self.header = f"Authorization: Bearer {self._once_up(url, body)['access_token']}"
        self.token_request = urllib.parse.urlencode(body)

    @property
    def family(self) -> list[int]:
        """The processes of the gateway, the supervisor's first."""
        return [pid for process in self._processes for pid in family(process.pid)]

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an entity by the Admin API; what it refuses is said in its words."""
        try:
            return call(f"{self.admin}{path}", body)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise Trouble(f"POST {path} {body.get('name', '')}: {error.code} {said}") from None

    def _once_up(self, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """As `call`, as soon as the gateway is there to answer it well."""
        end = time.monotonic() + self._patience
        while True:
            try:
                return call(url, body)
            except (OSError, ValueError) as error:
                for process in self._processes:
                    process.check()
                if time.monotonic() > end:
                    raise Trouble(f"{url}: {error}") from error
                time.sleep(0.1)

    def add_dataplane(self, folder: Path) -> int:
        """Start one more data plane, with the same secret and a folder of its own.  Its port."""
        port, tls_port, status_port = free_ports(3)
        own = self._own | {
            "PROXY_LISTEN": f"127.0.0.1:{port}, 127.0.0.1:{tls_port} ssl",
            "STATUS_LISTEN": f"127.0.0.1:{status_port}",
            "DATA_DIR": f"{folder}/data",
        }
        command = [sys.executable, "-m", "narthex", "dataplane"]
        self._processes.append(Process(command, folder / "log", _environment(own)))
        self._once_up(f"http://127.0.0.1:{status_port}/status/ready")
        return port

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.stop()


def _environment(own: dict[str, str]) -> dict[str, str]:
    return quiet_environment() | {f"NARTHEX_{name}": value for name, value in own.items()}


def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST of a JSON body; the JSON that comes back."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    context = ssl._create_unverified_context() if url.startswith("https") else None
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def data_plane_pid(supervisor: int) -> int:
    """The child whose command line says dataplane."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for child in children:
        if b"dataplane" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise Trouble("the gateway has no data plane")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--echo-port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tls", action="store_true", help="print the TLS port")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="narthex-bench-") as work:
        gateway = Gateway(Path(work), options.echo_port, options.workers)
        try:
            name = "narthex+tls" if options.tls else "narthex"
            port = gateway.tls_port if options.tls else gateway.port
            print(f"{name}:{port}:{gateway.pid}:{PATH}:{gateway.header}", flush=True)
            sys.stdin.read()
        finally:
            gateway.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
