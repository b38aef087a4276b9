"""What the gateway costs, beside nginx, HAProxy and Envoy, in one run.

    python -m bench                     every work, printed
    python -m bench --readme            and the table of the README written: `make bench`
    python -m bench --work small,large --rounds 3 --seconds 1
    python -m bench --quick             a minute; the figures are worth as much

CPU time of a proxy for a unit of work holds on a machine that is busy with other things, where a
rate does not.  Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from bench import report
from bench.bench import Bench, Sizes
from bench.peers import HOW_TO_GET
from bench.tools import Trouble
from bench.works import WORKS, Row

README = Path(__file__).resolve().parent.parent / "README.md"
QUICK = Sizes(
    rounds=1,
    seconds=0.5,
    warm=0.2,
    idle_sessions=500,
    pinged_sessions=500,
    pinged_seconds=5,
    revocations=50,
    pairs=100,
)


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", default=",".join(WORKS), help="some of: %(default)s")
    parser.add_argument("--rounds", type=int, help=f"of each work and proxy ({Sizes.rounds})")
    parser.add_argument("--seconds", type=float, help=f"of each round ({Sizes.seconds:g})")
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument("--no-peers", action="store_true", help="ours and the floor alone")
    parser.add_argument("--readme", action="store_true", help="write the README's table as well")
    options = parser.parse_args(words)
    unknown = [name for name in options.work.split(",") if name not in WORKS]
    if unknown:
        parser.error(f"no work is called {', '.join(unknown)}; there are {', '.join(WORKS)}")
    return options


def sizes(options: argparse.Namespace) -> Sizes:
    found = QUICK if options.quick else Sizes()
    if options.rounds:
        found = dataclasses.replace(found, rounds=options.rounds)
    if options.seconds:
        found = dataclasses.replace(found, seconds=options.seconds)
    return found


def say_who_is_missing(bench: Bench) -> None:
    for name, package in HOW_TO_GET.items():
        if name not in bench.peers:
            bench.say(f"{name} is not here, so its column is empty. To have it: {package}")


def main(words: list[str] | None = None) -> int:
    options = parse(words)
    rows: list[Row] = []
    try:
        with Bench(sizes(options), with_peers=not options.no_peers) as bench:
            if not options.no_peers:
                say_who_is_missing(bench)
            for name in options.work.split(","):
                bench.say(name)
                for row in WORKS[name](bench):
                    rows.append(row)
                    figures = (f"{who} {figure:.2f}" for who, figure in row.figures.items())
                    bench.say(f"  {row.work}, {row.unit}: {', '.join(figures)}")
            peers = bench.peers
    except Trouble as trouble:
        print(f"bench: {trouble}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    body = report.text(rows, peers, sizes(options))
    print(body)
    if options.readme:
        report.write(README, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
