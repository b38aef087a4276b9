"""The fuzz targets are alive: each builds, runs and is counted in HOURS (S98)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import ROOT

TARGETS = sorted(path.stem for path in (ROOT / "tests" / "fuzz").glob("*.pyx"))
SECONDS = "2"
# Which target reads the bytes of which parser; a new one has to be put here, and thereby fuzzed.
PARSERS = {
    "_http": {"http_head", "http_response", "http_chunked"},
    "_frame": {"frame", "relay"},
    "_carriers": {"carriers"},
    "_params": {"params"},
}
HAS_CLANG = shutil.which("clang-14") is not None


def fuzz(*words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """`tools/fuzz.sh`, which installs nothing here."""
    return subprocess.run(
        [str(ROOT / "tools" / "fuzz.sh"), *words],
        cwd=ROOT, env={**os.environ, "INSTALL": "no", **extra}, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip


def hours(text: str) -> dict[str, int]:
    """Seconds of each target; a line that is not `date target seconds` is an error."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\d{4}-\d\d-\d\d (\w+) (\d+)", line)
        assert match, line
        found[match[1]] = found.get(match[1], 0) + int(match[2])
    return found


def test_s98_hours_count_every_target_and_no_other() -> None:
    counted = hours((ROOT / "tests" / "fuzz" / "HOURS").read_text())
    assert sorted(counted) == TARGETS
    assert all(seconds > 0 for seconds in counted.values())


def test_s98_every_parser_has_its_targets_and_each_its_seeds() -> None:
    assert set().union(*PARSERS.values()) == set(TARGETS)
    for parser, targets in PARSERS.items():
        for target in targets:
            source = (ROOT / "tests" / "fuzz" / f"{target}.pyx").read_text()
            assert f'include "{parser}.pyx"' in source
            assert any((ROOT / "tests" / "fuzz" / "corpus" / target).iterdir())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", TARGETS)
def test_s98_target_builds_and_finds_nothing_in_two_seconds(target: str, tmp_path: Path) -> None:
    counted = tmp_path / "HOURS"
    counted.write_text("2026-01-01 older 3600\n")
    done = fuzz(SECONDS, target, HOURS=str(counted))
    if not HAS_CLANG:
        print("clang 14 is not here: the target was not built")
        assert done.returncode == 2 and "clang-14" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "number_of_executed_units" in done.stderr
    assert list(hours(counted.read_text())) == ["older", target]
    assert "fuzz: older 1.00 h" in done.stderr


def test_s98_fuzz_says_what_is_missing_without_clang() -> None:
    done = fuzz(SECONDS, CLANG="clang-that-is-not-there")
    assert done.returncode == 2
    assert "clang-14 libclang-rt-14-dev" in done.stderr


@pytest.mark.parametrize("line", ["2026-11-23 frame", "yesterday frame 3", "2026-11-23 frame -3"])
def test_hours_refuses_a_line_that_cannot_be_summed(line: str) -> None:
    with pytest.raises(AssertionError):
        hours(line)
