"""What is built, and from what."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import narthex
from tests.harness import ROOT

LOCKS = ("requirements.lock", "requirements-test.lock")


def pins(lock: str) -> dict[str, tuple[str, list[str]]]:
    """name → (version, hashes) of a lock file."""
    found: dict[str, tuple[str, list[str]]] = {}
    for block in re.split(r"\n(?=[a-z])", (ROOT / lock).read_text()):
        named = re.match(r"([a-z][\w.-]*)==(\S+)", block)
        if named:
            found[named[1]] = (named[2], re.findall(r"--hash=(sha256:[0-9a-f]{64})", block))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_s99_lock_file_pins_every_package_by_hash_and_names_no_index(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    starts = [line for line in code if not line.startswith(" ")]
    assert all(re.match(r"[a-z][\w.-]*==\S+ \\$", line) for line in starts)
    assert len(starts) == len(pins(lock)) and all(hashes for _, hashes in pins(lock).values())
    assert not [line for line in lines if "://" in line or "index" in line or "--find" in line]


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize(("name", "floor"), [("starlette", (1, 0, 1)), ("websockets", (17, 0, 1))])
def test_s99_lock_file_keeps_to_the_floors(lock: str, name: str, floor: tuple[int, ...]) -> None:
    version = tuple(int(part) for part in pins(lock)[name][0].split("."))
    assert version >= floor


def test_s99_test_lock_holds_all_that_runs_at_the_same_versions() -> None:
    runtime, tests = (pins(lock) for lock in LOCKS)
    assert {name: tests.get(name) for name in runtime} == runtime


def test_s99_jose_uses_the_cryptography_backend() -> None:
    from jose import backends
    from jose.backends.cryptography_backend import CryptographyECKey, CryptographyRSAKey

    assert backends.ECKey is CryptographyECKey
    assert backends.RSAKey is CryptographyRSAKey


def test_s99_jose_is_called_nowhere_but_in_its_wrapper() -> None:
    users = [
        path
        for top in ("control", "dataplane", "narthex")
        for path in (ROOT / top).rglob("*.py")
        if any(name.partition(".")[0] == "jose" for name in _imported(path))
    ]
    assert users == [ROOT / "dataplane/jws.py"]
    source = users[0].read_text()
    assert "jose.jwe" not in source and "jwt.decode" not in source


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def test_version_is_one_everywhere() -> None:
    from control.app import VERSION
    from dataplane.plane import VERSION as DATAPLANE_VERSION

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["version"], narthex.__version__, VERSION, DATAPLANE_VERSION} == {"0.1.0"}
