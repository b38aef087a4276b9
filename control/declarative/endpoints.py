"""`/narthex/config/…`: files in decK's format, applied, compared, synced and dumped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from control.admin.errors import InvalidOptions
from control.admin.models import ref
from control.admin.openapi import Operation, query_parameter
from control.admin.paging import tag_filter
from control.admin.rights import with_secrets
from control.declarative.answers import ConfigPlan, ConfigRefused, refusal, shown
from control.declarative.dump import What, dump_text
from control.declarative.layout import BYTES_MAX
from control.declarative.problems import FileRefused, refused
from control.declarative.transaction import How, carry
from control.store.session import Store

YAML = "application/yaml"

_TAGS = query_parameter(
    "tags",
    {"type": "string"},
    "`a,b`: only entities with all of these tags are read, changed or deleted",
)
_REFUSALS: dict[int | str, dict[str, Any]] = {
    **Operation("", 200, errors=()).responses_of_errors(),
    400: {
        "description": "The file is wrong, and nothing was written; or a parameter is",
        "content": {
            "application/json": {"schema": {"anyOf": [ref("ConfigRefused"), ref("AdminError")]}}
        },
    },
    413: {"model": ConfigRefused, "description": "The file is too large"},
}


def _flag(name: str, description: str) -> dict[str, Any]:
    return query_parameter(name, {"type": "boolean", "default": False}, description)


def _writing(summary: str, *query: dict[str, Any]) -> dict[str, Any]:
    """How an endpoint that takes a file is documented."""
    content = {YAML: {"schema": ref("DeckFile")}}
    body = {"requestBody": {"required": True, "content": content}, "parameters": list(query)}
    return {
        "summary": summary,
        "response_model": ConfigPlan,
        "responses": _REFUSALS,
        "openapi_extra": body,
    }


def router(store: Store) -> APIRouter:
    """What `narthex config` calls."""
    routes = APIRouter(tags=["config"])
    work = _Work(store)

    @routes.post("/narthex/config/apply", **_writing("Apply a file"))
    async def apply_config(request: Request) -> Any:
        """Create and update what a decK file holds, in one transaction; delete nothing."""
        _Options(request)  # there are none
        return await work.carry(request, How())

    @routes.post("/narthex/config/validate", **_writing("Validate a file"))
    async def validate_config(request: Request) -> Any:
        """What an apply would change or be refused for; nothing is changed."""
        _Options(request)  # there are none
        return await work.carry(request, How(dry_run=True))

    @routes.post(
        "/narthex/config/sync",
        **_writing("Sync a file", _TAGS, _flag("dry_run", "all is tried and nothing stays")),
    )
    async def sync_config(request: Request) -> Any:
        """As apply, and delete what the file does not hold.  Issued tokens stay."""
        given = _Options(request, "tags", "dry_run")
        return await work.carry(request, How(True, given.flag("dry_run"), given.tags))

    @routes.post("/narthex/config/diff", **_writing("Compare a file", _TAGS))
    async def diff_config(request: Request) -> Any:
        """What a sync would change or be refused for; nothing is changed."""
        return await work.carry(request, How(True, True, _Options(request, "tags").tags))

    @routes.get(
        "/narthex/config/dump",
        summary="Dump everything as a file",
        response_class=Response,
        dependencies=[Depends(with_secrets)],
        responses={**_REFUSALS, 200: {"content": {YAML: {"schema": ref("DeckDump")}}}},
        openapi_extra={
            "parameters": [
                _TAGS,
                _flag("all_fields", "defaults are written out as well"),
                _flag("with_id", "ids are written out as well"),
            ]
        },
    )
    async def dump_config(request: Request) -> Response:
        """The configuration as a decK file, its secrets in clear; issued tokens are no part."""
        given = _Options(request, "tags", "all_fields", "with_id")
        return await work.dump(What(given.tags, given.flag("all_fields"), given.flag("with_id")))

    return routes


class _Work:
    """Files are carried out and written one after another: a large one takes half a gigabyte."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._one = CapacityLimiter(1)

    async def carry(self, request: Request, how: How) -> ConfigPlan | JSONResponse:
        try:
            text = await _read(request)
            done = await to_thread.run_sync(carry, self._store, text, how, limiter=self._one)
        except FileRefused as error:
            return refusal(error)
        return shown(done)

    async def dump(self, what: What) -> Response:
        try:
            text = await to_thread.run_sync(dump_text, self._store, what, limiter=self._one)
        except FileRefused as error:
            return refusal(error)
        return Response(text, media_type=YAML, headers={"Cache-Control": "no-store"})


async def _read(request: Request) -> str:
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > BYTES_MAX:
                raise refused(f"larger than {BYTES_MAX // 2**20} MiB", status=413)
        return data.decode()
    except ClientDisconnect:
        raise refused("the file was cut short") from None
    except UnicodeDecodeError:
        raise refused("not UTF-8 text") from None


class _Options:
    """The query of a request.  A misspelt `dry_run` is refused: it must not write."""

    def __init__(self, request: Request, *known: str) -> None:
        self._given = request.query_params
        for name in self._given:
            if name not in known:
                raise InvalidOptions(name, "unknown option")

    def flag(self, name: str) -> bool:
        text = self._given.get(name, "false")
        if text not in ("true", "false"):
            raise InvalidOptions(name, "expected true or false")
        return text == "true"

    @property
    def tags(self) -> Sequence[str]:
        text = self._given.get("tags")
        if text is None:
            return ()
        found = tag_filter(text)
        if not found.every:
            raise InvalidOptions("tags", "only tags that an entity must all have: `a,b`")
        return found.tags
