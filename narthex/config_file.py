"""A decK-format file as a user wrote it: read, and `${{ env "DECK_X" }}` filled in."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from narthex.fault import Fault

PREFIX = "DECK_"
_TEMPLATE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_ENV = re.compile(r"""\s*env\s+(?:"([^"\s]+)"|'([^'\s]+)')\s*""")


def read(source: str) -> str:
    """The text of a file, or of stdin for `-`.

    Raises:
        Fault: it cannot be read.
    """
    if source == "-":
        return sys.stdin.read()
    try:
        return Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise Fault(f"{source}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Fault(f"{source}: is not UTF-8 text") from None


def fill_in(text: str, environment: Mapping[str, str]) -> str:
    """`text` with each `${{ env "DECK_X" }}` replaced by that variable's value, as decK does.

    Raises:
        Fault: another expression, another prefix, or a variable that is not set.
    """

    def value(found: re.Match[str]) -> str:
        named = _ENV.fullmatch(found[1])
        if named is None:
            raise Fault(f'{found[0]}: only ${{{{ env "{PREFIX}NAME" }}}} can be filled in')
        name = named[1] or named[2]
        if not name.startswith(PREFIX):
            raise Fault(f"{found[0]}: only variables that start with {PREFIX} are filled in")
        if name not in environment:
            raise Fault(f"{found[0]}: the environment variable {name} is not set")
        return environment[name]

    return _TEMPLATE.sub(value, text)
