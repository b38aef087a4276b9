"""The audit trail: what each write is recorded as, and `GET /narthex/audit` to read it.

One record for each entity that changed, also where one request or file changes many, and for what
goes with a deleted parent; they share the id of their request, which the answer's header
X-Kong-Request-Id tells. A write that was refused, or changes nothing, leaves none. Tokens that end
with their credential or service are not listed one by one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from control.admin.errors import InvalidOffset, PlainError
from control.admin.openapi import PAGE_QUERY, Operation, query_parameter
from control.admin.paging import envelope, page_request
from control.admin.redaction import redacted
from control.admin.resource import Resource, Values
from control.store import audit
from control.store.audit import Written
from control.store.rows import Row
from control.store.session import Store, WriteSession

VALUE_BYTES_MAX = 8 * 1024  # of a field's value as JSON; a longer one is recorded by its digest
_SURELY_SHORT = VALUE_BYTES_MAX // 6 - 2  # characters: none takes more than 6 bytes in JSON
_NAMES = ("name", "username", "custom_id", "client_id", "target")
_FILTERS = {
    "who": "only what this caller wrote",
    "request_id": "only of this request",
    "type": "only entities of this type, as in `services`",
    "entity_id": "only this entity",
}


def note(session: WriteSession, resource: Resource, before: Row | None, after: Row | None) -> None:
    """A row was inserted (no `before`), updated, or deleted (no `after`)."""
    if session.writer is None:
        return
    old = None if before is None else resource.compared(before)
    new = None if after is None else resource.compared(after)
    named = new or old or {}
    name = next((str(named[key]) for key in _NAMES if named.get(key)), None)
    shown = {
        "before": old and _recorded(resource, old, new),
        "after": new and _recorded(resource, new, old),
    }
    change = "created" if old is None else "deleted" if new is None else "updated"
    session.note_written(Written(change, resource.name, named["id"], name, **shown))


def note_values(
    session: WriteSession, kind: str, entity_id: str, before: Values | None, after: Values | None
) -> None:
    """As `note`, for what is no resource and has no secrets in its values."""
    if before == after:
        return
    change = "created" if before is None else "deleted" if after is None else "updated"
    session.note_written(Written(change, kind, entity_id, None, before, after))


def _recorded(resource: Resource, values: Values, other: Values | None) -> Values:
    """What of one side goes on record: of an update, the fields that differ."""
    if other is not None:
        names = values.keys() - {"updated_at"}
        values = {n: v for n, v in values.items() if n in names and v != other[n]}
        # A plugin's schema goes by its name.
        shown = redacted(resource, {**other, **values})
        return {name: _bounded(shown[name]) for name in values}
    return {name: _bounded(value) for name, value in redacted(resource, values).items()}


def _bounded(value: Any) -> Any:
    if not isinstance(value, list | dict) and len(str(value)) <= _SURELY_SHORT:
        return value
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if len(text) <= VALUE_BYTES_MAX:
        return value
    return f"[{len(text)} bytes, sha256:{hashlib.sha256(text).hexdigest()}]"


# --- reading -------------------------------------------------------------------------------------


class AuditEntry(BaseModel):
    """One change of one entity.  Secrets stand as `[redacted]`."""

    id: int = Field(description="rises with time")
    at: float = Field(description="seconds since 1970")
    request_id: str = Field(description="as the answer's X-Kong-Request-Id told the caller")
    who: str | None = Field(description="name of the token; null while ADMIN_TOKENS_FILE is unset")
    role: Literal["read-only", "operator", "super"]
    address: str = Field(description="that the connection came from")
    change: Literal["created", "updated", "deleted"]
    type: str = Field(description="of the entity, as in `services`")
    entity_id: str
    name: str | None = Field(description="of the entity, if it has one")
    before: dict[str, Any] | None = Field(description="null for a new one; of an update, what went")
    after: dict[str, Any] | None = Field(description="null for one gone; of an update, what came")


class AuditEntryPage(BaseModel):
    data: list[AuditEntry]
    next: str | None = Field(description="path of the next page")
    offset: str | None = Field(None, description="of the next page; absent on the last")


def audit_router(store: Store) -> APIRouter:
    router = APIRouter(tags=["audit"])
    string = {"type": "string", "minLength": 1}
    filters = [query_parameter(name, string, text) for name, text in _FILTERS.items()]
    operation = Operation(
        "A page of the audit trail, the newest first", 200, errors=(400, 403, 500)
    )
    errors = {k: v for k, v in operation.responses().items() if k != 200}

    @router.get(
        "/narthex/audit",
        name="list",
        summary=operation.summary,
        response_model=AuditEntryPage,
        responses=errors,
        openapi_extra={"parameters": [*PAGE_QUERY, *filters]},
    )
    def list_audit(request: Request) -> Response:
        asked = page_request({k: v for k, v in request.query_params.items() if k != "tags"})
        where = {n: v for n in _FILTERS if (v := request.query_params.get(n)) is not None}
        if wrong := next((n for n, v in where.items() if not v or "\0" in v), None):
            raise PlainError(400, f"{wrong} must be an unempty string")
        carried = "".join(f"&{n}={quote(v, safe='')}" for n, v in where.items())
        asked = replace(asked, carried=asked.carried + carried)
        before = None
        if asked.after is not None:
            if not asked.after[0].isdecimal() or len(asked.after[0]) > 18:
                raise InvalidOffset(request.query_params["offset"], "bad key")
            before = int(asked.after[0])
        with store.reading() as session:
            found = audit.page(session, where, before=before, limit=asked.limit)
        shown = [_entry(row) for row in found[: asked.size]]
        last = [str(shown[-1]["id"])] if shown else []
        return JSONResponse(envelope(request.scope["path"], asked, found, shown, last))

    return router


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": row["seq"]} | {name: value for name, value in row.items() if name != "seq"}
