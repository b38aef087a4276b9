"""The one place where the control plane's parts meet: the Admin API, the issuer, their document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control import declarative, document
from control.admin.audit import audit_router
from control.admin.dataplanes import DataPlanes, dataplanes_router
from control.admin.edge import Counts, Manners, Stamp
from control.admin.router import install
from control.admin.signing_keys import signing_keys_router
from control.guard.hosts import Guard
from control.guard.login import Login, shown_path
from control.guard.tokens import TokensFile
from control.kong import endpoint as kong_import
from control.oauth2.direct import Direct
from control.oauth2.issuer import EXCEPTION_HANDLERS, Dispatch, issuer_router
from control.oauth2.issuer_routes import IssuerRoutes
from control.oauth2.parts import Parts
from control.oauth2.sessions_endpoint import MoveSessions
from control.oauth2.throttle import Throttle
from control.push.issuer import Issuer
from control.settings import Settings
from control.store.session import Store

VERSION = "0.1.0"
KEY_PUBLISH_SECONDS = 3600  # the setting's default

_FAULT = {  # headers of a 500, which may be an OAuth endpoint's (S30)
    "Content-Type": "application/json; charset=utf-8",
    "Cache-Control": "no-store",
    "Pragma": "no-cache",
    "X-Content-Type-Options": "nosniff",
}

log = structlog.get_logger("control")


def create_app(settings: Settings, store: Store, dataplanes: DataPlanes) -> ASGIApp:
    """What ADMIN_LISTEN serves: the Admin API, its guard before it.

    `dataplanes` tells which data planes are connected, for `GET /dataplanes`.

    Raises:
        TokensFileError: ADMIN_TOKENS_FILE is set and cannot be used.
    """
    counts = Counts()
    app = admin_app(store, dataplanes, counts, settings.key_publish_seconds)
    file = settings.admin_tokens_file
    tokens = None if file is None else TokensFile(file)
    login = Login(Shield(Manners(app, app)), tokens, settings.admin_failures)
    guard = Guard(login, settings.admin_listen, settings.admin_hosts, settings.admin_origins)
    return Stamp(guard, f"narthex/{VERSION}", counts)


def create_issuer(
    store: Store,
    throttle: Throttle | None = None,
    key_publish_seconds: int = KEY_PUBLISH_SECONDS,
    move_sessions: MoveSessions | None = None,
) -> Issuer:
    """The OAuth endpoints, for the link and for ISSUER_LISTEN.

    `move_sessions` has every data plane move live sessions to another token (`Push`).
    """
    parts, routes = Parts.of(store), IssuerRoutes(store)
    router = issuer_router(parts, routes, throttle, key_publish_seconds, move_sessions)
    dispatch = Shield(Dispatch(_issuer_app(router), parts, routes))
    return Issuer(dispatch, Direct(router.routes, EXCEPTION_HANDLERS))


def _issuer_app(router: APIRouter) -> FastAPI:
    """The OAuth endpoints by themselves, without `Dispatch` before them."""
    app = _fastapi(EXCEPTION_HANDLERS)
    app.include_router(router)
    return app


def admin_app(
    store: Store,
    dataplanes: DataPlanes,
    counts: Counts | None = None,
    key_publish_seconds: int = KEY_PUBLISH_SECONDS,
) -> FastAPI:
    """The Admin API by itself; its OpenAPI document describes the issuer too."""
    app = _fastapi()
    install(app, store, counts)
    app.include_router(dataplanes_router(dataplanes))
    app.include_router(signing_keys_router(store, key_publish_seconds))
    app.include_router(audit_router(store))
    app.include_router(declarative.router(store))
    app.include_router(kong_import.router(store))
    parts, routes = Parts.of(store), IssuerRoutes(store)
    issuer = _issuer_app(issuer_router(parts, routes, None, key_publish_seconds, None))
    described = [*app.routes, *issuer.routes]
    app.openapi = lambda: _document(app, described)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI, routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """One OpenAPI document of all that the control plane answers, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = document.build(app.title, app.version, routes)
    return app.openapi_schema


def _fastapi(exception_handlers: dict[Any, Any] | None = None) -> FastAPI:
    return FastAPI(
        title="Narthex",
        version=VERSION,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=_unique_id,
        separate_input_output_schemas=False,
        exception_handlers={
            DatabaseError: _no_database,
            PoolTimeout: _no_database,
            **(exception_handlers or {}),
            Exception: _unexpected,
        },
    )


def _unique_id(route: APIRoute) -> str:
    """`tag-function`: what generated clients call the operation."""
    return f"{route.tags[0]}-{route.name}" if route.tags else route.name


async def _no_database(request: Request, error: Exception) -> JSONResponse:
    """503 while the database is locked, full or broken; one line in the log says which."""
    if not (isinstance(error, OperationalError | PoolTimeout) or type(error) is DatabaseError):
        raise error  # a statement of ours was wrong
    why = str(getattr(error, "orig", error))
    log.error(
        "database.unavailable", method=request.method, path=shown_path(request.scope), why=why
    )
    return JSONResponse(
        {"message": "the database cannot be used at the moment, try again"},
        503,
        {"Retry-After": "1"},
    )


async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
    """500 that tells the caller nothing of our insides (S97); `Shield` logs the rest."""
    return JSONResponse({"message": "An unexpected error occurred"}, 500, _FAULT)


class Shield:
    """ASGI middleware that ends an exception nobody handled: one log line, nothing further up."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noting_send)
        except Exception:
            log.exception("unexpected error", method=scope["method"], path=shown_path(scope))
            if not started:
                await (await _unexpected(Request(scope), Exception()))(scope, receive, send)
