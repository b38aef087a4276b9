"""The generated SDKs against the running gateway: the how-to, and each entity's whole life.

    python -m tests.compliance.sdk.run [python|typescript]

`make sdk` makes them, as the README says; its own examples are run too, as written but for ports.
Scripts are judged by mypy --strict and tsc --strict together with the packages. Exit status 0 all
went well, 1 something did not, 3 what is needed could not be had.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.compliance import needs
from tests.compliance.judged import Judged, judged_gateway
from tests.harness import ROOT, websocket
from tests.pki import make
from tools.sdk import generate

HERE = Path(__file__).resolve().parent
CHAPTER = "## From Python and TypeScript"
SECONDS = 600
DONE = 11  # lines that begin with `ok`: what must have gone well in the end

Blocks = list[tuple[str, str]]  # language and text


class Wrong(Exception):
    """Something did not go well; says what."""


def blocks(language: str) -> Blocks:
    """The README's blocks for a language: how the SDKs are made, and then its own."""
    chapter = (ROOT / "README.md").read_text().partition(CHAPTER)[2].partition("\n## ")[0]
    parts = re.split(r"^### (\w+)$", chapter, flags=re.MULTILINE)
    own = dict(zip(parts[1::2], parts[2::2], strict=True))
    title = {"python": "Python", "typescript": "TypeScript"}[language]
    return re.findall(r"```(\w+)\n(.*?)```", parts[0] + own[title], re.DOTALL)


def judge_python(judged: Judged, folder: Path) -> None:
    tool = needs.venv("sdk", generate.HERE)
    package, example = generate.BUILD / "python", folder / "chat.py"
    made, installed, (_, text) = blocks("python")
    _shell(made[1] + installed[1], {"SDK": "python"}, tool)
    example.write_text(_ported(text, judged))
    user = ROOT / "build" / "chat-python" / "bin" / "python"
    script = HERE / "python_sdk.py"
    for judged_path in (package / "narthex_client", script, example):
        run([str(tool), "-m", "mypy", "--strict", str(judged_path)], package)
    _followed(run([str(user), str(script), str(_about(judged, folder))], folder), judged)
    _exemplified(run([str(user), str(example)], folder), judged, "sam")


def judge_typescript(judged: Judged, folder: Path) -> None:
    found = needs.node(generate.NODE_MIN)
    made, installed, (_, text) = blocks("typescript")
    _shell(made[1] + installed[1], {"SDK": "typescript"}, Path(found.node))
    user = ROOT / "build" / "chat-typescript"
    example, script = user / "chat.mts", user / "typescript_sdk.mts"
    example.write_text(_ported(text, judged))
    shutil.copy(HERE / script.name, script)
    home = needs.npm("sdk", generate.HERE, generate.NODE_MIN)
    config = user / "tsconfig.json"
    options = {
        "strict": True,
        "noEmit": True,
        "target": "es2022",
        "module": "nodenext",
        "lib": ["es2022", "dom", "dom.iterable"],
        "types": ["node"],
        "typeRoots": [str(home / "node_modules" / "@types")],
    }
    config.write_text(json.dumps({"compilerOptions": options, "include": ["*.mts"]}))
    compiler = home / "node_modules" / "typescript" / "bin" / "tsc"
    run([found.node, str(compiler), "--project", str(config)], user)
    trusted = {"NODE_EXTRA_CA_CERTS": str(judged.ca)}
    about = str(_about(judged, folder))
    _followed(run([found.node, str(script), about], user, trusted), judged)
    _exemplified(run([found.node, str(example)], user), judged, "kim")


JUDGES = {"python": judge_python, "typescript": judge_typescript}


def _about(judged: Judged, folder: Path) -> Path:
    """What a script has to know, as a file."""
    pair, authority = make("round.example"), make(authority=True)
    path = folder / "about.json"
    about = {
        "admin": f"http://localhost:{judged.gateway.ports.admin}",
        "tokens": f"{judged.base}/token-route",
        "ca": str(judged.ca),
        "upstream": judged.upstream.url,
        "cert": pair.cert,
        "key": pair.key,
        "authority": authority.cert,
    }
    path.write_text(json.dumps(about))
    return path


def _followed(output: str, judged: Judged) -> None:
    """What the script did; the token that it ends with opens a WebSocket."""
    print(output, end="")
    *lines, token = output.splitlines()
    if sum(line.startswith("ok ") for line in lines) < DONE:
        raise Wrong("the script ended early")
    url = f"ws://127.0.0.1:{judged.gateway.ports.proxy}/anything"
    with websocket(url, token) as socket:
        socket.send("hello")
        if socket.recv(timeout=10) != "hello":
            raise Wrong("no echo through the gateway")
    print("ok how-to: echo")


def _exemplified(output: str, judged: Judged, consumer: str) -> None:
    """The README's example printed the client that it made."""
    client_id, secret = output.split()
    made = judged.gateway.admin.get(f"/consumers/{consumer}/oauth2/{client_id}").json()
    if made.get("client_secret") != secret:
        raise Wrong(f"the README's example printed another secret than that of {made}")
    print("ok README")


def _ported(text: str, judged: Judged) -> str:
    for documented, real in ((8001, judged.gateway.ports.admin), (8443, judged.gateway.ports.tls)):
        text = text.replace(f"localhost:{documented}", f"localhost:{real}")
    return text


def _shell(script: str, extra: Mapping[str, str], tool: Path) -> None:
    """Run shell blocks in the repository, with python3 and npm that are new enough."""
    path = [str(Path(sys.executable).parent), str(tool.parent), os.environ["PATH"]]
    run(["bash", "-euo", "pipefail", "-c", script], ROOT, {"PATH": os.pathsep.join(path), **extra})


def run(words: list[str], cwd: Path, extra: Mapping[str, str] | None = None) -> str:
    """What a command printed.

    Raises:
        Absent: a package could not be had.
        Wrong: it failed otherwise.
    """
    env = {**os.environ, "no_proxy": "localhost,127.0.0.1", **(extra or {})}
    done = subprocess.run(
        words, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if "NOT MADE" in done.stderr:
        raise needs.Absent(done.stderr.strip())
    if done.returncode:
        raise Wrong(f"{' '.join(words)[:200]}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def main() -> int:
    for language in sys.argv[1:] or JUDGES:
        try:
            with (
                tempfile.TemporaryDirectory(prefix="narthex-sdk-") as folder,
                judged_gateway(Path(folder)) as judged,
            ):
                JUDGES[language](judged, Path(folder))
        except needs.Absent as absent:
            print(f"sdk: NOT RUN: {absent}", file=sys.stderr)
            return needs.NOT_HERE
        except Wrong as wrong:
            print(f"sdk: {language}: {wrong}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
