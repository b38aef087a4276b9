"""decK-format files as a user wrote them: read, and `${{ env "DECK_X" }}` filled in."""

from __future__ import annotations

import bisect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from narthex.fault import Fault

PREFIX = "DECK_"
_TEMPLATE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_ENV = re.compile(r"""\s*env\s+(?:"([^"\s]+)"|'([^'\s]+)')\s*""")
_SUFFIXES = (".yaml", ".yml", ".json")
_BETWEEN = "---\n"  # begins another document of one YAML text


@dataclass
class Files:
    """Several files as one text of several documents, and which line is whose."""

    text: str = ""
    names: list[str] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)  # the line before each file's first

    def add(self, name: str, text: str) -> None:
        if self.names:
            self.text += ("" if self.text.endswith("\n") else "\n") + _BETWEEN
        self.names.append(name)
        self._starts.append(self.text.count("\n"))
        self.text += text

    def place(self, line: int | None, column: int | None = None) -> str:
        """`kong.yaml:12:3`; the names of all files for an error that has no line."""
        if line is None:
            return ", ".join(self.names)
        number = bisect.bisect_left(self._starts, line) - 1
        at = f"{self.names[number]}:{line - self._starts[number]}"
        return at if column is None else f"{at}:{column}"


def read_all(sources: Sequence[str], environment: Mapping[str, str]) -> Files:
    """Files, folders (every .yaml, .yml and .json below them) and `-`, their variables filled in.

    Raises:
        Fault: one cannot be read, a folder has none, or a variable is not set.
    """
    found = Files()
    for source in sources:
        for name in _files(source):
            text, shown = read(name), "stdin" if name == "-" else name
            try:
                found.add(shown, fill_in(text, environment))
            except Fault as fault:
                raise Fault(f"{shown}: {fault}") from None
    return found


def _files(source: str) -> list[str]:
    if not Path(source).is_dir():
        return [source]
    below = sorted(path for path in Path(source).rglob("*") if path.suffix in _SUFFIXES)
    if not below:
        raise Fault(f"{source}: no {', '.join(_SUFFIXES)} file below this folder")
    return [str(path) for path in below]


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
