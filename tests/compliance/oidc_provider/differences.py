"""What is compared, and the table of what may differ: differences.toml, with a reason for each."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.compliance.oidc_provider.asked import members
from tests.harness import ROOT

TABLE = Path(__file__).resolve().parent / "differences.toml"
PAGE = ROOT / "docs" / "oidc-provider.md"
PROFILES = ("kong", "strict")
FIELDS = ("status", "error", "active", "members", "challenge", "cache", "type")
_SCHEME = re.compile(r"\s*([A-Za-z]+)")
_ERROR = re.compile(r'\berror="([^"]*)"')
# Documents list different things at different servers, and only what all must have is compared.
_DOCUMENTS = ("metadata", "the key set")


@dataclass(frozen=True, order=True)
class Difference:
    """One field of the answers to one case, as each of the three says it."""

    case: str
    field: str
    theirs: str
    kong: str
    strict: str


def observe(case: str, answer: httpx.Response) -> dict[str, str]:
    """What matters of an answer, as text; `-` is nothing.

    `members`: the names in a successful body; an error has `error` in their place.
    """
    body = _body(answer)
    challenge = answer.headers.get("www-authenticate", "")
    scheme, error = _SCHEME.match(challenge), _ERROR.search(challenge)
    names = members(answer.text) if answer.is_success and case not in _DOCUMENTS else None
    return {
        "status": str(answer.status_code),
        "error": str(body.get("error", "-")) if not answer.is_success else "-",
        "active": json.dumps(body["active"]) if "active" in body else "-",
        "members": " ".join(names) if names else "-",
        "challenge": " ".join(filter(None, [scheme and scheme[1], error and error[1]])) or "-",
        "cache": answer.headers.get("cache-control", "-"),
        "type": answer.headers.get("content-type", "-").replace("; ", ";").lower(),
    }


def _body(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def compare(
    case: str, theirs: dict[str, str], kong: dict[str, str], strict: dict[str, str]
) -> list[Difference]:
    return [
        Difference(case, field, theirs[field], kong[field], strict[field])
        for field in FIELDS
        if not theirs[field] == kong[field] == strict[field]
    ]


@dataclass(frozen=True)
class Table:
    """What is committed: each difference, and which of the reasons is its."""

    reasons: dict[str, str]
    known: dict[Difference, str]

    @classmethod
    def read(cls, path: Path = TABLE) -> Table:
        """Raises ValueError for a difference without a reason, or a reason of no difference."""
        found = tomllib.loads(path.read_text())
        reasons: dict[str, str] = found.get("reasons", {})
        known = {}
        for one in found.get("difference", []):
            why = one.pop("why")
            if not reasons.get(why):
                raise ValueError(f"{one['case']}, {one['field']}: no reason is called {why!r}")
            known[Difference(**one)] = why
        if unused := reasons.keys() - set(known.values()):
            raise ValueError(f"reasons of no difference: {', '.join(sorted(unused))}")
        return cls(reasons, known)

    def faults(self, found: list[Difference]) -> list[str]:
        """What nobody explained, and what was explained and is there no more; a line each."""
        return [f"not explained: {_told(one)}" for one in found if one not in self.known] + [
            f"not found any more: {_told(one)}" for one in self.known if one not in found
        ]

    def page(self, cases: int) -> str:
        """docs/oidc-provider.md."""
        lines = [
            "# Beside node-oidc-provider",
            "",
            f"`make judges` sends the same {cases} requests to node-oidc-provider 9.13.3 and to",
            "both profiles of the gateway. It compares status, `error`, `active`, the members of a",
            "successful body, the challenge (scheme and error), `Cache-Control` and content type.",
            "What differs is below, and why: anything else that differs fails, and so does a line",
            "that is true no more. `python -m tests.compliance.oidc_provider.run --write` wrote it",
            "from `tests/compliance/oidc_provider/differences.toml`.",
        ]
        for why, text in self.reasons.items():
            lines += ["", f"## {why}", "", *textwrap.wrap(text, 100), ""]
            lines += [
                "| request | | node-oidc-provider | `kong` | `strict` |",
                "|---|---|---|---|---|",
            ]
            lines += [_row(one) for one, reason in self.known.items() if reason == why]
        return "\n".join(lines) + "\n"

    def text(self) -> str:
        """The table as it is committed."""
        lines = ["# Where our answers differ from node-oidc-provider's.  run.py --write keeps it."]
        lines += ["", "[reasons]"]
        lines += [f"{_quoted(why)} = {_quoted(text)}" for why, text in self.reasons.items()]
        for one, why in self.known.items():
            lines += ["", "[[difference]]"]
            lines += [
                f"{name} = {_quoted(getattr(one, name))}"
                for name in ("case", "field", "theirs", *PROFILES)
            ]
            lines.append(f"why = {_quoted(why)}")
        return "\n".join(lines) + "\n"


def _told(one: Difference) -> str:
    return f"{one.case}, {one.field}: theirs {one.theirs}, kong {one.kong}, strict {one.strict}"


def _row(one: Difference) -> str:
    cells = (one.case, one.field, one.theirs, one.kong, one.strict)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
