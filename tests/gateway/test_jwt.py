"""JWTs through both planes: good without a control plane, and ended by it; keys that stay home."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control.store import Store
from control.store.tables import SigningKey
from dataplane import jws, wire
from dataplane.disk import DiskState
from tests import tokens
from tests.gateway import howto
from tests.gateway.howto import HowTo
from tests.harness import Gateway, Process, eventually

ISSUER = "https://auth.example"
SECONDS = 5.0  # B of decisions.md: how long a revocation may take to a data plane


def carried(
    gateway: Gateway, echo_url: str, monkeypatch: pytest.MonkeyPatch, **config: object
) -> HowTo:
    """The how-to with JWTs."""
    given = {**howto.OAUTH2, "token_format": "jwt", "issuer": ISSUER, **config}
    monkeypatch.setattr(howto, "OAUTH2", given)
    return howto.set_up(gateway, echo_url)


@pytest.fixture
def planes(new_gateway: Callable[..., Gateway]) -> tuple[Gateway, Process, Process]:
    gateway = new_gateway(WORKERS="2", KEY_PUBLISH_SECONDS="10")
    control = gateway.start_control()
    return gateway, control, gateway.start_dataplane()


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
def test_jwt_is_good_and_is_what_it_claims(
    alg: str,
    planes: tuple[Gateway, Process, Process],
    echo_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway, _, _ = planes
    made = carried(gateway, echo_url, monkeypatch, signing_alg=alg)
    token = made.token()
    (key,) = gateway.admin.get("/signing-keys").json()["data"]
    keys = {key["kid"]: jws.VerifyKey(key["kid"], alg, key["public_jwk"])}
    claims = jws.verify_access_token(token, keys, time.time())
    assert (claims["iss"], claims["client_id"], "svc" in claims) == (ISSUER, made.client_id, False)
    made.echoes(token)
    made.echoes(token, tls=True)
    head = token.rpartition(".")[0]
    other = made.token()
    assert made.status_of(f"{head}.{other.rpartition('.')[2]}") == 401
    assert made.status_of(f"{token}=") == 401


def test_jwt_never_seen_is_good_while_the_control_plane_is_gone(
    planes: tuple[Gateway, Process, Process], echo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, control, dataplane = planes
    made = carried(gateway, echo_url, monkeypatch)
    first, second, revoked = made.token(), made.token(), made.token()
    jti = jws.unverified_claims(revoked)["jti"]
    assert gateway.admin.delete(f"/oauth2_tokens/{jti}").status_code == 204
    eventually(lambda: made.status_of(revoked) == 401, SECONDS)
    eventually(lambda: gateway.status().json()["link"]["connected"])
    control.kill()
    made.echoes(first)
    assert made.status_of(revoked) == 401

    assert dataplane.stop() == 0
    gateway.start_dataplane()
    assert not gateway.status().json()["link"]["connected"]
    made.echoes(second)  # S92: what it knew on the disk is enough, and is not forgotten
    assert made.status_of(revoked) == 401
    assert made.status_of(tokens.other_spelling(revoked)) == 401


def test_s14_s05_revoked_jwt_is_refused_in_any_spelling_although_it_is_cached(
    planes: tuple[Gateway, Process, Process], echo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, _, _ = planes
    made = carried(gateway, echo_url, monkeypatch)
    token, bystander = made.token(), made.token()
    other = tokens.other_spelling(token)
    for text in (token, other, bystander):
        made.echoes(text)
    jti = jws.unverified_claims(token)["jti"]
    assert gateway.admin.delete(f"/oauth2_tokens/{jti}").status_code == 204
    eventually(lambda: made.status_of(token) == 401, SECONDS, "the refusal")
    assert made.status_of(other) == 401
    made.echoes(bystander)


@pytest.mark.parametrize(
    "what", ["/consumers/alex/oauth2/{client_id}", "/consumers/alex", "plugin"]
)
def test_s37_jwt_ends_with_what_it_depends_on(
    what: str,
    planes: tuple[Gateway, Process, Process],
    echo_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway, _, _ = planes
    made = carried(gateway, echo_url, monkeypatch)
    seen, unseen = made.token(), made.token()
    made.echoes(seen)
    path = what.format(client_id=made.client_id)
    if what == "plugin":
        path = f"/plugins/{jws.unverified_claims(seen)['pid']}"
    assert gateway.admin.delete(path).status_code == 204
    eventually(lambda: made.status_of(seen) == 401, SECONDS, "the refusal")
    assert made.status_of(unseen) == 401


def test_s37_credential_made_again_has_none_of_the_old_jwts(
    planes: tuple[Gateway, Process, Process], echo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, _, dataplane = planes
    made = carried(gateway, echo_url, monkeypatch)
    before, unseen = made.token(), made.token()
    made.echoes(before)
    path = f"/consumers/alex/oauth2/{jws.unverified_claims(before)['cid']}"
    assert gateway.admin.delete(path).status_code == 204
    body = {"name": "again", "client_id": made.client_id, "client_secret": made.client_secret}
    assert gateway.admin.put(path, json=body).status_code == 200
    gateway.wait_carried()
    after = made.token()
    assert jws.unverified_claims(after)["cid"] == jws.unverified_claims(before)["cid"]
    made.echoes(after)
    assert made.status_of(before) == made.status_of(unseen) == 401

    assert dataplane.stop() == 0  # and it knows so from the disk, or is told again
    gateway.start_dataplane()
    made.echoes(after)
    assert made.status_of(before) == made.status_of(unseen) == 401


# --- S18: rotation ------------------------------------------------------------------------------


def test_s18_rotation_under_load_refuses_nobody_and_a_key_taken_away_ends_its_tokens(
    planes: tuple[Gateway, Process, Process], echo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, _, _ = planes
    made = carried(gateway, echo_url, monkeypatch)
    old = made.token()
    done = threading.Event()
    statuses: list[tuple[str, int]] = []

    def dial() -> None:
        while not done.is_set():
            token = made.token()
            statuses.append((jws.kid_of(token), made.status_of(token)))

    threads = [threading.Thread(target=dial) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(statuses) > 5, 20)
        assert gateway.admin.post("/signing-keys/rotate", json={}).status_code == 200
        eventually(lambda: len({kid for kid, _ in statuses}) == 2, 30, "tokens of the new key")
        count = len(statuses)
        eventually(lambda: len(statuses) > count + 5, 20)
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert {status for _, status in statuses} == {101}
    made.echoes(old)  # retired, and good until its tokens have expired
    assert gateway.admin.delete(f"/signing-keys/{jws.kid_of(old)}").status_code == 204
    eventually(lambda: made.status_of(old) == 401, SECONDS, "the end of the key's tokens")
    made.echoes(made.token())


# --- S17: where the private key is not ----------------------------------------------------------


def keyring(gateway: Gateway) -> MultiFernet:
    keys = (gateway.data_dir / "keyring").read_text().split()
    return MultiFernet([Fernet(key) for key in keys])


def private_forms(pem: str) -> list[bytes]:
    """What of a private key would be found by somebody who looks for it."""
    key = serialization.load_pem_private_key(pem.encode(), None)
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if isinstance(key, ec.EllipticCurvePrivateKey):
        secret = key.private_numbers().private_value
    else:
        assert isinstance(key, rsa.RSAPrivateKey)
        secret = key.private_numbers().d
    size = (secret.bit_length() + 7) // 8
    big = secret.to_bytes(size, "big")
    lines = [line for line in pem.splitlines() if not line.startswith("-----")]
    return [
        pem.encode(),
        *(line.encode() for line in lines[1:]),  # the first of RS256 is the same in all keys
        der,
        big,
        secret.to_bytes(size, "little"),  # as OpenSSL keeps it
        base64.b64encode(big),
        base64.urlsafe_b64encode(big).rstrip(b"="),
        f"{secret:x}".encode(),
    ]


def memory(pid: int) -> list[bytes]:
    """All that a process can read of itself."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_, name = [*line.split(), ""]
            if "r" not in rights or name in ("[vvar]", "[vsyscall]"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                file.seek(start)
                found.append(file.read(end - start))
            except (OSError, ValueError):
                continue  # a mapping that cannot be read, by itself neither
    return found


@pytest.mark.parametrize("alg", ["ES256", "RS256"])
def test_s17_private_key_is_not_with_the_data_plane(
    alg: str,
    planes: tuple[Gateway, Process, Process],
    echo_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway, control, dataplane = planes
    made = carried(gateway, echo_url, monkeypatch, signing_alg=alg)
    made.echoes(made.token())
    store = Store(f"sqlite:///{gateway.data_dir / 'narthex.db'}", keyring(gateway))
    try:
        with store.reading() as session:
            (row,) = session.query(SigningKey).all()
    finally:
        store.close()
    forms = private_forms(row.private_pem)
    assert min(map(len, forms)) >= 4

    def holds(data: list[bytes]) -> bool:
        # Short ends of a PEM body may be anywhere by chance.
        return any(form in piece for form in forms if len(form) >= 24 for piece in data)

    theirs = memory(dataplane.pid)
    assert any(row.kid.encode() in piece for piece in theirs)  # the search finds what is there
    assert not holds(theirs)
    assert holds(memory(control.pid))  # and finds a private key where one is
    assert not holds([gateway.admin.get("/signing-keys").content])

    assert dataplane.stop() == 0
    folder = gateway.data_dir / "dataplane"
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    state = DiskState(folder, keyring(gateway))
    snapshot = state.load().snapshot
    state.close()
    assert snapshot is not None and [key.kid for key in snapshot.keys] == [row.kid]
    assert not holds([*files, wire.pack_snapshot(snapshot)])
    assert b"PRIVATE" not in wire.pack_snapshot(snapshot)
