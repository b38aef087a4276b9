"""The keyring: a text file of Fernet keys, newest first, that encrypts secrets at rest.

Both planes read the same file; whichever starts first makes it. The newest key encrypts, every
key decrypts, so that a key is replaced by writing a new one above it.
"""

import os
from pathlib import Path

from cryptography.fernet import Fernet, MultiFernet


class KeyringError(Exception):
    """The keyring cannot be used; the text names the file and what to do."""


def load_keyring(path: Path) -> MultiFernet:
    """The keys of `path`, made with one new key when the file does not exist.

    Raises:
        KeyringError: unreadable, empty, or a line is not a Fernet key.
    """
    _make_if_missing(path)
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeyringError(f"KEYRING {path}: cannot be read: {reason}") from None
    if not lines:
        raise KeyringError(f"KEYRING {path}: is empty; one Fernet key a line was expected")
    try:
        return MultiFernet([Fernet(line) for line in lines])
    except ValueError:
        raise KeyringError(f"KEYRING {path}: one Fernet key a line was expected") from None


def _make_if_missing(path: Path) -> None:
    """Writes the key aside and links it into place, so that nobody ever reads half a keyring."""
    if path.exists():
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.unlink(missing_ok=True)  # of a process with our pid that was killed here
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            pass  # the other plane was faster; its key is as good
        finally:
            aside.unlink()
    except OSError as error:
        raise KeyringError(f"KEYRING {path}: cannot be made: {error.strerror}") from None
