"""What is checked and made before the data plane serves: each failure one line in words."""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import resource
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dataplane.certificate import CertificateError, check_pair, own_pair
from dataplane.dial import client_tls
from dataplane.settings import Listener, Settings

BACKLOG = 128
FDS_OF_PYTHON = 128  # the link, files, the status listener and whoever reads there
FDS_OF_A_WORKER = 8  # epoll, inbox, a pipe's two ends, the spare one; its listeners come on top
FDS_PER_SESSION = 2
TICKET_KEYS_MAX = 16  # of KEYRING's lines, the newest
TICKET_KEY_BYTES = 80  # 16 of name, 32 to encrypt, 32 to authenticate
TCP_ULP = 31  # <linux/tcp.h>; Python has no name for it
SESSIONS_MAX = 2**18  # without MAX_SESSIONS, however many descriptors there are
CONNECTIONS_MAX = 2 * SESSIONS_MAX  # likewise


class StartError(Exception):
    """The data plane cannot start; the text says what is wrong and what to do."""


def prepare_data_dir(settings: Settings) -> Path:
    """DATA_DIR, made (0700) when missing."""
    path = settings.data_dir
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StartError(f"DATA_DIR {path}: cannot be used: {error.strerror}") from None
    return path


def lock_data_dir(path: Path) -> IO[str]:
    """Hold DATA_DIR for this data plane while the returned file stays open.

    Two that append to one token log would each hide revocations from the other.
    """
    try:
        lock = (path / "dataplane.lock").open("a")
    except OSError as error:
        raise StartError(f"DATA_DIR {path}: cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StartError(
            f"DATA_DIR {path}: another data plane uses it; stop that one or choose another"
        ) from None
    return lock


def load_keyring(path: Path) -> MultiFernet:
    """The keys of KEYRING, newest first; the file is made with one key when there is none."""
    return MultiFernet([Fernet(line) for line in _keyring_lines(path)])


def ticket_keys(path: Path) -> list[bytes]:
    """Keys of TLS session tickets, one for each of KEYRING, the newest TICKET_KEYS_MAX."""
    return [ticket_key(line) for line in _keyring_lines(path)[:TICKET_KEYS_MAX]]


def _keyring_lines(path: Path) -> list[str]:
    try:
        _make_keyring(path)
        lines = path.read_text(encoding="ascii").split()
        for line in lines:
            Fernet(line)
    except OSError as error:
        raise StartError(f"KEYRING {path}: cannot be used: {error.strerror}") from None
    except ValueError:
        lines = []
    if not lines:
        raise StartError(f"KEYRING {path}: one Fernet key a line was expected")
    return lines


def ticket_key(line: str) -> bytes:
    """A key of session tickets, made from a line of KEYRING: the same on every data plane."""
    derive = HKDF(hashes.SHA256(), TICKET_KEY_BYTES, salt=None, info=b"narthex TLS session tickets")
    return derive.derive(base64.urlsafe_b64decode(line))


def kernel_tls() -> bool:
    """Whether the kernel can take the records of TLS over (`modprobe tls`)."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as probe,
    ):
        try:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        except OSError:
            return False
        return True


def _make_keyring(path: Path) -> None:
    """Written aside and linked into place: the first writer wins and nobody reads half a file."""
    if path.exists():
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(
        missing_ok=True
    )  # of a process with our pid that was killed here, as in containers
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        pass  # the control plane was faster; its key is as good
    finally:
        aside.unlink()


def bind(name: str, listener: Listener) -> socket.socket:
    """A listening socket for the setting `name`, without SO_REUSEPORT, which would share the port.

    Linux binds two SO_REUSEADDR sockets that do not listen yet: listening settles whose it is.
    Its protocol is named, since asyncio sets TCP_NODELAY on accepted sockets only then.
    """
    family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind((listener.address, listener.port))
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        raise StartError(_cannot_listen(name, listener, error)) from None
    found.setblocking(False)
    return found


def _cannot_listen(name: str, listener: Listener, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{name} {listener}: is in use; stop what listens there or choose another port"
    return f"{name} {listener}: cannot be listened on: {error.strerror or error}"


def check_ports_free(listeners: list[Listener]) -> None:
    """Find a port of PROXY_LISTEN in use without sharing it, before the first worker listens."""
    for listener in listeners:
        bind("PROXY_LISTEN", listener).close()


def certificate_pair(settings: Settings, data_dir: Path) -> tuple[Path, Path]:
    """TLS_CERT and TLS_KEY, found readable and a pair; without them a pair of our own."""
    try:
        if settings.tls_cert is None or settings.tls_key is None:
            return own_pair(data_dir)
        check_pair(settings.tls_cert, settings.tls_key)
    except CertificateError as error:
        raise StartError(f"TLS_CERT, TLS_KEY: {error}") from None
    return settings.tls_cert, settings.tls_key


def check_files(settings: Settings) -> None:
    """Find what is wrong with the files that settings name; nothing is made.

    Raises:
        StartError: a certificate, a key or the keyring cannot be used.
    """
    if settings.tls_cert is not None:
        certificate_pair(settings, settings.data_dir)
    if settings.link_cert is not None:
        link_trust(settings)
    if settings.keyring_file.exists():
        load_keyring(settings.keyring_file)
    elif settings.keyring is not None and not settings.keyring.parent.is_dir():
        raise StartError(f"KEYRING {settings.keyring}: cannot be made: there is no such folder")


@dataclass(frozen=True)
class Trust:
    """How the link's ends prove themselves: by LINK_SECRET, or by certificates."""

    secret: bytes | None
    tls: ssl.SSLContext | None


def link_trust(settings: Settings) -> Trust:
    """LINK_CERT, LINK_KEY and LINK_CA as TLS when set, else LINK_SECRET.

    Raises SettingsError for a secret that is missing or too short, StartError for a certificate.
    """
    if settings.link_cert is None or settings.link_key is None or settings.link_ca is None:
        return Trust(settings.link_secret_bytes(), None)
    try:
        check_pair(settings.link_cert, settings.link_key)
        tls = client_tls(settings.link_cert, settings.link_key, settings.link_ca)
    except CertificateError as error:
        raise StartError(f"LINK_CERT, LINK_KEY: {error}") from None
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or "it holds no PEM certificate"
        raise StartError(f"LINK_CA {settings.link_ca}: cannot be used: {why}") from None
    return Trust(None, tls)


def raise_fd_limit() -> int:
    """Raise the file descriptor limit as far as it goes without rights; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def fds_of_ours(settings: Settings) -> int:
    """The file descriptors that belong to no client and no upstream."""
    return FDS_OF_PYTHON + settings.workers * (FDS_OF_A_WORKER + len(settings.proxy_listen))


def sessions_max(settings: Settings, fd_limit: int) -> int:
    """MAX_SESSIONS, else as many as the file descriptors allow."""
    if settings.max_sessions is not None:
        return settings.max_sessions
    return max(1, min(SESSIONS_MAX, (fd_limit - fds_of_ours(settings)) // FDS_PER_SESSION))


def connections_max(settings: Settings, fd_limit: int) -> int:
    """MAX_CONNECTIONS, else what MAX_SESSIONS upstreams leave of the file descriptors.

    So they cannot run out, for us or for the link; never fewer than half of them.
    """
    if settings.max_connections is not None:
        return settings.max_connections
    ours = fd_limit - fds_of_ours(settings)
    return max(1, min(CONNECTIONS_MAX, max(ours - sessions_max(settings, fd_limit), ours // 2)))
