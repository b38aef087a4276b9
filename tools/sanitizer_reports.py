"""Shows what the sanitizers wrote about our modules; status 1 when there is something.

usage: sanitizer_reports.py FILE...

A report counts when a frame of a compiled module of ours is in it; a leak when it was one of our
modules that asked for the memory, for CPython itself leaves much unfreed at its end.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

OURS = re.compile(r"dataplane/_\w+\.")
START = re.compile(
    r"^(?:=+\d+=+ *ERROR: |WARNING: ThreadSanitizer|(?:Direct|Indirect) leak|\S+: runtime error:)",
    re.MULTILINE,
)
# The workers' memory outlives their engine, as a Reclaimer may look at their turns after it.
KEPT = re.compile(r"Engine.*__cinit__|_engine_Engine", re.DOTALL)


def ours(report: str) -> bool:
    """Whether this one report is about a module of ours."""
    if " leak of " not in report.partition("\n")[0]:
        return OURS.search(report) is not None
    frames = re.findall(r"^ +#\d+ .*$", report, re.MULTILINE)
    if len(frames) < 2 or not OURS.search(frames[1]):
        return False
    return not KEPT.search(frames[1])


def main(paths: list[str]) -> int:
    found = 0
    for path in paths:
        text = Path(path).read_text(errors="replace")
        starts = [match.start() for match in START.finditer(text)]
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            if ours(text[start:end]):
                found += 1
                print(text[start:end].rstrip(), end="\n\n")
    print(f"sanitizer reports about our modules: {found}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
