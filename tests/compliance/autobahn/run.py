"""The Autobahn suite through the gateway, in both directions.

    python -m tests.compliance.autobahn.run                groups 1-7 and 10, a minute
    python -m tests.compliance.autobahn.run --cases all    517 cases each way, half an hour
    python -m tests.compliance.autobahn.run --defaults     text unchecked, as the gateway comes
    python -m tests.compliance.autobahn.run --direct       the echo alone: judges the judge

First the suite is a hostile client and the upstream a strict echo; then the suite is the hostile
upstream and the echo is the client.  Each case must be OK or informational; no violation may reach
the far end, and no connection may end without the Close that is due.  With --defaults text that is
not UTF-8 may arrive: the far end refuses it, and the case must be OK all the same.

Exit status: 0 all is well, 1 a case is not, 2 the run went wrong, 3 no CPython 2.7 was found (at
$AUTOBAHN_PYTHON2, on PATH, or one of pyenv's).  The suite is installed into build/autobahn, where
its reports stay too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.target import PATH, Gateway
from bench.tools import Trouble as GatewayTrouble
from bench.tools import free_ports
from tests.compliance.autobahn.peers import EchoUpstream, Refused, echo_client
from tests.compliance.autobahn.suite import AGENT, Suite, Trouble, find_python2, install
from tests.compliance.autobahn.verdict import Verdict
from tests.harness import POLL_SECONDS, ROOT, START_SECONDS

HOME = ROOT / "build" / "autobahn"
QUICK = "1-7,10"
SECONDS = 3600.0
# Group 9 sends messages of 16 MiB each way; the session's defaults are for the others as well.
LARGEST = 33_554_432
PLUGINS: list[dict[str, Any]] = [
    {"name": "websocket-session", "config": {"validate_utf8": True}},
    {
        "name": "websocket-size-limit",
        "config": {"client_max_payload": LARGEST, "upstream_max_payload": LARGEST},
    },
]


@contextlib.contextmanager
def gateway_before(upstream: int, plugins: list[dict[str, Any]]) -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="narthex-autobahn-") as folder:
        gateway = Gateway(Path(folder), upstream, plugins=plugins)
        try:
            yield gateway
        finally:
            gateway.stop()


async def as_client(suite: Suite, upstream: int, url: str) -> Verdict:
    """The suite's client against `url`, which leads to our echo on port `upstream`."""
    echo = EchoUpstream()
    server = await echo.serve(upstream)
    async with suite.running("fuzzingclient", servers=[{"agent": AGENT, "url": url}]) as process:
        await asyncio.wait_for(process.wait(), SECONDS)
    server.close()
    ids = suite.ids()
    if len(echo.endpoints) != len(ids):
        raise Trouble(f"{len(ids)} cases made {len(echo.endpoints)} connections to the upstream")
    # One connection a case, one after the other.
    arrived = {case for case, end in zip(ids, echo.endpoints, strict=True) if end.violation}
    return Verdict(ids, suite.reports(), arrived)


async def as_upstream(
    suite: Suite, port: int, proxy: int, prefix: str = "", header: str = ""
) -> Verdict:
    """The suite's server on `port`, and our echo as the client that reaches it through `proxy`."""
    arrived = set()
    async with suite.running("fuzzingserver", url=f"ws://127.0.0.1:{port}") as process:
        await _wait_for(port, process)
        ids = suite.ids()
        for number, case in enumerate(ids, 1):
            path = f"{prefix}/runCase?case={number}&agent={AGENT}"
            # Compression is offered only where it is asked about: elsewhere RSV1 is a violation.
            deflate = case.split(".")[0] in ("12", "13")
            with contextlib.suppress(Refused):  # then the report lacks the case
                talk = echo_client(proxy, path, header, deflate=deflate)
                if (await asyncio.wait_for(talk, SECONDS)).violation:
                    arrived.add(case)
        await echo_client(port, f"/updateReports?agent={AGENT}")
    return Verdict(ids, suite.reports(), arrived)


async def _wait_for(port: int, process: asyncio.subprocess.Process) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None:
                break
            await asyncio.sleep(POLL_SECONDS)
        else:
            writer.close()
            return
    raise Trouble(f"wstest does not listen on {port}")


def say(direction: str, verdict: Verdict, may_arrive: bool) -> bool:
    """Print it; whether nothing is amiss."""
    if may_arrive:
        arrived, verdict.arrived = len(verdict.arrived), ()
        print(f"\nautobahn: {direction}; {arrived} violations arrived, as they may")
    else:
        print(f"\nautobahn: {direction}")
    print("\n".join(verdict.lines()), flush=True)
    return not verdict.faults


def judge_echo(python: Path, cases: str) -> bool:
    """The far end by itself: what is hostile arrives, and all else must be as through us."""
    one, two = free_ports(2)
    url = f"ws://127.0.0.1:{one}"
    client = Suite(python, HOME / "echo-server", cases)
    upstream = Suite(python, HOME / "echo-client", cases)
    well = [
        say("the echo as a server", asyncio.run(as_client(client, one, url)), may_arrive=True),
        say("the echo as a client", asyncio.run(as_upstream(upstream, two, two)), may_arrive=True),
    ]
    return all(well)


def judge(python: Path, cases: str, plugins: list[dict[str, Any]]) -> bool:
    (port,) = free_ports(1)
    may_arrive = not plugins
    with gateway_before(port, plugins) as gateway:
        token = gateway.header.rpartition(" ")[2]
        url = f"ws://127.0.0.1:{gateway.port}{PATH}?access_token={token}"
        suite = Suite(python, HOME / "as-client", cases)
        verdict = asyncio.run(as_client(suite, port, url))
        well = [say("a hostile client", verdict, may_arrive)]
    with gateway_before(port, plugins) as gateway:
        suite = Suite(python, HOME / "as-upstream", cases)
        run = as_upstream(suite, port, gateway.port, PATH, gateway.header)
        well.append(say("a hostile upstream", asyncio.run(run), may_arrive))
    return all(well)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=QUICK, help="groups, cases or 'all' (%(default)s)")
    between = parser.add_mutually_exclusive_group()
    between.add_argument(
        "--defaults", action="store_true", help="a gateway without plugins of ours"
    )
    between.add_argument("--direct", action="store_true", help="no gateway between")
    options = parser.parse_args()
    python2 = find_python2()
    if python2 is None:
        print("autobahn: NOT RUN: no CPython 2.7 (AUTOBAHN_PYTHON2, PATH, pyenv)", file=sys.stderr)
        return 3
    try:
        python = install(HOME, python2)
        if options.direct:
            return 0 if judge_echo(python, options.cases) else 1
        return 0 if judge(python, options.cases, [] if options.defaults else PLUGINS) else 1
    except (Trouble, GatewayTrouble, Refused, TimeoutError) as trouble:
        print(f"autobahn: {trouble}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
