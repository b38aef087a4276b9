"""The endpoints of one entity: collection, single, nested below a parent, parent of a child.

Each is declared once for all entities; `openapi` says what the document holds of it. An endpoint
reads its body by itself, since forms and Kong's errors rule FastAPI's own validation out.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from sqlmodel import Session

from control.admin import crud, openapi
from control.admin.bodies import Body, read_body
from control.admin.errors import InvalidOffset, MethodNotAllowed, NotFound, PlainError
from control.admin.paging import PageRequest, envelope, page_request
from control.admin.redaction import visible
from control.admin.registry import BY_NAME, referring_to
from control.admin.resource import Resource, Values
from control.admin.validate import is_uuid
from control.store import rows
from control.store.rows import Row
from control.store.session import Store

GivenBody = Annotated[Body, Depends(read_body)]


def segment(request: Request, name: str) -> str:
    """A part of the path as it was meant; `edge` leaves escapes in place, so that `%2F` works."""
    return unquote(request.path_params[name])


def entity_router(store: Store, resource: Resource) -> APIRouter:
    """All endpoints whose answers are this entity."""
    router = APIRouter(tags=[resource.path])
    if not resource.below_only:
        _Collection(store, resource).add_to(router)
    for _, name, field in _parents(resource):
        Nested(store, resource, BY_NAME[field.reference or ""], name).add_to(router)
    for child, name, field in referring_to(resource):
        if field.from_below:
            _Parent(store, resource, child, name).add_to(router)
    return router


def _parents(resource: Resource) -> list[tuple[Resource, str, Any]]:
    return [
        (resource, name, field)
        for name, field in resource.foreign_fields.items()
        if field.reference in BY_NAME
    ]


class _Endpoints:
    """What the three kinds of paths have alike."""

    def __init__(self, store: Store, resource: Resource) -> None:
        self.store = store
        self.resource = resource

    def _add(
        self,
        router: APIRouter,
        path: str,
        name: str,
        method: str,
        endpoint: Callable[..., Response],
        document: openapi.Operation,
    ) -> None:
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=name,
            operation_id=f"{self.resource.path}-{name}",
            status_code=document.status,
            response_class=Response if document.status == 204 else JSONResponse,
            response_model=None,
            summary=document.summary,
            responses=document.responses(),
            openapi_extra=document.beyond_responses(path),
        )

    def _one(self, row: Row) -> JSONResponse:
        return JSONResponse(visible(self.resource, self.resource.shown(row)))

    def _page(
        self,
        session: Session,
        request: Request,
        where: dict[str, Any],
        *,
        nested: bool,
        show: Callable[[Row], Values] | None = None,
    ) -> JSONResponse:
        resource, show = self.resource, show or self.resource.shown
        asked = page_request(request.query_params)
        after = _after_id(asked, request)
        found = rows.page(
            session,
            resource.model,
            where=where,
            after=after,
            limit=asked.limit,
            tags=asked.tags,
        )
        page = found[: asked.size]
        shown = [visible(resource, show(row)) for row in page if not resource.ended(row)]
        last = [page[-1]["id"]] if page else []
        path = request.scope["path"]
        return JSONResponse(envelope(path, asked, found, shown, last, carry=not nested))


class _Collection(_Endpoints):
    """/{coll} and /{coll}/{key}."""

    def add_to(self, router: APIRouter) -> None:
        resource, path = self.resource, f"/{self.resource.path}"
        one = f"{path}/{{key}}"
        kinds = openapi.operations(resource)
        self._add(router, path, "list", "GET", self.list, kinds.list())
        self._add(router, path, "create", "POST", self.create, kinds.create())
        self._add(router, one, "get", "GET", self.get, kinds.get())
        self._add(router, one, "upsert", "PUT", self.upsert, kinds.upsert())
        self._add(router, one, "update", "PATCH", self.update, kinds.update())
        self._add(router, one, "delete", "DELETE", self.delete, kinds.delete())

    def list(self, request: Request) -> Response:
        resource = self.resource
        where: dict[str, Any] = {}
        for name in resource.filters:
            value = request.query_params.get(name)
            if value == "":
                raise PlainError(400, f"{name} must be an unempty string")
            if value is not None:
                where |= resource.column_where(name, value)
        with self.store.reading() as session:
            return self._page(session, request, where, nested=False)

    def create(self, body: GivenBody) -> Response:
        with self.store.writing() as session:
            made = crud.create(session, self.resource, body)
        return JSONResponse(made, 201)

    def get(self, request: Request) -> Response:
        with self.store.reading() as session:
            row = crud.get(session, self.resource, segment(request, "key"))
        return self._one(row)

    def upsert(self, request: Request, body: GivenBody) -> Response:
        with self.store.writing() as session:
            return JSONResponse(crud.upsert(session, self.resource, segment(request, "key"), body))

    def update(self, request: Request, body: GivenBody) -> Response:
        with self.store.writing() as session:
            row = crud.get(session, self.resource, segment(request, "key"))
            return JSONResponse(crud.patch(session, self.resource, row, body))

    def delete(self, request: Request) -> Response:
        with self.store.writing() as session:
            row = crud.find(session, self.resource, segment(request, "key"))
            if row is not None:
                crud.remove(session, self.resource, row)
        return Response(status_code=204)


class Nested(_Endpoints):
    """/{parent}/{pk}/{coll} and …/{key}: the entities that refer to one parent."""

    def __init__(self, store: Store, resource: Resource, parent: Resource, field: str) -> None:
        super().__init__(store, resource)
        self.parent = parent
        self.field = field

    def add_to(self, router: APIRouter) -> None:
        path = f"/{self.parent.path}/{{parent}}/{self.resource.path}"
        one = f"{path}/{{key}}"
        kinds = openapi.operations(self.resource, parent=self.parent)
        of = f"_of_{self.field}"
        self._add(router, path, f"list{of}", "GET", self.list, kinds.list())
        self._add(router, path, f"create{of}", "POST", self.create, kinds.create())
        self._add(router, one, f"get{of}", "GET", self.get, kinds.get())
        self._add(router, one, f"upsert{of}", "PUT", self.upsert, kinds.upsert())
        self._add(router, one, f"update{of}", "PATCH", self.update, kinds.update())
        self._add(router, one, f"delete{of}", "DELETE", self.delete, kinds.delete())

    def _parent_id(self, session: Session, request: Request) -> str:
        found: str = crud.get(session, self.parent, segment(request, "parent"))["id"]
        return found

    def _row(self, session: Session, request: Request, parent_id: str) -> Row:
        key = segment(request, "key")
        return crud.owned(session, self.resource, key, self.field, parent_id)

    def list(self, request: Request) -> Response:
        with self.store.reading() as session:
            where = {f"{self.field}_id": self._parent_id(session, request)}
            return self._page(session, request, where, nested=True)

    def create(self, request: Request, body: GivenBody) -> Response:
        with self.store.writing() as session:
            injected = {self.field: {"id": self._parent_id(session, request)}}
            made = crud.create(session, self.resource, body, injected)
        return JSONResponse(made, 201)

    def get(self, request: Request) -> Response:
        with self.store.reading() as session:
            row = self._row(session, request, self._parent_id(session, request))
        return self._one(row)

    def upsert(self, request: Request, body: GivenBody) -> Response:
        with self.store.writing() as session:
            parent_id, key = self._parent_id(session, request), segment(request, "key")
            injected = {self.field: {"id": parent_id}}
            if crud.find(session, self.resource, key, injected) is not None:
                self._row(session, request, parent_id)  # not another parent's
            return JSONResponse(crud.upsert(session, self.resource, key, body, injected))

    def update(self, request: Request, body: GivenBody) -> Response:
        with self.store.writing() as session:
            row = self._row(session, request, self._parent_id(session, request))
            return JSONResponse(crud.patch(session, self.resource, row, body))

    def delete(self, request: Request) -> Response:
        with self.store.writing() as session:
            row = self._row(session, request, self._parent_id(session, request))
            crud.remove(session, self.resource, row)
        return Response(status_code=204)


class _Parent(_Endpoints):
    """/{coll}/{key}/{foreign field}: the entity that another one refers to."""

    def __init__(self, store: Store, resource: Resource, child: Resource, field: str) -> None:
        super().__init__(store, resource)
        self.child = child
        self.field = field

    def add_to(self, router: APIRouter) -> None:
        path = f"/{self.child.path}/{{key}}/{self.field}"
        kinds = openapi.operations(self.resource, child=self.child)
        of = f"_of_{self.child.path}"
        self._add(router, path, f"get{of}", "GET", self.get, kinds.get())
        self._add(router, path, f"upsert{of}", "PUT", self.upsert, kinds.upsert())
        self._add(router, path, f"update{of}", "PATCH", self.update, kinds.update())
        self._add(router, path, f"delete{of}", "DELETE", self.delete, kinds.refused_delete())

    def _rows(self, session: Session, request: Request) -> tuple[Row, Row | None]:
        """The child, and its parent or None."""
        child = crud.get(session, self.child, segment(request, "key"))
        parent_id = child[f"{self.field}_id"]
        return child, parent_id and crud.get(session, self.resource, parent_id)

    def _existing(self, session: Session, request: Request) -> Row:
        parent = self._rows(session, request)[1]
        if parent is None:
            raise NotFound
        return parent

    def get(self, request: Request) -> Response:
        with self.store.reading() as session:
            return self._one(self._existing(session, request))

    def upsert(self, request: Request, body: GivenBody) -> Response:
        """Replace the parent; make and link one when there is none."""
        with self.store.writing() as session:
            child, parent = self._rows(session, request)
            if parent is not None:
                return JSONResponse(crud.upsert(session, self.resource, parent["id"], body))
            made = crud.create(session, self.resource, body)
            link = Body({self.field: {"id": made["id"]}})
            crud.patch(session, self.child, child, link)
            return JSONResponse(made)

    def update(self, request: Request, body: GivenBody) -> Response:
        with self.store.writing() as session:
            parent = self._existing(session, request)
            return JSONResponse(crud.patch(session, self.resource, parent, body))

    def delete(self, request: Request) -> Response:
        """A parent is not deleted from below."""
        with self.store.reading() as session:
            self._existing(session, request)
        raise MethodNotAllowed


def _after_id(asked: PageRequest, request: Request) -> str | None:
    if asked.after is None:
        return None
    if not is_uuid(asked.after[0]):
        raise InvalidOffset(request.query_params["offset"], "bad key")
    return asked.after[0]


def entity_routers(store: Store, resources: Sequence[Resource]) -> list[APIRouter]:
    return [entity_router(store, resource) for resource in resources]
