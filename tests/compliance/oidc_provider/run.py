"""The same requests to node-oidc-provider and to both profiles of the gateway.

    python -m tests.compliance.oidc_provider.run            compare with differences.toml
    python -m tests.compliance.oidc_provider.run --show     print every answer as well
    python -m tests.compliance.oidc_provider.run --write    write the table and its page in docs/

A difference that differences.toml does not explain fails, and so does one that it explains and that
is there no more. `--write` puts what is new under the reason "?", which no table may keep.
Exit status: 0 as the table says, 1 not so, 3 what is needed could not be had.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.compliance import needs
from tests.compliance.judged import INSTANCES, judged_gateway
from tests.compliance.oidc_provider.asked import CASES
from tests.compliance.oidc_provider.differences import (
    PAGE,
    PROFILES,
    TABLE,
    Difference,
    Table,
    compare,
    observe,
)
from tests.compliance.oidc_provider.servers import Ours, Server, oidc_provider

UNEXPLAINED = "?"


def ask_all(theirs: Server, ours: dict[str, Server], show: bool) -> list[Difference]:
    found: list[Difference] = []
    for name, case in CASES.items():
        seen = {
            server.name: observe(name, case(server))
            for server in (theirs, *(ours[profile] for profile in PROFILES))
        }
        if show:
            print(name, *(f"\n  {who}: {what}" for who, what in seen.items()))
        found += compare(name, seen[theirs.name], *(seen[profile] for profile in PROFILES))
    return found


def answers(show: bool) -> list[Difference]:
    with tempfile.TemporaryDirectory(prefix="narthex-oidc-") as folder:
        place = Path(folder)
        needs.npm("oidc_provider")  # before anything is started
        with judged_gateway(place) as judged:
            opaque = [one for one in INSTANCES if one.token_format == "opaque"]
            ours: dict[str, Server] = {
                one.profile: Ours(judged, judged.instance(one)) for one in opaque
            }
            judged.gateway.wait_carried()
            cert = Path(judged.gateway.settings["TLS_CERT"])
            key = Path(judged.gateway.settings["TLS_KEY"])
            with oidc_provider(place, judged.ca, cert, key) as theirs:
                return ask_all(theirs, ours, show)


def write(found: list[Difference]) -> None:
    """The table of what was found, with the reasons that there were."""
    try:
        old = Table.read()
    except FileNotFoundError:
        old = Table({}, {})
    known = {one: old.known.get(one, UNEXPLAINED) for one in found}
    reasons = {why: text for why, text in old.reasons.items() if why in known.values()}
    if UNEXPLAINED in known.values():
        reasons[UNEXPLAINED] = ""
    table = Table(reasons, known)
    TABLE.write_text(table.text())
    PAGE.write_text(table.page(len(CASES)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--show", action="store_true", help="print every answer")
    parser.add_argument("--write", action="store_true", help="write the table and the page")
    options = parser.parse_args()
    try:
        found = answers(options.show)
    except needs.Absent as absent:
        print(f"oidc-provider: NOT RUN: {absent}", file=sys.stderr)
        return needs.NOT_HERE
    if options.write:
        write(found)
    faults = Table.read().faults(found)
    for fault in faults:
        print(f"oidc-provider: {fault}", file=sys.stderr)
    print(f"oidc-provider: {len(CASES)} requests, {len(found)} differences, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
