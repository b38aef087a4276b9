"""A dump into a file that nobody else reads: it holds secrets."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from narthex.fault import Fault


def check_free(path: Path, overwrite: bool) -> None:
    """Raises a Fault for a file that is there and may not be overwritten."""
    if path.is_dir():
        raise Fault(f"{path} is a folder")
    if path.exists() and not overwrite:
        raise Fault(f"{path} is there already; --yes overwrites it")


def write_private(path: Path, text: str, overwrite: bool) -> None:
    """Write the file whole or not at all, readable by its owner alone.

    Raises:
        Fault: it cannot be written, or has come to be there.
    """
    try:
        handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if not overwrite:
                path.touch(exist_ok=False)
            Path(made).replace(path)
        finally:
            Path(made).unlink(missing_ok=True)
    except FileExistsError:
        raise Fault(f"{path} is there already; --yes overwrites it") from None
    except OSError as error:
        raise Fault(f"{path}: cannot be written: {error.strerror}") from None
