"""What guesses cost everybody else: tokens that nobody knows, secrets that are wrong.

Known tokens' handshakes come at a steady rate, once by themselves and once beside a storm, all on
one machine: what the storm's own client takes of it is in the figures too.
"""

from __future__ import annotations

import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.target import PATH, Gateway
from bench.tools import HERE, Trouble
from control.keyring import load_keyring
from control.store import queries
from control.store.session import Store

TIMES = 4  # as many bad tokens a second as unknown ones are verified: S75
KNOWN_RATE = 500  # handshakes a second
GUESSES = 60  # of each kind, for the medians
HEAD_START = 0.5  # seconds of a storm before anything is measured


@dataclass(frozen=True)
class Storm:
    """Known tokens' handshakes a second, without and with the storm, and what it was."""

    before: float
    during: float
    p99_ms: tuple[float, float]  # of a known token's handshake, before and during
    rate: float  # of the storm, as it was answered
    worker_percent: float  # of a core, the worker for the storm alone

    @property
    def lost_percent(self) -> float:
        return max(0.0, 100 * (1 - self.during / self.before))


class Flood:
    """`flood.py` as a child."""

    def __init__(self, port: int, kind: str, secret: str, rate: float, seconds: float) -> None:
        argv = [sys.executable, "-m", "bench.flood", str(port), PATH, str(rate), str(seconds), kind]
        pipe = subprocess.PIPE
        self._popen = subprocess.Popen(argv, cwd=HERE.parent, stdin=pipe, stdout=pipe, text=True)
        self._secret = secret
        self._timeout = seconds + 60
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{secret}\n")
        self._popen.stdin.flush()

    def result(self) -> dict[str, Any]:
        try:
            output, _ = self._popen.communicate(timeout=self._timeout)
        finally:
            if self._popen.poll() is None:
                self._popen.kill()
                self._popen.communicate()
        if self._popen.returncode:
            raise Trouble("the flood could not go on")
        found: dict[str, Any] = json.loads(output)
        return found


@contextmanager
def gateway(echo_port: int, **settings: str) -> Iterator[tuple[Gateway, str]]:
    """A gateway of its own, one worker, and the key of its check characters."""
    with tempfile.TemporaryDirectory(prefix="narthex-storm-") as folder:
        made = Gateway(Path(folder), echo_port, settings=settings)
        try:
            yield made, check_key(Path(folder) / "data").hex()
        finally:
            made.stop()


def check_key(data_dir: Path) -> bytes:
    """What only the planes know: nobody else can make tokens whose check holds."""
    store = Store(f"sqlite:///{data_dir / 'narthex.db'}", load_keyring(data_dir / "keyring"))
    try:
        with store.reading() as session:
            return queries.cluster_state(session).check_key
    finally:
        store.close()


def verify_rate(target: Gateway, key: str, seconds: float) -> float:
    """How many tokens a second are looked up and found to be nobody's, when that is all there is.

    These have good check characters, which nobody but us can make: each costs a question to the
    control plane and one to its database.
    """
    found = Flood(target.port, "unknown", key, 0, seconds).result()
    check_refused(found)
    rate: float = found["answers"].get("401", 0) / found["seconds"]
    return rate


def storm(target: Gateway, kind: str, key: str, seconds: float, rate: float) -> Storm:
    """Known handshakes by themselves, then beside a storm; then the storm by itself.

    `rate`: tokens a second; 0: as many as are answered.
    """
    token = target.header.rpartition(" ")[2]

    def known() -> dict[str, Any]:
        found = Flood(target.port, "known", token, KNOWN_RATE, seconds).result()
        if set(found["answers"]) != {"101"}:
            raise Trouble(f"known tokens were answered {found['answers']}")
        return found

    known()  # whatever the first of them makes
    before = known()
    flood = Flood(target.port, kind, key, rate, seconds + 2 * HEAD_START)
    time.sleep(HEAD_START)
    during = known()
    check_refused(flood.result())
    spent = worker_seconds(target.pid)
    alone = Flood(target.port, kind, key, rate, seconds).result()
    spent = worker_seconds(target.pid) - spent
    check_refused(alone)
    return Storm(
        before=before["sent"] / before["seconds"],
        during=during["sent"] / during["seconds"],
        p99_ms=(before["p99_ms"], during["p99_ms"]),
        rate=alone["sent"] / alone["seconds"],
        worker_percent=100 * spent / alone["seconds"],
    )


def check_refused(found: dict[str, Any]) -> None:
    if not set(found["answers"]) <= {"401", "503"}:
        raise Trouble(f"a token that nobody knows was answered {found['answers']}")


def worker_seconds(pid: int) -> float:
    """CPU time of a data plane's workers: all its threads but the one that runs Python."""
    tasks = (task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid))
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def guess_medians(target: Gateway) -> tuple[float, float]:
    """Milliseconds of a refusal, medians: a wrong secret, and a client that there is not.  S25."""
    client_id = target.post("/consumers/alex/oauth2", {"name": "guessed"})["client_id"]
    wrong, unknown = [], []
    for number in range(GUESSES):
        wrong.append(_guess(target, number, client_id))
        unknown.append(_guess(target, number, f"nobody-{number}"))
    return statistics.median(wrong), statistics.median(unknown)


def _guess(target: Gateway, number: int, client_id: str) -> float:
    """One wrong secret of an address that guesses seldom: TRUSTED_IPS must name 127.0.0.1."""
    body = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": "guess"}
    headers = {"Content-Type": "application/json", "X-Real-IP": f"192.0.2.{number}"}
    request = urllib.request.Request(
        f"https://127.0.0.1:{target.tls_port}/token/oauth2/token",
        json.dumps(body).encode(),
        headers,
    )
    context = ssl._create_unverified_context()
    began = time.perf_counter()
    try:
        urllib.request.urlopen(request, timeout=10, context=context).close()
    except urllib.error.HTTPError as error:
        if error.code != 400:
            raise Trouble(f"a wrong secret was answered {error.code}") from None
        return (time.perf_counter() - began) * 1000
    raise Trouble("a wrong secret was taken")
