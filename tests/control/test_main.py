"""control/main.py: the process as it runs; it starts, refuses in words, ends cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.guard.callers import Role
from control.guard.tokens import append, make_token
from control.keyring import load_keyring
from control.settings import Listen, SettingsError, load
from control.store.session import Store
from control.store.tables import Plugin
from tests import databases, pki
from tests.control.certificates import make_certificate
from tests.control.issuing import seed
from tests.harness import ROOT, Process, eventually, insecure_tls

Start = Callable[..., "Control"]


class Control(Process):
    """A control plane of its own; port 0 everywhere, the ports are read from its log."""

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output().splitlines()]

    def address(self, name: str) -> str:
        """Where a listener listens, once it has said so."""

        def find() -> str | None:
            self.check_running()
            return next(
                (
                    event["address"]
                    for event in self.events()
                    if event["event"] == "listening" and event["name"] == name
                ),
                None,
            )

        found = eventually(find, 20, f"{name} to listen")
        assert found is not None
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts control planes in `tmp_path/data`; keywords are settings."""
    started: list[Control] = []

    def make(**settings: str) -> Control:
        process = Control(
            [sys.executable, "-m", "control.main"],
            environment(tmp_path / "data", **settings),
            tmp_path / f"control-{len(started)}.log",
        )
        started.append(process)
        return process

    yield make
    for process in started:
        process.stop()


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    own = {
        "DATA_DIR": str(data_dir),
        **databases.settings_of(data_dir),
        "ADMIN_LISTEN": "127.0.0.1:0",
        "LINK_LISTEN": "127.0.0.1:0",
        **settings,
    }
    kept = {name: v for name, v in os.environ.items() if not name.startswith("NARTHEX_")}
    return {**kept, **{f"NARTHEX_{name}": value for name, value in own.items()}}


def refusal(data_dir: Path, **settings: str) -> str:
    """The one line that a control plane says which does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "control.main"],
        env=environment(data_dir, **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("narthex control: "), done.stderr
    return lines[0].removeprefix("narthex control: ")


def test_control_plane_serves_and_ends_on_sigterm(start: Start, tmp_path: Path) -> None:
    process = start()
    answer = httpx.get(f"http://{process.address('admin')}/no-such-path", trust_env=False)
    assert answer.status_code == 404
    host, _, port = process.address("link").rpartition(":")
    with socket.create_connection((host, int(port)), 5):
        pass
    assert process.stop() == 0
    events = [event["event"] for event in process.events()]
    assert events[-2:] == ["stopping", "stopped"]
    assert all(event["plane"] == "control" for event in process.events())
    # What it made is for nobody else, and it serves again with it.
    for path in (tmp_path / "data", *(tmp_path / "data").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert {"keyring", "link.secret"} <= names
    assert ("narthex.db" in names) == (databases.kind == "sqlite")
    again = start()
    again.address("admin")
    assert again.stop() == 0


def test_sigint_ends_it_too_and_a_second_signal_at_once(start: Start) -> None:
    process = start()
    admin = process.address("admin")
    host, _, port = admin.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as hanging:
        # A request whose body never comes keeps the server waiting.
        hanging.sendall(
            b"POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10\r\n\r\n{"
        )
        process.popen.send_signal(signal.SIGINT)
        eventually(lambda: any(e["event"] == "stopping" for e in process.events()))
        process.popen.send_signal(signal.SIGINT)
        assert process.wait(4) == 0


def test_server_and_uvicorn_are_not_named(start: Start) -> None:
    answer = httpx.get(f"http://{start().address('admin')}/", trust_env=False)
    assert "uvicorn" not in answer.headers.get("server", "").lower()


@pytest.mark.parametrize("name", ["ADMIN_LISTEN", "LINK_LISTEN"])
def test_port_in_use_is_said(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        text = refusal(tmp_path / "data", **{name: address})
    assert text == f"{name} {address}: is in use; stop what listens there or choose another port"


def test_second_control_plane_on_one_data_dir_is_refused(start: Start, tmp_path: Path) -> None:
    start().address("admin")
    assert "another control plane uses it" in refusal(tmp_path / "data")


@databases.only_sqlite
def test_broken_database_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "data" / "narthex.db"
    file.parent.mkdir()
    file.write_bytes(b"this is not a database, but it may be precious" * 100)
    before = file.read_bytes()
    assert str(file) in refusal(tmp_path / "data")
    assert file.read_bytes() == before


def test_database_of_another_keyring_is_said(start: Start, tmp_path: Path) -> None:
    process = start()
    process.address("admin")
    process.stop()
    (tmp_path / "data" / "keyring").unlink()
    assert "KEYRING" in refusal(tmp_path / "data")


def test_keyring_that_is_none_is_said(tmp_path: Path) -> None:
    keyring = tmp_path / "keys"
    keyring.write_text("no key\n")
    text = refusal(tmp_path / "data", KEYRING=str(keyring))
    assert text.startswith(f"KEYRING {keyring}: ") and "no key" not in text


def test_database_of_a_newer_version_is_said(start: Start, tmp_path: Path) -> None:
    process = start()
    process.address("admin")
    process.stop()
    data = tmp_path / "data"
    newer = "UPDATE alembic_version SET version_num = '9999'"
    databases.execute(databases.settings_of(data), data, newer)
    assert "newer Narthex" in refusal(tmp_path / "data")


def test_wrong_setting_is_said(tmp_path: Path) -> None:
    text = refusal(tmp_path / "data", ADMIN_LISTEN="0.0.0.0:8001")
    assert text.startswith("NARTHEX_ADMIN_LISTEN is '0.0.0.0:8001': expected a loopback address")


def test_unreadable_certificates_are_said(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    missing = str(tmp_path / "missing.pem")
    tls = {"TLS_CERT": str(cert), "TLS_KEY": missing, "ISSUER_LISTEN": "127.0.0.1:0"}
    assert refusal(tmp_path / "data", **tls).startswith(f"TLS_CERT, TLS_KEY {missing}: cannot be")
    link = {"LINK_CERT": str(cert), "LINK_KEY": str(key), "LINK_CA": missing}
    assert refusal(tmp_path / "data", **link) == (
        f"LINK_CA {missing}: cannot be read: No such file or directory"
    )


def test_data_dir_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file" / "data").startswith(f"DATA_DIR {tmp_path}/file/data: cannot")


def test_issuer_listen_serves_the_token_endpoint_over_tls(start: Start, tmp_path: Path) -> None:
    own = {name.lower(): v for name, v in databases.settings_of(tmp_path / "data").items()}
    settings = load(data_dir=tmp_path / "data", **own)
    settings.data_dir.mkdir()
    store = Store(settings.database, load_keyring(settings.keyring_file))
    store.migrate()
    with store.writing() as session:
        seed(session)
        plugin = session.get_one(Plugin, "00000000-0000-0000-0000-000000000001")
        plugin.config = {**plugin.config, "enable_client_credentials": False}
        session.add(plugin)
    store.close()
    cert, key = make_certificate(tmp_path)
    process = start(ISSUER_LISTEN="127.0.0.1:0", TLS_CERT=str(cert), TLS_KEY=str(key))
    url = f"https://{process.address('issuer')}/token-route/oauth2/token"
    answer = httpx.post(url, data={"grant_type": "x"}, verify=insecure_tls(), trust_env=False)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client")
    assert httpx.get(url, verify=insecure_tls(), trust_env=False).status_code == 405


def test_s84_admin_api_stays_on_loopback_without_a_tokens_file(tmp_path: Path) -> None:
    assert load().admin_listen == [Listen("127.0.0.1", 8001)]
    addresses = "127.0.0.1:8001, 192.0.2.1:8444 ssl"
    text = refusal(tmp_path / "data", ADMIN_LISTEN=addresses)
    assert text.startswith(f"NARTHEX_ADMIN_LISTEN is '{addresses}': expected a loopback address")
    assert "ADMIN_TOKENS_FILE set too: `narthex admin-token NAME ROLE` makes its lines" in text
    for every in ("0.0.0.0:8001", "[::]:8001 ssl", "admin.example:8001"):
        with pytest.raises(SettingsError, match="ADMIN_TOKENS_FILE"):
            load(admin_listen=every)


@dataclass(frozen=True)
class Login:
    file: Path
    tokens: dict[str, str]  # by role

    def get(self, url: str, role: str | None = None, **options: Any) -> httpx.Response:
        headers = {"Kong-Admin-Token": self.tokens[role]} if role else {}
        return httpx.get(url, headers=headers, trust_env=False, timeout=10, **options)


@pytest.fixture
def login(tmp_path: Path) -> Login:
    file, made = tmp_path / "tokens", {role: make_token("me", role) for role in Role}
    for _, line in made.values():
        append(file, line)
    return Login(file, {role: token for role, (token, _) in made.items()})


def test_s84_admin_api_leaves_loopback_for_holders_of_tokens(start: Start, login: Login) -> None:
    process = start(ADMIN_LISTEN="0.0.0.0:0", ADMIN_TOKENS_FILE=str(login.file))
    url = f"http://127.0.0.1:{process.address('admin').rpartition(':')[2]}/services"
    assert login.get(url).status_code == 401
    assert login.get(url, "read-only").status_code == 200
    login.file.write_text("# all of them withdrawn\n")
    assert login.get(url, "read-only").status_code == 401
    warned = [event for event in process.events() if event["event"] == "admin.plain_listener"]
    assert len(warned) == 1 and "`ssl`" in warned[0]["why"]


def test_tokens_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("alice super hunter2\n")
    said = refusal(tmp_path / "data", ADMIN_TOKENS_FILE=str(file))
    assert said.startswith(f"ADMIN_TOKENS_FILE {file} line 1: expected")
    assert "hunter2" not in said


def test_s85_certificate_of_a_data_plane_opens_no_admin_operation(
    start: Start, login: Login, tmp_path: Path
) -> None:
    """Nor does it open one where the same authority signed the Admin API's certificate."""
    authority = pki.make("authority", authority=True)
    server = pki.make("127.0.0.1", signed_by=authority).files(tmp_path)
    dataplane = pki.make("dataplane-1", signed_by=authority).files(tmp_path)
    ca = tmp_path / "ca.crt"
    ca.write_text(authority.cert)
    process = start(
        ADMIN_LISTEN="127.0.0.1:0 ssl",
        ADMIN_TOKENS_FILE=str(login.file),
        ADMIN_TLS_CERT=str(server[0]),
        ADMIN_TLS_KEY=str(server[1]),
        LINK_CERT=str(server[0]),
        LINK_KEY=str(server[1]),
        LINK_CA=str(ca),
    )
    url = f"https://{process.address('admin')}"
    tls = ssl.create_default_context(cafile=str(ca))
    tls.load_cert_chain(*dataplane)
    paths = json.loads((ROOT / "openapi.json").read_text())["paths"]
    asked = 0
    with httpx.Client(base_url=url, verify=tls, trust_env=False, timeout=20) as client:
        for path, methods in paths.items():
            for method in methods:
                answer = client.request(method, re.sub(r"{\w+}", "none", path))
                assert answer.status_code == 401, (method, path)
                asked += 1
    assert asked > 100
    assert login.get(f"{url}/services", "operator", verify=tls).status_code == 200


def test_admin_api_listens_plain_and_over_tls_at_once(
    start: Start, login: Login, tmp_path: Path
) -> None:
    cert, key = make_certificate(tmp_path)
    tls = {"TLS_CERT": str(cert), "TLS_KEY": str(key)}  # unless ADMIN_TLS_CERT names another
    process = start(
        ADMIN_LISTEN="127.0.0.1:0, 127.0.0.1:0 ssl", ADMIN_TOKENS_FILE=str(login.file), **tls
    )
    process.address("link")
    admin = [event for event in process.events() if event.get("name") == "admin"]
    assert [event["tls"] for event in admin] == [False, True]
    plain, secure = (f"{event['address']}/services" for event in admin)
    assert login.get(f"http://{plain}", "super").status_code == 200
    assert login.get(f"https://{secure}", "super", verify=insecure_tls()).status_code == 200
    assert login.get(f"https://{secure}", verify=insecure_tls()).status_code == 401
    assert not [event for event in process.events() if event["event"] == "admin.plain_listener"]
    with pytest.raises(httpx.HTTPError):
        login.get(f"http://{secure}", "super")
    old = insecure_tls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.HTTPError):
        login.get(f"https://{secure}", "super", verify=old)


def test_s86_s87_guard_is_first_in_line(start: Start) -> None:
    admin = start().address("admin")
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        for path in ("/", "/services", "/openapi.json", "/no-such-path"):
            answer = httpx.delete(f"http://{admin}{path}", headers=headers, trust_env=False)
            assert answer.status_code == 403, (headers, path)
            assert answer.headers["content-type"] == "application/json; charset=utf-8"
