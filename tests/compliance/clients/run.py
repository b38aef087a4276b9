"""Real OAuth clients against the running gateway, each with the grants that it knows.

    python -m tests.compliance.clients.run [python|node]

authlib and requests-oauthlib in a venv of their own, oauth4webapi and openid-client in Node. Every
line is one thing that a library did; exit status 0 all went well, 1 something did not, 3 what is
needed could not be had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.compliance import needs
from tests.compliance.judged import INSTANCES, judged_gateway

HERE = Path(__file__).resolve().parent
SECONDS = 240
# What must have gone well in the end: a script that stops early must not pass.
LIBRARIES = {
    "python": ("authlib", "requests-oauthlib"),
    "node": ("oauth4webapi", "openid-client"),
}


def commands(which: list[str]) -> dict[str, list[str]]:
    """What to start, by language.

    Raises:
        Absent: a package or Node could not be had.
    """
    made = {}
    if "python" in which:
        made["python"] = [str(needs.venv("clients")), str(HERE / "python_clients.py")]
    if "node" in which:
        home = needs.npm("clients")
        made["node"] = [needs.node().node, str(home / "node_clients.mjs")]
    return made


def judge(language: str, command: list[str], about: Path, ca: Path) -> list[str]:
    """What was amiss, a line each."""
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    env = kept | {"NODE_EXTRA_CA_CERTS": str(ca), "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            [*command, str(about)], env=env, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return [f"{language}: did not end within {SECONDS} s"]
    lines = done.stdout.splitlines()
    print(done.stdout, end="")
    found = [line for line in lines if line.startswith("FAILED")]
    if done.returncode:
        found.append(f"{language}: ended with {done.returncode}: {done.stderr[-3000:]}")
    for library in LIBRARIES[language]:
        for one in INSTANCES:
            went_well = sum(line.startswith(f"ok {library} {one.name}: ") for line in lines)
            if not went_well:
                found.append(f"{library} did nothing with the instance {one.name}")
    return found


def main() -> int:
    which = sys.argv[1:] or list(LIBRARIES)
    try:
        to_run = commands(which)
    except needs.Absent as absent:
        print(f"clients: NOT RUN: {absent}", file=sys.stderr)
        return needs.NOT_HERE
    found: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="narthex-clients-") as folder,
        judged_gateway(Path(folder)) as judged,
    ):
        about = Path(folder) / "about.json"
        about.write_text(json.dumps(judged.about([judged.instance(one) for one in INSTANCES])))
        judged.gateway.wait_carried()
        for language, command in to_run.items():
            found += judge(language, command, about, judged.ca)
    for line in found:
        print(f"clients: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
