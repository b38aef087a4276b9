"""What stands in the way of a start is one line that names it."""

from __future__ import annotations

import base64
import datetime
import os
import re
import resource
import socket
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dataplane import certificate, startup
from dataplane.certificate import CertificateError, check_pair, own_pair
from dataplane.settings import Listener, SettingsError, load
from dataplane.startup import StartError
from tests.dataplane.engine_kit import rig as new_rig


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("NARTHEX_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- DATA_DIR and KEYRING ---


def test_data_dir_is_made_for_us_alone(tmp_path: Path) -> None:
    made = startup.prepare_data_dir(load(data_dir=tmp_path / "a" / "b"))
    assert mode(made) == 0o700
    assert startup.prepare_data_dir(load(data_dir=made)) == made


def test_data_dir_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"DATA_DIR .*file: cannot be used"):
        startup.prepare_data_dir(load(data_dir=tmp_path / "file"))
    with pytest.raises(StartError, match=r"DATA_DIR .*cannot be used"):
        startup.lock_data_dir(tmp_path / "file")


def test_data_dir_that_takes_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(StartError, match=r"DATA_DIR .*Permission denied"):
        startup.prepare_data_dir(load(data_dir=tmp_path))


def test_second_data_plane_is_kept_out_of_data_dir(tmp_path: Path) -> None:
    another = "another data plane uses it"
    with startup.lock_data_dir(tmp_path), pytest.raises(StartError, match=another):
        startup.lock_data_dir(tmp_path)
    startup.lock_data_dir(tmp_path).close()


def test_keyring_is_made_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    box = startup.load_keyring(path).encrypt(b"x")
    assert mode(path) == 0o600
    path.write_text(f"{Fernet.generate_key().decode()}\n{path.read_text()}")
    assert startup.load_keyring(path).decrypt(box) == b"x"
    assert [p.name for p in tmp_path.iterdir()] == ["keyring"]


def test_ticket_keys_come_from_the_keyring_newest_first(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    (first,) = startup.ticket_keys(path)
    assert len(first) == 80
    newer = Fernet.generate_key().decode()
    path.write_text(f"{newer}\n{path.read_text()}")
    keys = startup.ticket_keys(path)
    assert keys[1] == first == startup.ticket_keys(path)[1]
    assert (
        len({keys[0][:16], keys[0][16:48], keys[0][48:]} | {base64.urlsafe_b64decode(newer)}) == 4
    )
    path.write_text("\n".join(Fernet.generate_key().decode() for _ in range(20)))
    assert len(startup.ticket_keys(path)) == 16


def test_keyring_of_another_writer_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keyring"
    theirs = Fernet.generate_key()
    monkeypatch.setattr(Path, "exists", lambda self: False)  # it came right after we looked
    path.write_bytes(theirs)
    assert startup.load_keyring(path).decrypt(Fernet(theirs).encrypt(b"x")) == b"x"
    assert path.read_bytes() == theirs


@pytest.mark.parametrize("content", [b"", b"\n", b"not a key\n", b"\xff\xfe"])
def test_keyring_that_is_none_is_named_and_not_shown(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    path.write_bytes(content)
    with pytest.raises(StartError, match=r"KEYRING .*keyring: one Fernet key") as caught:
        startup.load_keyring(path)
    assert "not a key" not in str(caught.value)


def test_keyring_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"KEYRING .*cannot be used: Is a directory"):
        startup.load_keyring(tmp_path)
    with pytest.raises(StartError, match=r"KEYRING .*cannot be used: No such file"):
        startup.load_keyring(tmp_path / "none" / "keyring")


# --- ports ---


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_port_in_use_is_found_though_it_could_be_shared(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((address, 0))
        other.listen()
        listener = Listener(address, other.getsockname()[1])
        text = re.escape(f"PROXY_LISTEN {listener}: is in use; stop what listens there")
        with pytest.raises(StartError, match=text):
            startup.check_ports_free([Listener(address, 0), listener])
    startup.check_ports_free([listener])


def test_port_that_another_setting_took_is_found() -> None:
    """STATUS_LISTEN on a port of PROXY_LISTEN: neither listens when the other is bound."""
    with startup.bind("STATUS_LISTEN", Listener("127.0.0.1", 0)) as status:
        listener = Listener("127.0.0.1", status.getsockname()[1])
        with pytest.raises(StartError, match=r"PROXY_LISTEN .* is in use"):
            startup.check_ports_free([listener])


def test_both_families_may_have_the_same_port() -> None:
    with startup.bind("X", Listener("0.0.0.0", 0)) as four:
        assert four.proto == socket.IPPROTO_TCP  # else asyncio sets no TCP_NODELAY
        port = four.getsockname()[1]
        startup.bind("X", Listener("::", port)).close()


def test_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(StartError, match=r"STATUS_LISTEN 192\.0\.2\.1:80: cannot be listened on"):
        startup.bind("STATUS_LISTEN", Listener("192.0.2.1", 80))


# --- certificates ---


def write_pair(
    folder: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b""
) -> tuple[Path, Path]:
    cert_path, key_path = own_pair(folder)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return cert_path, key_path


def test_own_pair_is_p256_for_localhost_and_its_key_is_ours_alone(tmp_path: Path) -> None:
    cert_path, key_path = own_pair(tmp_path)
    assert (mode(cert_path), mode(key_path)) == (0o600, 0o600)
    made = check_pair(cert_path, key_path)
    public = made.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    addresses = [str(a) for a in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["127.0.0.1", "::1"]
    assert own_pair(tmp_path) == (cert_path, key_path)
    assert check_pair(cert_path, key_path) == made  # kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tls.crt", "tls.key"]


def test_own_pair_is_made_anew_when_about_to_expire_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "DAYS_VALID", certificate.DAYS_LEFT_MIN - 1)
    old = check_pair(*own_pair(tmp_path))
    monkeypatch.undo()
    new = check_pair(*own_pair(tmp_path))
    left = new.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert new != old
    assert left.days > 300
    (tmp_path / "tls.key").write_text("broken")
    assert check_pair(*own_pair(tmp_path)) != new


def test_own_pair_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"cannot write .*tls\.key\.new: No such file"):
        own_pair(tmp_path / "none")


def test_certificate_of_another_key_is_refused(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(CertificateError, match=r"tls\.key is not the key of .*tls\.crt"):
        check_pair(*pair)


def test_encrypted_key_is_refused_in_words(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, ec.generate_private_key(ec.SECP256R1()), b"password")
    with pytest.raises(CertificateError, match=r"tls\.key is encrypted"):
        check_pair(*pair)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", b"\xff\x00"])
def test_files_that_hold_something_else_are_named(content: bytes, tmp_path: Path) -> None:
    cert_path, key_path = own_pair(tmp_path)
    other = tmp_path / "other"
    other.write_bytes(content)
    with pytest.raises(CertificateError, match="other holds no PEM private key"):
        check_pair(cert_path, other)
    with pytest.raises(CertificateError, match="other holds no PEM certificate"):
        check_pair(other, key_path)
    with pytest.raises(CertificateError, match=r"cannot read .*none: No such file"):
        check_pair(cert_path, tmp_path / "none")


def test_certificate_settings_are_checked_before_the_engine_sees_them(tmp_path: Path) -> None:
    cert_path, key_path = own_pair(tmp_path)
    settings = load(tls_cert=cert_path, tls_key=key_path)
    assert startup.certificate_pair(settings, tmp_path) == (cert_path, key_path)
    key_path.write_text("")
    with pytest.raises(StartError, match=r"TLS_CERT, TLS_KEY: .*tls\.key holds no PEM"):
        startup.certificate_pair(settings, tmp_path)
    (tmp_path / "new").mkdir()
    assert startup.certificate_pair(load(), tmp_path / "new")[0].name == "tls.crt"


def test_files_that_settings_name_are_checked_and_none_is_made(tmp_path: Path) -> None:
    data = tmp_path / "data"
    startup.check_files(load(data_dir=data))
    assert not data.exists()
    cert_path, key_path = own_pair(tmp_path)
    good = {"data_dir": data, "tls_cert": cert_path, "tls_key": key_path}
    startup.check_files(load(**good))
    for wrong, text in (
        ({"tls_key": tmp_path / "none"}, r"TLS_CERT, TLS_KEY: cannot read .*none"),
        ({"keyring": cert_path}, r"KEYRING .*tls.crt: one Fernet key a line"),
        ({"keyring": tmp_path / "no" / "k"}, r"KEYRING .*no/k: cannot be made"),
        (
            {"link_url": "wss://c.example:1", "link_cert": cert_path, "link_key": key_path,
             "link_ca": tmp_path / "none"},
            r"LINK_CA .*none: cannot be used",
        ),
    ):  # fmt: skip
        with pytest.raises(StartError, match=text):
            startup.check_files(load(**{**good, **wrong}))
    assert not data.exists()


# --- the link ---


def test_link_trusts_the_secret_or_certificates(tmp_path: Path) -> None:
    assert startup.link_trust(load(link_secret="s" * 16)) == startup.Trust(b"s" * 16, None)
    cert_path, key_path = own_pair(tmp_path)
    given = {"link_url": "wss://c.example:8005", "link_cert": cert_path, "link_key": key_path}
    trust = startup.link_trust(load(**given, link_ca=cert_path))
    assert trust.secret is None
    assert trust.tls is not None
    assert trust.tls.check_hostname
    with pytest.raises(StartError, match=r"LINK_CA .*none: cannot be used: No such file"):
        startup.link_trust(load(**given, link_ca=tmp_path / "none"))
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(StartError, match=r"LINK_CA .*junk: cannot be used"):
        startup.link_trust(load(**given, link_ca=tmp_path / "junk"))
    key_path.write_text("junk")
    with pytest.raises(StartError, match=r"LINK_CERT, LINK_KEY: .*holds no PEM"):
        startup.link_trust(load(**given, link_ca=cert_path))
    with pytest.raises(SettingsError, match="LINK_SECRET"):
        startup.link_trust(load(data_dir=tmp_path))


# --- limits ---


def test_file_descriptor_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        assert startup.raise_fd_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert startup.raise_fd_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


OURS = 148  # with two workers and two listeners


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_descriptors_of_ours_are_enough_for_the_engine(workers: int) -> None:
    """Counted: an engine of so many workers with the listeners of the settings."""
    settings = load(workers=workers, proxy_listen="127.0.0.1:8000, 127.0.0.1:8443, [::1]:8000")

    def count() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = count()
    with new_rig(workers) as rig:
        for listener in settings.proxy_listen[1:]:  # one it has
            rig.engine.listen("127.0.0.1", 0, listener.tls)
        opened = count() - before
    assert workers * 5 < opened <= startup.fds_of_ours(settings) - startup.FDS_OF_PYTHON + 8
    assert startup.fds_of_ours(settings) == 128 + workers * 11


@pytest.mark.parametrize(
    ("fds", "sessions"),
    [(20000, (20000 - OURS) // 2), (100, 1), (2**30, startup.SESSIONS_MAX)],
)
def test_sessions_follow_the_file_descriptors(fds: int, sessions: int) -> None:
    assert startup.sessions_max(load(workers=2), fds) == sessions
    assert startup.sessions_max(load(max_sessions=7), fds) == 7


@pytest.mark.parametrize(
    ("fds", "given", "connections"),
    [
        (20000, {}, (20000 - OURS) // 2),
        (20000, {"max_sessions": 1000 - OURS}, 19000),
        (20000, {"max_sessions": 20000}, (20000 - OURS) // 2),
        (20000, {"max_connections": 5}, 5),
        (100, {}, 1),
        (2**30, {}, startup.CONNECTIONS_MAX),
    ],
)
def test_connections_are_what_the_sessions_leave_of_the_descriptors(
    fds: int, given: dict[str, int], connections: int
) -> None:
    assert startup.connections_max(load(workers=2, **given), fds) == connections
