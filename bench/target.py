"""Start a gateway for a load tool, and print where it is: NAME:PORT:PID:PATH:HEADER.

    .venv/bin/python bench/target.py --echo-port 9001 [--workers 1] [--tls]

The upstream is whatever WebSocket server listens on --echo-port.  The gateway runs as a user would
run it: a bearer token is checked at every handshake, metrics and close records are on.  It ends
with SIGTERM or when standard input ends.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SECONDS_TO_START = 60


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST of a JSON body; the JSON that comes back."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    context = ssl._create_unverified_context() if url.startswith("https") else None
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def once_up(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """As `call`, as soon as the gateway is there to answer it well."""
    end = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            return call(url, body)
        except (OSError, ValueError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def configure(admin: str, echo_port: int) -> tuple[str, str]:
    """The how-to's entities, with the load's upstream.  Returns client id and secret."""
    call(f"{admin}/services", {"name": "bench", "url": f"ws://127.0.0.1:{echo_port}/"})
    call(
        f"{admin}/services/bench/routes",
        {"name": "bench", "paths": ["/anything"], "protocols": ["ws", "wss"]},
    )
    call(
        f"{admin}/routes",
        {"name": "token", "paths": ["/token-route"], "protocols": ["https"], "methods": ["POST"]},
    )
    config = {
        "scopes": ["email", "profile"],
        "global_credentials": True,
        "enable_client_credentials": True,
    }
    for owner in ("services/bench", "routes/token"):
        call(f"{admin}/{owner}/plugins", {"name": "oauth2", "config": config})
    call(f"{admin}/consumers", {"username": "alex"})
    made = call(f"{admin}/consumers/alex/oauth2", {"name": "bench"})
    return made["client_id"], made["client_secret"]


def get_token(port: int, client_id: str, client_secret: str) -> str:
    body = {
        "client_id": client_id,
        "client_secret": client_secret,
        "grant_type": "client_credentials",
    }
    url = f"https://127.0.0.1:{port}/token-route/oauth2/token"
    return str(once_up(url, body)["access_token"])


def data_plane_pid(supervisor: int) -> int:
    """The child whose command line says dataplane."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for child in children:
        if b"dataplane" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise SystemExit("bench: the gateway has no data plane")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--echo-port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tls", action="store_true", help="print the TLS port")
    options = parser.parse_args()
    plain, tls, admin, link, status = (free_port() for _ in range(5))
    with tempfile.TemporaryDirectory(prefix="narthex-bench-") as work:
        settings = {
            "PROXY_LISTEN": f"127.0.0.1:{plain}, 127.0.0.1:{tls} ssl",
            "ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "LINK_LISTEN": f"127.0.0.1:{link}",
            "LINK_URL": f"ws://127.0.0.1:{link}",
            "STATUS_LISTEN": f"127.0.0.1:{status}",
            "DATA_DIR": f"{work}/data",
            "WORKERS": str(options.workers),
        }
        environment = os.environ | {f"NARTHEX_{name}": value for name, value in settings.items()}
        with (Path(work) / "log").open("wb") as log:
            gateway = subprocess.Popen(
                [sys.executable, "-m", "narthex", "start"],
                cwd=ROOT, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            once_up(f"http://127.0.0.1:{admin}/status")
            once_up(f"http://127.0.0.1:{status}/status/ready")
            token = get_token(tls, *configure(f"http://127.0.0.1:{admin}", options.echo_port))
            pid = data_plane_pid(gateway.pid)
            name, port = ("narthex+tls", tls) if options.tls else ("narthex", plain)
            print(f"{name}:{port}:{pid}:/anything:Authorization: Bearer {token}", flush=True)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            sys.stdin.read()
        finally:
            gateway.terminate()
            gateway.wait(30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
