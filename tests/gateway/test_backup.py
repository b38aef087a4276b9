"""A backup taken while the gateway serves and writes, and the gateway that starts on it."""

from __future__ import annotations

import json
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import howto
from tests.harness import Gateway, eventually
from tests.pki import make

COLLECTIONS = (
    "services", "routes", "plugins", "consumers", "oauth2", "oauth2_tokens",
    "certificates", "snis", "ca_certificates", "tags",
)  # fmt: skip
GROWING = ("consumers", "oauth2_tokens")  # what is written while the backup is taken


def dump(gateway: Gateway) -> dict[str, set[str]]:
    """Everything that the Admin API shows, an entity a line."""
    return {name: set(lines(gateway, f"/{name}?size=1000")) for name in COLLECTIONS}


def lines(gateway: Gateway, path: str | None) -> Iterator[str]:
    while path is not None:
        page = gateway.admin.get(path)
        assert page.status_code == 200, page.text
        body: dict[str, Any] = page.json()
        for entity in body["data"]:
            entity.pop("ttl", None)  # counts down
            yield json.dumps(entity, sort_keys=True)
        path = body["next"]


@contextmanager
def writing(gateway: Gateway, made: howto.HowTo) -> Iterator[Callable[[], int]]:
    """Consumers made and tokens issued without a pause; gives how many rounds are done."""
    done, stop = [0], threading.Event()

    def write() -> None:
        while not stop.is_set():
            howto.post(gateway, "/consumers", username=f"written-{done[0]}")
            assert made.ask_token().status_code == 200
            done[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield lambda: done[0]
    finally:
        stop.set()
        writer.join(20)


def restored(gateway: Gateway, copy: Path, new_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway on a fresh DATA_DIR: the backup, the keyring, and a data plane that was there."""
    after = new_gateway()
    after.data_dir.mkdir(mode=0o700)
    shutil.copy(gateway.data_dir / "keyring", after.data_dir / "keyring")
    # This one knows a later version of the database than the backup holds.
    shutil.copytree(gateway.data_dir / "dataplane", after.data_dir / "dataplane")
    done = after.run("restore", str(copy))
    assert done.returncode == 0, done.stderr
    assert "Start the gateway" in done.stdout
    after.start()
    return after


@pytest.fixture
def source(new_gateway: Callable[..., Gateway]) -> Gateway:
    gateway = new_gateway()
    gateway.start()
    return gateway


def test_backup_under_writes_restores_to_the_same_dump(
    source: Gateway, new_gateway: Callable[..., Gateway], echo_url: str, tmp_path: Path
) -> None:
    made = howto.set_up(source, echo_url)
    pair = make("backup.example")
    howto.post(source, "/certificates", cert=pair.cert, key=pair.key, snis=["backup.example"])
    token = made.token()
    copy = tmp_path / "narthex.backup"
    with writing(source, made) as rounds:
        eventually(lambda: rounds() > 5)
        before = dump(source)
        done = source.run("backup", str(copy))
        assert done.returncode == 0, done.stderr
        after = dump(source)
        # Those who wrote went on meanwhile.
        eventually(lambda: rounds() > len(after["consumers"]))
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert str(source.data_dir / "keyring") in done.stdout

    late = made.token()
    howto.post(source, "/services", name="made-later", host="later.example")
    source.wait_carried()
    for process in source.processes:
        process.stop()

    again = restored(source, copy, new_gateway)
    found = dump(again)
    for name in COLLECTIONS:
        if name in GROWING:
            assert before[name] <= found[name] <= after[name]
        else:
            assert found[name] == before[name], name
    again.wait_carried()  # its data plane knew a later version, of another past
    howto_again = howto.HowTo(again, made.client_id, made.client_secret)
    howto_again.echoes(token)
    howto_again.echoes(howto_again.token())
    assert howto_again.status_of(late) == 401


def test_restore_is_refused_while_a_gateway_runs(source: Gateway, tmp_path: Path) -> None:
    copy = tmp_path / "narthex.backup"
    assert source.run("backup", str(copy)).returncode == 0
    done = source.run("restore", "--replace", str(copy))
    assert done.returncode == 1
    assert "another gateway uses it; stop that one" in done.stderr
    again = source.run("backup", str(copy))
    assert again.returncode == 1 and "exists already" in again.stderr
    assert source.admin.get("/status").status_code == 200


def test_backup_and_restore_ask_for_the_keyring(
    new_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = new_gateway()
    for command in ("backup", "restore"):
        done = gateway.run(command, str(tmp_path / "narthex.backup"))
        assert done.returncode == 1
        assert f"KEYRING {gateway.data_dir / 'keyring'}: there is no such file" in done.stderr
    assert not gateway.data_dir.exists()  # no keyring was made that opens nothing
