"""20,000 guesses a minute that each want a hash: the Admin API and the link answer as before.

The guesses come from as many addresses, so that no throttle helps: what is left is the pool of
threads that hash, its priority and the bound of its line.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from dataplane import wire
from tests.gateway import howto
from tests.gateway.test_scale import crowding, shown
from tests.harness import ROOT, Gateway
from tests.linkkit import BarePeer, bare

RATE = 20_000 / 60  # guesses a second
SECONDS = 12.0
ANSWER_MS_MAX = 200.0
POLL_SECONDS = 0.05  # between two rounds of what is measured
SECRET = "the link's secret of this test"


class Flood:
    """`hash_load.py` as a child."""

    def __init__(self, port: int) -> None:
        argv = [sys.executable, "-m", "tests.gateway.hash_load", str(port), str(RATE)]
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Flood:
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "ready\n"
        return self

    def end(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.popen.communicate(timeout=60)[0])
        return found

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.communicate()


class Measured:
    """How long the control plane took, in milliseconds, seen from outside."""

    def __init__(self, gateway: Gateway, credential: str) -> None:
        self.gateway = gateway
        self.credential = credential
        self.kinds: dict[str, list[float]] = {
            "Admin API, a read": [],
            "Admin API, a write": [],
            "token pushed after its write's answer": [],
            "question over the link": [],
            "heartbeat later than a second": [],
        }

    def note(self, kind: str, began: float) -> None:
        self.kinds[kind].append((time.monotonic() - began) * 1000)

    async def run(self, seconds: float) -> None:
        async with bare(self.gateway.ports.link) as peer:
            await peer.greet(SECRET.encode())
            beats = asyncio.create_task(self._beats())
            until = time.monotonic() + seconds
            number = 0
            while time.monotonic() < until:
                number += 1
                await self._once(peer, number)
                await asyncio.sleep(POLL_SECONDS)
            beats.cancel()

    async def _once(self, peer: BarePeer, number: int) -> None:
        admin = self.gateway.admin
        began = time.monotonic()
        answer = await asyncio.to_thread(admin.get, "/services")
        self.note("Admin API, a read", began)
        assert answer.status_code == 200
        body = {"credential": {"id": self.credential}, "expires_in": 3600}
        began = time.monotonic()
        answer = await asyncio.to_thread(lambda: admin.post("/oauth2_tokens", json=body))
        self.note("Admin API, a write", began)
        assert answer.status_code == 201, answer.text
        digest = wire.token_digest(answer.json()["access_token"])
        began = time.monotonic()
        while digest not in [token.digest for token in (await peer.hear(wire.Tokens)).tokens]:
            pass
        self.note("token pushed after its write's answer", began)
        began = time.monotonic()
        await peer.send(wire.Question(number, digest))
        assert (await peer.hear(wire.Answer)).id == number
        self.note("question over the link", began)

    async def _beats(self) -> None:
        """Heartbeats on a connection of their own: each is due a second after the one before."""
        async with bare(self.gateway.ports.link) as peer:
            await peer.greet(SECRET.encode(), node_id=b"b" * 16)
            await peer.hear(wire.Heartbeat)
            await peer.hear(wire.Heartbeat)
            last = time.monotonic()
            while True:
                await peer.hear(wire.Heartbeat)
                due = last + wire.HEARTBEAT_SECONDS
                last = time.monotonic()
                self.kinds["heartbeat later than a second"].append(max(0.0, last - due) * 1000)


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_admin_api_and_link_answer_while_20000_secrets_a_minute_are_guessed(
    new_gateway: Callable[..., Gateway], echo_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = new_gateway(WORKERS="1", TRUSTED_IPS="127.0.0.1", LINK_SECRET=SECRET)
    gateway.start()
    howto.set_up(gateway, echo_url)
    credential = gateway.admin.get("/oauth2").json()["data"][0]["id"]
    crowded = crowding()
    before, during = Measured(gateway, credential), Measured(gateway, credential)
    asyncio.run(before.run(3.0))
    with Flood(gateway.ports.tls) as flood:
        asyncio.run(during.run(SECONDS))
        answers = flood.end()
    crowded = max(crowded, crowding())
    seconds = answers.pop("seconds")
    with capsys.disabled():
        print(
            f"\n  {seconds:.1f} s, {sum(answers.values()) / seconds * 60:.0f} a minute: {answers}"
        )
        for name, measured in (("before", before), ("guessed at", during)):
            for kind, values in measured.kinds.items():
                print(f"  {name}: {shown(kind, values, 'ms')}")
        print(f"  work takes {crowded:.1f} times as long as alone")
    # 400: hashed and wrong. 503: the line was full. Nothing else, and the rate was kept.
    assert set(answers) <= {"400", "503", "late"}
    assert sum(answers.values()) >= RATE * seconds * 0.98
    assert answers.get("late", 0) <= 0.05 * sum(answers.values())
    assert seconds >= 10 and answers["400"] > 0
    for kind, values in during.kinds.items():
        assert max(values) <= ANSWER_MS_MAX * crowded, kind
