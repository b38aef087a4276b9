"""Both planes as child processes: started, restarted when one dies, ended in order.

One thread and no handlers: SIGTERM, SIGINT and SIGCHLD stay blocked and are taken by
`sigtimedwait`, so that nothing happens between two lines. Children are in process groups of their
own, so that Ctrl-C in a terminal reaches the supervisor alone, and hear SIGTERM from the kernel
should the supervisor be killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

STOPPING = (signal.SIGTERM, signal.SIGINT)
TAKEN = (*STOPPING, signal.SIGCHLD)
START_SECONDS = 15.0  # a first start that ends by itself within this is a start that failed
STEADY_SECONDS = 30.0  # after running this long a death counts as the first one again
BACKOFF_SECONDS = 0.2
BACKOFF_SECONDS_MAX = 5.0
# Nothing outlives DRAIN_SECONDS + 5: what comes last gets the rest of these.
FIRST_STAGE_SECONDS = 3.0  # beyond DRAIN_SECONDS, for the data plane
LAST_STAGE_SECONDS = 1.5  # for the control plane, once the data plane is gone
TICK_SECONDS = 1.0

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Log(Protocol):
    def info(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


@dataclass
class Child:
    """One command that runs beside the supervisor.

    `stage` orders the end: 0 is told first, 1 once all of stage 0 are gone. A child that runs
    `once` may end with 0 and is never restarted.
    """

    name: str
    argv: Sequence[str]
    stage: int = 0
    once: bool = False
    popen: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    starts: int = 0
    deaths: int = 0  # in a row, without STEADY_SECONDS between them
    restart_at: float = field(default=float("inf"))

    @property
    def running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number: int) -> None:
        if self.running and self.popen is not None:
            self.popen.send_signal(number)


def narthex_command(*words: str) -> list[str]:
    """The argv that runs `narthex <words>`; its command line reads just so."""
    return [sys.executable, "-m", "narthex", *words]


class Supervisor:
    def __init__(self, children: Sequence[Child], drain_seconds: float, log: Log) -> None:
        self._children = children
        self._drain_seconds = drain_seconds
        self._log = log

    def run(self) -> int:
        """Start all children and keep them until a signal.  The exit code of `narthex start`."""
        signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
        for child in self._children:
            self._start(child)
        while True:
            taken = signal.sigtimedwait(TAKEN, self._pause())
            if taken is not None and taken.si_signo in STOPPING:
                self._log.info("stopping", signal=signal.Signals(taken.si_signo).name)
                return self._stop()
            failed = [child for child in self._children if self._look_after(child)]
            if failed:
                self._stop()
                return 1

    def _start(self, child: Child) -> None:
        parent = os.getpid()

        def prepare() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if os.getppid() != parent:  # it died before prctl
                os._exit(1)

        # One thread, so that preexec_fn is safe.
        child.popen = subprocess.Popen(  # noqa: S603
            child.argv, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=prepare
        )
        child.started_at = time.monotonic()
        child.starts += 1
        child.restart_at = float("inf")
        self._log.info("started", process=child.name, pid=child.popen.pid)

    def _pause(self) -> float:
        """Seconds until something is due."""
        due = min(child.restart_at for child in self._children) - time.monotonic()
        return max(0.0, min(TICK_SECONDS, due))

    def _look_after(self, child: Child) -> bool:
        """Restart what is due, notice who died.  True when the gateway cannot go on."""
        now = time.monotonic()
        if now >= child.restart_at:
            self._start(child)
        if child.popen is None or child.running:
            return False
        code = child.popen.returncode
        child.popen = None
        if child.once:
            if code != 0:
                self._log.error("failed", process=child.name, exit=_how(code))
            return False
        if child.starts == 1 and code > 0 and now - child.started_at < START_SECONDS:
            self._log.error("could not start", process=child.name, exit=_how(code))
            return True
        child.deaths = 1 if now - child.started_at > STEADY_SECONDS else child.deaths + 1
        pause = min(BACKOFF_SECONDS * 2 ** (child.deaths - 1), BACKOFF_SECONDS_MAX)
        child.restart_at = now + pause
        self._log.error("died", process=child.name, exit=_how(code), restart_in_seconds=pause)
        return False

    def _stop(self) -> int:
        """End the stages in order; a further signal ends all at once."""
        now = time.monotonic()
        ends = [now + self._drain_seconds + FIRST_STAGE_SECONDS]
        ends.append(ends[0] + LAST_STAGE_SECONDS)
        for stage, end in enumerate(ends):
            of_stage = [child for child in self._children if child.stage == stage]
            for child in of_stage:
                child.signal(signal.SIGTERM)
            if not self._wait(of_stage, end):
                break
        for child in self._children:
            if child.running:
                self._log.error("killed", process=child.name)
                child.signal(signal.SIGKILL)
        for child in self._children:
            if child.popen is not None:
                child.popen.wait()
        self._log.info("stopped")
        return 0

    def _wait(self, children: Sequence[Child], end: float) -> bool:
        """Until these are gone or `end` has come.  False when a signal asks for haste."""
        while any(child.running for child in children) and time.monotonic() < end:
            left = max(0.0, min(TICK_SECONDS, end - time.monotonic()))
            taken = signal.sigtimedwait(TAKEN, left)
            if taken is not None and taken.si_signo in STOPPING:
                return False
        return True


def _how(code: int) -> str:
    """An exit code as a reader knows it."""
    return signal.Signals(-code).name if code < 0 else f"code {code}"
