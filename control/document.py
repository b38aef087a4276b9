"""openapi.json, put together: what FastAPI finds of the endpoints, and what it cannot find.

An example belongs to a model and has its name; every request and answer of that model shows it. An
error's example may be for one status alone: `AdminError409`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from control.admin.models import ref
from control.admin.router import documented_examples, documented_models
from control.admin.signing_keys import DOCUMENTED as SIGNING_KEYS
from control.declarative.answers import EXAMPLES as FILES
from control.kong.endpoint import MODELS as KONG
from control.oauth2 import described

Json = dict[str, Any]

_ADMIN_ERROR = ref("AdminError")
_DECK_FILE = {
    "type": "string",
    "format": "binary",
    "description": "YAML or JSON in decK's format, _format_version 3.0, UTF-8",
}
# No type: a reader may take it as text or, parsed, as what the YAML holds.
_DECK_DUMP = {"description": "YAML in decK's format, _format_version 3.0"}
_TAGS = {
    "information": "What the gateway says of itself",
    "schemas": "What fields entities have, and validation without a write",
    "services": "Where traffic goes",
    "routes": "Which requests go to which service",
    "consumers": "Whose credentials and tokens they are",
    "plugins": "What is done with requests: OAuth 2.0, limits, sessions",
    "oauth2": "OAuth 2.0 credentials: the applications of a consumer",
    "oauth2_tokens": "Access and refresh tokens",
    "upstreams": "Groups of targets that share the traffic of a service",
    "targets": "Where an upstream sends requests",
    "certificates": "What listeners show, and what services show to their upstreams",
    "snis": "The names that a certificate is shown for",
    "ca_certificates": "Authorities that the certificates of upstreams are verified by",
    "dataplanes": "Which data planes there are",
    "signing-keys": "The keys that sign JWT access tokens",
    "config": "Whole files",
    "import": "What another gateway has",
    "audit": "Who changed what",
    "oauth": "OAuth 2.0, on the data planes' ports",
}


_SECURITY_SCHEMES = {
    "client": {"type": "http", "scheme": "basic"},
    "token": {"type": "http", "scheme": "bearer"},
    "admin_token": {
        "type": "apiKey",
        "in": "header",
        "name": "Kong-Admin-Token",
        "description": "a line of ADMIN_TOKENS_FILE; needed once that setting is set",
    },
    "admin_bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "the same token as `Authorization: Bearer`",
    },
}


def build(title: str, version: str, routes: Sequence[BaseRoute]) -> Json:
    """One OpenAPI document of all that the control plane answers."""
    made = get_openapi(
        title=title,
        version=version,
        summary="OAuth 2.0 in front of WebSocket services; Kong's Admin API",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        routes=routes,
        separate_input_output_schemas=False,
    )
    components = made.setdefault("components", {})
    models = components.setdefault("schemas", {})
    models.update(described.MODELS | SIGNING_KEYS | documented_models() | KONG)
    models |= {"DeckFile": _DECK_FILE, "DeckDump": _DECK_DUMP}
    components["securitySchemes"] = _SECURITY_SCHEMES
    _say_who_may(made)
    _show_examples(made, documented_examples() | described.EXAMPLES | FILES)
    _share_errors(made)
    used = {tag for _, operation in operations(made) for tag in operation["tags"]}
    made["tags"] = [{"name": n, "description": d} for n, d in _TAGS.items() if n in used]
    return made


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    """Each as `POST /services`, with what the document says of it."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def _say_who_may(document: Json) -> None:
    """Each operation of the Admin API may want a token.

    Said for the whole document, which the issuer's operations then differ from: generated clients
    take an operation with a security of its own for one that cannot do without.
    """
    document["security"] = [{"admin_token": []}, {"admin_bearer": []}, {}]
    for _, operation in operations(document):
        if "oauth" in operation["tags"]:
            operation.setdefault("security", [])


def _show_examples(document: Json, examples: Json) -> None:
    """Refer to the examples wherever their models stand; `components` gets those referred to."""
    shown: set[str] = set()
    for media, status in _contents(document):
        model = _model(media["schema"])
        name = f"{model}{status}" if f"{model}{status}" in examples else model
        if name in examples:
            shown.add(name)
            media["examples"] = {"example": {"$ref": f"#/components/examples/{name}"}}
    held = {name: {"value": examples[name]} for name in sorted(shown)}
    document["components"]["examples"] = held


def _share_errors(document: Json) -> None:
    """Errors of the Admin API are the same everywhere: each is one component."""
    shared: Json = {}
    for _, operation in operations(document):
        for status, answer in operation["responses"].items():
            content = answer.get("content", {}).get("application/json", {})
            if content.get("schema") == _ADMIN_ERROR:
                name = f"AdminError{status}"
                shared[name] = answer
                operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    document["components"]["responses"] = shared


def _contents(document: Json) -> Iterator[tuple[Json, str]]:
    """Each content of a request or an answer, with the answer's status."""
    for _, operation in operations(document):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            yield media, ""
        for status, answer in operation["responses"].items():
            for media in answer.get("content", {}).values():
                yield media, status


def _model(schema: Json) -> str:
    """The model's name; of a choice the last, which is the error where one is among them."""
    chosen = schema.get("anyOf", [schema])[-1]
    return str(chosen.get("$ref", "")).rpartition("/")[2]
