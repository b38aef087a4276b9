"""The outside suite: where its Python 2.7 is, how it is installed, run and its reports read."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

SUITE = "autobahntestsuite==25.10.1"
VIRTUALENV = "virtualenv==20.21.1"  # later ones make no environments of 2.7
AGENT = "narthex"
# wstest as it is, but for where its server listens: not on every address of the machine.
LAUNCHER = """
import functools
from autobahntestsuite import fuzzing, wstest
fuzzing.listenWS = functools.partial(fuzzing.listenWS, interface="127.0.0.1")
wstest.run()
"""


class Trouble(Exception):
    """The run itself went wrong; says how."""


def find_python2() -> str | None:
    """A CPython 2.7: $AUTOBAHN_PYTHON2, on PATH, or one of pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places = [os.environ.get("AUTOBAHN_PYTHON2"), shutil.which("python2.7")]
    places += [str(path) for path in sorted(root.glob("versions/2.7*/bin/python2.7"))]
    check = "import sys; sys.exit(sys.version_info[:2] != (2, 7))"
    for python in filter(None, places):
        # Asked, not believed: a shim of pyenv may lead nowhere.
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", check], capture_output=True).returncode == 0:
                return python
    return None


def install(home: Path, python2: str) -> Path:
    """The suite under `home`, unchanged from PyPI; the Python that runs it."""
    home.mkdir(parents=True, exist_ok=True)
    python, done = home / "py27" / "bin" / "python", home / "installed"
    with (home / "lock").open("w") as lock, (home / "install.log").open("w") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if python.exists() and done.exists() and done.read_text() == SUITE:
            return python
        print(f"autobahn: installing {SUITE} in {home} (a minute, once)", file=sys.stderr)
        for name in ("py3", "py27"):
            shutil.rmtree(home / name, ignore_errors=True)
        for step in (
            [sys.executable, "-m", "venv", home / "py3"],
            [home / "py3/bin/pip", "install", VIRTUALENV],
            [home / "py3/bin/virtualenv", "-p", python2, home / "py27"],
            [python, "-m", "pip", "install", SUITE],
        ):
            words = [str(word) for word in step]
            if subprocess.run(words, stdout=log, stderr=log).returncode:
                raise Trouble(f"{' '.join(words)} failed: see {log.name}")
        done.write_text(SUITE)
    return python


def patterns(cases: str) -> list[str]:
    """'1-7,10', 'all' or '6.4.*,7.1.5' as the suite has it."""
    found: list[str] = []
    for item in cases.split(","):
        groups = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if item == "all":
            found.append("*")
        elif groups:
            first, last = int(groups[1]), int(groups[2] or groups[1])
            found += [f"{group}.*" for group in range(first, last + 1)]
        else:
            found.append(item)
    return found


class Suite:
    """One run of wstest; its spec, log and reports are in `folder`."""

    def __init__(self, python: Path, folder: Path, cases: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._python, self._folder, self._cases = python, folder, cases
        self._log = folder / "wstest.log"

    @contextlib.asynccontextmanager
    async def running(self, mode: str, **spec: Any) -> AsyncIterator[asyncio.subprocess.Process]:
        spec |= {"outdir": str(self._folder), "cases": patterns(self._cases)}
        spec |= {"exclude-cases": [], "exclude-agent-cases": {}}
        path = self._folder / "spec.json"
        path.write_text(json.dumps(spec))
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        with self._log.open("w") as log:
            process = await asyncio.create_subprocess_exec(
                str(self._python), "-u", "-c", LAUNCHER, "-m", mode, "-s", str(path), "-u", "0",
                stdout=log, stderr=log, env=env,
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    def trouble(self, what: str) -> Trouble:
        tail = self._log.read_text(errors="replace").splitlines()[-5:]
        return Trouble("\n  ".join([what, *(line[:300] for line in tail)]))

    def ids(self) -> list[str]:
        """The cases that it runs, in their order, as it says at its start."""
        line = re.search(r"^Cases = (\[.*\])$", self._log.read_text(errors="replace"), re.M)
        if line is None:
            raise self.trouble("wstest did not begin")
        return re.findall(r"[\d.]+", line[1])

    def reports(self) -> dict[str, dict[str, Any]]:
        """What it wrote about each case."""
        index = self._folder / "index.json"
        if not index.exists():
            raise self.trouble("wstest wrote no report")
        listed = json.loads(index.read_text()).get(AGENT, {})
        return {
            case: json.loads((self._folder / entry["reportfile"]).read_text(errors="replace"))
            for case, entry in listed.items()
        }
