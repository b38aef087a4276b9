"""README.md and `make run`, done as they are written: only ports and folders are others."""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.databases import only_sqlite
from tests.gateway import howto
from tests.gateway.test_import_kong import ACCESS, kong_of
from tests.harness import ROOT, START_SECONDS, Gateway, Process, eventually, free_ports
from tests.kong import FakeKong

CURL = Path(__file__).with_name("curl.py")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with a curl that knows --json, should the machine's not."""
    folder = tmp_path / "tools"
    folder.mkdir()
    try:
        knows = (
            "--json"
            in subprocess.run(["curl", "--help", "all"], capture_output=True, text=True).stdout
        )
    except OSError:
        knows = False
    if not knows:
        curl = folder / "curl"
        curl.write_text(f'#!/bin/sh\nexec {sys.executable} {CURL} "$@"\n')
        curl.chmod(curl.stat().st_mode | stat.S_IXUSR)
    return folder


class Shell:
    """Runs commands of the README against a gateway on other ports."""

    def __init__(
        self,
        gateway: Gateway,
        tools: Path,
        echo_port: int = 0,
        kong_port: int = 0,
        **env: str,
    ) -> None:
        ports = gateway.ports
        self._ports = {8000: ports.proxy, 8443: ports.tls, 8001: ports.admin, 8009: echo_port}
        self._ports[8101] = kong_port
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        home = str(gateway.folder.parent)
        self._env = {**gateway.env, "PATH": path, "no_proxy": "*", "HOME": home, **env}
        self._data_dir = str(gateway.data_dir)

    def run(self, script: str) -> list[str]:
        """The lines that the script printed; one that fails ends the test."""
        for documented, real in self._ports.items():
            script = script.replace(f"localhost:{documented}", f"localhost:{real}")
        narthex = f"{shlex.quote(sys.executable)} -m narthex"
        script = script.replace(".venv/bin/narthex", narthex)
        script = script.replace("narthex-data", shlex.quote(self._data_dir))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=self._env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout.splitlines()


def blocks_of(chapter: str) -> list[str]:
    """The shell blocks that a chapter of the README has one do, in order."""
    part = (ROOT / "README.md").read_text().partition(f"\n## {chapter}\n")[2]
    return re.findall(r"```sh\n(.*?)```", part.partition("\n## ")[0], re.DOTALL)


def test_readme_by_hand_ends_with_an_echo(new_gateway: Callable[..., Gateway], tools: Path) -> None:
    gateway = new_gateway()
    gateway.start()
    (echo_port,) = free_ports(1)
    echo = gateway.narthex("echo", "--port", str(echo_port))
    eventually(lambda: "echo upstream on" in echo.output(), START_SECONDS)
    shell = Shell(gateway, tools, echo_port)
    blocks = blocks_of("The same by hand")
    assert len(blocks) == 7
    *configuration, token, connect, apply = blocks
    shell.run("\n".join(configuration))
    gateway.wait_carried()
    exports = "export CLIENT_ID=test-app CLIENT_SECRET=" + _secret_of(gateway)
    answer = json.loads("".join(shell.run(f"{exports}\n{token}")))
    assert re.fullmatch("[A-Za-z0-9]{32}", answer["access_token"])
    assert shell.run(f"{exports}\n{connect}") == ["hello"]
    # The file says the same but for the provision key, which by hand was made.
    *changes, counts = [line for line in shell.run(apply) if not line.startswith(" ")]
    assert all(change.startswith("updated plugins oauth2 on") for change in changes), changes
    assert counts == "created 0, updated 2, deleted 0"


def _secret_of(gateway: Gateway) -> str:
    """What the block that made the credential put into CLIENT_SECRET, in a shell now gone."""
    return str(gateway.admin.get("/consumers/alex/oauth2/test-app").json()["client_secret"])


@only_sqlite
def test_readme_backup_is_restored_as_it_says(
    new_gateway: Callable[..., Gateway], tools: Path
) -> None:
    before, after = new_gateway(), new_gateway()
    before.start()
    made = before.admin.post("/consumers", json={"username": "alex"}).json()
    backup, restore = blocks_of("Backup")
    Shell(before, tools).run(backup)
    before.processes[0].stop()
    Shell(after, tools).run(restore)
    after.start()
    assert after.admin.get("/consumers/alex").json() == made


def test_readme_import_takes_over_a_kong(
    new_gateway: Callable[..., Gateway], tools: Path, echo_url: str
) -> None:
    gateway = new_gateway()
    gateway.start()
    collections = kong_of(echo_url)
    file = {"_format_version": "3.0"} | collections
    (gateway.folder.parent / "kong.yaml").write_text(json.dumps(file))
    by_url, by_file = blocks_of("Coming from Kong")
    with FakeKong(collections) as kong:
        shell = Shell(gateway, tools, kong_port=kong.port)
        said = shell.run(by_url)
    assert said.count("nothing was changed: --dry-run") == 1
    assert [line.split() for line in said if line.startswith("services")] == [
        ["services", "1", "0", "0"]
    ] * 2
    again = shell.run(by_file)
    assert [line.split() for line in again if line.startswith("services")] == [
        ["services", "0", "0", "1"]
    ]
    gateway.wait_carried()
    howto.HowTo(gateway, "", "").echoes(ACCESS)


def test_readme_tokens_of_the_admin_api(new_gateway: Callable[..., Gateway], tools: Path) -> None:
    first, second, audit = blocks_of("Who may configure it")
    gateway = new_gateway()
    shell = Shell(gateway, tools, 8009, HOME=str(gateway.folder))
    (token,) = shell.run(first)
    gateway.settings["ADMIN_TOKENS_FILE"] = str(gateway.folder / "narthex-admin-tokens")
    gateway.admin.headers["Kong-Admin-Token"] = token
    gateway.start_control()
    made, audited = shell.run(f"{first.splitlines()[0]}\n{second}\n{audit}")
    assert json.loads(made.removesuffix("no key yet"))["name"] == "billing"
    (record,) = json.loads(audited)["data"]
    assert (record["who"], record["role"], record["name"]) == ("ci", "operator", "billing")
    assert shell.run("curl http://localhost:8001/services") == [
        '{"message": "a token of the Admin API is needed, as Kong-Admin-Token or '
        'Authorization: Bearer"}'
    ]


# --- make run ------------------------------------------------------------------------------------


@pytest.fixture
def make_run(new_gateway: Callable[..., Gateway]) -> Iterator[Callable[[Gateway], Process]]:
    """`make run` on a gateway's ports, with the engine as the tests have it."""
    made: list[Process] = []

    def start(gateway: Gateway) -> Process:
        env = {**gateway.env, "NARTHEX_DEBUG": "1"}
        made.append(Process(["make", "run"], env, gateway.folder / f"make-{len(made)}.log"))
        return made[-1]

    yield start
    for process in made:
        process.stop()
        print(process.output()[-10000:])


def commands(process: Process) -> tuple[str, str]:
    """The two commands that `make run` prints, once it has printed them."""

    def printed() -> tuple[str, str] | None:
        process.check_running()
        curl = re.search(r"^ +(curl -k -X POST .*)$", process.output(), re.MULTILINE)
        connect = re.search(r"^ +(\.venv/bin/narthex connect .*)$", process.output(), re.MULTILINE)
        return (curl[1], connect[1]) if curl and connect else None

    return eventually(printed, 110, "the two commands")


@pytest.mark.timeout(300)
def test_make_run_prints_commands_that_work_and_the_secret_only_once(
    new_gateway: Callable[..., Gateway], make_run: Callable[[Gateway], Process], tools: Path
) -> None:
    (echo_port,) = free_ports(1)
    gateway = new_gateway()
    gateway.settings["ECHO_PORT"] = str(echo_port)
    shell = Shell(gateway, tools, echo_port)
    first = make_run(gateway)
    curl, connect = commands(first)
    gateway.wait_ready(first)
    assert f"data in {gateway.data_dir}" in first.output()
    answer = json.loads("".join(shell.run(curl)))
    token = answer["access_token"]
    assert shell.run(f"echo hello | {connect.replace('<access_token>', token)}") == ["hello"]
    secret = json.loads(shlex.split(curl)[-1])["client_secret"]
    assert first.output().count(secret) == 1
    assert first.stop() in (0, -15, 2)

    second = make_run(gateway)
    curl_again, connect_again = commands(second)
    assert secret not in second.output()
    assert json.loads(shlex.split(curl_again)[-1])["client_id"] in curl
    assert connect_again == connect
    gateway.wait_ready(second)
    assert shell.run(f"echo again | {connect.replace('<access_token>', token)}") == ["again"]
