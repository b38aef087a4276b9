"""S93: what lies on the disk, in a backup too, is of no use to who finds it without KEYRING."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from sqlmodel import select

from control.store import Store
from control.store.tables import SigningKey
from tests.gateway.oauth2.answers import issued
from tests.gateway.oauth2.apis import Api, unique
from tests.gateway.oauth2.kit import Site
from tests.harness import eventually
from tests.pki import make

PEM_LINE_CHARS = 64


def forms(secret: bytes) -> Iterator[bytes]:
    """A secret as it is, in hexadecimal, and in base64 wherever in a longer text it begins."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            coded = encode(b"\0" * before + secret).rstrip(b"=")
            yield coded[4 if before else 0 : -1]  # without what its neighbours have a part in


def found_in(data: bytes, secret: bytes) -> bool:
    return any(form in data for form in forms(secret))


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc"])
@pytest.mark.parametrize("encode", [bytes, base64.b64encode, base64.urlsafe_b64encode, bytes.hex])
def test_secret_in_disguise_is_found(before: bytes, encode: object) -> None:
    secret = bytes(range(240, 256)) + b"and some text"
    assert callable(encode)
    hidden = encode(before + secret + b"behind")
    text = hidden if isinstance(hidden, bytes) else hidden.encode()
    assert found_in(b"..." + text + b"...", secret)
    assert not found_in(b"..." + text + b"...", secret[::-1])


def issue(site: Site) -> dict[str, bytes]:
    """One of each secret, made through the endpoints that clients and operators use."""
    provision_key = unique("provision")
    api = site.new_api(provision_key=provision_key)
    app, hashed = site.app(), site.app(client_secret=unique("secret"), hash_secret=True)
    own = {"provision_key": provision_key}
    pair = issued(api.password(app, **own))
    issuer = f"https://{unique('rest')}.test"
    jwt = site.new_api(
        token_format="jwt", issuer=issuer, provision_key=provision_key, endpoints="all"
    )
    api.until(200, pair["access_token"])  # used, so that the data plane has it too
    signed = str(jwt.client_credentials(app).json["access_token"])
    found = {
        "access token": pair["access_token"],
        "refresh token": pair["refresh_token"],
        "code": api.code(app, **own),
        "JWT's signature": signed.rpartition(".")[2],
        "refresh token beside a JWT": jwt.password(app, **own).json["refresh_token"],
        "ticket": ticket(jwt, signed),
        "client secret": app.secret,
        "client secret, hashed": hashed.secret,
        "provision key": provision_key,
    }
    return {name: str(value).encode() for name, value in found.items()}


def ticket(api: Api, token: str) -> str:
    body = {"uri": f"ws://gateway.test{api.path}"}
    answer = api.endpoint("ticket", json_body=body, headers=[("Authorization", f"Bearer {token}")])
    assert answer.status == 201, answer.body
    return str(answer.json["ticket"])


def key_forms(pem: str) -> Iterator[bytes]:
    """A private key as text, as structure, and as the number that it is."""
    key = load_pem_private_key(pem.encode(), None)
    yield from (line.encode() for line in pem.splitlines() if len(line) == PEM_LINE_CHARS)
    yield key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    yield key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]


def signing_keys(folder: Path) -> list[str]:
    keys = [Fernet(line) for line in (folder / "keyring").read_text().split()]
    store = Store(f"sqlite:///{folder / 'narthex.db'}", MultiFernet(keys))
    try:
        with store.reading() as session:
            rows = session.exec(select(SigningKey).where(SigningKey.alg == "ES256")).all()
            return [row.private_pem for row in rows]
    finally:
        store.close()


def on_disk(folder: Path) -> dict[str, bytes]:
    """All that a gateway keeps, but for the keyring and the files of settings."""
    apart = ("keyring", "link.secret")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in apart and path.suffix not in (".pem", ".lock")
    }


def test_s93_disk_and_backup_hold_no_secret_in_usable_form(site: Site, tmp_path: Path) -> None:
    folder = site.gateway.data_dir
    secrets = issue(site)
    pair = make(f"{unique('rest')}.example")
    names = [unique("sni") + ".example"]
    site.post("/certificates", cert=pair.cert, key=pair.key, snis=names)
    site.carried()
    for number, form in enumerate(key_forms(pair.key)):
        secrets[f"certificate's key {number}"] = form
    for pem in signing_keys(folder):
        secrets |= {f"signing key {number}": form for number, form in enumerate(key_forms(pem))}

    copy = tmp_path / "narthex.backup"
    done = site.gateway.run("backup", str(copy))
    assert done.returncode == 0, done.stderr
    # The data plane writes its log a little later than it answers.
    size = eventually(lambda: (folder / "dataplane" / "stream.log").stat().st_size)
    assert size > 0
    files = on_disk(folder) | {"the backup": copy.read_bytes()}
    assert {"narthex.db", "narthex.db-wal", "dataplane/stream.log", "the backup"} <= files.keys()
    assert any(name.startswith("dataplane/snapshot.") for name in files)
    # They are looked for in the right place: there is what stands for them, or beside them.
    database = files["narthex.db"] + files["narthex.db-wal"]
    digested = ("access token", "refresh token", "code", "ticket")
    there = [hashlib.sha256(secrets[name]).digest() for name in digested]
    for told in (*there, names[0].encode(), b"signing_keys", b"$sealed"):
        assert told in database and told in files["the backup"]
    shown = [
        (name, file)
        for name, secret in secrets.items()
        for file, data in files.items()
        if found_in(data, secret)
    ]
    assert not shown
