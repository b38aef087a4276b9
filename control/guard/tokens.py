"""ADMIN_TOKENS_FILE: the tokens of the Admin API, one a line, by their SHA-256.

    # name   role       digest of the token
    alice    super      sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    ci       operator   sha256:…

The file is read again when it changes, so that a token is withdrawn by deleting its line. One that
cannot be used leaves the last good one in force: an editor's half-written file locks nobody out,
and a deleted file ends no token. A name may have several lines while a token is exchanged.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from control.guard.callers import Caller, Role
from control.store.secrets import random_text, token_digest

PREFIX = "nxa_"  # by which a scanner knows a token that was leaked
_RANDOM_CHARS = 40  # 238 bits: nobody guesses one, and a plain SHA-256 keeps it
TOKENS_MAX = 1000  # lines; each is compared with every token that is shown
BYTES_MAX = 1024 * 1024
_SETTLED_SECONDS = 2.0  # a file changed within this may change again and look the same

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ROLES = ", ".join(Role)
_LINE = f"`name role sha256:<64 hexadecimal digits>`, role one of {_ROLES}"

log = structlog.get_logger("control")


class TokensFileError(Exception):
    """ADMIN_TOKENS_FILE cannot be used; the text says why and what was expected."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a token stands for."""

    caller: Caller
    digest: bytes = field(repr=False)


def make_token(name: str, role: Role) -> tuple[str, str]:
    """A new token, and the line of the file that makes it good.

    Raises:
        TokensFileError: `name` cannot stand in the file.
    """
    if _NAME.fullmatch(name) is None:
        raise TokensFileError(
            f"{name!r} is no name for a token: letters, digits and . _ @ - were expected, 64 at "
            "the most, a letter or digit first"
        )
    token = PREFIX + random_text(_RANDOM_CHARS)
    return token, f"{name} {role} sha256:{token_digest(token).hex()}"


def append(path: Path, line: str) -> None:
    """Add a line to the file, made (0600) when missing.

    Raises:
        TokensFileError: it cannot be written, or what it holds cannot be used.
    """
    try:
        text = read(path) if path.exists() else ""
        gap = "" if not text or text.endswith("\n") else "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{gap}{line}\n")
    except OSError as error:
        raise TokensFileError(f"{path}: cannot be written: {error.strerror}") from None


def read(path: Path) -> str:
    """The text of the file, whose lines are right.

    Raises:
        TokensFileError
    """
    text, _ = _read(path)
    parse(path, text)
    return text


def parse(path: Path, text: str) -> list[Holder]:
    """The tokens of the file; lines that are empty or begin with `#` are none.

    Raises:
        TokensFileError: names the first line that is wrong, and never what it holds.
    """
    found: dict[bytes, Holder] = {}
    for number, line in _lines(text):
        words = line.split()
        digest = _DIGEST.fullmatch(words[2].lower()) if len(words) == 3 else None
        if digest is None or _NAME.fullmatch(words[0]) is None or words[1] not in list(Role):
            raise TokensFileError(f"{path} line {number}: expected {_LINE}")
        holder = Holder(Caller(words[0], Role(words[1])), bytes.fromhex(digest[1]))
        if found.setdefault(holder.digest, holder) is not holder:
            raise TokensFileError(f"{path} line {number}: the same digest stands above")
    if len(found) > TOKENS_MAX:
        raise TokensFileError(f"{path}: more than {TOKENS_MAX} tokens")
    return list(found.values())


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


_Stamp = tuple[int, int, int, int]


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> tuple[str, os.stat_result]:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise TokensFileError(f"{path}: cannot be read: {error.strerror}") from None
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TokensFileError(f"{path}: others may write to it; run `chmod 600 {path}`")
    if len(data) > BYTES_MAX:
        raise TokensFileError(f"{path}: larger than {BYTES_MAX // 1024} KiB")
    try:
        return data.decode(), about
    except UnicodeDecodeError:
        raise TokensFileError(f"{path}: is not UTF-8 text") from None


class TokensFile:
    """The tokens that are good now.  For one event loop."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            TokensFileError: it cannot be used, and there is no last good one yet.
        """
        self.path = path
        self._read: _Stamp | None = None
        self._complaint = ""
        self._load()

    def __len__(self) -> int:
        return len(self._holders)

    def find(self, token: str) -> Caller | None:
        """Whose token this is.  Every line is compared, in constant time (S26)."""
        self._follow()
        shown = token_digest(token)
        good = [h for h in self._holders if hmac.compare_digest(h.digest, shown)]
        return good[0].caller if good else None

    def _follow(self) -> None:
        """Read the file again if it is another than the one last read."""
        try:
            if self._read == _stamp(self.path.stat()):
                return
        except OSError:
            pass  # reading says what is wrong
        try:
            self._load()
        except TokensFileError as error:
            if self._complaint != str(error):
                self._complaint = str(error)
                log.error("admin.tokens_file", why=str(error), tokens=len(self), action="kept")
            return
        self._complaint = ""

    def _load(self) -> None:
        text, about = _read(self.path)
        settled = time.time() - about.st_mtime > _SETTLED_SECONDS
        self._read = _stamp(about) if settled else None
        self._holders = parse(self.path, text)
