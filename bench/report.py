"""What was found as a table in Markdown, with the machine, and its place in the README."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.bench import FLOORS, OURS, Sizes
from bench.peers import VERSION_FLAGS
from bench.works import Goal, Row

BEGIN = "<!-- bench: begin. `make bench` writes what stands between these two lines. -->"
END = "<!-- bench: end -->"
TITLES = {
    OURS: "Narthex",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "envoy": "Envoy",
    "oidc-provider": "node-oidc-provider",
}


def table(rows: Sequence[Row], peers: Sequence[str]) -> str:
    """One line a row; a ratio behind the figure of each peer is ours to theirs."""
    shown = ["nginx", "haproxy", "envoy"]
    titles = [TITLES[one] + ("" if one in peers else " (not here)") for one in shown]
    lines = [
        "| work | unit | "
        + " | ".join([TITLES[OURS], *titles, "floor", "at the most", "is"])
        + " |",
        "|---" * (len(shown) + 6) + "|",
    ]
    for row in rows:
        cells = [_figure(row, one) for one in shown]
        floors = [row.figures[one] for one in FLOORS if one in row.figures]
        goals = ", ".join(_goal(goal) for goal in row.goals)
        now = ", ".join(_now(goal, row) for goal in row.goals)
        if row.note:
            now = f"{now} ({row.note})" if now else row.note
        ours = _number(row.figures[OURS])
        floor = _number(min(floors)) if floors else "-"
        columns = [row.work, row.unit, ours, *cells, floor, goals, now]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _figure(row: Row, name: str) -> str:
    if name not in row.figures:
        return "-"
    theirs = row.figures[name]
    ratio = f" ({row.figures[OURS] / theirs:.2f})" if theirs > 0 else ""
    return _number(theirs) + ratio


def _goal(goal: Goal) -> str:
    if not goal.others:
        return f"{goal.limit:g}"
    of = TITLES.get(goal.others[0], goal.others[0]) if len(goal.others) == 1 else "the best"
    return f"{goal.limit:.2f} x {of}"


def _now(goal: Goal, row: Row) -> str:
    value = goal.value(row)
    if value is None:
        return "nothing to compare with"
    return f"{value:.2f}" if goal.reached(row) else f"**{value:.2f}**"


def machine() -> str:
    """CPU, kernel, compiler's target: what a figure depends on."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cpu = model[1] if model else platform.machine()
    virtual = "hypervisor" in Path("/proc/cpuinfo").read_text()
    kind = "virtual machine" if virtual else "machine"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = platform.python_version()
    return (
        f"{kind} with {os.cpu_count()} x {cpu}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {python}"
    )


def versions(peers: Sequence[str]) -> str:
    """`nginx 1.22.1, …`, as each says of itself."""
    found = []
    for name in peers:
        done = subprocess.run([name, VERSION_FLAGS[name]], capture_output=True, text=True)
        number = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
        found.append(f"{TITLES[name]} {number[0] if number else '?'}")
    return ", ".join(found)


def text(rows: Sequence[Row], peers: Sequence[str], sizes: Sizes) -> str:
    """The table with what must be known to read it."""
    beside = f" {versions(peers)}." if peers else ""
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}.{beside} µs: CPU time of the proxy, user and "
        f"kernel, for a message there and back or a handshake; median of {sizes.rounds} rounds of "
        f"{sizes.seconds:g} s in which the proxies take turns; in brackets ours to theirs. 1.03 "
        "times a ratio counts as reached, bold is not reached. The floor relays bytes unread."
    )
    return "\n".join([table(rows, peers), "", *textwrap.wrap(about, 100)])


def write(readme: Path, body: str) -> None:
    """Put it between the two marker lines."""
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} lacks the line {BEGIN!r} or {END!r}")
    readme.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}")
