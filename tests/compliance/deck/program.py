"""decK, as a program and as what it said.

    python -m tests.compliance.deck.program    builds it and says which it is

It is built from `command/`: a Go main module of ours that calls decK's own command.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.compliance import needs

HERE = Path(__file__).resolve().parent
MODULE = "github.com/kong/deck"
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
    """The program and the module that it is of."""

    path: Path
    made_by: str

    @property
    def label(self) -> str:
        return f"decK ({self.made_by})"


def build() -> Built:
    """decK's command, of the version that go.mod pins.

    Raises:
        Absent: it cannot be built here; says what is missing.
    """
    command = HERE / "command"
    version = re.search(rf"{re.escape(MODULE)} (v\S+)", (command / "go.mod").read_text())
    assert version is not None, f"{command}/go.mod does not require {MODULE}"
    return Built(needs.go("deck", command), f"{MODULE} {version[1]}")


def main() -> None:
    try:
        print(build().label)
    except needs.Absent:
        print("decK")  # the judge itself says what is missing


if __name__ == "__main__":
    main()
