"""The bench stays alive: one tiny work against a real gateway, and its table in the README."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import report
from bench.bench import OURS, Bench, Sizes
from bench.profile import read_annotated
from bench.tools import Trouble
from bench.works import WORKS, Goal, Row
from tests.harness import ROOT

TINY = Sizes(rounds=1, seconds=1.0, warm=0.1, idle_sessions=50)


def test_bench_prints_a_table_of_a_tiny_work() -> None:
    command = [sys.executable, "-m", "bench", "--work", "small", "--quick", "--seconds", "1"]
    done = subprocess.run(
        [*command, "--no-peers"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| `small`"))
    ours, *peers, floor = [cell.strip() for cell in row.split("|")][3:8]
    assert float(ours) > 0 and float(floor) > 0
    assert peers == ["-"] * 3


def test_bench_times_large_configurations() -> None:
    command = [sys.executable, "-m", "bench", "--work", "config", "--quick", "--no-peers"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| `config`: 100 serv")]
    assert [row.split(",")[1].split("|")[0].strip() for row in rows] == [
        "paging through the Admin API",
        "dump",
        "diff",
        "sync of 10 changes",
    ]
    assert all(float(row.split("|")[3]) > 0 for row in rows)


def test_bench_refuses_a_work_that_there_is_not() -> None:
    command = [sys.executable, "-m", "bench", "--work", "small,smaller"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "no work is called smaller" in done.stderr


def test_load_counts_exact_units_and_says_what_failed() -> None:
    with Bench(TINY, with_peers=False) as bench:
        floor = bench.proxy("copy")
        options = {"connections": 3, "window": 2, "size": 70_000, "units": 100}
        echoed = bench.load(floor, "echo", **options).result()
        assert (echoed["units"], echoed["failed"]) == (100, 0)
        shaken = bench.load(floor, "handshake", connections=4, units=40).result()
        assert (shaken["units"], shaken["failed"], shaken["opened"]) == (40, 0, 40)
        ours = bench.proxy(OURS)
        refused = type(ours)(OURS, ours.port, 0, ours.pids, ours.path, "X-No: token")
        answer = bench.load(refused, "hold", connections=2, seconds=0.1).result()
        assert (answer["refused"], answer["status"]) == (2, 401)
        with pytest.raises(Trouble, match="lost connections"):
            bench.once(refused, "echo", connections=2)


def row(ours: float, goal: Goal, **others: float) -> Row:
    return Row("`work`", "µs", {OURS: ours, **others}, (goal,))


def test_goal_is_reached_against_the_cheapest_that_is_there() -> None:
    goal = Goal(1.00, ("nginx", "haproxy"))
    assert goal.reached(row(4.0, goal, nginx=4.0, haproxy=9.0))
    assert goal.reached(row(4.1, goal, nginx=4.0))
    assert not goal.reached(row(4.2, goal, nginx=4.0, haproxy=9.0))
    assert goal.reached(row(4.0, goal, copy=1.0)) is None
    alone = Goal(0.5)
    assert alone.reached(row(0.5, alone)) and not alone.reached(row(0.51, alone))


def test_table_shows_who_is_missing_and_what_is_not_reached() -> None:
    goal = Goal(1.00, ("nginx",))
    text = report.table([row(5.0, goal, nginx=4.0, copy=3.0, splice=2.0)], ["nginx"])
    head, _, line = text.splitlines()
    assert "HAProxy (not here)" in head and "nginx (not here)" not in head
    assert line == "| `work` | µs | 5.00 | 4.00 (1.25) | - | - | 2.00 | 1.00 x nginx | **1.25** |"


def test_readme_has_the_two_lines_and_only_what_is_between_is_written(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.count(report.BEGIN) == readme.count(report.END) == 1
    copy = tmp_path / "README.md"
    copy.write_text(readme)
    report.write(copy, "| a table |")
    written = copy.read_text()
    before, after = readme.split(report.BEGIN)[0], readme.split(report.END)[1]
    assert written == f"{before}{report.BEGIN}\n\n| a table |\n\n{report.END}{after}"
    copy.write_text("no lines")
    with pytest.raises(ValueError, match="lacks"):
        report.write(copy, "")


def test_readme_table_has_every_work() -> None:
    readme = (ROOT / "README.md").read_text()
    between = readme.split(report.BEGIN)[1].split(report.END)[0]
    assert set(re.findall(r"^\| `([\w-]+)`", between, re.MULTILINE)) == set(WORKS)


def test_profile_reads_what_callgrind_annotates() -> None:
    text = """
--------------------------------------------------------------------------------
Ir
--------------------------------------------------------------------------------
49,294,228 (100.0%)  PROGRAM TOTALS

 4,076,000 ( 8.27%)  ???:0x000000000029ad80 [/usr/lib/x86_64-linux-gnu/libcrypto.so.3]
 1,364,000 ( 2.77%)  a/_relay.c:__pyx_f_9dataplane_6_relay__pump'2 [/a/_relay.cpython-311.so]
   852,000 ( 1.73%)  ./stdio/./stdio/process.c:__vfprintf_internal
"""
    assert read_annotated(text) == [
        (49_294_228, "PROGRAM []"),
        (4_076_000, "0x000000000029ad80 [libcrypto]"),
        (1_364_000, "6_relay__pump'2 [_relay]"),
        (852_000, "__vfprintf_internal []"),
    ]
