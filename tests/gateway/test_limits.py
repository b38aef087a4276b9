"""A gateway without descriptors, as a user meets it: it refuses, rests, carries on and recovers."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway import howto
from tests.harness import Gateway, eventually


def metric(gateway: Gateway, reason: str) -> float:
    """How many were refused for this reason."""
    wanted = f'narthex_refused_total{{reason="{reason}"}} '
    lines = gateway.status("/metrics").text.splitlines()
    return next(float(line[len(wanted) :]) for line in lines if line.startswith(wanted))


def descriptors(pid: int) -> int:
    return max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 1


@pytest.mark.timeout(120)
def test_s76_gateway_out_of_descriptors_says_503_rests_and_recovers(
    new_gateway: Callable[..., Gateway], echo_url: str
) -> None:
    gateway = new_gateway(WORKERS="2", MAX_CONNECTIONS="5000", MAX_SESSIONS="5000")
    gateway.start_control()
    process = gateway.start_dataplane()
    made = howto.set_up(gateway, echo_url)
    token = made.token()
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard, "it is raised to the hard limit at the start"
    said = {line.get("event"): line for line in howto.log_lines(process.output())}
    assert said["file_descriptors"]["limit"] == hard
    assert said["file_descriptors"]["max_sessions"] == 5000
    with gateway.websocket(howto.PATH, token) as held:
        held.send("before")
        assert held.recv(timeout=10) == "before"
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (descriptors(process.pid), hard))
        idle = []
        try:
            for _ in range(200):
                sock = socket.create_connection(("127.0.0.1", gateway.ports.proxy), 10)
                sock.sendall(b"GET / HTTP/1.1\r\n")
                idle.append(sock)

            def refusals() -> int:
                found = 0
                for sock in idle:
                    sock.setblocking(False)
                    try:
                        found += sock.recv(64, socket.MSG_PEEK).startswith(b"HTTP/1.1 503 ")
                    except OSError:
                        continue
                return found

            eventually(lambda: refusals() > 100, 20, "clients that hear 503")
            began = time.monotonic()
            while time.monotonic() - began < 1:
                held.send("on")
                assert held.recv(timeout=10) == "on"
        finally:
            for sock in idle:
                sock.close()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        eventually(lambda: made.status_of(token) == 101, 20, "new handshakes")
        assert metric(gateway, "descriptors") > 100
        held.send("after")
        assert held.recv(timeout=10) == "after"


def test_consumer_over_its_sessions_hears_429_and_it_is_counted(
    new_gateway: Callable[..., Gateway], echo_url: str
) -> None:
    gateway = new_gateway(WORKERS="2", MAX_SESSIONS_PER_CONSUMER="2")
    gateway.start()
    made = howto.set_up(gateway, echo_url)
    token, another = made.token(), made.token()
    with gateway.websocket(howto.PATH, token), gateway.websocket(howto.PATH, another):
        refused = made.refusal(token)
        assert refused is not None
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert "too many sessions of this consumer" in json.loads(refused.content)["message"]
        assert metric(gateway, "consumer_sessions") == 1
    eventually(lambda: made.status_of(token) == 101)
