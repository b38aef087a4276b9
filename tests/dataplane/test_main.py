"""The process: what is done in which order, and the one line when it cannot be."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from dataplane import main as module
from dataplane import plane, wire
from dataplane._contexts import TicketKeys
from dataplane.disk import DiskState
from dataplane.settings import load
from dataplane.startup import load_keyring
from tests.dataplane.fakes import FakeEngine, FakeNames, make_snapshot, make_token
from tests.harness import eventually


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """The engine that `main` will get; it ends the process's run as soon as it is started."""
    made = FakeEngine()

    def make(**given: Any) -> FakeEngine:
        made.given = given
        return made

    def end_soon() -> None:
        before = signal.getsignal(signal.SIGTERM)  # coverage's, perhaps: it would end the tests

        def stop() -> None:
            eventually(lambda: signal.getsignal(signal.SIGTERM) != before)  # asyncio's
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=stop).start()

    made.on_start = end_soon
    monkeypatch.setattr(module, "Engine", make)
    monkeypatch.setattr(module, "NameTable", lambda reclaimer, tickets: FakeNames())
    monkeypatch.setattr(module.gc, "freeze", lambda: None)
    monkeypatch.setattr(plane, "arm_watchdog", lambda seconds: None)
    monkeypatch.setattr(plane, "compile_snapshot", lambda snapshot, previous, names: snapshot)
    yield made
    made.close()
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    """`main` with settings of which some are given."""

    def call(**given: Any) -> int:
        settings = {
            "data_dir": tmp_path,
            "link_url": "ws://127.0.0.1:9",
            "link_secret": "s" * 16,
            "proxy_listen": "127.0.0.1:0, [::1]:0 ssl",
            "status_listen": "127.0.0.1:0",
            "workers": 3,
            "drain_seconds": 0,
        }
        return module.main(load(**{**settings, **given}))

    return call


def test_engine_is_made_listened_and_started_in_order(
    engine: FakeEngine, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = {"max_connections_per_address": 5, "max_sessions_per_consumer": 7, "head_bytes": 2048}
    bounds["handshake_rate_per_address"] = 6
    given = {"max_sessions": 77, "max_connections": 88, "token_cache": 99, **bounds}
    assert run(trusted_ips="10.0.0.0/8", **given) == 0
    assert engine.calls == [
        "certificate", "listen", "listen", "start", "drain 0", "stop", "join",
    ]  # fmt: skip
    assert len(engine.given.pop("seed")) == module.SEED_BYTES
    assert isinstance(engine.given.pop("tickets"), TicketKeys)
    assert engine.given == {
        "workers": 3,
        "token_cache": 99,
        "max_sessions": 77,
        "max_connections": 88,
        "max_address_connections": 5,
        "address_handshakes": 6,
        "max_consumer_sessions": 7,
        "head_bytes": 2048,
        "server_token": "narthex/0.1.0",
        "trusted": [(b"\0" * 10 + b"\xff\xff\x0a\0\0\0", 104)],
    }
    said = capsys.readouterr().err
    for text in ('"127.0.0.1:4242"', '"[::1]:4242 ssl"', '"file_descriptors"', '"stopped"'):
        assert text in said


def test_worker_threads_start_with_every_signal_blocked(
    engine: FakeEngine, run: Callable[..., int]
) -> None:
    assert run() == 0
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD} <= engine.blocked
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_disk_state_is_loaded_before_listening(
    engine: FakeEngine, run: Callable[..., int], tmp_path: Path
) -> None:
    known, gone = make_token(1, 1), make_token(2, 1)
    state = DiskState(tmp_path / module.STATE_DIR, load_keyring(tmp_path / "keyring"))
    state.load()
    snapshot = make_snapshot(5)
    state.save_snapshot(wire.pack_snapshot(snapshot), snapshot.epoch, 5)
    state.forget(snapshot.epoch)
    state.append_tokens([known, gone])
    state.append_revocations([wire.Revocation(1, "token", gone.digest)])
    state.close()
    assert run(status_listen="off") == 0
    assert engine.calls[:3] == ["certificate", "publish", "listen"]
    assert engine.published == [snapshot]
    assert list(engine.tokens.tokens) == [known.digest]
    assert gone.digest in engine.tokens.negative


@pytest.mark.parametrize(
    ("method", "fault", "text"),
    [
        ("listen", OSError(13, "Permission denied"), "PROXY_LISTEN 127.0.0.1:0: cannot be liste"),
        ("certificate", ValueError("no cipher fits"), "TLS_CERT, TLS_KEY: no cipher fits"),
    ],
)
def test_what_the_engine_refuses_is_one_line(
    method: str,
    fault: Exception,
    text: str,
    engine: FakeEngine,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine.faults[method] = fault
    assert run() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"narthex dataplane: {text}")
    assert said.count("\n") == 1
    assert "start" not in engine.calls


def test_missing_secret_and_port_in_use_are_one_line(
    engine: FakeEngine, run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(link_secret=None) == 1
    assert capsys.readouterr().err.startswith("narthex dataplane: NARTHEX_LINK_SECRET is not set")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert run(status_listen=f"127.0.0.1:{other.getsockname()[1]}") == 1
    assert "STATUS_LISTEN 127.0.0.1" in capsys.readouterr().err
    (tmp_path / module.STATE_DIR).write_text("in the way")
    assert run() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"narthex dataplane: DATA_DIR {tmp_path}: cannot be used")
    assert said.count("\n") == 1
    assert cast("Any", engine).calls == ["certificate"]
