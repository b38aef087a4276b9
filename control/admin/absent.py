"""Collections of entities that we do not have yet, and that have therefore nothing in them.

decK reads them all before it does anything, and stops at a 404.  spec/admin-api.md §6.3, §6.6.
"""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from control.admin.paging import envelope, page_request

ABSENT = ("upstreams",)


def absent_router() -> APIRouter:
    """Undocumented: what a client could do with them comes with the entities."""
    router = APIRouter(include_in_schema=False)
    for collection in ABSENT:
        router.add_api_route(f"/{collection}", empty_page, methods=["GET"])
    return router


def empty_page(request: Request) -> Response:
    asked = page_request(request.query_params)
    return JSONResponse(envelope(request.scope["path"], asked, [], [], []))
