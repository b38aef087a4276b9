"""The rules of how our code looks that a machine can check."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT

CYTHON_FILES = sorted((ROOT / "dataplane").glob("_*.p[xy][dix]"))
CYTHON_FILES += sorted((ROOT / "dataplane").glob("_*.pxi"))
COMPILED = [path for path in CYTHON_FILES if path.suffix == ".pyx"]
DIRECTIVES = (
    "boundscheck=False,wraparound=False,initializedcheck=False,nonecheck=False,cdivision=True"
)


def declarations(text: str) -> Iterator[str]:
    """Each C function declared or defined outside `cdef extern` blocks, on one line.

    What is extern is C already and raises nothing.
    """
    lines = [re.sub(r"\s+#.*$", "", line) for line in text.splitlines()]
    extern_indent: int | None = None
    pending = ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if extern_indent is not None:
            if not line.strip() or indent > extern_indent:
                continue
            extern_indent = None
        if re.match(r"\s*cdef\s+extern\s+from\b", line):
            extern_indent = indent
            continue
        if pending or re.match(r"\s*(cdef|cpdef|ctypedef)\b.*\(", line):
            pending = f"{pending} {line.strip()}".strip()
            if pending.count("(") <= pending.count(")"):
                yield re.sub(r"\s+", " ", pending)
                pending = ""


@pytest.mark.parametrize("path", CYTHON_FILES, ids=lambda path: path.name)
def test_function_without_gil_says_noexcept(path: Path) -> None:
    without = [d for d in declarations(path.read_text()) if re.search(r"\)[^()]*\bnogil\b", d)]
    assert not [d for d in without if not re.search(r"\)[^()]*\bnoexcept nogil\b", d)]


def test_declarations_finds_what_lacks_noexcept() -> None:
    text = (
        'cdef extern from "a.h" nogil:\n    int outer(int x)\n\n'
        "cdef int good(int x) noexcept nogil:\n    return x\n"
        "cdef inline int bad(\n    int x,  # a comment (with a brace\n) nogil:\n    return x\n"
    )
    assert list(declarations(text)) == [
        "cdef int good(int x) noexcept nogil:",
        "cdef inline int bad( int x, ) nogil:",
    ]


@pytest.mark.parametrize("path", CYTHON_FILES, ids=lambda path: path.name)
def test_engine_never_takes_the_gil_back(path: Path) -> None:
    code = re.sub(r"#.*", "", path.read_text())
    assert not re.findall(r"^\s*with\s+gil\b.*", code, re.MULTILINE)
    assert not re.findall(r"\)[^()\n]*\bwith\s+gil\s*:", code)


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.name)
def test_cython_gives_no_performance_hint(path: Path, tmp_path: Path) -> None:
    """A hint is an exception check that takes the GIL: in `nogil` code it costs 170 ns a call."""
    argv = [sys.executable, "-m", "cython", "-3", "-X", DIRECTIVES, "-X"]
    argv += ["show_performance_hints=True", str(path), "-o", str(tmp_path / "out.c")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "performance hint" not in said.lower(), said


def test_cython_hints_when_noexcept_is_left_out(tmp_path: Path) -> None:
    """What the test above relies on."""
    source = tmp_path / "hinted.pyx"
    source.write_text(
        "cdef void callee() nogil:\n    pass\ncdef void caller() noexcept nogil:\n    callee()\n"
    )
    argv = [sys.executable, "-m", "cython", "-3", "-X", "show_performance_hints=True", str(source)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110)
    assert "performance hint" in (done.stdout + done.stderr).lower()


def run_tool(*words: str) -> str:
    """What a checker says; empty when it is content."""
    env = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=env, capture_output=True, text=True
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    assert run_tool("ruff", "check", ".") == ""


def test_mypy_finds_nothing() -> None:
    assert run_tool("mypy") == ""


def test_tests_do_not_sleep_for_a_fixed_time() -> None:
    sleeping = re.compile(r"(?<!\w)(?:time|asyncio)\.sleep\((?!0\)|POLL_SECONDS\))")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "tests").rglob("*.py")
        for line in path.read_text().splitlines()
        if sleeping.search(line) and path != Path(__file__)
    ]
    assert not found
