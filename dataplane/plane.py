"""The data plane's asyncio side: what the control plane says goes into the engine from here.

One thread runs all of this; the workers never wait for it. `Plane` owns the link, the known tokens,
the name resolver and the answers, and ends them in order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from dataplane import records, wire
from dataplane.answers import Answers
from dataplane.changes import Changes
from dataplane.clock import Clock
from dataplane.compile import CompileError, compile_snapshot
from dataplane.following import Following
from dataplane.known import KnownTokens
from dataplane.link import Link
from dataplane.metrics import Gauges, Metrics
from dataplane.names import Resolver
from dataplane.settings import Listener, Settings
from dataplane.startup import Trust
from dataplane.status import Readiness, Sources, serve, status_app
from dataplane.verify import Verifier

if TYPE_CHECKING:
    from dataplane._engine import Engine
    from dataplane._policies import NameTable
    from dataplane._tables import Tables
    from dataplane.disk import DiskState

VERSION = "0.1.0"
POLL_SECONDS = 0.05  # how often the drain looks whether sessions are left
CLOSING_SECONDS = 1.0  # past DRAIN_SECONDS, for the last Close frames to be answered
JOIN_SECONDS = 1.0  # for the worker threads
WATCHDOG_SECONDS = 4.5  # past DRAIN_SECONDS: then the kernel ends what is left
RESTART_SECONDS = 1.0  # before a task that failed is begun again

log = structlog.get_logger()


class Plane:
    """Everything of one data plane but its start: see `main` for that."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        names: NameTable,
        state: DiskState,
        trust: Trust,
        fd_limit: int,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._names = names
        self._fd_limit = fd_limit
        self._tables: Tables | None = None
        self._changes = Changes(engine, settings.drain_seconds)
        self._version = 0
        self._started = time.monotonic()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self.listeners: list[Listener] = []
        self.clock = Clock(engine.set_clock_offset)
        self.known = KnownTokens(engine.tokens, settings.token_cache, self.clock.now)
        self.verifier = Verifier()
        self.link = Link(
            url=settings.link_url,
            secret=trust.secret,
            ssl=trust.tls,
            state=state,
            on_snapshot=self._on_snapshot,
            on_tokens=self._on_tokens,
            on_revocations=self._on_revocations,
            on_superseded=self._on_superseded,
            on_heartbeat=self._on_heartbeat,
            on_forget=self.known.clear,
            counters=self._counters,
            software=f"narthex/{VERSION}",
        )
        self.resolver = Resolver(names)
        self.following = Following(engine, self.known, self.link.report_moved)
        self.answers = Answers(
            engine,
            self.known,
            self.link,
            self.resolver,
            self.verifier,
            self.clock.now,
            self.following.moved,
        )
        self._metrics = Metrics(engine, self._gauges)

    # --- what the control plane says ---

    def restore(self) -> None:
        """Begin with what the disk holds, before anything is listened on."""
        self.known.revocations_complete = self.link.restore().complete

    def _on_snapshot(self, snapshot: wire.Snapshot) -> None:
        """Compile beside the live tables, then swap. CompileError is the link's to report."""
        try:
            keys = self.verifier.read(snapshot.keys)
        except ValueError as error:
            raise CompileError(str(error)) from None
        tables = compile_snapshot(snapshot, self._tables, self._names)
        self.verifier.use(keys, self.clock.now())
        self._engine.publish(tables)
        self._changes.published(self._tables, tables)
        self._tables = tables
        self._version = snapshot.version
        self._engine.sweep()
        keyless = self.known.apply_snapshot(snapshot)
        self.following.configured(snapshot, keyless)
        self.answers.applied(snapshot.version)
        self.resolver.wake()

    def _on_tokens(self, tokens: list[wire.Token]) -> None:
        for token in tokens:
            is_news = self.known.get(token.digest) is None
            try:
                self.known.put(token)
            except ValueError as error:  # its scope, say, is too long; the others are good
                log.warning("token.unusable", why=str(error), credential=token.credential.hex())
                continue
            if is_news:
                self.following.issued(token)

    def _on_superseded(self, message: wire.Superseded) -> None:
        if message.id == 0:
            self._on_tokens([message.token])
            self.known.supersede(message.old)
        elif self.known.has_ended(message.token):
            # The client only said where its sessions belong. That it could is some time ago: it
            # makes no token good again, and no session goes over to one that is not.
            self.link.report_moved(message.id, 0)
            return
        self.following.superseded(message)

    def _on_revocations(self, revocations: list[wire.Revocation]) -> None:
        for revocation in revocations:
            self.known.revoke(revocation)
        self.following.revoked(revocations)

    def _on_heartbeat(self, heartbeat: wire.Heartbeat) -> None:
        self.clock.hear(heartbeat.now)
        if heartbeat.settled:
            self.known.revocations_complete = True

    # --- what others ask ---

    def _counters(self) -> wire.Counters:
        totals = self._engine.counters()
        return wire.Counters(
            sessions=self._engine.live_sessions(),
            handshakes=sum(totals["handshakes"].values()),
            uptime_s=self._uptime(),
        )

    def _gauges(self) -> Gauges:
        return Gauges(
            config_version=self._version,
            link_up=self.link.connected,
            file_descriptors_max=self._fd_limit,
            draining=self._stopping.is_set(),
        )

    def _uptime(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def readiness(self) -> Readiness:
        reasons, notes = [], []
        if self._tables is None:
            reasons.append("no configuration")
        if self._stopping.is_set():
            reasons.append("draining")
        if self.link.refused:
            notes.append(f"configuration refused: {self.link.refused}")
        if not self.link.connected:
            why = f": {self.link.lost}" if self.link.lost else ""
            notes.append(f"the control plane is not connected{why}")
        return Readiness(reasons, notes)

    def status(self) -> dict[str, Any]:
        return {
            "plane": "data",
            "version": VERSION,
            "pid": os.getpid(),
            "uptime_s": self._uptime(),
            "draining": self._stopping.is_set(),
            "sessions": self._engine.live_sessions(),
            "tokens": len(self._engine.tokens),
            "config": {"version": self._version, "epoch": self.link.epoch.hex() or None},
            "link": {
                "connected": self.link.connected,
                "lost": self.link.lost,
                "refused": self.link.refused,
            },
            "listeners": [str(listener) for listener in self.listeners],
            "workers": self._settings.workers,
            "file_descriptors_max": self._fd_limit,
        }

    # --- running and ending ---

    async def run(self, status_socket: socket.socket | None) -> None:
        """Serve until a signal, then drain and stop the engine."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask_to_stop)
        self.answers.start()
        jobs: dict[str, Callable[[], Awaitable[None]]] = {
            "link": self.link.run,
            "names": self.resolver.run,
            "records": lambda: records.run(self._engine),
        }
        if status_socket is not None:
            app = status_app(Sources(self.status, self.readiness, self._metrics.text))
            jobs["status"] = partial(serve, app, status_socket)
        tasks = [asyncio.create_task(_keep(name, job)) for name, job in jobs.items()]
        try:
            await self._stopping.wait()
            await self._drain()
        finally:
            self._stop_engine()
            self.answers.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            log.info("stopped")

    def ask_to_stop(self) -> None:
        """What a signal does: the first one drains, the next one ends at once."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def _drain(self) -> None:
        seconds = self._settings.drain_seconds
        log.info("draining", seconds=seconds, sessions=self._engine.live_sessions())
        arm_watchdog(seconds + WATCHDOG_SECONDS)
        self._engine.drain(seconds)
        until = time.monotonic() + seconds + CLOSING_SECONDS
        while self._busy() and time.monotonic() < until and not self._hurry.is_set():
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    def _busy(self) -> bool:
        engine = self._engine
        return engine.live_sessions() + engine.live_exchanges() + self.answers.pending > 0

    def _stop_engine(self) -> None:
        self._engine.stop()
        if not self._engine.join(JOIN_SECONDS):
            log.error("workers.stuck", seconds=JOIN_SECONDS)
        while records.drain(self._engine) == records.RECORDS_MAX:
            pass


async def _keep(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Run a job that has no end; a fault of ours in one must not take the sessions down."""
    while True:
        try:
            await job()
        except Exception as error:
            log.error("task.fault", task=name, error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(RESTART_SECONDS)


def arm_watchdog(seconds: float) -> None:
    """Have the kernel end this process then, even if no Python runs any more."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
