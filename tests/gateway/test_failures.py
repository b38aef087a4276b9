"""What breaks and what goes on: planes that die, and what keeps one from starting."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, MultiFernet

from dataplane import wire
from dataplane.disk import DiskState
from tests.gateway import howto
from tests.harness import Gateway, Process, eventually


@pytest.fixture
def planes(new_gateway: Callable[..., Gateway]) -> tuple[Gateway, Process, Process]:
    """A gateway whose planes run side by side, without a supervisor to bring one back."""
    gateway = new_gateway(WORKERS="2")
    control = gateway.start_control()
    return gateway, control, gateway.start_dataplane()


def test_control_plane_killed_leaves_sessions_and_known_tokens_alone(
    planes: tuple[Gateway, Process, Process], echo_url: str
) -> None:
    gateway, control, _ = planes
    made = howto.set_up(gateway, echo_url)
    used, pushed = made.token(), made.token()
    with gateway.websocket(howto.PATH, used) as held:
        control.kill()
        eventually(lambda: not gateway.status().json()["link"]["connected"], 10)
        held.send("still there")
        assert held.recv(timeout=10) == "still there"
        made.echoes(used)
        made.echoes(pushed)  # never used before: it came by push
        assert gateway.status("/status/ready").status_code == 200

        answer = made.ask_token()
        assert answer.status_code == 503
        assert answer.json()["error"] == "temporarily_unavailable"
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["Cache-Control"] == "no-store"

        gateway.start_control()
        made.echoes(made.token())
        held.send("all the time")
        assert held.recv(timeout=10) == "all the time"


def well_formed_token(gateway: Gateway) -> str:
    """A token that passes its check and that nobody issued; read with the data plane stopped."""
    keys = (gateway.data_dir / "keyring").read_text().split()
    state = DiskState(gateway.data_dir / "dataplane", MultiFernet([Fernet(k) for k in keys]))
    snapshot = state.load().snapshot
    state.close()
    assert snapshot is not None
    random_part = "".join(
        secrets.choice(wire.TOKEN_ALPHABET) for _ in range(wire.TOKEN_RANDOM_CHARS)
    )
    return random_part + wire.token_check(snapshot.check_key, random_part)


def token_ids(gateway: Gateway) -> set[str]:
    return {row["id"] for row in gateway.admin.get("/oauth2_tokens").json()["data"]}


def test_s92_data_plane_restarted_alone_remembers_tokens_and_revocations(
    planes: tuple[Gateway, Process, Process], echo_url: str
) -> None:
    gateway, control, dataplane = planes
    made = howto.set_up(gateway, echo_url)
    known = made.token()
    before = token_ids(gateway)
    revoked = made.token()
    (its_id,) = token_ids(gateway) - before
    assert gateway.admin.delete(f"/oauth2_tokens/{its_id}").status_code == 204
    eventually(lambda: made.status_of(revoked) == 401, 5)
    control.kill()
    assert dataplane.stop() == 0
    never_seen = well_formed_token(gateway)

    gateway.start_dataplane()
    assert not gateway.status().json()["link"]["connected"]
    made.echoes(known)
    made.echoes(known, tls=True)
    assert made.status_of(revoked) == 401
    refused = made.refusal(never_seen)
    assert refused is not None
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert made.status_of("x" * 32) == 401
    assert made.status_of(None) == 401

    gateway.start_control()
    eventually(lambda: made.status_of(never_seen) == 401, 10, "an answer for the unknown token")
    assert made.status_of(revoked) == 401
    made.echoes(known)


def test_deleted_token_is_refused_within_a_second(
    planes: tuple[Gateway, Process, Process], echo_url: str
) -> None:
    gateway, _, _ = planes
    made = howto.set_up(gateway, echo_url)
    token = made.token()
    made.echoes(token)
    (its_id,) = token_ids(gateway)
    assert gateway.admin.delete(f"/oauth2_tokens/{its_id}").status_code == 204
    eventually(lambda: made.status_of(token) == 401, 1.0, "the refusal of a deleted token")
    other = made.token()
    made.echoes(other)


@pytest.mark.parametrize("what", ["/consumers/alex/oauth2/{client_id}", "/consumers/alex"])
def test_token_of_a_deleted_credential_or_consumer_is_refused_within_a_second(
    what: str, planes: tuple[Gateway, Process, Process], echo_url: str
) -> None:
    gateway, _, _ = planes
    made = howto.set_up(gateway, echo_url)
    token = made.token()
    made.echoes(token)
    path = what.format(client_id=made.client_id)
    assert gateway.admin.delete(path).status_code == 204
    eventually(lambda: made.status_of(token) == 401, 1.0, "the refusal")


# --- what keeps a plane from starting ---


def refused_start(gateway: Gateway, *words: str, **settings: str) -> str:
    """Run a plane that must refuse to start: its one line."""
    extra = {f"NARTHEX_{name}": value for name, value in settings.items()}
    ended = gateway.run(*words, **extra)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    said = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1, ended.stderr
    return said[0]


@pytest.mark.parametrize("words", [("dataplane",), ("start",), ("start", "--check")])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "none"),
        ("PROXY_LISTEN", "0.0.0.0"),
        ("TRUSTED_IPS", "everybody"),
        ("LINK_URL", "ws://192.0.2.1:8005"),
        ("LOG_LEVEL", "loud"),
        ("CONFIG", "/nowhere.toml"),
    ],
)
def test_wrong_setting_is_named_with_its_value_and_what_was_expected(
    name: str, value: str, words: tuple[str, ...], new_gateway: Callable[..., Gateway]
) -> None:
    gateway = new_gateway()
    said = refused_start(gateway, *words, **{name: value})
    assert f"NARTHEX_{name}" in said
    assert value in said
    assert "expected" in said
    assert not gateway.data_dir.exists()


@pytest.mark.parametrize("name", ["PROXY_LISTEN", "STATUS_LISTEN"])
def test_port_in_use_is_named(name: str, new_gateway: Callable[..., Gateway]) -> None:
    gateway = new_gateway(LINK_SECRET="0123456789abcdef")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # ours would share it
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}"
        said = refused_start(gateway, "dataplane", **{name: place})
    assert f"{name} {place}: is in use" in said


@pytest.mark.parametrize(("listen", "link"), [("ADMIN_LISTEN", None), ("LINK_LISTEN", "LINK_URL")])
def test_port_of_the_control_plane_in_use_is_named(
    listen: str, link: str | None, new_gateway: Callable[..., Gateway]
) -> None:
    gateway = new_gateway()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}"
        said = refused_start(gateway, "control", **{listen: place})
    assert listen in said
    assert place in said


def test_certificate_that_cannot_be_read_is_named(
    new_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = new_gateway(LINK_SECRET="0123456789abcdef")
    broken, missing = tmp_path / "broken.pem", tmp_path / "missing.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    said = refused_start(gateway, "dataplane", TLS_CERT=str(broken), TLS_KEY=str(broken))
    assert "TLS_CERT" in said
    assert str(broken) in said
    said = refused_start(gateway, "dataplane", TLS_CERT=str(missing), TLS_KEY=str(broken))
    assert f"cannot read {missing}" in said


def test_second_data_plane_on_one_folder_is_kept_out(
    planes: tuple[Gateway, Process, Process],
) -> None:
    gateway, _, _ = planes
    said = refused_start(
        gateway, "dataplane", PROXY_LISTEN="127.0.0.1:0", STATUS_LISTEN="127.0.0.1:0"
    )
    assert f"DATA_DIR {gateway.data_dir}: another data plane uses it" in said


def test_wrong_link_secret_is_said_on_both_ends_and_the_link_stays_down(
    new_gateway: Callable[..., Gateway],
) -> None:
    gateway = new_gateway(DATA_DIR="")
    mine, theirs = "a-secret-of-the-control-plane", "another-secret-altogether"
    folder = gateway.folder
    gateway.settings["DATA_DIR"] = str(folder / "control")
    control = gateway.narthex("control", NARTHEX_LINK_SECRET=mine)
    gateway.wait_admin(control)
    dataplane = gateway.narthex(
        "dataplane", NARTHEX_LINK_SECRET=theirs, NARTHEX_DATA_DIR=str(folder / "data")
    )

    def note() -> str:
        dataplane.check_running()
        answer = gateway.status("/status/ready")
        assert answer.status_code == 503
        return str(next((n for n in answer.json().get("notes", []) if "LINK_SECRET" in n), ""))

    assert eventually(note, 20, "the reason in /status/ready")
    for process in (control, dataplane):
        eventually(lambda p=process: "LINK_SECRET" in p.output(), 10)
        assert "Traceback" not in process.output()
        assert mine not in process.output()
        assert theirs not in process.output()


def test_broken_database_is_named_and_left_as_it_is(new_gateway: Callable[..., Gateway]) -> None:
    gateway = new_gateway()
    gateway.data_dir.mkdir(mode=0o700)
    database = gateway.data_dir / "narthex.db"
    noise = os.urandom(8192)
    database.write_bytes(noise)
    said = refused_start(gateway, "control")
    assert str(database) in said
    assert database.read_bytes() == noise


def test_s94_wrong_keyring_means_no_cache_and_no_crash(
    planes: tuple[Gateway, Process, Process], echo_url: str
) -> None:
    gateway, control, dataplane = planes
    made = howto.set_up(gateway, echo_url)
    token = made.token()
    made.echoes(token)
    assert dataplane.stop() == 0
    other = gateway.folder / "other-keyring"
    other.write_bytes(Fernet.generate_key())
    again = gateway.narthex("dataplane", NARTHEX_KEYRING=str(other))
    gateway.wait_ready(again)  # from the link
    made.echoes(token)
    lines = [json.loads(line) for line in again.output().splitlines() if line.startswith("{")]
    assert "state.unreadable" in {line["event"] for line in lines}
    assert "Traceback" not in again.output()
    assert control.running
