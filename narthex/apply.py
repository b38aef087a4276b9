"""A declarative file to the control plane, which writes it whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from narthex.admin import ask
from narthex.fault import Fault
from narthex.requests import Reply

PATH = "/narthex/config/"
TIMEOUT_SECONDS = 600.0  # thousands of new entities in one transaction take their time


class Refused(Fault):
    """The file was refused and nothing was changed.  `errors` have entity, field and line."""

    def __init__(self, errors: Sequence[dict[str, Any]]) -> None:
        super().__init__("refused, nothing was changed")
        self.errors = errors


def carry(base: str, action: str, text: str, tags: Sequence[str] = ()) -> dict[str, Any]:
    """What the file changed, or would: `action` is apply, sync, diff or validate.

    Raises:
        Refused: by the control plane, with every error.
        Fault: the control plane does not answer.
    """
    url = base + PATH + action + _query({"tags": tags})
    found = _answer(ask("POST", url, text, "application/yaml", timeout=TIMEOUT_SECONDS))
    if "changes" not in found:
        raise Fault(f"{base} answers, but not as a Narthex does: {found.get('message', '')}")
    return found


def dump(base: str, tags: Sequence[str], *, all_fields: bool, with_id: bool) -> str:
    """The configuration as a file.

    Raises:
        Fault: the control plane does not answer, or will not give it.
    """
    flags = {"all_fields": all_fields, "with_id": with_id}
    url = f"{base}{PATH}dump" + _query({"tags": tags} | flags)
    reply = ask("GET", url, timeout=TIMEOUT_SECONDS)
    if not reply.ok:
        _answer(reply)
    return reply.body


def _query(options: dict[str, Any]) -> str:
    given = {
        name: ",".join(value) if name == "tags" else "true"
        for name, value in options.items()
        if value
    }
    return f"?{urlencode(given)}" if given else ""


def _answer(reply: Reply) -> dict[str, Any]:
    found = reply.json()
    if reply.ok:
        return found
    if found.get("errors"):
        raise Refused(found["errors"])
    raise Fault(f"refused, nothing was changed: {found.get('message', 'no reason given')}")
