"""schemathesis against a running control plane: the Admin API, then the OAuth endpoints.

    python -m tests.compliance.openapi.run [SEED]

Requests are made from openapi.json and led on by its links; answers must be what it says: no 5xx,
no status, content type, header or body that is not in it. Exit status 0 nothing found, 1 something
was; the seed is printed, and repeats the run. The suite runs the same with fewer requests.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.control.certificates import make_certificate
from tests.harness import ROOT, Gateway, free_ports, running_gateway

HERE = Path(__file__).resolve().parent
SECONDS = 900  # a whole run at the most
WALK_SECONDS = 60  # along links, from what others have made before


@dataclass(frozen=True)
class Judged:
    """What a run said, and what can be read out of it."""

    status: int
    output: str

    @property
    def cases(self) -> int:
        """Requests that were made and judged."""
        found = re.search(r"(\d+) generated", self.output)
        return int(found[1]) if found else 0

    @property
    def links(self) -> int:
        """Links of the document that were followed."""
        found = re.search(r"API Links: +(\d+) covered", self.output)
        return int(found[1]) if found else 0


def settings(folder: Path) -> dict[str, str]:
    """Of a control plane that has the OAuth endpoints on a port of their own too."""
    (issuer,) = free_ports(1)
    certificate, key = make_certificate(folder)
    return {
        "ISSUER_LISTEN": f"127.0.0.1:{issuer}",
        "TLS_CERT": str(certificate),
        "TLS_KEY": str(key),
        "LOG_LEVEL": "warning",
    }


def configure(gateway: Gateway) -> None:
    """A route where the OAuth endpoints answer, and a client."""
    config = {
        "scopes": ["email"],
        "enable_client_credentials": True,
        "enable_authorization_code": True,
        "enable_implicit_grant": True,
        "enable_password_grant": True,
        "global_credentials": True,
        "provision_key": "mB6zQe1rTn9yUk3w",
        "issuer": "https://127.0.0.1/token-route",
    }
    client = {
        "name": "app",
        "client_id": "xJ3vDq8sNfa0QmTz",
        "client_secret": "9hWmK2xVb7RcYpLe",
        "redirect_uris": ["https://app.example/callback"],
    }
    for path, body in (
        ("/routes", {"name": "judged-route", "protocols": ["https"], "paths": ["/token-route"]}),
        ("/routes/judged-route/plugins", {"name": "oauth2", "config": config}),
        ("/consumers", {"username": "judged"}),
        ("/consumers/judged/oauth2", client),
    ):
        gateway.admin.post(path, json=body).raise_for_status()


def admin_api(gateway: Gateway, seed: int, *options: str) -> Judged:
    url = f"http://127.0.0.1:{gateway.ports.admin}"
    return _run(url, "--exclude-tag", "oauth", "--seed", str(seed), *options)


def oauth(gateway: Gateway, seed: int, *options: str) -> Judged:
    url = f"https://{gateway.settings['ISSUER_LISTEN']}/token-route"
    # Metadata has its place before the route's path: here it is 404, whatever the method.
    words = ["--include-tag", "oauth", "--exclude-checks", "unsupported_method"]
    words += ["--tls-verify", "false", "--seed", str(seed), *options]
    return _run(url, *words)


def _run(url: str, *options: str) -> Judged:
    words = [sys.executable, "-m", "schemathesis.cli"]
    words += ["--config-file", str(HERE / "schemathesis.toml"), "run", str(ROOT / "openapi.json")]
    words += ["--url", url, "--continue-on-failure", "--suppress-health-check", "all"]
    words += options
    env = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS)
    return Judged(done.returncode, done.stdout + done.stderr)


def main() -> int:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(2**32)
    print(f"openapi: seed {seed} (python -m tests.compliance.openapi.run {seed} repeats it)")
    with (
        tempfile.TemporaryDirectory(prefix="narthex-openapi-") as folder,
        running_gateway(Path(folder), **settings(Path(folder))) as gateway,
    ):
        gateway.start_control()
        configure(gateway)
        thorough = ("--phases", "examples,coverage,fuzzing", "--max-examples")
        runs = (
            admin_api(gateway, seed, "--phases", "stateful", "--max-time", str(WALK_SECONDS)),
            admin_api(gateway, seed, *thorough, "10"),
            oauth(gateway, seed, *thorough, "100"),
        )
    for judged in runs:
        print(judged.output)
    return max(judged.status for judged in runs)


if __name__ == "__main__":
    sys.exit(main())
