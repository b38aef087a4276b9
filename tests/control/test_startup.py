"""control/startup.py: what is made and checked before serving; each failure in words."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from control import startup
from control.settings import Listen, load
from control.startup import StartError
from tests.control.certificates import make_certificate


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_data_dir_is_made_for_us_alone(tmp_path: Path) -> None:
    path = startup.prepare_data_dir(load(data_dir=tmp_path / "a" / "b"))
    assert path.is_absolute() and mode(path) == 0o700
    assert startup.prepare_data_dir(load(data_dir=path)) == path


def test_data_dir_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"DATA_DIR /.*/file: cannot be used: File exists"):
        startup.prepare_data_dir(load(data_dir=tmp_path / "file"))


def test_data_dir_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(StartError, match="Permission denied"):
        startup.prepare_data_dir(load(data_dir=tmp_path))


def test_data_dir_belongs_to_one_control_plane(tmp_path: Path) -> None:
    with startup.lock_data_dir(tmp_path), pytest.raises(StartError, match="another control plane"):
        startup.lock_data_dir(tmp_path)
    startup.lock_data_dir(tmp_path).close()


def test_data_dir_that_cannot_be_locked_is_said(tmp_path: Path) -> None:
    (tmp_path / "control.lock").mkdir()
    with pytest.raises(StartError, match="cannot be used: Is a directory"):
        startup.lock_data_dir(tmp_path)


def test_link_secret_is_made_once_and_for_us_alone(tmp_path: Path) -> None:
    made = startup.link_secret(load(), tmp_path)
    file = tmp_path / "link.secret"
    assert mode(file) == 0o600
    assert len(bytes.fromhex(made.decode())) == 32
    assert startup.link_secret(load(), tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == ["link.secret"]


def test_link_secret_of_the_settings_needs_no_file(tmp_path: Path) -> None:
    assert startup.link_secret(load(link_secret="x" * 16), tmp_path) == b"x" * 16
    assert list(tmp_path.iterdir()) == []


def test_link_secret_made_by_another_process_meanwhile_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "link.secret"
    file.write_text("0123456789abcdef")
    startup._write_once(file, "mine")
    assert startup.link_secret(load(), tmp_path) == b"0123456789abcdef"
    assert [path.name for path in tmp_path.iterdir()] == ["link.secret"]


@pytest.mark.parametrize("content", [b"", b"short\n", "\u00fc".encode() * 20])
def test_link_secret_that_is_none_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "link.secret").write_bytes(content)
    with pytest.raises(StartError, match=r"LINK_SECRET .*16 characters or more") as wrong:
        startup.link_secret(load(), tmp_path)
    assert "short" not in str(wrong.value)


def test_link_secret_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "link.secret").mkdir()
    with pytest.raises(StartError, match="cannot be read: Is a directory"):
        startup.link_secret(load(), tmp_path)


def test_port_in_use_is_found_though_reuseport_would_share_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = Listen("127.0.0.1", other.getsockname()[1])
        with pytest.raises(StartError, match=rf"ADMIN_LISTEN {listen}: is in use; stop what"):
            startup.bind("ADMIN_LISTEN", listen)


def test_accepted_connection_sends_at_once() -> None:
    """Else an answer's body, sent after its head, waits 40 ms for an acknowledgement."""
    options: asyncio.Queue[int]

    def note(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        options.put_nowait(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def connect() -> int:
        nonlocal options
        options = asyncio.Queue()
        with startup.bind("ADMIN_LISTEN", Listen("127.0.0.1", 0)) as bound:
            async with await asyncio.start_server(note, sock=bound):
                _, writer = await asyncio.open_connection(*bound.getsockname())
                writer.close()
                return await options.get()

    assert asyncio.run(connect()) == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_bind_takes_names_and_both_families(host: str) -> None:
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with startup.bind("ADMIN_LISTEN", Listen(host, 0)) as bound:
        assert bound.getsockname()[1] > 0
        assert bound.proto == socket.IPPROTO_TCP  # else asyncio sets no TCP_NODELAY
        with socket.create_connection(bound.getsockname()[:2], 5):
            pass


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_address_that_is_not_ours_is_said(host: str) -> None:
    with pytest.raises(StartError, match=f"LINK_LISTEN {host}:0: cannot be listened on: "):
        startup.bind("LINK_LISTEN", Listen(host, 0))


def test_certificate_that_can_be_used_passes(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    startup.check_certificate("TLS_CERT, TLS_KEY", cert, key)


def test_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    missing = tmp_path / "missing.pem"
    for pair in ((missing, key), (cert, missing)):
        with pytest.raises(StartError, match=r"TLS_CERT, TLS_KEY .*missing.pem: cannot be read"):
            startup.check_certificate("TLS_CERT, TLS_KEY", *pair)


def test_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    _, other = make_certificate(tmp_path, "other")
    noise = tmp_path / "noise.pem"
    noise.write_text("hello")
    for pair in ((noise, key), (cert, noise), (cert, other)):
        with pytest.raises(StartError, match=r"TLS_CERT, TLS_KEY .*: cannot be used: "):
            startup.check_certificate("TLS_CERT, TLS_KEY", *pair)
