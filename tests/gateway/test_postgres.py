"""A gateway on PostgreSQL: the database goes and returns, one control plane follows another."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control.keyring import load_keyring
from control.store import Store, postgres, queries
from tests import databases
from tests.gateway import howto
from tests.harness import ROOT, Gateway, Process, eventually
from tests.postgres import USER, Server, find_binaries, running_server

pytestmark = databases.needs_postgres


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture
def make(
    new_gateway: Callable[..., Gateway], server: Server, tmp_path: Path
) -> Callable[[], Gateway]:
    """Gateways on one database, with the secrets that they must have in common."""
    common = {
        "DATABASE_URL": server.create(f"d{secrets.token_hex(8)}"),
        "LINK_SECRET": secrets.token_hex(16),
        "KEYRING": str(tmp_path / "keyring"),
    }
    return lambda: new_gateway(**common)


def said(process: Process, event: str) -> bool:
    return any(line["event"] == event for line in howto.log_lines(process.output()))


def test_database_gone_and_back_costs_no_session_and_no_restart(
    make: Callable[[], Gateway], server: Server, echo_url: str
) -> None:
    gateway = make()
    control, _ = gateway.start_control(), gateway.start_dataplane()
    made = howto.set_up(gateway, echo_url)
    used, pushed = made.token(), made.token()
    with gateway.websocket(howto.PATH, used) as held:
        server.stop()
        held.send("still there")
        assert held.recv(timeout=10) == "still there"
        made.echoes(used)
        made.echoes(pushed)  # never used before
        answer = made.ask_token()
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"] == "temporarily_unavailable"
        for method in ("GET", "POST"):
            refused = gateway.admin.request(method, "/services", json={"host": "h"})
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert "database" in refused.json()["message"]
        assert gateway.admin.get("/status").json()["database"] == {"reachable": False}
        eventually(lambda: said(control, "database.lost"))
        server.start()
        eventually(lambda: said(control, "database.back"))
        made.echoes(made.token())
        held.send("all the time")
        assert held.recv(timeout=10) == "all the time"
    assert gateway.admin.post("/services", json={"host": "h"}).status_code == 201
    assert control.running


def test_second_control_plane_waits_and_takes_over(
    make: Callable[[], Gateway], echo_url: str
) -> None:
    first = make()
    control, _ = first.start_control(), first.start_dataplane()
    made = howto.set_up(first, echo_url)
    known = made.token()
    second = make()
    second.ports = first.ports
    waiting = second.narthex("control")
    eventually(lambda: said(waiting, "database.waiting"), 30)
    assert not said(waiting, "listening")
    with first.websocket(howto.PATH, known) as held:
        control.kill()
        second.wait_admin(waiting)
        assert said(waiting, "database.taken_over")
        eventually(lambda: second.admin.get("/dataplanes").json()["data"], 30)
        second.wait_carried()
        made.echoes(known)
        made.echoes(made.token())
        held.send("all the time")
        assert held.recv(timeout=10) == "all the time"


def test_control_plane_that_lost_the_database_to_another_ends_in_words(
    make: Callable[[], Gateway], server: Server
) -> None:
    gateway = make()
    control = gateway.start_control()
    database = gateway.settings["DATABASE_URL"].rpartition("/")[2]
    holder = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted = %s"
    with server.connect(database) as other, server.connect(database) as session:
        taking = threading.Thread(
            target=other.execute, args=(f"SELECT pg_advisory_lock({postgres.HOLD_KEY})",)
        )
        taking.start()
        eventually(lambda: session.execute(holder, (False,)).fetchall())  # it is the next one
        session.execute(f"SELECT pg_terminate_backend(pid) FROM ({holder}) AS held", (True,))
        taking.join(10)
        assert control.wait() == 1
    assert said(control, "database.taken")
    gateway.start_control()


# --- the README --------------------------------------------------------------------------------


def readme_blocks(server: Server) -> list[str]:
    """The shell blocks of "On PostgreSQL", for this server."""
    part = (ROOT / "README.md").read_text().partition("## On PostgreSQL")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    python = f"{shlex.quote(sys.executable)} -m narthex"
    here = f"//{USER}@127.0.0.1:{server.port}/"
    return [b.replace("//localhost/", here).replace(".venv/bin/narthex", python) for b in blocks]


def test_readme_sets_up_backs_up_and_restores(
    new_gateway: Callable[..., Gateway], server: Server
) -> None:
    gateway = new_gateway()
    path = f"{find_binaries()}{os.pathsep}{os.environ['PATH']}"
    to_server = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": USER, "PATH": path}
    env = {**gateway.env, **to_server}

    def run(script: str) -> None:
        words = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(words, env=env, cwd=gateway.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    create, start, dump, restore = readme_blocks(server)
    run(create)
    started = Process(["bash", "-c", f"exec env {start}"], env, gateway.folder / "start.log")
    gateway.processes.append(started)
    gateway.wait_admin(started)
    assert gateway.admin.post("/consumers", json={"username": "alex"}).status_code == 201
    run(dump)
    run(restore)
    keyring = load_keyring(gateway.data_dir / "keyring")
    found = []
    for name in ("narthex", "restored"):
        store = Store(server.url(name), keyring)
        with store.reading() as session:
            found.append(queries.config_rows(session))
        store.close()
    assert found[0] == found[1] and found[0].consumers[0].username == "alex"
