"""`narthex backup` and `narthex restore`: the SQLite database, by its own file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from control.keyring import KeyringError, load_keyring
from control.settings import Settings
from control.startup import StartError, lock_data_dir
from control.store.backup import BackupError, Copied, back_up, database_file, restore
from narthex.fault import Fault
from narthex.folder import held_data_dir


def run_backup(settings: Settings, target: Path) -> list[str]:
    """Copy the database; lines that say what else has to be kept, and how to come back.

    Raises:
        Fault: there is no copy.
    """
    with _faults():
        database_file(settings.database)
        _check_keyring(settings)
        made = back_up(settings.database, load_keyring(settings.keyring_file), target)
    return [
        f"{made.path}: {_what(made)}; checked",
        f"Its secrets are encrypted under {settings.keyring_file.absolute()}. Keep a copy of that "
        "file as well, and not beside this one: without it the backup cannot be read.",
        "To come back: stop the gateway, see that KEYRING is that file, "
        f"`narthex restore {target}`, start the gateway.",
    ]


def run_restore(settings: Settings, source: Path, *, replace: bool) -> list[str]:
    """Put a copy into DATA_DIR while no gateway runs there; lines that say what follows.

    Raises:
        Fault: a gateway runs, or the copy cannot be used; what was there still is.
    """
    with _faults():
        database_file(settings.database)
        _check_keyring(settings)
        keyring = load_keyring(settings.keyring_file)
        with held_data_dir(settings) as folder, lock_data_dir(folder):
            made = restore(source, settings.database, keyring, replace=replace)
    moved = [f"What was there before is {made.moved} now."] if made.moved else []
    return [
        f"{made.path}: {_what(made)}; checked",
        *moved,
        "Start the gateway. Data planes forget what they knew of tokens and take this "
        "configuration. Tokens that were revoked after the backup are good again until they "
        "expire, and what was configured after it is gone.",
    ]


def _what(made: Copied) -> str:
    return f"{made.size / 2**20:.1f} MiB, configuration {made.config_version}"


def _check_keyring(settings: Settings) -> None:
    """Loading a keyring makes one that is missing, which opens nothing."""
    if not settings.keyring_file.exists():
        raise Fault(
            f"KEYRING {settings.keyring_file.absolute()}: there is no such file; put the keyring "
            "there that belongs to the database"
        )


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (BackupError, KeyringError, StartError) as error:
        raise Fault(str(error)) from None
