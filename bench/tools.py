"""The bench's own programs, and processes: started, waited for, read, ended by their pid."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
LIBRARIES = {"echo": ["-lcrypto"], "floor": [], "load": ["-lssl", "-lcrypto"]}
OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 10_000
SECONDS_TO_START = 30
SECONDS_TO_END = 20


class Trouble(Exception):
    """The bench itself cannot go on; says why."""


def compile_programs(folder: Path) -> dict[str, Path]:
    """echo, floor and load, compiled into `folder` unless they are there and newer."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, libraries in LIBRARIES.items():
        source, program = HERE / f"{name}.c", folder / name
        newest = max(path.stat().st_mtime for path in (source, HERE / "common.h"))
        if not program.exists() or program.stat().st_mtime < newest:
            command = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)]
            done = subprocess.run([*command, *libraries], capture_output=True, text=True)
            if done.returncode:
                raise Trouble(f"{source.name} does not compile:\n{done.stderr}")
        made[name] = program
    return made


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each a different one.

    They lie below those that the kernel gives to outgoing connections, of which a bench has many.
    """
    highest = int(OUTGOING_PORTS.read_text().split()[0])
    found: dict[int, socket.socket] = {}
    try:
        while len(found) < count:
            port = random.randrange(LOWEST_PORT, max(highest, 2 * LOWEST_PORT))
            one = socket.socket()
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                one.close()
            else:
                found[port] = one
        return list(found)
    finally:
        for one in found.values():
            one.close()


class Process:
    """A child whose output is in a file."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, env: dict[str, str] | None = None
    ) -> None:
        self.log = log
        self.name = " ".join(map(str, command))
        with log.open("ab") as output:
            self.popen: subprocess.Popen[bytes] = subprocess.Popen(
                [str(word) for word in command],
                cwd=HERE.parent, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.popen.pid

    def check(self) -> None:
        if self.popen.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise Trouble(f"{self.name} ended with {self.popen.returncode}:\n{tail}")

    def wait_port(self, port: int) -> None:
        """Until it takes connections there."""
        end = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                self.check()
                if time.monotonic() > end:
                    raise Trouble(f"{self.name} does not listen on {port}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            self.popen.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


class Load:
    """One run of the load program; `opened` returns once every connection is open."""

    def __init__(self, program: Path, mode: str, pids: Iterable[int], **options: Any) -> None:
        self.timeout = float(options.get("seconds", 0)) + 120
        words = [f"{name}={value}" for name, value in options.items() if value is not None]
        words += [f"pid={pid}" for pid in pids]
        self._popen: subprocess.Popen[str] = subprocess.Popen(
            [str(program), mode, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def opened(self) -> None:
        output: IO[str] = self._popen.stdout  # type: ignore[assignment]
        if output.readline() != "open\n":
            raise Trouble("the load program could not begin")

    def go(self) -> None:
        """What `go=1` waits for."""
        pipe: IO[str] = self._popen.stdin  # type: ignore[assignment]
        pipe.write("go\n")
        pipe.flush()

    def result(self) -> dict[str, Any]:
        try:
            output, _ = self._popen.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.communicate()
            raise Trouble(f"the load did not end within {self.timeout:.0f} s") from None
        if self._popen.returncode:
            raise Trouble(f"the load program ended with {self._popen.returncode}")
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def memory_kib(pids: Iterable[int]) -> int:
    """User memory: what is resident, shared pages by their share (Pss)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def watched_by_epoll(pid: int) -> list[int]:
    """How many descriptors each epoll instance of a process watches, the most first."""
    counts = []
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            counts.append(info.read_text().count("tfd:"))
        except OSError:
            continue
    return sorted((count for count in counts if count), reverse=True)


def quiet_environment() -> dict[str, str]:
    """Ours without settings of another gateway."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NARTHEX_")}
