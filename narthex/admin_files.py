"""The files of the Admin API: its tokens and its certificate.

Apart from `admin`, which every command needs: this one brings the control plane's store along.
"""

from __future__ import annotations

from pathlib import Path

from control.guard.callers import Role
from control.guard.tokens import TokensFileError, append, make_token, read
from control.settings import Settings
from control.startup import StartError, admin_certificate
from narthex.fault import Fault


def check_files(settings: Settings) -> None:
    """The files that the settings of the Admin API name can be used.

    Raises:
        Fault: one of them cannot.
    """
    try:
        if settings.admin_tokens_file is not None:
            read(settings.admin_tokens_file)
        admin_certificate(settings)
    except TokensFileError as error:
        raise Fault(f"ADMIN_TOKENS_FILE {error}") from None
    except StartError as error:
        raise Fault(str(error)) from None


def new_token(name: str, role: Role, file: Path | None) -> tuple[str, str]:
    """A token that `file` knows from now on, and the line that says so.

    Raises:
        Fault: a name that cannot be one, or a file that cannot be used.
    """
    try:
        token, line = make_token(name, role)
        if file is not None:
            append(file, line)
    except TokensFileError as error:
        raise Fault(str(error)) from None
    return token, line
