"""One run of the bench: its programs, the proxies under measurement, and how a load is charged."""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import PEERS, Identity, Place, installed
from bench.target import PATH, Gateway
from bench.tools import HERE, Load, Process, Trouble, compile_programs, family, free_ports

OURS = "narthex"
FLOORS = ("copy", "splice")
SOURCES = 50  # client addresses, so that ports do not run out under handshakes


@dataclass(frozen=True)
class Proxy:
    name: str
    port: int
    tls_port: int  # 0: none
    pids: list[int]
    path: str
    header: str


@dataclass(frozen=True)
class Sizes:
    """How long and how large; `--quick` and the tests have smaller ones."""

    rounds: int = 5
    seconds: float = 2.0
    warm: float = 0.5
    idle_sessions: int = 4000
    pinged_sessions: int = 9000
    pinged_seconds: float = 90.0
    revocations: int = 1000
    pairs: int = 2500  # of a service and a route, in a large file


class Bench(contextlib.ExitStack):
    """Use it with `with`: all that it started has ended after that."""

    def __init__(self, sizes: Sizes, with_peers: bool = True) -> None:
        super().__init__()
        self.sizes, self.with_peers = sizes, with_peers
        work = tempfile.TemporaryDirectory(prefix="narthex-bench-", ignore_cleanup_errors=True)
        self._work = Path(self.enter_context(work))
        self.identity = Identity(self._work)
        self._programs = compile_programs(HERE.parent / "build" / "bench")
        self.peers = installed() if with_peers else []
        self._running: dict[str, Proxy] = {}
        (self.echo_port,) = free_ports(1)
        self._spawn([self._programs["echo"], str(self.echo_port)], self, self.echo_port)

    @property
    def names(self) -> list[str]:
        return [OURS, *self.peers, *FLOORS]

    def say(self, what: str) -> None:
        print(f"bench: {what}", file=sys.stderr, flush=True)

    def proxy(self, name: str, workers: int = 1) -> Proxy:
        """The one that runs for the whole bench, started when first asked for."""
        key = f"{name}-{workers}"
        if key not in self._running:
            self._running[key] = self._start(name, self, workers)
        return self._running[key]

    @contextlib.contextmanager
    def fresh(self, name: str, **options: Any) -> Iterator[Proxy]:
        """One of its own, for works that look at memory or at plugins."""
        with contextlib.ExitStack() as stack:
            yield self._start(name, stack, **options)

    @contextlib.contextmanager
    def two_dataplanes(self) -> Iterator[tuple[Gateway, list[int]]]:
        """A gateway with a second data plane, and the ports of both; no session is pinged."""
        folders = [Path(tempfile.mkdtemp(prefix=f"{OURS}-", dir=self._work)) for _ in range(2)]
        quiet = {"name": "websocket-session", "config": {"ping_interval": 0}}
        gateway = Gateway(folders[0], self.echo_port, plugins=[quiet])
        try:
            yield gateway, [gateway.port, gateway.add_dataplane(folders[1])]
        finally:
            gateway.stop()

    def _start(self, name: str, stack: contextlib.ExitStack, workers: int = 1) -> Proxy:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._work))
        if name == OURS:
            gateway = Gateway(folder, self.echo_port, workers)
            stack.callback(gateway.stop)
            return Proxy(name, gateway.port, gateway.tls_port, [gateway.pid], PATH, gateway.header)
        port, tls_port = free_ports(2)
        if name in FLOORS:
            words = [self._programs["floor"], str(port), str(self.echo_port), name]
            process = self._spawn(words, stack, port)
            return Proxy(name, port, 0, [process.pid], "/", "")
        command = PEERS[name](Place(folder, port, tls_port, self.echo_port, self.identity))
        process = self._spawn(command.words, stack, port)
        process.wait_port(tls_port)
        return Proxy(name, port, tls_port, family(process.pid), "/", command.header)

    def _spawn(self, words: list[Any], stack: contextlib.ExitStack, port: int) -> Process:
        process = Process(words, self._work / "log")
        stack.callback(process.stop)
        process.wait_port(port)
        return process

    def load(self, proxy: Proxy, mode: str, tls: bool = False, **options: Any) -> Load:
        """Begin a load; what it returns is charged to the proxy's processes."""
        return Load(
            self._programs["load"], mode, proxy.pids,
            port=proxy.tls_port if tls else proxy.port, tls=1 if tls else None, path=proxy.path,
            header=proxy.header or None, sources=SOURCES, **options,
        )  # fmt: skip

    def post(self, pids: list[int], **options: Any) -> dict[str, Any]:
        """One run of POSTs over TLS, charged to these processes."""
        sizes = {"seconds": self.sizes.seconds, "warm": self.sizes.warm}
        return Load(self._programs["load"], "post", pids, tls=1, **sizes, **options).result()

    def once(self, proxy: Proxy, mode: str, tls: bool = False, **options: Any) -> float:
        """CPU microseconds a unit, of one run."""
        load = self.load(
            proxy, mode, tls, seconds=self.sizes.seconds, warm=self.sizes.warm, **options
        )
        result = load.result()
        if result["failed"] or not result["units"]:
            raise Trouble(f"{proxy.name} lost connections under load: {result}")
        return float(result["cpu_ns"] / result["units"] / 1000)

    def rounds(
        self, proxies: list[Proxy], mode: str, tls: bool = False, **options: Any
    ) -> list[float]:
        """CPU microseconds a unit of each: the median of rounds in which they take turns."""
        taken: list[list[float]] = [[] for _ in proxies]
        for _ in range(self.sizes.rounds):
            for proxy, figures in zip(proxies, taken, strict=True):
                figures.append(self.once(proxy, mode, tls, **options))
        return [statistics.median(figures) for figures in taken]
