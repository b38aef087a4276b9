"""Real processes for tests: started on free ports, waited for by polling, ended by their pid."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
from websockets.http11 import Request
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as ws_connect
from websockets.sync.server import ServerConnection, serve

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.02
START_SECONDS = 30.0
LOWEST_PORT = 10_000
OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # that run tests, and which
PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # of them this is

Found = TypeVar("Found")


def eventually(probe: Callable[[], Found], seconds: float = 10.0, what: str = "") -> Found:
    """The first true value of `probe`, asked again and again; fails after `seconds`.

    An `AssertionError`, `OSError` or `httpx.HTTPError` counts as "not yet" and is shown at the end.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            found = probe()
            if found:
                return found
            last = found
        except (AssertionError, OSError, httpx.HTTPError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or probe}: last {last!r}")
        time.sleep(POLL_SECONDS)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each a different one.

    They are below those that the kernel gives to outgoing connections: one of these would
    otherwise take a port between this look and the bind of whoever it is for. Processes that run
    tests beside this one (pytest-xdist) have shares of their own.
    """
    lowest_outgoing = int(OUTGOING_PORTS.read_text().split()[0])
    share = (max(lowest_outgoing, 2 * LOWEST_PORT) - LOWEST_PORT) // PROCESSES
    lowest = LOWEST_PORT + PROCESS * share
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = random.randrange(lowest, lowest + share)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found


def insecure_tls() -> ssl.SSLContext:
    """A client's context that takes any certificate: ours is self-signed in tests."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Process:
    """One child process with its output in a file; `stop` ends it by pid."""

    def __init__(self, argv: list[str], env: dict[str, str], log: Path, cwd: Path = ROOT) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def check_running(self) -> None:
        """Raises RuntimeError, which no poll waits on, with what the process said at its end."""
        if not self.running:
            raise RuntimeError(f"ended with {self.popen.returncode}:\n{self.output()}")

    def wait(self, seconds: float = 20.0) -> int:
        """The exit code; negative for a signal."""
        return self.popen.wait(seconds)

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM; SIGKILL and an AssertionError for what is still there after `seconds`."""
        if self.running:
            self.popen.terminate()
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in [*children(self.pid), self.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.popen.wait(5)
            raise AssertionError(f"{self.popen.args} did not end within {seconds} s") from None

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(5)


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that have not ended."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@dataclass
class Ports:
    proxy: int
    tls: int
    admin: int
    link: int
    status: int


@dataclass
class Gateway:
    """A gateway of its own folder and ports: `start` it whole, or its planes one by one."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    ports: Ports = field(default_factory=lambda: Ports(*free_ports(5)))
    processes: list[Process] = field(default_factory=list)
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        return self.folder / "narthex-data"

    @property
    def env(self) -> dict[str, str]:
        own = {
            "DATA_DIR": str(self.data_dir),
            "PROXY_LISTEN": f"127.0.0.1:{self.ports.proxy}, 127.0.0.1:{self.ports.tls} ssl",
            "ADMIN_LISTEN": f"127.0.0.1:{self.ports.admin}",
            "LINK_LISTEN": f"127.0.0.1:{self.ports.link}",
            "LINK_URL": f"ws://127.0.0.1:{self.ports.link}",
            "STATUS_LISTEN": f"127.0.0.1:{self.ports.status}",
            "WORKERS": "1",
            "DRAIN_SECONDS": "1",
            **self.settings,
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NARTHEX_", "DECK_"))}
        path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
        return {**kept, "PYTHONPATH": path, **{f"NARTHEX_{k}": v for k, v in own.items()}}

    def narthex(self, *words: str, **extra: str) -> Process:
        """Start `narthex <words>` under this gateway's settings; ended with the gateway."""
        log = self.folder / f"{words[0]}-{len(self.processes)}.log"
        process = Process([sys.executable, "-m", "narthex", *words], {**self.env, **extra}, log)
        self.processes.append(process)
        return process

    def run(
        self, *words: str, stdin: str | None = None, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `narthex <words>` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "narthex", *words],
            env={**self.env, **extra},
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *words: str) -> Process:
        """Both planes under their supervisor, serving."""
        process = self.narthex("start", *words)
        self.wait_admin(process)
        self.wait_ready(process)
        return process

    def start_control(self) -> Process:
        process = self.narthex("control")
        self.wait_admin(process)
        return process

    def start_dataplane(self) -> Process:
        """The data plane alone; ready once it has a snapshot, from the link or from disk."""
        process = self.narthex("dataplane")
        self.wait_ready(process)
        return process

    def wait_admin(self, process: Process) -> None:
        def answers() -> bool:
            process.check_running()
            return self.admin.get("/status").status_code == 200

        eventually(answers, START_SECONDS, "the Admin API")

    def wait_ready(self, process: Process) -> None:
        def ready() -> bool:
            process.check_running()
            return self.status("/status/ready").status_code == 200

        eventually(ready, START_SECONDS, "/status/ready")

    def wait_carried(self) -> None:
        """Until a data plane carries traffic by the newest configuration."""

        def carried() -> bool:
            rows = self.admin.get("/dataplanes").json()["data"]
            return any(row["connected"] and row["sync_status"] == "normal" for row in rows)

        eventually(carried, what="a data plane with the newest configuration")

    def status(self, path: str = "/status") -> httpx.Response:
        """GET from the data plane's status listener."""
        url = f"http://127.0.0.1:{self.ports.status}{path}"
        return httpx.get(url, timeout=5, trust_env=False)

    @property
    def admin(self) -> httpx.Client:
        """A client of the Admin API, one for all calls."""
        if not self.clients:
            url = f"http://127.0.0.1:{self.ports.admin}"
            self.clients.append(httpx.Client(base_url=url, timeout=20, trust_env=False))
        return self.clients[0]

    def request(self, method: str, path: str, *, tls: bool, **request: Any) -> httpx.Response:
        """One request to the proxy, any certificate taken: what `curl -k` does."""
        scheme, port = ("https", self.ports.tls) if tls else ("http", self.ports.proxy)
        url = f"{scheme}://127.0.0.1:{port}{path}"
        return httpx.request(method, url, verify=False, timeout=10, trust_env=False, **request)

    def websocket(self, path: str, token: str | None = None, *, tls: bool = False) -> Any:
        """An open WebSocket through the gateway, for `with`."""
        scheme, port = ("wss", self.ports.tls) if tls else ("ws", self.ports.proxy)
        return websocket(f"{scheme}://127.0.0.1:{port}{path}", token)

    def plane(self, supervisor: Process, name: str) -> int:
        """The pid of a plane under the supervisor, by its command line."""

        def find() -> int:
            wanted = f"narthex {name}"
            return next((p for p in children(supervisor.pid) if wanted in command_line(p)), 0)

        return eventually(find, START_SECONDS, f"the process of `narthex {name}`")

    def close(self) -> None:
        """End all that was started, newest first.

        The output of each goes to stdout: pytest shows that for a failed test.
        """
        for client in self.clients:
            client.close()
        failures = []
        for process in reversed(self.processes):
            try:
                process.stop()
            except AssertionError as error:
                failures.append(str(error))
            print(f"--- {process.log.name}\n{process.output()[-20000:]}")
        assert not failures, failures


def websocket(url: str, token: str | None = None, **options: Any) -> ClientConnection:
    """Connect with a bearer token; raises what `websockets` raises for a refusal."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    context = insecure_tls() if url.startswith("wss:") else None
    return ws_connect(
        url, additional_headers=headers, ssl=context, proxy=None, open_timeout=10, **options
    )


class RecordingUpstream:
    """A WebSocket server that sends every message back and keeps the handshakes it saw."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __enter__(self) -> RecordingUpstream:
        self._server = serve(self._handle, "127.0.0.1", 0, compression=None, max_size=None)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def _handle(self, connection: ServerConnection) -> None:
        if connection.request is not None:
            self.requests.append(connection.request)
        for message in connection:
            connection.send(message)

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)


@contextlib.contextmanager
def running_gateway(folder: Path, **settings: str) -> Iterator[Gateway]:
    from tests import databases  # it needs what stands above

    gateway = Gateway(folder, databases.settings_of(folder) | settings)
    try:
        yield gateway
    finally:
        gateway.close()
