"""What several commands take: the control plane's settings, `--insecure`, headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from narthex.fault import Fault

if TYPE_CHECKING:
    from control.settings import Settings

Insecure = Annotated[
    bool, typer.Option("--insecure", "-k", help="Take any TLS certificate, also a self-signed one.")
]


def control_settings() -> Settings:
    from control.settings import SettingsError, load

    try:
        return load()
    except SettingsError as error:
        raise Fault(str(error)) from None


def own_url() -> str:
    """Where the Admin API of these settings answers."""
    from narthex.admin import admin_url

    return admin_url(control_settings())


def parse_header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"{line!r}; expected `Name: value`")
    return name.strip(), value.strip()
