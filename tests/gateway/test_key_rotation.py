"""Signing keys on two data planes: rotated under load, ended; where they never are.  S17, S18."""

from __future__ import annotations

import json
import threading
import time
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from control.keyring import load_keyring
from control.store import Store, signing_keys
from control.store.tables import SigningKey
from dataplane import jws
from tests.gateway import howto
from tests.harness import Gateway, Process, eventually

ISSUER = "https://localhost/token-route"
PUBLISH_SECONDS = 10  # the least that may be set
LOAD_THREADS = 2


class Rotation:
    """A control plane that issues JWTs, and two data planes."""

    def __init__(self, new_gateway: Callable[..., Gateway], echo_url: str) -> None:
        self.control = new_gateway(
            LINK_SECRET="secret-of-the-rotation", KEY_PUBLISH_SECONDS=str(PUBLISH_SECONDS)
        )
        self.control.start_control()
        link = {"LINK_SECRET": "secret-of-the-rotation"}
        link["LINK_URL"] = f"ws://127.0.0.1:{self.control.ports.link}"
        other = new_gateway(**link)
        self.planes = (self.control, other)
        self.processes: list[Process] = [plane.start_dataplane() for plane in self.planes]
        self.made = howto.configure(self.control, echo_url)
        for plugin in self.control.admin.get("/plugins").json()["data"]:
            config = {"token_format": "jwt", "issuer": ISSUER, "token_expiration": 60}
            answer = self.control.admin.patch(f"/plugins/{plugin['id']}", json={"config": config})
            assert answer.status_code == 200, answer.text
        eventually(self._carried, what="two data planes with the newest configuration")

    def _carried(self) -> bool:
        rows = self.control.admin.get("/dataplanes").json()["data"]
        return [row["sync_status"] for row in rows if row["connected"]] == ["normal"] * 2

    def store(self) -> Store:
        data = self.control.data_dir
        return Store(f"sqlite:///{data / 'narthex.db'}", load_keyring(data / "keyring"))

    def private_pem(self, kid: str) -> str:
        store = self.store()
        with store.reading() as session:
            pem = session.get_one(SigningKey, kid).private_pem
        store.close()
        return pem

    def statuses(self, token: str) -> list[int]:
        """Of a handshake with this token on each data plane."""
        asked = (howto.HowTo(plane, "", "") for plane in self.planes)
        return [plane.status_of(token) for plane in asked]

    def keys(self) -> dict[str, dict[str, Any]]:
        listed = self.control.admin.get("/signing-keys").json()["data"]
        return {key["status"]: key for key in listed}


@pytest.fixture
def rotation(new_gateway: Callable[..., Gateway], echo_url: str) -> Rotation:
    return Rotation(new_gateway, echo_url)


def kid_of(token: str) -> str:
    kid: str = json.loads(urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]
    return kid


class Load:
    """Handshakes on both data planes with tokens new and older, until it is stopped."""

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation
        self._stop = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.kids: set[str] = set()
        self.faults: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(LOAD_THREADS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def _run(self) -> None:
        tokens: list[tuple[float, str]] = []
        try:
            while not self._stop.is_set():
                token = self._rotation.made.token()
                now = time.monotonic()
                tokens = [*(item for item in tokens if now - item[0] < 30), (now, token)]
                self.kids.add(kid_of(token))
                for shown in (token, tokens[0][1]):
                    self.statuses.update(self._rotation.statuses(shown))
        except BaseException as error:
            self.faults.append(error)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def forged_later(token: str, kid: str, pem: str) -> str:
    """What somebody with a private key could make of a token: another one, good for a day."""
    claims = jws.unverified_claims(token)
    claims |= {"exp": int(time.time()) + 86400, "jti": str(uuid.uuid4())}
    return jws.SigningKey(kid, "ES256", pem).sign(claims, "at+jwt")


def test_s18_rotation_under_load_refuses_no_handshake_and_ends_the_old_key(
    rotation: Rotation,
) -> None:
    old = rotation.keys()["signing"]["kid"]
    with Load(rotation) as load:
        eventually(lambda: old in load.kids, 20, "a token of the old key")
        answer = rotation.control.admin.post("/signing-keys/rotate", json={})
        assert answer.status_code == 200, answer.text
        (new,) = answer.json()["data"]
        assert new["active_at"] - new["created_at"] == pytest.approx(PUBLISH_SECONDS)
        eventually(lambda: new["kid"] in load.kids, 60, "a token of the new key")
        many = load.statuses.total() + 40
        eventually(lambda: load.statuses.total() > many, 60, "handshakes after the rotation")
    assert load.faults == []
    assert set(load.statuses) == {101}, load.statuses
    assert load.kids == {old, new["kid"]}

    # Its longest token has ended; whoever holds the private key could still sign with it.
    retired = rotation.keys()["retired"]
    assert retired["gone_at"] == pytest.approx(
        retired["retired_at"] + 60 + signing_keys.LEEWAY_SECONDS
    )
    good = rotation.made.token()
    pem = rotation.private_pem(old)

    def forged() -> list[int]:
        return rotation.statuses(forged_later(good, old, pem))

    assert forged() == [101, 101]
    store = rotation.store()
    with store.writing() as session:
        session.get_one(SigningKey, old).gone_at = time.time() + 2
        session.note_config()
    store.close()
    eventually(lambda: forged() == [401, 401], 20, "the end of the old key")
    assert rotation.statuses(good) == [101, 101]


def test_ended_key_takes_its_tokens_with_it_on_every_data_plane(rotation: Rotation) -> None:
    token = rotation.made.token()
    assert rotation.statuses(token) == [101, 101]  # they are known by now, and refused all the same
    kid = kid_of(token)
    assert rotation.control.admin.delete(f"/signing-keys/{kid}").status_code == 204
    eventually(lambda: rotation.statuses(token) == [401, 401], 20, "tokens of the key refused")
    eventually(lambda: rotation.statuses(rotation.made.token()) == [101, 101], 20, "another key")


def test_s17_private_key_is_neither_on_a_data_planes_disk_nor_in_its_memory(
    rotation: Rotation,
) -> None:
    token = rotation.made.token()
    assert rotation.statuses(token) == [101, 101]
    pem = rotation.private_pem(kid_of(token))
    key = load_pem_private_key(pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number = key.private_numbers().private_value
    secrets = [
        number.to_bytes(32, "big"),
        number.to_bytes(32, "little"),
        urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"="),
        pem.splitlines()[1].encode(),
    ]
    public = kid_of(token).encode()
    other = rotation.planes[1].data_dir
    for path in (path for path in other.rglob("*") if path.is_file()):
        assert not any(secret in path.read_bytes() for secret in secrets), path
    for process in rotation.processes:
        dump = memory_of(process.pid)
        assert public in dump  # the public half is there: the dump shows what there is
        assert not any(secret in dump for secret in secrets)


def memory_of(pid: int) -> bytes:
    """All that a process may write to, as it is now."""
    dump = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if not rights.startswith("rw") or "[v" in line:
                continue
            begin, end = (int(place, 16) for place in span.split("-"))
            try:
                memory.seek(begin)
                dump += memory.read(min(end - begin, 64 * 1024 * 1024))
            except OSError:  # it went, or is of a device
                continue
    return bytes(dump)
