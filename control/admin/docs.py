"""`/docs`: openapi.json as pages, by Swagger UI, all from this server.

FastAPI's own page loads its scripts from elsewhere and has one inline, which an Admin API must
not: the policy sent here lets a browser take nothing but what this server serves.
"""

from collections.abc import Callable
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

# img-src: the arrows in Swagger UI's style sheet are data.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_SECONDS = 3600  # for which a browser may keep a file: an upgrade brings others
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Narthex: Admin API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="data:,">
<div id="pages"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
# No validator: it is somebody else's server.
_START = """\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#pages",
  deepLinking: true,
  docExpansion: "none",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""
_VENDORED = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


def docs_router() -> APIRouter:
    """Undocumented: for people, not for clients."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    def page() -> Response:
        return Response(_PAGE, headers=HEADERS, media_type="text/html; charset=utf-8")

    @router.get("/docs/start.js")
    def start() -> Response:
        return Response(_START, headers=HEADERS, media_type="text/javascript; charset=utf-8")

    for name, kind in _VENDORED.items():
        router.add_api_route(f"/docs/{name}", _vendored(name, kind), methods=["GET"])
    return router


def _vendored(name: str, kind: str) -> Callable[[], Response]:
    """An endpoint that sends one file of the package that carries Swagger UI."""
    path = str(files("fastapi_offline") / "static" / name)
    headers = {**HEADERS, "Cache-Control": f"max-age={_SECONDS}"}

    def send() -> Response:
        return FileResponse(path, headers=headers, media_type=f"{kind}; charset=utf-8")

    return send
