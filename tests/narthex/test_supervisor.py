"""The supervisor over small scripts instead of planes: what it starts, restarts and ends."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT, Process, alive, children, command_line, eventually

DRIVER = """
import sys
from narthex.logs import make_log
from narthex.supervisor import Child, Supervisor
children = [Child(n, [sys.executable, "-c", code, n], **o) for n, code, o in eval(sys.argv[1])]
sys.exit(Supervisor(children, float(sys.argv[2]), make_log("info", "json")).run())
"""
# Says that it listens, and its end in a file that all share: the order of ends can be seen.
OBEDIENT = """
import os, pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
pathlib.Path(f"{os.getpid()}.listens").touch()
signal.sigwait({signal.SIGTERM})
with open("ends", "a") as file: file.write(sys.argv[1] + "\\n")
"""
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs a supervisor over (name, code, options of Child)."""
    made: list[Process] = []

    def run(*specs: tuple[str, str, dict[str, object]], drain: float = 0.0) -> Process:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-c", DRIVER, repr(specs), str(drain)]
        made.append(Process(argv, env, tmp_path / "log", cwd=tmp_path))
        return made[-1]

    yield run
    for process in made:
        process.stop()
        print(process.output())


def events(process: Process, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in process.output().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def child_pid(process: Process, name: str) -> int:
    """The pid of a child that runs its own code already, not the supervisor's copy."""

    def find() -> int:
        found = [p for p in children(process.pid) if command_line(p).endswith(f" {name}")]
        return found[0] if found and "Supervisor" not in command_line(found[0]) else 0

    return eventually(find)


def listening(process: Process, name: str, folder: Path) -> int:
    """The pid of an OBEDIENT child, once it waits for its signal."""
    pid = child_pid(process, name)
    eventually((folder / f"{pid}.listens").exists)
    return pid


def test_supervisor_ends_stage_0_before_stage_1_when_told(start: Start, tmp_path: Path) -> None:
    process = start(("control", OBEDIENT, {"stage": 1}), ("dataplane", OBEDIENT, {}))
    for name in ("control", "dataplane"):
        listening(process, name, tmp_path)
    assert process.stop() == 0
    assert (tmp_path / "ends").read_text().split() == ["dataplane", "control"]
    assert events(process, "stopped")[0]["plane"] == "supervisor"


def test_supervisor_restarts_child_and_says_so_when_it_is_killed(start: Start) -> None:
    process = start(("control", OBEDIENT, {}))
    first = child_pid(process, "control")
    os.kill(first, signal.SIGKILL)
    second = eventually(lambda: next((p for p in children(process.pid) if p != first), 0))
    assert second != first
    died = eventually(lambda: events(process, "died"))[0]
    assert (died["process"], died["exit"]) == ("control", "SIGKILL")
    assert died["restart_in_seconds"] == 0.2


def test_supervisor_waits_longer_before_each_restart_when_child_keeps_dying(start: Start) -> None:
    process = start(("control", "import os\nos.kill(os.getpid(), 9)", {}))
    eventually(lambda: len(events(process, "died")) >= 3, 20)
    pauses = [died["restart_in_seconds"] for died in events(process, "died")[:3]]
    assert pauses == [0.2, 0.4, 0.8]


def test_supervisor_gives_up_when_first_start_fails(start: Start) -> None:
    process = start(("dataplane", "raise SystemExit(1)", {}), ("control", OBEDIENT, {"stage": 1}))
    assert process.wait() == 1
    assert events(process, "could not start")[0]["exit"] == "code 1"


def test_supervisor_goes_on_when_child_that_runs_once_ends(start: Start, tmp_path: Path) -> None:
    process = start(("example", "", {"once": True}), ("control", OBEDIENT, {}))
    listening(process, "control", tmp_path)
    eventually(lambda: len(children(process.pid)) == 1)
    assert not events(process, "died")
    assert process.stop() == 0


def test_supervisor_says_so_when_child_that_runs_once_fails(start: Start) -> None:
    process = start(("example", "raise SystemExit(3)", {"once": True}), ("control", OBEDIENT, {}))
    assert eventually(lambda: events(process, "failed"))[0]["exit"] == "code 3"
    assert process.running


def test_supervisor_kills_what_outlives_the_drain(start: Start) -> None:
    process = start(("dataplane", DEAF, {}), drain=0.0)
    pid = child_pid(process, "dataplane")
    eventually(lambda: _ignores_sigterm(pid))
    process.popen.terminate()
    assert process.wait(6) == 0  # DRAIN_SECONDS + 5, and one for a busy machine
    assert not alive(pid)
    assert events(process, "killed")


def test_supervisor_ends_all_at_once_when_signalled_twice(start: Start) -> None:
    process = start(("dataplane", DEAF, {}), drain=60.0)
    pid = child_pid(process, "dataplane")
    eventually(lambda: _ignores_sigterm(pid))
    process.popen.terminate()
    eventually(lambda: events(process, "stopping"))
    process.popen.send_signal(signal.SIGINT)
    assert process.wait(5) == 0
    assert not alive(pid)


def test_children_hear_sigterm_when_the_supervisor_is_killed(start: Start, tmp_path: Path) -> None:
    process = start(("control", OBEDIENT, {}))
    pid = listening(process, "control", tmp_path)
    process.kill()
    eventually(lambda: not alive(pid))


def _ignores_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    return bool(ignored >> (signal.SIGTERM - 1) & 1)
