"""Puts the Admin API together: its routers, its errors, its manners."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from control.admin import openapi
from control.admin.edge import Counts
from control.admin.endpoints import entity_routers
from control.admin.errors import AdminError, NotFound
from control.admin.info import info_router
from control.admin.registry import RESOURCES
from control.admin.schemas import schemas_router
from control.admin.target_health import target_health_router
from control.store.session import Store


def routers(store: Store, counts: Counts | None = None) -> list[APIRouter]:
    """All endpoints; the literal paths first, since `/plugins/enabled` is also a plugin's path."""
    return [
        info_router(store, counts or Counts()),
        schemas_router(),
        target_health_router(store),
        *entity_routers(store, RESOURCES),
    ]


def install(app: FastAPI, store: Store, counts: Counts | None = None) -> None:
    """Add the Admin API to `app`, which is then to be served behind `edge.Manners`."""
    for router in routers(store, counts):
        app.include_router(router)
    app.router.redirect_slashes = False
    app.add_exception_handler(AdminError, _admin_error)
    app.add_exception_handler(HTTPException, _http_error)


def documented_models() -> dict[str, Any]:
    """The component schemas that the operations refer to, for openapi.json."""
    return openapi.models(RESOURCES)


async def _admin_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AdminError)
    return JSONResponse(error.body, error.status)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    """404 of the router; 405 is `edge.Manners`'."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return JSONResponse(NotFound().body, 404)
    return JSONResponse({"message": str(error.detail)}, error.status_code)
