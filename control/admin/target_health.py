"""What an upstream's targets are up to, and marking one unhealthy by hand.  spec/admin-api.md §2.

There are no health checks yet, so that a target is used unless its weight is 0 or an operator
marked it. The mark is kept in the database and holds on every data plane until it is taken back;
it is no part of the configuration that files and `GET …/targets` show.
"""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from control.admin import audit
from control.admin.endpoints import Nested, segment
from control.admin.errors import PlainError
from control.admin.info import NODE_ID
from control.admin.openapi import PAGE_QUERY, Json, Operation, operations, query_parameter
from control.admin.registry import BY_NAME
from control.admin.resource import Values
from control.admin.targets import split_target
from control.store import rows
from control.store.rows import Row
from control.store.session import Store
from control.store.tables import Target

_UNCHECKED, _DOWN = "HEALTHCHECKS_OFF", "UNHEALTHY"
_PLAIN: Json = {"type": "object", "additionalProperties": True}
_BALANCER_QUERY = query_parameter(
    "balancer_health", {"type": "integer", "enum": [0, 1]}, "1: of the upstream as a whole"
)


def target_health_router(store: Store) -> APIRouter:
    """Paths that stand before the entities' own: `all` and `health` are no target's name."""
    router = APIRouter(tags=["targets"])
    _TargetHealth(store, BY_NAME["targets"], BY_NAME["upstreams"], "upstream").add_to(router)
    return router


class _TargetHealth(Nested):
    def add_to(self, router: APIRouter) -> None:
        path = "/upstreams/{parent}"
        everyone = operations(self.resource, parent=self.parent).list()
        health = Operation(
            "Health of the targets of an Upstream",
            200,
            answer=_PLAIN,
            query=(*PAGE_QUERY, _BALANCER_QUERY),
            errors=(400, 403, 404, 500),
        )
        self._add(router, f"{path}/targets/all", "list_all", "GET", self.list, everyone)
        self._add(router, f"{path}/health", "health", "GET", self.health, health)
        self._add_marks(router, "healthy", self.mark_healthy)
        self._add_marks(router, "unhealthy", self.mark_unhealthy)

    def _add_marks(
        self, router: APIRouter, state: str, endpoint: Callable[[Request], Response]
    ) -> None:
        one = "/upstreams/{parent}/targets/{key}"
        mark = Operation(f"Mark a Target as {state}", 204, errors=(400, 403, 404, 500))
        self._add(router, f"{one}/{state}", f"mark_{state}", "PUT", endpoint, mark)
        name = f"mark_address_{state}"
        self._add(router, f"{one}/{{address}}/{state}", name, "PUT", endpoint, mark)

    def health(self, request: Request) -> Response:
        with self.store.reading() as session:
            where = {"upstream_id": self._parent_id(session, request)}
            if request.query_params.get("balancer_health") != "1":
                return self._page(session, request, where, nested=True, show=self._with_health)
            served = any(rows.column_values(session, Target, "weight", where | {"down": False}))
        health = _UNCHECKED if served else _DOWN
        whole = {"id": where["upstream_id"], "health": health}
        return JSONResponse({"data": whole, "next": None, "node_id": NODE_ID})

    def _with_health(self, row: Row) -> Values:
        host, port = split_target(row["target"])
        weight = row["weight"]
        available = 0 if row["down"] else weight
        data: dict[str, Any] = {
            "host": host,
            "port": port,
            "nodeWeight": weight,
            "weight": {"total": weight, "available": available, "unavailable": weight - available},
        }
        health = _DOWN if row["down"] else _UNCHECKED
        return self.resource.shown(row) | {"health": health, "data": data}

    def mark_healthy(self, request: Request) -> Response:
        return self._mark(request, down=False)

    def mark_unhealthy(self, request: Request) -> Response:
        return self._mark(request, down=True)

    def _mark(self, request: Request, *, down: bool) -> Response:
        with self.store.writing() as session:
            row = self._row(session, request, self._parent_id(session, request))
            if "address" in request.path_params:
                _check_address(row, segment(request, "address"))
            if row["down"] != down:
                rows.update_row(session, Target, {"down": down}, row)
                audit.note(session, self.resource, row, row | {"down": down})
        return Response(status_code=204)


def _check_address(row: Row, address: str) -> None:
    """A target has one address here, its own."""
    host, _ = split_target(row["target"])
    if address not in (host, f"[{host}]", row["target"]):
        raise PlainError(400, "one address of a target's name is not supported yet")
