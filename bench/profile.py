"""Instructions a message or a handshake costs the data plane, counted by callgrind.

    python -m bench.profile small handshake [--units 20000] [--top 25] [--keep DIR]

Instructions in user space repeat to a part in a thousand where times do not, so a change of a few
per cent shows.  What the kernel does is not in them: count its calls (`--syscalls`, by strace).
The works are small, pipelined, medium, large and handshake, as in the bench, over plaintext; add
`wss-` for TLS.  Needs valgrind (Debian: valgrind; strace for --syscalls).
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.bench import OURS, Bench, Proxy, Sizes
from bench.target import PATH, Gateway
from bench.tools import Trouble

LOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "small": ("echo", {"connections": 64, "window": 1, "size": 64}),
    "pipelined": ("echo", {"connections": 32, "window": 16, "size": 125}),
    "medium": ("echo", {"connections": 32, "window": 2, "size": 4096}),
    "large": ("echo", {"connections": 8, "window": 2, "size": 65536}),
    "handshake": ("handshake", {"connections": 1}),
}
UNITS = {"large": 2000, "handshake": 2000}
UNITS_ELSE = 20_000
SECONDS_FOR_A_DUMP = 120
LINE = re.compile(r"^ *([\d,]+) \( *[\d.]+%\) +(?:\S*:)?(\S+)(?: TOTALS)?(?: \[(\S+)\])?$")


class Callgrind:
    """A data plane under callgrind that counts only while it is told to."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._folder = folder
        output = folder / "out"
        wrap = [
            "valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", "--fair-sched=yes",
            "--separate-threads=yes", "--dump-instr=no", f"--callgrind-out-file={output}",
        ]  # fmt: skip
        bench.say("starting the data plane under valgrind, half a minute")
        gateway = Gateway(folder, bench.echo_port, wrap=wrap)
        bench.callback(gateway.stop)
        pids = [gateway.pid]
        self.proxy = Proxy(OURS, gateway.port, gateway.tls_port, pids, PATH, gateway.header)

    def control(self, *words: str) -> None:
        subprocess.run(
            ["callgrind_control", *words, str(self.proxy.pids[0])],
            check=True, capture_output=True, timeout=SECONDS_FOR_A_DUMP,
        )  # fmt: skip

    def dump(self, name: str) -> list[Path]:
        """What was counted since the last dump, a file a thread."""
        before = set(self._folder.glob("out*"))
        self.control(f"--dump={name}")
        return sorted(set(self._folder.glob("out*")) - before)


def annotate(file: Path) -> list[tuple[int, str]]:
    """Instructions and function of each line, the dearest first; the total before all."""
    done = subprocess.run(
        ["callgrind_annotate", "--auto=no", "--threshold=100", str(file)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return read_annotated(done.stdout)


def read_annotated(text: str) -> list[tuple[int, str]]:
    found = []
    for line in text.splitlines():
        match = LINE.match(line)
        if match:
            where = Path(match[3] or "").name.partition(".")[0]
            name = match[2].removeprefix("__pyx_f_9dataplane_")
            found.append((int(match[1].replace(",", "")), f"{name} [{where}]"))
    return found


def profile(bench: Bench, grind: Callgrind, name: str, units: int, top: int) -> None:
    tls = name.startswith("wss-")
    mode, options = LOADS[name.removeprefix("wss-")]
    # Warm first: what only the first of its kind costs is not counted.
    bench.load(grind.proxy, mode, tls, units=200, **options).result()
    load = bench.load(grind.proxy, mode, tls, units=units, go=1, **options)
    load.opened()
    grind.control("--instr=on")
    grind.control("--zero")
    load.go()
    result = load.result()
    files = grind.dump(name)
    grind.control("--instr=off")
    if result["units"] != units:
        raise Trouble(f"the load broke off: {result}")
    for file in files:
        lines = annotate(file)
        if not lines or lines[0][0] < units:
            continue
        ours = any("worker_run" in function for _, function in lines)
        thread = "a worker" if ours else "the Python thread"
        print(f"\n{name}, {thread}: {lines[0][0] / units:,.1f} instructions a unit, {units} units")
        for count, function in lines[1 : top + 1]:
            print(f"  {count / units:10,.1f}  {function}")


def syscalls(bench: Bench, name: str, units: int) -> None:
    """Calls into the kernel of a data plane of its own, by `strace -c`."""
    tls = name.startswith("wss-")
    mode, options = LOADS[name.removeprefix("wss-")]
    proxy = bench.proxy(OURS)
    bench.load(proxy, mode, tls, units=200, **options).result()
    load = bench.load(proxy, mode, tls, units=units, go=1, **options)
    load.opened()
    with tempfile.NamedTemporaryFile("r") as output:
        command = ["strace", "-f", "-c", "-o", output.name, "-p", str(proxy.pids[0])]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        tracer.stderr.readline()  # "attached"
        load.go()
        load.result()
        tracer.send_signal(signal.SIGINT)
        tracer.wait(SECONDS_FOR_A_DUMP)
        print(f"\n{name}: calls a unit, {units} units")
        for line in output.read().splitlines()[2:]:
            words = line.split()
            if len(words) >= 5 and words[3].isdigit() and int(words[3]) * 100 >= units:
                print(f"  {int(words[3]) / units:10.2f}  {words[-1]}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("work", nargs="+")
    parser.add_argument("--units", type=int, help="messages or handshakes")
    parser.add_argument("--top", type=int, default=25, help="functions shown")
    parser.add_argument("--syscalls", action="store_true", help="count calls, by strace")
    parser.add_argument("--keep", type=Path, help="folder for callgrind's files")
    options = parser.parse_args()
    for name in options.work:
        if name.removeprefix("wss-") not in LOADS:
            parser.error(f"no work is called {name}; there are {', '.join(LOADS)}")
    tool = "strace" if options.syscalls else "valgrind"
    if not shutil.which(tool):
        raise SystemExit(f"bench: {tool} is needed. On Debian: apt-get install {tool}")
    try:
        with Bench(Sizes(), with_peers=False) as bench, tempfile.TemporaryDirectory() as made:
            folder = options.keep or Path(made)
            folder.mkdir(parents=True, exist_ok=True)
            grind = None if options.syscalls else Callgrind(bench, folder.resolve())
            for name in options.work:
                units = options.units or UNITS.get(name.removeprefix("wss-"), UNITS_ELSE)
                if grind is None:
                    syscalls(bench, name, units)
                else:
                    profile(bench, grind, name, units, options.top)
    except Trouble as trouble:
        print(f"bench: {trouble}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
