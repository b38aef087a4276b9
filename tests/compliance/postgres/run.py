"""The tests of the control plane, the how-to and the README's commands, all on PostgreSQL.

    python -m tests.compliance.postgres.run

The server is Debian's, of a temporary folder and on a free port, one for each process that tests.
Exit status: 0 all went well, 1 something did not, 3 there is no PostgreSQL to be had.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.compliance import needs
from tests.postgres import find_binaries

TESTS = ("tests/control", *(f"tests/gateway/test_{n}.py" for n in ("postgres", "how_to", "readme")))
SECONDS = 1500


def main() -> int:
    try:
        if find_binaries() is None:
            needs.debian("postgresql", programs=("pg_ctlcluster",))
    except needs.Absent as absent:
        print(absent)
        return needs.NOT_HERE
    pytest = [sys.executable, "-m", "pytest", "--database", "postgres", *TESTS]
    processes = str((os.cpu_count() or 1) + 1)
    side_by_side = ["-m", "not alone", "-n", processes, "--dist", "loadfile"]
    runs = [
        subprocess.run([*pytest, *words], cwd=needs.ROOT, timeout=SECONDS).returncode
        for words in (side_by_side, ["-m", "alone"])
    ]
    return int(any(runs))


if __name__ == "__main__":
    sys.exit(main())
