"""`narthex keys`: the keys that sign JWTs, through the Admin API."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

from narthex.admin import ask
from narthex.fault import Fault
from narthex.requests import Reply

PATH = "/signing-keys"


def listed(base: str) -> list[str]:
    """One line for each key, the oldest first."""
    reply = ask("GET", base + PATH)
    return [_line(key) for key in _answer(reply)["data"]]


def rotate(base: str, alg: str | None) -> list[str]:
    """Make the next keys; one line for each."""
    body = json.dumps({} if alg is None else {"alg": alg})
    return [_line(key) for key in _answer(ask("POST", f"{base}{PATH}/rotate", body))["data"]]


def retire(base: str, kid: str) -> None:
    """End a key, and what it signed, at once.

    Raises:
        Fault: there is no such key.
    """
    known = _answer(ask("GET", base + PATH))["data"]
    if kid not in (key["kid"] for key in known):
        raise Fault(f"there is no key {kid}; `narthex keys list` shows those that there are")
    _answer(ask("DELETE", f"{base}{PATH}/{quote(kid, safe='')}"))


def _answer(reply: Reply) -> dict[str, Any]:
    if not reply.ok:
        raise Fault(f"refused: {reply.json().get('message', 'no reason given')}")
    return reply.json() if reply.body else {}


def _line(key: dict[str, Any]) -> str:
    """`<kid> ES256 next, signs from 2026-01-31 10:00:00 UTC`."""
    when = {
        "next": f"signs from {_moment(key['active_at'])}",
        "signing": f"since {_moment(key['active_at'])}",
        "retired": f"verifies until {_moment(key['gone_at'])}",
    }[key["status"]]
    return f"{key['kid']} {key['alg']} {key['status']}, {when}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
