"""How many tokens a CPU second gives, beside node-oidc-provider: client_credentials over TLS.

Both get the same requests from the same load over connections kept alive, in turns. The whole
gateway is charged, data plane, control plane and supervisor, and its token is committed to SQLite
and with the data plane before the answer; node-oidc-provider keeps its tokens in memory, as it
comes.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench.bench import OURS, Bench
from bench.target import TOKEN_PATH, Gateway
from bench.tools import Process, Trouble, family, free_ports, quiet_environment
from tests.compliance import needs

THEIRS = "oidc-provider"
CONNECTIONS = 64
CLIENT = {"client_id": "bench-client-of-32-characters-00", "client_secret": "s" * 32}
GRANT = {"grant_type": "client_credentials"}


@dataclass(frozen=True)
class Issuer:
    name: str
    port: int
    path: str
    body: str
    pids: list[int]


@dataclass(frozen=True)
class Figures:
    """Of one issuer, the medians over all rounds."""

    cpu_us: float  # for a token
    rate: float  # tokens a second of time
    p99_ms: float

    def __str__(self) -> str:
        per_cpu = 1e6 / self.cpu_us
        return f"{per_cpu:,.0f} a CPU second, {self.rate:,.0f} a second, p99 {self.p99_ms:.1f} ms"


@contextlib.contextmanager
def ours(folder: Path, echo_port: int) -> Iterator[Issuer]:
    gateway = Gateway(folder, echo_port)
    try:
        body = gateway.token_request
        yield Issuer(OURS, gateway.tls_port, TOKEN_PATH, body, gateway.family)
    finally:
        gateway.stop()


@contextlib.contextmanager
def theirs(folder: Path, bench: Bench) -> Iterator[Issuer]:
    """Raises needs.Absent where Node or the package cannot be had."""
    home, node = needs.npm("oidc_provider"), needs.node().node
    (port,) = free_ports(1)
    client = CLIENT | {
        "grant_types": ["client_credentials"],
        "redirect_uris": [],
        "response_types": [],
        "token_endpoint_auth_method": "client_secret_post",
    }
    certificate, key = bench.identity.certificate, bench.identity.key
    config = {"port": port, "cert": str(certificate), "key": str(key), "clients": [client]}
    (folder / "oidc.json").write_text(json.dumps(config))
    words: list[str | Path] = [node, home / "server.mjs", folder / "oidc.json"]
    env = quiet_environment() | {"NODE_ENV": "production"}
    process = Process(words, folder / "oidc.log", env)
    try:
        process.wait_port(port)
        yield Issuer(THEIRS, port, "/token", urlencode(GRANT | CLIENT), family(process.pid))
    finally:
        process.stop()


def once(bench: Bench, issuer: Issuer) -> dict[str, Any]:
    result = bench.post(
        issuer.pids,
        port=issuer.port,
        path=issuer.path,
        body=issuer.body,
        connections=CONNECTIONS,
    )
    if result["failed"] or not result["units"]:
        raise Trouble(f"{issuer.name} refused a token request: {result}")
    return result


def measure(bench: Bench) -> dict[str, Figures]:
    """Both, or ours alone where the other cannot be had."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="narthex-issue-")))
        issuers = [stack.enter_context(ours(folder, bench.echo_port))]
        if bench.with_peers:
            try:
                issuers.append(stack.enter_context(theirs(folder, bench)))
            except needs.Absent as absent:
                bench.say(f"node-oidc-provider is not here: {absent}")
        taken: dict[str, list[dict[str, Any]]] = {issuer.name: [] for issuer in issuers}
        for _ in range(bench.sizes.rounds):
            for issuer in issuers:
                taken[issuer.name].append(once(bench, issuer))
    return {name: _medians(results) for name, results in taken.items()}


def _medians(results: list[dict[str, Any]]) -> Figures:
    return Figures(
        statistics.median(r["cpu_ns"] / r["units"] / 1000 for r in results),
        statistics.median(r["units"] / r["seconds"] for r in results),
        statistics.median(r["p99_us"] / 1000 for r in results),
    )
