"""Which program the judge runs: decK's command, or decK's engine behind a command line of ours.

    python -m tests.compliance.deck.program    builds it and says which it is

decK's module is asked for first.  Where the module proxy does not have it, go-database-reconciler
and go-kong do: they are what decK reads files, compares and writes with, and `engine/` puts decK's
words before them.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.compliance import needs

HERE = Path(__file__).resolve().parent
SECONDS = 60
_SUMMARY = re.compile(r"Created: (\d+)\s+Updated: (\d+)\s+Deleted: (\d+)")


@dataclass(frozen=True)
class Counts:
    """What a run of apply, diff or sync says it did, or would do."""

    created: int = 0
    updated: int = 0
    deleted: int = 0


NOTHING = Counts()


@dataclass(frozen=True)
class Done:
    """A run of decK to its end."""

    words: tuple[str, ...]
    status: int
    output: str

    @property
    def counts(self) -> Counts:
        found = _SUMMARY.search(self.output)
        assert found is not None, f"{self}: no summary"
        return Counts(*(int(number) for number in found.groups()))

    def __str__(self) -> str:
        return f"deck {' '.join(self.words)}: exit status {self.status}\n{self.output}"


@dataclass
class Deck:
    """decK talking to one Admin API.  `env` is what its files may name."""

    program: Path
    address: str
    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DECK_")}
        # decK tells its makers about each run unless it is told not to.
        own = {"DECK_KONG_ADDR": self.address, "DECK_ANALYTICS": "off", "NO_PROXY": "*"}
        return {**kept, **own, **self.env}

    def run(self, *words: str, stdin: str | None = None) -> Done:
        done = subprocess.run(
            [str(self.program), *words], env=self.environment, cwd=self.folder,
            input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        return Done(words, done.returncode, done.stdout + done.stderr)


@dataclass(frozen=True)
class Built:
    """A program and what it is; `missing` says why it is not decK's command."""

    path: Path
    made_by: str
    missing: str = ""

    @property
    def label(self) -> str:
        if self.missing:
            return f"decK's engine ({self.made_by}); decK's command could not be built here"
        return f"decK ({self.made_by})"


def build() -> Built:
    """decK's command, else its engine.

    Raises:
        Absent: neither can be built here; says what is missing.
    """
    command, engine = HERE / "command", HERE / "engine"
    try:
        return Built(needs.go("deck", command), _required(command, ["github.com/kong/deck"]))
    except needs.Absent as absent:
        modules = ["github.com/kong/go-database-reconciler", "github.com/kong/go-kong"]
        return Built(needs.go("deck", engine), _required(engine, modules), str(absent))


def _required(source: Path, modules: Sequence[str]) -> str:
    """The modules with the versions that go.mod pins."""
    text = (source / "go.mod").read_text()
    found = [re.search(rf"{re.escape(module)} (v\S+)", text) for module in modules]
    return ", ".join(
        f"{module} {version[1]}" for module, version in zip(modules, found, strict=True) if version
    )


def main() -> None:
    try:
        print(build().label)
    except needs.Absent:
        print("decK")  # the judge itself says what is missing


if __name__ == "__main__":
    main()
