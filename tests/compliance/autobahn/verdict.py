"""What a run of the suite says of us, and what it cannot see by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OK, INFO, NON_STRICT, UNIMPLEMENTED, FAILED = "OK", "INFO", "NON-STRICT", "UNIMPLEMENTED", "FAILED"
OUTCOMES = (OK, INFO, NON_STRICT, UNIMPLEMENTED, FAILED)


def outcome(report: Mapping[str, Any]) -> str:
    """The worse of what the case and its close came to."""
    case, close = report["behavior"], report["behaviorClose"]
    if case == "FAILED" or close in ("FAILED", "UNCLEAN", "WRONG CODE"):
        return FAILED
    if case == "UNIMPLEMENTED":
        return UNIMPLEMENTED
    if case == "INFORMATIONAL":
        return INFO
    # FAILED BY CLIENT: the suite had to end TCP itself.
    return NON_STRICT if case == "NON-STRICT" or close == "FAILED BY CLIENT" else OK


def dropped(report: Mapping[str, Any]) -> bool:
    """TCP ended where a Close was due.  The suite lets that pass where it asks for no clean one."""
    lenient = not report["expectedClose"].get("requireClean")
    return outcome(report) != FAILED and lenient and report["remoteCloseCode"] is None


def why(report: Mapping[str, Any]) -> str:
    if report["behavior"] == "FAILED":
        return str(report["result"])
    return str(report["wasNotCleanReason"] or report["resultClose"])


@dataclass
class Verdict:
    """A run, judged."""

    ids: Sequence[str]
    reports: Mapping[str, Mapping[str, Any]]
    arrived: Collection[str]  # whose violation reached the far end

    def cases(self, wanted: str) -> list[str]:
        return [c for c in self.ids if c in self.reports and outcome(self.reports[c]) == wanted]

    @property
    def faults(self) -> dict[str, list[str]]:
        """What is not as it must be, by kind: an inspecting gateway has nothing here."""
        found = {
            "failed": self.cases(FAILED),
            "not run": [case for case in self.ids if case not in self.reports],
            "non-strict": self.cases(NON_STRICT),
            "unimplemented": self.cases(UNIMPLEMENTED),
            "arrived at the far end": [case for case in self.ids if case in self.arrived],
            "dropped without a Close": [
                case for case in self.ids if case in self.reports and dropped(self.reports[case])
            ],
        }
        return {kind: cases for kind, cases in found.items() if cases}

    def lines(self) -> list[str]:
        """For people: each failed case with its reason, the faults by kind, the count."""
        said = [f"  {case}: {why(self.reports[case])}" for case in self.cases(FAILED)[:25]]
        said += [f"{kind} ({len(cases)}): {fold(cases, self.ids)}"
                 for kind, cases in self.faults.items()]  # fmt: skip
        counts = [f"{kind} {len(self.cases(kind))}" for kind in OUTCOMES]
        return [*said, f"{', '.join(counts)} of {len(self.ids)}"]


def fold(cases: Sequence[str], run: Sequence[str]) -> str:
    """As text: of groups and subgroups that are there whole, the name alone."""
    left, said = list(cases), []
    while left:
        parts = left[0].split(".")
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth]) + "."
            group = {case for case in run if case.startswith(prefix)}
            if len(group) > 2 and group <= set(left):
                said.append(f"{prefix}*")
                left = [case for case in left if case not in group]
                break
        else:
            said.append(left.pop(0))
    return " ".join(said)
