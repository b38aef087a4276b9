"""Whether handshakes and live sessions leave each other their share of one worker.

    python -m bench.fairness [--rounds 5] [--seconds 2]

In turn, on a gateway with one worker: 100 sessions that echo, handshakes alone as fast as they go,
then both at once.  Two figures: how many times its quiet p99 an echo takes while handshakes run
(at the most 3), and how much of their rate alone handshakes keep beside the echoes (at the least
half).  Each is the median of rounds.  The load and the upstream take CPUs as well, so on few of
them what the worker gives is less than its rate: the share is therefore also said a second of the
worker's own CPU time.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from typing import Any

from bench.bench import OURS, Bench, Proxy, Sizes
from bench.tools import Trouble

ECHOES: dict[str, Any] = {"connections": 100, "window": 1, "size": 64}
HANDSHAKES: dict[str, Any] = {"connections": 32}
STRETCH_MAX = 3.0
SHARE_MIN = 0.5


@dataclasses.dataclass(frozen=True)
class Round:
    """One turn of all three; p99 in microseconds, handshakes a second."""

    quiet_p99: float
    storm_p99: float
    alone_rate: float
    beside_rate: float
    alone_cpu: float  # of the worker, cores
    beside_cpu: float

    @property
    def stretch(self) -> float:
        """How many times as long an echo takes at the 99th percentile."""
        return self.storm_p99 / self.quiet_p99

    @property
    def share(self) -> float:
        """Of the rate that handshakes have alone, an equal share of a CPU given."""
        return (self.beside_rate / self.beside_cpu) / (self.alone_rate / self.alone_cpu)

    @property
    def kept(self) -> float:
        """Of the rate that handshakes have alone."""
        return self.beside_rate / self.alone_rate


def measure(bench: Bench, proxy: Proxy, seconds: float) -> Round:
    """Quiet echoes, handshakes alone, and both."""

    def result(load: Any) -> dict[str, float]:
        found: dict[str, float] = load.result()
        if found["failed"] or not found["units"]:
            raise Trouble(f"the gateway lost connections: {found}")
        return found

    def rate(found: dict[str, float]) -> float:
        return found["units"] / found["seconds"]

    def cores(found: dict[str, float]) -> float:
        return found["cpu_ns"] / found["seconds"] / 1e9

    sizes = bench.sizes
    quiet = result(bench.load(proxy, "echo", seconds=seconds, warm=sizes.warm, **ECHOES))
    alone = result(bench.load(proxy, "handshake", seconds=seconds, warm=sizes.warm, **HANDSHAKES))
    storm = bench.load(
        proxy, "handshake", seconds=seconds + 2 * sizes.warm, warm=sizes.warm, **HANDSHAKES
    )
    echoes = bench.load(proxy, "echo", seconds=seconds, warm=2 * sizes.warm, **ECHOES)
    busy, beside = result(echoes), result(storm)
    return Round(
        quiet["p99_us"], busy["p99_us"], rate(alone), rate(beside), cores(alone), cores(beside)
    )


def median_round(rounds: list[Round]) -> Round:
    names = [field.name for field in dataclasses.fields(Round)]
    return Round(*(statistics.median(getattr(one, name) for one in rounds) for name in names))


def run(rounds: int, seconds: float) -> Round:
    with Bench(Sizes(), with_peers=False) as bench:
        proxy = bench.proxy(OURS)
        return median_round([measure(bench, proxy, seconds) for _ in range(rounds)])


def said(found: Round) -> str:
    return (
        f"echo p99: quiet {found.quiet_p99:.0f} µs, beside handshakes {found.storm_p99:.0f} µs:"
        f" {found.stretch:.2f} times (at the most {STRETCH_MAX:g})\n"
        f"handshakes a second: alone {found.alone_rate:.0f}, beside echoes {found.beside_rate:.0f}:"
        f" {found.kept:.0%} (at the least {SHARE_MIN:.0%})\n"
        f"the worker's CPU: {found.alone_cpu:.2f} and {found.beside_cpu:.2f} cores;"
        f" handshakes a CPU second keep {found.share:.0%}"
    )


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.fairness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    options = parser.parse_args(words)
    try:
        found = run(options.rounds, options.seconds)
    except Trouble as trouble:
        print(f"bench.fairness: {trouble}", file=sys.stderr)
        return 1
    print(said(found))
    return 0 if found.stretch <= STRETCH_MAX and found.kept >= SHARE_MIN else 1


if __name__ == "__main__":
    sys.exit(main())
