"""Kong's tokens: taken over as digests, many at a time, so that clients go on with what they have.

One that is here already stays as it is: since the import it may have been refreshed or ended here,
and Kong knows nothing of that.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from control.admin import audit
from control.admin.errors import SchemaViolation
from control.admin.oauth2_tokens import OAuth2Tokens
from control.admin.resource import Values, Write
from control.admin.validate import validate
from control.kong.document import Document, Entity
from control.kong.fields import Unfit, fitting
from control.kong.reasons import why_refused
from control.kong.report import Report
from control.store import queries
from control.store.rows import Row
from control.store.session import WriteSession

KIND = "oauth2_tokens"
AT_ONCE = 500  # rows of one statement
IMPORTED = "imported"  # stands for their ids in the audit trail, which they would fill
_RESOURCE = OAuth2Tokens()
_REFERENCES = {"credential": "oauth2_credentials", "service": "services"}

Item = TypeVar("Item")


@dataclass(frozen=True)
class Owners:
    """What a token may belong to, as it is here: ids, and ids by name."""

    ids: Mapping[str, frozenset[str]]  # by collection
    by_key: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls, session: WriteSession) -> "Owners":
        found = {kind: queries.ids_by_key(session, kind) for kind in _REFERENCES.values()}
        return cls(
            {kind: frozenset(id_ for id_, _ in rows) for kind, rows in found.items()},
            {kind: {key: id_ for id_, key in rows if key} for kind, rows in found.items()},
        )

    def find(self, kind: str, reference: Any) -> str | None:
        keys = reference.values() if isinstance(reference, dict) else (reference,)
        key = next((key for key in keys if isinstance(key, str)), "")
        return key if key in self.ids[kind] else self.by_key[kind].get(key)


def take_tokens(session: WriteSession, document: Document, report: Report) -> None:
    """Insert the tokens that can still be used and are not here; one record says how many."""
    owners, now = Owners.read(session), time.time()
    made = 0
    for entities in _parts(document.of(KIND)):
        rows: list[tuple[Entity, Row]] = []
        for entity in entities:
            try:
                rows.append((entity, _row(entity, owners, now)))
            except Unfit as unfit:
                report.leave_out(entity, str(unfit))
        made += _insert(session, rows, report)
    if made:
        audit.note_values(session, KIND, IMPORTED, None, {"imported": made})


def _row(entity: Entity, owners: Owners, now: float) -> Row:
    values = fitting(_RESOURCE, entity)
    for field, kind in _REFERENCES.items():
        if values.get(field):
            owner = owners.find(kind, values[field])
            if owner is None:
                raise Unfit(f"its {field} is not here")
            values[field] = {"id": owner}
    values["ttl"] = _ttl(values, now)
    cleaned, errors = validate(_RESOURCE.schema, values)
    if errors:
        raise Unfit(why_refused(SchemaViolation(errors)))
    if not cleaned["access_token"]:
        raise Unfit("has no access_token: a file that hides it cannot be imported")
    if cleaned["created_at"] is None:
        raise Unfit("has no created_at, so that nobody knows when it expires")
    cleaned["id"] = cleaned["id"] or str(uuid.uuid4())
    return _RESOURCE.columns(cleaned, Write(None, frozenset(values), partial=False))


def _ttl(values: Values, now: float) -> float | None:
    """How long the row is to live: as Kong says, else as long as the access token alone lives.

    Raises:
        Unfit: nobody can use it any more.
    """
    ttl, created, seconds = (values.get(name) for name in ("ttl", "created_at", "expires_in"))
    if not isinstance(created, int | float) or not isinstance(seconds, int | float):
        return ttl  # what is wrong with it is said elsewhere
    left = created + seconds - now if seconds > 0 else None
    ended = left is not None and left <= 0
    if (ended and not values.get("refresh_token")) or (isinstance(ttl, int | float) and ttl <= 0):
        raise Unfit("has expired")
    return left if ttl is None and not values.get("refresh_token") else ttl


def _insert(session: WriteSession, found: Sequence[tuple[Entity, Row]], report: Report) -> int:
    known = queries.known_tokens(session, [row for _, row in found])
    ended = queries.ended_tokens(session, [row["access_token_digest"] for _, row in found])
    rows: list[Row] = []
    for entity, row in found:
        names = {row["id"], row["access_token_digest"], row["refresh_token_digest"]}
        if names & known:
            report.took(KIND, "unchanged")
        elif row["access_token_digest"] in ended:
            report.leave_out(entity, "was refreshed or revoked here")
        else:
            rows.append(row)
            known |= names - {None}  # the same one may stand in a file twice
    queries.insert_tokens(session, rows)
    report.took(KIND, "created", len(rows))
    return len(rows)


def _parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while part := list(islice(rest, AT_ONCE)):
        yield part
