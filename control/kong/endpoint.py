"""`POST /narthex/import/kong`: what `narthex import kong` asks for."""

from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from control.admin.bodies import json_object
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
    one = CapacityLimiter(1)  # at a time: a large one takes memory, and the turn of all writers

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
        report = await to_thread.run_sync(_take, store, data, limiter=one)
        if report.message is not None:
            return JSONResponse(report.model_dump(), 409)
        return report

    return routes


async def _read(request: Request) -> bytes:
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > BYTES_MAX:
                raise PlainError(413, f"larger than {BYTES_MAX // 2**20} MiB")
    except ClientDisconnect:
        raise PlainError(400, "the body was cut short") from None
    return bytes(data)


def _take(store: Store, data: bytes) -> ImportReport:
    asked = json_object(data)
    if not isinstance(asked.get("collections"), dict):
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
