"""`POST /narthex/import/kong`: what `narthex import kong` asks for."""

import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from control.admin.errors import PlainError
from control.admin.models import ref
from control.admin.openapi import Operation
from control.kong.document import Unreadable
from control.kong.report import ImportReport
from control.kong.take import Options, take
from control.store.session import Store

BYTES_MAX = 64 * 1024 * 1024  # some 150,000 tokens
_OPTIONS = ("dry_run", "strict", "unguarded", "tokens")
_BODY: dict[str, Any] = {
    "type": "object",
    "required": ["collections"],
    "properties": {
        "collections": {
            "type": "object",
            "description": "Lists of entities by the name of their collection.",
            "additionalProperties": {"type": "array", "items": ref("JsonObject")},
        },
        "dry_run": {"type": "boolean", "default": False},
        "strict": {"type": "boolean", "default": False},
        "unguarded": {"type": "boolean", "default": False},
        "tokens": {"type": "boolean", "default": True},
    },
    "additionalProperties": False,
}
MODELS = {"KongImport": _BODY}  # component schemas of openapi.json


def router(store: Store) -> APIRouter:
    routes = APIRouter(tags=["import"])

    @routes.post(
        "/narthex/import/kong",
        response_model=ImportReport,
        summary="Take over a Kong",
        responses={
            409: {"model": ImportReport, "description": "Refused: nothing was written."},
            **Operation("", 200, errors=(400, 413)).responses_of_errors(),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": ref("KongImport")}},
            }
        },
    )
    async def import_kong(request: Request) -> Any:
        """Take over a Kong's entities, credentials and tokens in one transaction."""
        data = await _read(request)
        report = await run_in_threadpool(_take, store, data)
        if report.message is not None:
            return JSONResponse(report.model_dump(), 409)
        return report

    return routes


async def _read(request: Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BYTES_MAX:
            raise PlainError(413, f"larger than {BYTES_MAX // 2**20} MiB")
    return bytes(data)


def _take(store: Store, data: bytes) -> ImportReport:
    try:
        asked = json.loads(data)
    except (ValueError, RecursionError):
        raise PlainError(400, "Cannot parse JSON body") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("collections"), dict):
        raise PlainError(400, "collections: an object was expected")
    given = {name: value for name, value in asked.items() if name != "collections"}
    for name, value in given.items():
        if name not in _OPTIONS:
            raise PlainError(400, f"{name}: unknown field")
        if not isinstance(value, bool):
            raise PlainError(400, f"{name}: expected a boolean")
    try:
        return take(store, asked["collections"], Options(**given))
    except Unreadable as error:
        raise PlainError(400, str(error)) from None
