"""What is checked and made before the control plane serves: each failure one line in words."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import ssl
from pathlib import Path
from typing import IO

from control.settings import Listen, Settings


class StartError(Exception):
    """The control plane cannot start; the text says what is wrong and what to do."""


def prepare_data_dir(settings: Settings) -> Path:
    """DATA_DIR as an absolute path, made (0700) when missing."""
    path = settings.data_dir.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StartError(f"DATA_DIR {path}: cannot be used: {error.strerror}") from None
    return path


def lock_data_dir(path: Path) -> IO[str]:
    """Hold DATA_DIR for this control plane while the returned file stays open.

    Two on one SQLite file would not hear of each other's writes: their data planes would differ.
    """
    try:
        lock = (path / "control.lock").open("a")
    except OSError as error:
        raise StartError(f"DATA_DIR {path}: cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StartError(
            f"DATA_DIR {path}: another control plane uses it; stop that one or choose another"
        ) from None
    return lock


def link_secret(settings: Settings, data_dir: Path) -> bytes:
    """LINK_SECRET, else what link.secret in DATA_DIR holds, made (0600) when missing."""
    if settings.link_secret is not None:
        return settings.link_secret.get_secret_value().encode()
    path = data_dir / "link.secret"
    try:
        if not path.exists():
            _write_once(path, secrets.token_hex(32) + "\n")
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise StartError(f"LINK_SECRET {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if len(text) < 16:
        raise StartError(f"LINK_SECRET {path}: 16 characters or more were expected; delete it")
    return text.encode()


def _write_once(path: Path, text: str) -> None:
    """Make a file that only we may read, whole from the first moment; the first writer wins."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(
        missing_ok=True
    )  # of a process with our pid that was killed here, as in containers
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink()


def bind(name: str, listen: Listen) -> socket.socket:
    """A bound socket, not yet listening, for the setting `name`.

    Without SO_REUSEPORT, which would share a port in use instead of finding it so.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # With its protocol named, as asyncio wants it for TCP_NODELAY on what is accepted: without it
    # the body of an answer, sent after its head, waits 40 ms for the client's acknowledgement.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind(listen[:2])
        # Linux binds two SO_REUSEADDR sockets that do not listen yet: listening settles it.
        found.listen(1024)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            what = "is in use; stop what listens there or choose another port"
        else:
            what = f"cannot be listened on: {error.strerror or error}"
        raise StartError(f"{name} {listen}: {what}") from None
    found.setblocking(False)
    return found


def admin_certificate(settings: Settings) -> tuple[Path, Path] | None:
    """Certificate and key of the Admin API's TLS listeners, checked; None where there is none."""
    cert, key = settings.admin_certificate
    if not any(one.tls for one in settings.admin_listen) or not (cert and key):
        return None
    names = "ADMIN_TLS_CERT, ADMIN_TLS_KEY" if settings.admin_tls_cert else "TLS_CERT, TLS_KEY"
    check_certificate(names, cert, key)
    return cert, key


def check_certificate(names: str, cert: Path, key: Path) -> None:
    """Certificate chain and key in PEM that belong together; `names` are their settings."""
    for path in (cert, key):
        _check_readable(names, path)
    try:
        # An empty password, lest OpenSSL asks for one at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not PEM, or the key is not the certificate's"
        raise StartError(f"{names} {cert}, {key}: cannot be used: {reason}") from None


def _check_readable(names: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise StartError(f"{names} {path}: cannot be read: {error.strerror}") from None
