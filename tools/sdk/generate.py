"""Makes the SDKs out of openapi.json, as packages that can be published: `make sdk`.

    python -m tools.sdk.generate [python] [typescript]

Into build/sdk/python (by openapi-python-client) and build/sdk/typescript (by @hey-api/openapi-ts,
compiled by tsc). Generators are pinned here, in requirements.txt and package-lock.json, and
installed into build/judges/sdk. Exit status 3: one of them could not be had.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.compliance import needs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "sdk"
DOCUMENT = ROOT / "openapi.json"
NODE_MIN = (22, 18)  # what @hey-api/openapi-ts asks for
SECONDS = 300

Json = dict[str, Any]


class Failed(Exception):
    """A generator or compiler was not content; says what it said."""


def make_python() -> Path:
    """build/sdk/python, a package for pip.

    Raises:
        Absent: the generator could not be had.
        Failed: it left something out, or failed.
    """
    python = needs.venv("sdk", HERE)
    folder = _package("python", ("pyproject.toml.in", "README.md"))
    document = BUILD / "openapi-python.json"
    document.write_text(json.dumps(_for_python(_document())))
    words = [str(python.with_name("openapi-python-client")), "generate", "--meta", "none"]
    words += ["--path", str(document), "--config", str(HERE / "python" / "config.yaml")]
    words += ["--output-path", str(folder / "narthex_client"), "--fail-on-warning"]
    # It formats by ruff, which lies beside it.
    run(words, {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"})
    for path in folder.rglob("*.py"):
        _import_unset(path)
    return folder


def make_typescript() -> Path:
    """build/sdk/typescript, a package for npm, compiled.

    Raises:
        Absent: Node or the generator could not be had.
        Failed: the generator or the compiler was not content.
    """
    home, node = needs.npm("sdk", HERE, NODE_MIN), needs.node(NODE_MIN).node
    folder = _package("typescript", ("package.json", "README.md", "tsconfig.json"))
    modules = home / "node_modules"
    env = {"NARTHEX_OPENAPI": str(DOCUMENT), "NARTHEX_SDK": str(folder / "src")}
    run([node, str(modules / "@hey-api/openapi-ts/bin/run.js")], env, cwd=home)
    run([node, str(modules / "typescript/bin/tsc"), "--project", str(folder)])
    return folder


def _document() -> Json:
    document: Json = json.loads(DOCUMENT.read_text())
    return document


def _package(language: str, files: tuple[str, ...]) -> Path:
    """An empty package with its metadata."""
    folder, version = BUILD / language, _document()["info"]["version"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in files:
        text = (HERE / language / name).read_text().replace("@VERSION@", version)
        (folder / name.removesuffix(".in")).write_text(text)
    shutil.copy(ROOT / "LICENSE", folder)
    return folder


def _for_python(document: Json) -> Json:
    """The document as openapi-python-client 0.29.1 understands it.

    It reads credentials that may be left out as ones that may not, and cannot send one of several
    bodies where none may be sent too.
    """
    for operation in _operations(document):
        if {} in operation.get("security", []):
            del operation["security"]
        if "requestBody" in operation:
            operation["requestBody"]["required"] = True
    return document


def _operations(document: Json) -> Iterator[Json]:
    for methods in document["paths"].values():
        yield from methods.values()


def _import_unset(path: Path) -> None:
    """Add the import that the generator forgets where a body is one of several."""
    text, there = path.read_text(), "from ...types import UNSET, Response\n"
    if "| Unset" in text and there in text:
        path.write_text(text.replace(there, "from ...types import UNSET, Response, Unset\n"))


def run(words: list[str], extra: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    """What a tool printed.

    Raises:
        Failed: it ended with another status than 0.
    """
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **(extra or {})}, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


MAKERS = {"python": make_python, "typescript": make_typescript}


def main() -> int:
    for language in sys.argv[1:] or MAKERS:
        try:
            print(f"{language}: {MAKERS[language]().relative_to(ROOT)}")
        except needs.Absent as absent:
            print(f"{language}: NOT MADE: {absent}", file=sys.stderr)
            return needs.NOT_HERE
        except Failed as failed:
            print(f"{language}: {failed}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
