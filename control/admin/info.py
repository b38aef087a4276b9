"""What the gateway says of itself: `/`, `/status`, `/endpoints`, `/plugins/enabled`, `/tags`.

Member names are Kong's, since clients look for them; where Kong tells of Lua or nginx, ours is
empty or the nearest thing that is true.
"""

import os
import resource
import socket
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from sqlmodel import Session

from control.admin import openapi
from control.admin.edge import Counts
from control.admin.endpoints import segment
from control.admin.errors import InvalidOptions
from control.admin.names import check_tag
from control.admin.openapi import Json, Operation
from control.admin.paging import envelope, page_request
from control.admin.plugin_types import PLUGIN_TYPES
from control.store import queries, rows
from control.store.session import Store
from control.store.tables import Plugin

KONG_VERSION = "3.9.1"  # whose Admin API this is; clients choose their behaviour by it
NODE_ID = str(uuid.uuid4())


def add(router: APIRouter, path: str, name: str, endpoint: Any, operation: Operation) -> None:
    """Declare an endpoint that is no entity's."""
    router.add_api_route(
        path,
        endpoint,
        methods=["GET" if operation.body is None else "POST"],
        name=name,
        operation_id=f"{router.tags[0]}-{name}",
        status_code=operation.status,
        response_model=None,
        summary=operation.summary,
        responses=operation.responses(),
        openapi_extra=operation.beyond_responses(path),
    )


def info_router(store: Store, counts: Counts) -> APIRouter:
    router = APIRouter(tags=["information"])
    info = _Information(store, counts)
    plain: Json = {"type": "object", "additionalProperties": True}
    tags = openapi.PAGE_QUERY
    add(router, "/", "node", info.node, Operation("What runs here", 200, plain))
    add(router, "/status", "status", info.status, Operation("How it does", 200, plain))
    add(router, "/endpoints", "endpoints", info.endpoints, Operation("All paths", 200, plain))
    add(
        router,
        "/plugins/enabled",
        "enabled_plugins",
        info.enabled_plugins,
        Operation("The plugins that may be used", 200, plain),
    )
    add(router, "/tags", "tags", info.tags, Operation("All tags", 200, plain, query=tags))
    add(
        router,
        "/tags/{tag}",
        "tag",
        info.tag,
        Operation("The entities with a tag", 200, plain, query=tags),
    )
    return router


class _Information:
    def __init__(self, store: Store, counts: Counts) -> None:
        self.store = store
        self.counts = counts

    def node(self) -> Response:
        with self.store.reading() as session:
            enabled = rows.distinct(session, Plugin, "name")
        return JSONResponse(
            {
                "tagline": "Welcome to kong",
                "version": KONG_VERSION,
                "edition": "community",
                "hostname": socket.gethostname(),
                "node_id": NODE_ID,
                "lua_version": "",
                "timers": {"running": 0, "pending": 0},
                "plugins": {
                    "available_on_server": {
                        kind.name: {"version": kind.version, "priority": kind.priority}
                        for kind in PLUGIN_TYPES.values()
                    },
                    "enabled_in_cluster": enabled,
                },
                # Kong's word for "with a database"; clients ask whether they may write.
                "configuration": {
                    "database": "postgres",
                    "router_flavor": "traditional_compatible",
                },
                "pids": {"master": os.getppid(), "workers": [os.getpid()]},
            }
        )

    def status(self) -> Response:
        counts = self.counts
        return JSONResponse(
            {
                "database": {"reachable": self._reachable()},
                "memory": {
                    "workers_lua_vms": [{"pid": os.getpid(), "http_allocated_gc": _memory_text()}],
                    "lua_shared_dicts": {},
                },
                # Of the Admin API; one request at a time is what it counts as a connection.
                "server": {
                    "connections_accepted": counts.total,
                    "connections_active": counts.active,
                    "connections_handled": counts.total,
                    "connections_reading": 0,
                    "connections_waiting": 0,
                    "connections_writing": counts.active,
                    "total_requests": counts.total,
                },
            }
        )

    def _reachable(self) -> bool:
        try:
            with self.store.reading() as session:
                queries.cluster_state(session)
        except Exception:  # whatever it is, the database does not answer
            return False
        return True

    def endpoints(self, request: Request) -> Response:
        app: FastAPI = request.app
        found = {context.path for context in iter_route_contexts(app.router.routes)}
        return JSONResponse({"data": sorted(path for path in found if path)})

    def enabled_plugins(self) -> Response:
        return JSONResponse({"enabled_plugins": sorted(PLUGIN_TYPES)})

    def tags(self, request: Request) -> Response:
        with self.store.reading() as session:
            return JSONResponse(_tag_page(session, request, None))

    def tag(self, request: Request) -> Response:
        tag = segment(request, "tag")
        if not tag or check_tag(tag) is not None:
            raise InvalidOptions("tags", f"invalid value: '{tag}'")
        with self.store.reading() as session:
            return JSONResponse(_tag_page(session, request, tag))


def _tag_page(session: Session, request: Request, tag: str | None) -> dict[str, Any]:
    query: Mapping[str, str] = {k: v for k, v in request.query_params.items() if k != "tags"}
    asked = page_request(query, key_parts=3)
    found = rows.tagged(session, tag=tag, after=asked.after, limit=asked.limit)
    shown = [
        {"tag": name, "entity_name": entity, "entity_id": entity_id}
        for name, entity, entity_id in found[: asked.size]
    ]
    last = found[len(shown) - 1] if shown else ()
    return envelope(request.scope["path"], asked, found, shown, last)


def _memory_text() -> str:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{kib / 1024:.2f} MiB"
