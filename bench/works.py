"""The works: each a function that measures and says what it found.  `WORKS` is their table."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import files, issue, storm
from bench.bench import FLOORS, OURS, Bench, Proxy
from bench.follow import SESSIONS_EACH, measure, quantile
from bench.target import Gateway
from bench.tools import memory_kib, watched_by_epoll

TOLERANCE = 1.03  # times the goal still counts as reached: what a repeated run differs by


@dataclass(frozen=True)
class Goal:
    """At the most `limit`: times the cheapest of `others`, or by itself where there are none."""

    limit: float
    others: tuple[str, ...] = ()

    def reached(self, row: Row) -> bool | None:
        """None: nothing here to compare with."""
        is_now = self.value(row)
        tolerance = TOLERANCE if self.others else 1
        return None if is_now is None else is_now <= self.limit * tolerance

    def value(self, row: Row) -> float | None:
        if not self.others:
            return row.figures[OURS]
        there = [row.figures[name] for name in self.others if name in row.figures]
        return row.figures[OURS] / min(there) if there else None


@dataclass(frozen=True)
class Row:
    """One figure of ours, and of the others where they do the same."""

    work: str
    unit: str
    figures: dict[str, float]  # by proxy; OURS is always there
    goals: tuple[Goal, ...] = ()
    note: str = ""


PEERS = ("nginx", "haproxy", "envoy")


def _beside(
    bench: Bench, name: str, about: str, goals: tuple[Goal, ...], mode: str, tls: bool = False,
    **options: Any,
) -> list[Row]:  # fmt: skip
    proxies = [bench.proxy(one) for one in bench.names if not (tls and one in FLOORS)]
    medians = bench.rounds(proxies, mode, tls, **options)
    figures = {proxy.name: found for proxy, found in zip(proxies, medians, strict=True)}
    return [Row(f"`{name}`: {about}", "µs", figures, goals)]


def small(bench: Bench) -> list[Row]:
    return _beside(
        bench, "small", "64-byte echo, 64 connections", (Goal(1.00, ("nginx",)),),
        "echo", connections=64, window=1, size=64,
    )  # fmt: skip


def pipelined(bench: Bench) -> list[Row]:
    return _beside(
        bench, "pipelined", "125 bytes, 16 in flight, 32 connections", (Goal(1.00, ("nginx",)),),
        "echo", connections=32, window=16, size=125,
    )  # fmt: skip


def medium(bench: Bench) -> list[Row]:
    return _beside(
        bench, "medium", "4 KiB, 2 in flight, 32 connections", (Goal(1.00, PEERS),),
        "echo", connections=32, window=2, size=4096,
    )  # fmt: skip


def large(bench: Bench) -> list[Row]:
    return _beside(
        bench, "large", "64 KiB, 2 in flight, 8 connections", (Goal(0.60, PEERS),),
        "echo", connections=8, window=2, size=65536,
    )  # fmt: skip


def handshake(bench: Bench) -> list[Row]:
    goals = (Goal(0.80, ("nginx",)), Goal(0.55, ("haproxy",)), Goal(0.55, ("envoy",)))
    return _beside(
        bench, "handshake", "with a token checked, then reset, 32 at a time", goals,
        "handshake", connections=32,
    )  # fmt: skip


def wss_small(bench: Bench) -> list[Row]:
    return _beside(
        bench, "wss-small", "64-byte echo over TLS, 64 connections", (Goal(1.00, ("nginx",)),),
        "echo", tls=True, connections=64, window=1, size=64,
    )  # fmt: skip


def wss_handshake(bench: Bench) -> list[Row]:
    return _beside(
        bench, "wss-handshake", "TLS 1.3 and a token, 32 at a time", (Goal(1.00, ("nginx",)),),
        "handshake", tls=True, connections=32,
    )  # fmt: skip


def _idle(bench: Bench, name: str, tls: bool, goals: tuple[Goal, ...]) -> list[Row]:
    """KiB of user memory that a quiet session adds, in processes that were just started."""
    sessions = bench.sizes.idle_sessions
    figures = {}
    for one in bench.names:
        if one == "splice" or (tls and one in FLOORS):
            continue
        with bench.fresh(one) as proxy:
            # What the first session of all makes (caches, pools) is not a session's.
            bench.load(proxy, "hold", tls, connections=1, seconds=0.1).result()
            before = memory_kib(proxy.pids)
            load = bench.load(proxy, "hold", tls, connections=sessions, seconds=1, go=1)
            load.opened()
            after = memory_kib(proxy.pids)
            load.go()
            load.result()
            figures[one] = (after - before) / sessions
    what = f"`{name}`: memory of a quiet session, {sessions:,} of them"
    return [Row(what + (", TLS" if tls else ""), "KiB", figures, goals)]


def idle(bench: Bench) -> list[Row]:
    return _idle(bench, "idle", False, (Goal(1.0),))


def wss_idle(bench: Bench) -> list[Row]:
    return _idle(bench, "wss-idle", True, (Goal(24.0), Goal(1.00, ("haproxy",))))


def workers(bench: Bench) -> list[Row]:
    """WORKERS=2 against 1: CPU a unit, and how evenly sessions spread."""
    one, two = (bench.proxy(OURS, count) for count in (1, 2))
    rows = []
    loads: list[tuple[str, str, dict[str, Any]]] = [
        ("small", "echo", {"connections": 64, "window": 1, "size": 64}),
        ("handshake", "handshake", {"connections": 32}),
    ]
    for name, mode, options in loads:
        with_one, with_two = bench.rounds([one, two], mode, **options)
        rows.append(
            Row(
                f"`workers`: {name}, two workers",
                "µs",
                {OURS: with_two, "one worker": with_one},
                (Goal(1.05, ("one worker",)),),
                f"one worker: {with_one:.2f}",
            )
        )
    return [*rows, _spread(bench, two)]


def _spread(bench: Bench, proxy: Proxy) -> Row:
    load = bench.load(proxy, "hold", connections=1000, seconds=0.1, go=1)
    load.opened()
    first, second = watched_by_epoll(proxy.pids[0])[:2]
    load.go()
    load.result()
    share = 100 * first / (first + second)
    return Row(
        "`workers`: of 1,000 sessions, those on the busier of two", "%", {OURS: share}, (Goal(55),)
    )


def pings(bench: Bench) -> list[Row]:
    """Percent of a core that quiet sessions cost, Pings every 30 s and their Pongs included."""
    sessions, seconds = bench.sizes.pinged_sessions, bench.sizes.pinged_seconds
    with bench.fresh(OURS) as proxy:
        result = bench.load(proxy, "hold", connections=sessions, seconds=seconds).result()
    percent = result["cpu_ns"] / 1e7 / result["seconds"]
    what = f"`pings`: {sessions:,} quiet sessions with pings every 30 s"
    note = f"{result['pings']:,} pings in {result['seconds']:.0f} s"
    lost = f", {result['failed']} sessions lost" if result["failed"] else ""
    return [Row(what, "% of a core", {OURS: percent}, (Goal(0.5),), note + lost)]


def tokens(bench: Bench) -> list[Row]:
    """CPU of all our processes for a token, beside node-oidc-provider's."""
    found = issue.measure(bench)
    figures = {name: one.cpu_us for name, one in found.items()}
    note = "; ".join(f"{name}: {one}" for name, one in found.items())
    what = f"`tokens`: client_credentials over TLS, {issue.CONNECTIONS} connections"
    return [Row(what, "µs", figures, (Goal(1.00, (issue.THEIRS,)),), note)]


def follow(bench: Bench) -> list[Row]:
    """From a token's revocation to the Close of its sessions, on two data planes."""
    count = bench.sizes.revocations
    with bench.two_dataplanes() as (gateway, ports):
        waits = measure(gateway, ports, count)
    what = (
        f"`follow`: from the revocation of a token to the Close of its sessions, p99 of {count:,}, "
        f"two data planes with {count * SESSIONS_EACH:,} sessions each"
    )
    note = f"p50 {quantile(waits, 0.5):.1f} ms, longest {max(waits):.0f} ms"
    return [Row(what, "ms", {OURS: quantile(waits, 0.99)}, (Goal(250),), note)]


def storms(bench: Bench) -> list[Row]:
    """What tokens that nobody knows and secrets that are wrong do to everybody else.  S75, S25."""
    rows = []
    with storm.gateway(bench.echo_port, TRUSTED_IPS="127.0.0.1") as (target, key):
        verified = storm.verify_rate(target, key, bench.sizes.seconds)
        for kind, about, rate in (
            (
                "junk",
                f"junk tokens, {storm.TIMES} for each that can be verified",
                verified * storm.TIMES,
            ),
            ("unknown", "as many unknown tokens as can be verified", 0),
        ):
            found = storm.storm(target, kind, key, bench.sizes.seconds, rate)
            what = f"`storms`: known handshakes lost beside {about}"
            early, late = found.p99_ms
            note = (
                f"{found.before:.0f} → {found.during:.0f} a second, p99 {early:.1f} → {late:.1f} "
                f"ms; {found.rate:,.0f} a second take {found.worker_percent:.0f} % of a worker"
            )
            rows.append(Row(what, "%", {OURS: found.lost_percent}, (Goal(20),), note))
        wrong, unknown = storm.guess_medians(target)
    what = "`storms`: refusal of a wrong secret, median, over TLS"
    return [*rows, Row(what, "ms", {OURS: wrong}, (), f"of an unknown client: {unknown:.2f}")]


def config(bench: Bench) -> list[Row]:
    """Seconds of time that large files take, both planes and the command on this machine."""
    with tempfile.TemporaryDirectory(prefix="narthex-files-") as folder:
        gateway = Gateway(Path(folder), bench.echo_port)
        try:
            large = files.Files(gateway, Path(folder), bench.sizes.pairs)
            times = large.measure(bench.sizes.rounds)
        finally:
            gateway.stop()
    pairs = f"{bench.sizes.pairs:,}"
    return [
        Row(
            f"`config`: {pairs} services and {pairs} routes, {name}",
            "s",
            {OURS: found.median},
            (Goal(5),) if name.startswith("diff") else (),
            str(found),
        )
        for name, found in times.items()
    ]


WORKS: dict[str, Callable[[Bench], list[Row]]] = {
    "small": small,
    "pipelined": pipelined,
    "medium": medium,
    "large": large,
    "handshake": handshake,
    "idle": idle,
    "wss-small": wss_small,
    "wss-handshake": wss_handshake,
    "wss-idle": wss_idle,
    "workers": workers,
    "pings": pings,
    "tokens": tokens,
    "follow": follow,
    "storms": storms,
    "config": config,
}
