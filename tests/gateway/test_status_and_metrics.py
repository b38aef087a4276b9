"""What an operator sees: /status, /status/ready, /metrics, one log line for each end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.gateway import howto
from tests.harness import Gateway, Process, eventually


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def metrics(gateway: Gateway) -> dict[str, float]:
    text = gateway.status("/metrics").text
    return {
        sample.name + "".join(f"|{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def events(process: Process, name: str) -> list[dict[str, Any]]:
    return [line for line in howto.log_lines(process.output()) if line["event"] == name]


def test_counters_follow_handshakes_sessions_and_messages(
    new_gateway: Callable[..., Gateway], workers: str, echo_url: str
) -> None:
    gateway = new_gateway(WORKERS=workers)
    process = gateway.start()
    made = howto.set_up(gateway, echo_url)
    token = made.token()
    before = metrics(gateway)
    with gateway.websocket(howto.PATH, token) as socket:
        assert metrics(gateway)["narthex_live_sessions"] == 1
        assert gateway.status().json()["sessions"] == 1
        for _ in range(10):
            socket.send("x" * 100)
            assert socket.recv(timeout=10) == "x" * 100
    assert made.status_of("junk-that-is-no-token") == 401

    def settled() -> dict[str, float]:
        now = metrics(gateway)
        assert now["narthex_live_sessions"] == 0
        return {name: value - before.get(name, 0) for name, value in now.items()}

    grown = eventually(settled, 5)
    assert grown["narthex_sessions_total"] == 1
    assert grown["narthex_handshakes_total|status=101"] == 1
    assert grown["narthex_handshakes_total|status=401"] == 1
    assert grown["narthex_messages_total|sender=client"] == 10
    assert grown["narthex_messages_total|sender=upstream"] == 10
    assert grown["narthex_bytes_total|sender=client"] >= 1000
    assert grown["narthex_bytes_total|sender=upstream"] >= 1000
    assert grown["narthex_closes_total|code=1000|side=client"] == 1
    assert grown["narthex_token_cache_hits_total"] >= 1
    assert metrics(gateway)["narthex_link_up"] == 1
    assert (
        metrics(gateway)["narthex_config_version"] == gateway.status().json()["config"]["version"]
    )
    assert metrics(gateway)["narthex_fd_limit"] >= 256
    assert eventually(lambda: events(process, "session.ended"), 5)


def test_status_tells_what_runs_and_where_and_the_certificate_is_ours(gateway: Gateway) -> None:
    status = gateway.status().json()
    assert status["plane"] == "data"
    assert status["link"] == {"connected": True, "lost": None, "refused": None}
    assert status["listeners"] == [
        f"127.0.0.1:{gateway.ports.proxy}",
        f"127.0.0.1:{gateway.ports.tls} ssl",
    ]
    assert status["workers"] == int(gateway.settings["WORKERS"])
    assert gateway.status("/status/ready").json()["ready"] is True

    shown = x509.load_pem_x509_certificate(howto.tls_of("127.0.0.1", gateway.ports.tls).encode())
    assert shown == x509.load_pem_x509_certificate((gateway.data_dir / "tls.crt").read_bytes())
    assert isinstance(shown.public_key(), ec.EllipticCurvePublicKey)


def test_each_refusal_and_each_end_is_one_line_without_token_or_query(
    new_gateway: Callable[..., Gateway], echo_url: str
) -> None:
    gateway = new_gateway(LOG_LEVEL="debug")
    process = gateway.start()
    made = howto.set_up(gateway, echo_url)
    token = made.token()
    with gateway.websocket(f"{howto.PATH}?colour=ultramarine", token) as socket:
        opened, messages = time.monotonic(), 0
        while not messages or time.monotonic() - opened < 0.05:
            socket.send("one")
            socket.recv(timeout=10)
            messages += 1
        open_for = time.monotonic() - opened
    with (
        pytest.raises(InvalidStatus) as caught,
        gateway.websocket(f"{howto.PATH}?colour=ultramarine&access_token=Junk1Junk1Junk1", None),
    ):
        pass

    request_id = caught.value.response.headers["X-Kong-Request-Id"]

    def refused_then() -> list[dict[str, Any]]:
        lines = events(process, "handshake.refused")
        return [line for line in lines if line["request_id"] == request_id]

    refused = eventually(refused_then, 5)
    assert [line["status"] for line in refused] == [401]
    for name in ("why", "route", "client", "request_id"):
        assert refused[0][name]
    ended = eventually(lambda: events(process, "session.ended"), 5)
    assert len(ended) == 1
    line = ended[0]
    assert (line["ended_by"], line["client_code"], line["upstream_code"]) == ("client", 1000, 1000)
    assert (line["messages_from_client"], line["messages_from_upstream"]) == (messages, messages)
    assert line["duration_s"] >= open_for - 0.005  # the engine counts whole milliseconds
    for name in ("route", "service", "consumer", "credential", "client", "request_id"):
        assert line[name]
    output = process.output()
    assert token not in output
    assert made.client_secret not in output
    assert "ultramarine" not in output
    assert "Junk1Junk1Junk1" not in output
    assert "Traceback" not in output


def test_sigterm_turns_ready_red_and_closes_sessions_with_1012(
    new_gateway: Callable[..., Gateway], workers: str, echo_url: str, stack: ExitStack
) -> None:
    gateway = new_gateway(WORKERS=workers, DRAIN_SECONDS="2")
    gateway.start_control()
    dataplane = gateway.start_dataplane()
    token = howto.set_up(gateway, echo_url).token()
    sockets = [stack.enter_context(gateway.websocket(howto.PATH, token)) for _ in range(20)]
    began = time.monotonic()
    dataplane.popen.send_signal(signal.SIGTERM)

    def draining() -> bool:
        answer = gateway.status("/status/ready")
        assert answer.status_code == 503
        return "draining" in answer.json()["reasons"]

    eventually(draining, 2)
    with pytest.raises(OSError), gateway.websocket(howto.PATH, token):
        pass
    for socket in sockets:
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
    assert dataplane.wait(7) == 0
    assert time.monotonic() - began <= 2 + 5
    ended = events(dataplane, "session.ended")
    assert len(ended) == 20
    assert {line["client_code"] for line in ended} == {1012}


def test_second_signal_ends_at_once(
    new_gateway: Callable[..., Gateway], echo_url: str, stack: ExitStack
) -> None:
    gateway = new_gateway(DRAIN_SECONDS="60")
    gateway.start_control()
    dataplane = gateway.start_dataplane()
    token = howto.set_up(gateway, echo_url).token()
    for _ in range(50):
        stack.enter_context(gateway.websocket(howto.PATH, token))
    dataplane.popen.send_signal(signal.SIGTERM)
    eventually(lambda: gateway.status("/status/ready").status_code == 503, 5)
    assert dataplane.running
    dataplane.popen.send_signal(signal.SIGTERM)
    assert dataplane.wait(5) == 0


def test_not_ready_without_a_configuration(new_gateway: Callable[..., Gateway]) -> None:
    gateway = new_gateway(LINK_SECRET="0123456789abcdef")
    dataplane = gateway.narthex("dataplane")

    def answered() -> httpx.Response:
        dataplane.check_running()
        return gateway.status("/status/ready")

    ready = eventually(answered, 20)
    assert ready.status_code == 503
    assert ready.json()["reasons"] == ["no configuration"]
    assert metrics(gateway)["narthex_link_up"] == 0
    for tls in (False, True):
        answer = gateway.request("GET", "/", tls=tls)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
    assert dataplane.running
