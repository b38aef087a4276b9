"""DATA_DIR before the planes start: made, held by one gateway, with the secrets both read."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from control.keyring import KeyringError, load_keyring
from control.settings import Settings
from control.startup import StartError, link_secret, prepare_data_dir
from narthex.fault import Fault

LOCK_FILE = "gateway.lock"


@contextmanager
def held_data_dir(settings: Settings) -> Iterator[Path]:
    """DATA_DIR as an absolute path, ours alone until the block ends.

    KEYRING and LINK_SECRET are made when missing: the planes start at the same moment, and each
    must find what the other uses.

    Raises:
        Fault: it cannot be used, or another gateway holds it.
    """
    os.umask(0o077)  # whatever we write is ours alone
    try:
        folder = prepare_data_dir(settings)
        with (folder / LOCK_FILE).open("a") as lock:
            _hold(lock.fileno(), folder)
            load_keyring(settings.keyring_file)
            link_secret(settings, folder)
            yield folder
    except (StartError, KeyringError) as error:
        raise Fault(str(error)) from None
    except PermissionError as error:
        raise Fault(f"DATA_DIR {error.filename}: cannot be used: {error.strerror}") from None


def _hold(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Fault(
            f"DATA_DIR {folder}: another gateway uses it; stop that one or choose another"
        ) from None
