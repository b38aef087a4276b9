"""Say line and branch coverage, each for itself, and fail when one is below the bound.

Usage: coverage_gate.py coverage.json PERCENT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WORST_SHOWN = 8


def share(covered: int, total: int) -> float:
    """Percent; nothing to cover is fully covered."""
    return 100.0 * covered / total if total else 100.0


def figures(summary: dict[str, Any]) -> tuple[float, float]:
    """Line and branch coverage of one file or of all, in percent."""
    return (
        share(summary["covered_lines"], summary["num_statements"]),
        share(summary["covered_branches"], summary["num_branches"]),
    )


def main(report: str, bound: float) -> int:
    data = json.loads(Path(report).read_text())
    lines, branches = figures(data["totals"])
    print(f"coverage: lines {lines:.1f} %, branches {branches:.1f} % (at least {bound:.0f} % each)")
    files = {name: figures(entry["summary"]) for name, entry in data["files"].items()}
    worst = sorted(files, key=lambda name: sum(files[name]))[:WORST_SHOWN]
    for name in worst:
        if min(files[name]) < bound:
            print(f"  {name}: lines {files[name][0]:.1f} %, branches {files[name][1]:.1f} %")
    return 0 if min(lines, branches) >= bound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
