"""What all routes together may ask of a data plane: its matcher has room for so much.

Past it a data plane would refuse the whole configuration and stay on the one before, so that the
write which would lead there is refused instead. Looked at once a transaction, before its commit,
and only where a written route counts: reading all of them costs some milliseconds.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlmodel import Session, col

from control.admin.errors import SchemaViolation
from control.store.session import WriteSession
from control.store.tables import Route

METHODS_MAX = 64  # different ones, as TABLES_METHODS_MAX of the data plane's `_tables`
PAIRS_MAX = 2**18  # of a host and a path, as TABLES_CANDIDATES_MAX there
# Routes with no more pairs are not looked at: that many of them would be 16,384 routes and more.
PAIRS_UNCOUNTED = 16
USUAL_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
)


def note_route(session: WriteSession, row: dict[str, Any]) -> None:
    """A route was written: have all of them looked at where this one may be too much."""
    unusual = not USUAL_METHODS.issuperset(row["methods"] or ())
    if unusual or _pairs(row["hosts"], row["paths"]) > PAIRS_UNCOUNTED:
        session.before_commit(check_routes)


def check_routes(session: Session) -> None:
    """Raises SchemaViolation when the routes are more than a data plane takes."""
    methods = set(USUAL_METHODS)
    pairs = 0
    columns = select(col(Route.methods), col(Route.hosts), col(Route.paths))
    for of_route, hosts, paths in session.execute(columns):
        methods.update(of_route or ())
        pairs += _pairs(hosts, paths)
    if len(methods) > METHODS_MAX:
        more = METHODS_MAX - len(USUAL_METHODS)
        text = f"all routes together may name {more} methods besides the usual ones"
        raise SchemaViolation({"methods": text})
    if pairs > PAIRS_MAX:
        text = f"all routes together may have {PAIRS_MAX} pairs of a host and a path, not {pairs}"
        raise SchemaViolation({"@entity": [text]})


def _pairs(hosts: list[str] | None, paths: list[str] | None) -> int:
    return max(1, len(hosts or ())) * max(1, len(paths or ()))
