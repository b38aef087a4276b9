"""What counts as a fault in a run of the outside suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compliance.autobahn import run
from tests.compliance.autobahn.suite import find_python2, patterns
from tests.compliance.autobahn.verdict import Verdict, fold


def report(case: str = "OK", close: str = "OK", code: int | None = 1000, clean: bool = True) -> Any:
    return {
        "behavior": case, "behaviorClose": close, "remoteCloseCode": code, "result": "bad echo",
        "expectedClose": {"requireClean": clean}, "wasNotCleanReason": None, "resultClose": "late",
    }  # fmt: skip


def test_run_without_a_fault_has_none() -> None:
    reports = {"1.1.1": report(), "7.1.6": report("INFORMATIONAL", code=None)}
    verdict = Verdict(["1.1.1", "7.1.6"], reports, ())
    assert verdict.faults == {}
    assert verdict.lines() == ["OK 1, INFO 1, NON-STRICT 0, UNIMPLEMENTED 0, FAILED 0 of 2"]


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        ("failed", report("FAILED")),
        ("failed", report(close="WRONG CODE")),
        ("failed", report(close="UNCLEAN")),
        ("non-strict", report("NON-STRICT")),
        ("non-strict", report(close="FAILED BY CLIENT")),
        ("unimplemented", report("UNIMPLEMENTED")),
        ("dropped without a Close", report(code=None, clean=False)),
    ],
)
def test_fault_is_named_by_its_kind(kind: str, case: Any) -> None:
    assert Verdict(["3.1"], {"3.1": case}, ()).faults == {kind: ["3.1"]}


def test_missing_report_and_arrived_violation_are_faults() -> None:
    verdict = Verdict(["3.1", "3.2"], {"3.1": report()}, {"3.1"})
    assert verdict.faults == {"not run": ["3.2"], "arrived at the far end": ["3.1"]}


def test_failed_case_is_told_with_its_reason() -> None:
    reports = {"3.1": report("FAILED"), "3.2": report(close="WRONG CODE")}
    lines = Verdict(["3.1", "3.2"], reports, ()).lines()
    assert lines[:2] == ["  3.1: bad echo", "  3.2: late"]


def test_cases_are_folded_where_their_group_is_whole() -> None:
    run = ["3.1", "3.2", "3.3", "6.1.1", "6.1.2", "6.1.3", "6.2.1"]
    assert fold(run[:6], run) == "3.* 6.1.*"
    assert fold(["3.1", "3.3"], run) == "3.1 3.3"


def test_patterns_of_groups_and_cases() -> None:
    assert patterns("1-3,10") == ["1.*", "2.*", "3.*", "10.*"]
    assert patterns("all") == ["*"]
    assert patterns("6.4.*,7.1.5") == ["6.4.*", "7.1.5"]


def test_python2_is_asked_and_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, status in (("shim", 127), ("python2.7", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("AUTOBAHN_PYTHON2", str(tmp_path / "shim"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert find_python2() is None
    (tmp_path / "shim").write_text("#!/bin/sh\nexit 0\n")
    assert find_python2() == str(tmp_path / "shim")


def test_run_says_aloud_that_it_did_not_run_without_python2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "find_python2", lambda: None)
    monkeypatch.setattr(sys, "argv", ["run"])
    assert run.main() == 3
    assert "NOT RUN: no CPython 2.7" in capsys.readouterr().err
