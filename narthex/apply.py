"""`narthex config apply`: a declarative file to the control plane, which writes it whole or not."""

from __future__ import annotations

from typing import Any

from narthex.admin import ask
from narthex.fault import Fault

PATH = "/narthex/config/apply"


def apply_text(base: str, text: str) -> list[str]:
    """Create and update what `text` holds, in one transaction.

    Returns one line for each entity that changed (`created services example`).

    Raises:
        Fault: the control plane does not answer, or refused the file: then nothing was written.
    """
    reply = ask("POST", base + PATH, text, "application/yaml")
    found = reply.json()
    if not reply.ok:
        raise Fault(f"refused, nothing was changed: {_reason(found)}")
    return [f"{entry['change']} {entry['type']} {entry['name']}" for entry in found["changes"]]


def _reason(found: dict[str, Any]) -> str:
    where = f"{found['entity']}: " if found.get("entity") else ""
    return f"{where}{found.get('message', 'no reason given')}"
