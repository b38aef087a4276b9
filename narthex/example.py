"""`make run`: the example loaded into an empty database, and the two commands to paste."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from control.settings import Settings as ControlSettings
from dataplane.settings import Settings as DataplaneSettings
from narthex.admin import NotAllowed, admin_url, ask
from narthex.apply import carry
from narthex.config_file import fill_in, read
from narthex.fault import Fault
from narthex.requests import Reply

FILE = Path(__file__).resolve().parent.parent / "examples" / "oauth2-websocket.yaml"
CONSUMER = "alex"
APPLICATION = {"name": "TestApp", "redirect_uris": ["http://localhost:8000/anything"]}
ADMIN_SECONDS = 60.0  # for the control plane to answer
DATAPLANE_SECONDS = 15.0  # for a data plane to take the configuration
POLL_SECONDS = 0.1
REQUEST_SECONDS = 10.0


@dataclass(frozen=True)
class Credential:
    """The example's application; its secret is known to whoever made it, and only then."""

    client_id: str
    client_secret: str | None = field(repr=False)


def run(control: ControlSettings, dataplane: DataplaneSettings, echo_url: str) -> None:
    """Load the example when nothing is configured; print what to paste.

    Raises:
        Fault: the control plane does not answer, or refuses the example.
    """
    base = admin_url(control)
    _wait_for(base)
    credential: Credential | None
    if _is_empty(base):
        credential = _load(base, echo_url)
        print(f"\nLoaded {FILE.name}: its upstream is {echo_url}. The client secret is shown once.")
    else:
        credential = _known(base)
        print("\nThe database holds a configuration already: the example was not loaded.")
    if not _carried(base):
        print("No data plane carries this configuration yet: see the log.")
    if credential is not None:
        print(instructions(credential, dataplane), flush=True)
        if credential.client_secret is None:
            where = f"{base}/consumers/{CONSUMER}/oauth2/{credential.client_id}"
            print(f"The secret is gone? Ask the Admin API: curl {where}\n", flush=True)


def instructions(credential: Credential, settings: DataplaneSettings) -> str:
    """The token command and the WebSocket command, ready to paste as far as things are known."""
    tls = next((one.port for one in settings.proxy_listen if one.tls), None)
    plain = next((one.port for one in settings.proxy_listen if not one.tls), None)
    body = {
        "client_id": credential.client_id,
        "client_secret": credential.client_secret or "<the secret shown when it was made>",
        "grant_type": "client_credentials",
    }
    websocket = f"ws://localhost:{plain}" if plain else f"--insecure wss://localhost:{tls}"
    lines = [
        "",
        "1. Get a token:",
        f"   curl -k -X POST https://localhost:{tls}/token-route/oauth2/token"
        f" --json '{json.dumps(body, separators=(',', ':'))}'",
        "",
        "2. Talk through the gateway with it, a line at a time:",
        f"   .venv/bin/narthex connect {websocket}/anything --token <access_token>",
        "",
    ]
    return "\n".join(lines)


def _wait_for(base: str) -> None:
    deadline = time.monotonic() + ADMIN_SECONDS
    while True:
        try:
            if _get(base, "/status").ok:
                return
        except NotAllowed:
            raise
        except Fault:
            pass
        if time.monotonic() > deadline:
            raise Fault(f"{base}: the control plane does not answer; the example was not loaded")
        time.sleep(POLL_SECONDS)


def _carried(base: str) -> bool:
    """Whether a data plane runs the newest configuration, soon: the commands need one."""
    deadline = time.monotonic() + DATAPLANE_SECONDS
    while True:
        rows = _get(base, "/dataplanes").json().get("data", [])
        if any(row["connected"] and row["sync_status"] == "normal" for row in rows):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)


def _get(base: str, path: str) -> Reply:
    return ask("GET", base + path, timeout=REQUEST_SECONDS)


def _is_empty(base: str) -> bool:
    collections = ("services", "routes", "plugins", "consumers")
    return not any(_get(base, f"/{name}?size=1").json().get("data") for name in collections)


def _load(base: str, echo_url: str) -> Credential:
    values = {"DECK_ECHO_URL": echo_url, "DECK_PROVISION_KEY": secrets.token_urlsafe(24)}
    carry(base, "apply", fill_in(read(str(FILE)), values))
    made = ask("POST", f"{base}/consumers/{CONSUMER}/oauth2", json.dumps(APPLICATION))
    if not made.ok:
        raise Fault(f"the example's credential was refused: {made.json().get('message')}")
    found = made.json()
    return Credential(str(found["client_id"]), str(found["client_secret"]))


def _known(base: str) -> Credential | None:
    """The example's credential of an earlier start, if it is still there; never its secret."""
    found = _get(base, f"/consumers/{CONSUMER}/oauth2?size=1").json().get("data")
    return Credential(str(found[0]["client_id"]), None) if found else None
