"""The schemas themselves: what clients fill in defaults from, and validation without a write."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from control.admin.bodies import Body, read_body
from control.admin.endpoints import segment
from control.admin.errors import PlainError, SchemaViolation
from control.admin.info import add
from control.admin.models import Json, ref
from control.admin.openapi import Operation
from control.admin.plugin_types import PLUGIN_TYPES
from control.admin.plugins import plugin_schema
from control.admin.registry import BY_NAME
from control.admin.schema import Field, Schema, describe_fields, foreign, identity, timestamp
from control.admin.validate import validate

# An entity without endpoints of its own; tools validate files that hold it.
_AUTHORIZATION_CODES = Schema(
    "oauth2_authorization_codes",
    {
        "id": identity(),
        "created_at": timestamp(),
        "service": foreign("services"),
        "credential": foreign("oauth2_credentials", required=True),
        "code": Field(type="string", auto=True, unique=True),
        "authenticated_userid": Field(type="string"),
        "scope": Field(type="string"),
        "challenge": Field(type="string"),
        "challenge_method": Field(type="string", one_of=("S256",)),
        "plugin": foreign("plugins"),
    },
)
_SCHEMAS = {name: entity.schema for name, entity in BY_NAME.items()} | {
    _AUTHORIZATION_CODES.name: _AUTHORIZATION_CODES
}

GivenBody = Annotated[Body, Depends(read_body)]


def schemas_router() -> APIRouter:
    router = APIRouter(tags=["schemas"])
    add(
        router,
        "/schemas/plugins/validate",
        "validate_plugin",
        validate_plugin,
        _check("a plugin", ref("PluginCreate")),
    )
    add(router, "/schemas/plugins/{name}", "get_plugin", get_plugin, _read("a plugin"))
    config = _read("a plugin's config", "EntitySchema")
    add(router, "/plugins/schema/{name}", "get_plugin_config", get_plugin_config, config)
    entity = _check("an entity", ref("JsonObject"))
    add(router, "/schemas/{entity}/validate", "validate_entity", validate_entity, entity)
    add(router, "/schemas/{entity}", "get_entity", get_entity, _read("an entity"))
    return router


def _read(what: str, model: str = "EntitySchema") -> Operation:
    return Operation(
        f"The schema of {what}",
        200,
        ref(model),
        errors=(404,),
        description="In Kong's schema language: types, defaults and limits of every field.",
    )


def _check(what: str, body: Json) -> Operation:
    return Operation(
        f"Validate {what} without a write",
        200,
        ref("Validated"),
        body=body,
        errors=(400, 404, 413, 415),
        description="What it refers to need not be there.",
    )


def get_entity(request: Request) -> Response:
    return JSONResponse(_schema(request).describe())


def get_plugin(request: Request) -> Response:
    name = _plugin_name(request)
    return JSONResponse(plugin_schema(name).describe())


def get_plugin_config(request: Request) -> Response:
    """The config alone, as Kong served it before 1.0."""
    name = _plugin_name(request)
    return JSONResponse({"fields": describe_fields(PLUGIN_TYPES[name].config)})


def validate_entity(request: Request, body: GivenBody) -> Response:
    return _validated(_schema(request), body)


def validate_plugin(body: GivenBody) -> Response:
    return _validated(BY_NAME["plugins"].schema_for(body.values), body)


def _schema(request: Request) -> Schema:
    name = segment(request, "entity")
    if name not in _SCHEMAS:
        raise PlainError(404, f"No entity named '{name}'")
    return _SCHEMAS[name]


def _plugin_name(request: Request) -> str:
    name = segment(request, "name")
    if name not in PLUGIN_TYPES:
        raise PlainError(404, f"No plugin named '{name}'")
    return name


def _validated(schema: Schema, body: Body) -> Response:
    _, errors = validate(schema, body.for_fields(schema.fields))
    if errors:
        raise SchemaViolation(errors)
    return JSONResponse({"message": "schema validation successful"})
