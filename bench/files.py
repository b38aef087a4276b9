"""What a large configuration costs as pages, as a dump, as a diff and as a sync of a few changes.

Everything is as a user has it: both planes run, and each command is a process of its own.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.target import Gateway, call
from bench.tools import HERE, Trouble

CHANGES = 10  # in a sync
PAGE = 1000
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Times:
    """Of one thing, in each round: seconds of time, and of CPU over all processes."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{statistics.median(self.cpu):.2f} s of CPU"


class Files:
    """A gateway with so many pairs of a service and its route, and what is timed on it."""

    def __init__(self, gateway: Gateway, folder: Path, pairs: int) -> None:
        self.gateway, self.pairs = gateway, pairs
        self.file = folder / "kong.yaml"
        self.file.write_text(_pairs(pairs))
        self.narthex("apply", str(self.file))
        self.narthex("dump", "-o", str(self.file), "--yes")

    def measure(self, rounds: int) -> dict[str, Times]:
        work: dict[str, Callable[[int], None]] = {
            "paging through the Admin API": lambda _: self._page(),
            "dump": lambda _: self._dump(),
            "diff, nothing to do": lambda _: self._diff(),
            f"sync of {CHANGES} changes": self._sync,
        }
        times = {name: Times() for name in work}
        for number in range(rounds):
            for name, run in work.items():
                started, cpu = time.monotonic(), self._cpu()
                run(number)
                times[name].seconds.append(time.monotonic() - started)
                times[name].cpu.append(self._cpu() - cpu)
        return times

    def narthex(self, *words: str) -> str:
        """What `narthex config <words>` printed."""
        done = subprocess.run(
            [sys.executable, "-m", "narthex", "config", *words],
            cwd=HERE.parent,
            env=self.gateway.env,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Trouble(f"narthex config {' '.join(words)}: {done.stderr}")
        return done.stdout

    def _page(self) -> None:
        for name in ("services", "routes"):
            count, path = 0, f"/{name}?size={PAGE}"
            while path:
                page = call(f"{self.gateway.admin}{path}")
                count, path = count + len(page["data"]), page["next"]
            if count < self.pairs:
                raise Trouble(f"{count} {name} instead of {self.pairs}")

    def _dump(self) -> None:
        self.narthex("dump", "-o", f"{self.file}.again", "--yes")

    def _diff(self) -> None:
        said = self.narthex("diff", str(self.file))
        if said != "nothing to change\n":
            raise Trouble(f"a diff with something to do: {said[-200:]}")

    def _sync(self, number: int) -> None:
        text = self.file.read_text()
        for one in range(CHANGES // 2):
            text = text.replace(f"- /bench{one}-{number}\n", f"- /bench{one}-{number + 1}\n")
            text = text.replace(f"path: /up{one}-{number}\n", f"path: /up{one}-{number + 1}\n")
        self.file.write_text(text)
        said = self.narthex("sync", str(self.file)).splitlines()[-1]
        if said != f"created 0, updated {CHANGES}, deleted 0":
            raise Trouble(f"a sync of {CHANGES} changes: {said}")

    def _cpu(self) -> float:
        """Seconds that the gateway has used, and commands that have ended."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime + sum(map(_cpu_of, self.gateway.family))


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _pairs(count: int) -> str:
    """A file with so many services, each with a route."""
    lines = ['_format_version: "3.0"', "services:"]
    for one in range(count):
        lines += [
            f"- {{name: bench-{one}, url: 'ws://up-{one}.example:8080/up{one}-0', routes: [",
            f"  {{name: bench-{one}, protocols: [ws, wss], hosts: [bench-{one}.example],",
            f"   paths: [/bench{one}-0]}}]}}",
        ]
    return "\n".join(lines) + "\n"
