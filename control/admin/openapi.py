"""What openapi.json says of the Admin API: models and operations, made from the schemas.

Models are named, and every reference to one is a `$ref`, so that generated clients have a type
for each: `Service` (as shown), `ServiceCreate` (POST, PUT), `ServiceUpdate` (PATCH), `ServicePage`.
Below a parent that an entity must have, the path says which, and not the body:
`OAuth2CredentialOfConsumerCreate`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from control.admin.plugin_types import PLUGIN_TYPES
from control.admin.plugins import Plugins, plugin_schema
from control.admin.registry import BY_NAME
from control.admin.resource import Resource
from control.admin.schema import Field, Schema

Json = dict[str, Any]

_TYPES = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "array": "array",
    "set": "array",
    "map": "object",
    "record": "object",
    "foreign": "object",
}
_ERRORS = {
    400: "The request is wrong; `fields` says where",
    401: "Credentials for the Admin API are missing or wrong",
    403: "This Host, Origin or caller is not allowed",
    404: "There is no such entity or path",
    405: "The path does not know this method",
    409: "Another entity has this key",
    413: "The body is too large",
    415: "The body's content type is not known",
    429: "Too many requests",
    500: "An error of the gateway",
    503: "The gateway cannot answer now",
}


def ref(model: str) -> Json:
    return {"$ref": f"#/components/schemas/{model}"}


# --- models ------------------------------------------------------------------------------------


def models(resources: Iterable[Resource]) -> Json:
    """All component schemas of the Admin API."""
    found: Json = {"AdminError": _error_model(), "Reference": _reference_model()}
    for resource in resources:
        if isinstance(resource, Plugins):
            found |= _plugin_models(resource)
        else:
            found |= _entity_models(resource.title, resource.schema)
            found |= _child_models(resource, found[f"{resource.title}Create"])
        found[f"{resource.title}Page"] = _page_model(ref(resource.title))
    return found


def _entity_models(title: str, schema: Schema) -> Json:
    stored = {name: item for name, item in schema.fields.items() if item.stored}
    create: Json = {"type": "object", "properties": _properties(schema.fields)}
    # A shorthand may stand for what is needed otherwise: `url` gives the host.
    needed = [] if schema.shorthands else [n for n, i in schema.fields.items() if _must_be_sent(i)]
    if needed:
        create["required"] = needed
    return {
        title: {
            "type": "object",
            "properties": _properties(stored),
            "required": list(stored),
        },
        f"{title}Create": create,
        f"{title}Update": {
            "type": "object",
            "properties": _properties(schema.fields, defaults=False),
        },
    }


def _child_models(resource: Resource, create: Json) -> Json:
    """`create` without a parent that has to be named, for the paths below that parent."""
    found = {}
    for name, item in resource.foreign_fields.items():
        if item.required:
            model = child_model(resource, BY_NAME[item.reference or ""])
            found[model] = {
                "type": "object",
                "properties": {k: v for k, v in create["properties"].items() if k != name},
            }
            found[model]["required"] = [other for other in create["required"] if other != name]
    return found


def child_model(resource: Resource, parent: Resource) -> str:
    return f"{resource.title}Of{parent.title}Create"


def _must_be_sent(item: Field) -> bool:
    return item.required and not item.auto and item.default is None and item.type != "record"


def _plugin_models(resource: Resource) -> Json:
    """A model for each plugin, told apart by `name`, and the unions of them."""
    found: Json = {}
    for name, kind in PLUGIN_TYPES.items():
        schema = plugin_schema(name)
        found |= _entity_models(kind.title, schema)
        for suffix in ("", "Create"):
            found[f"{kind.title}{suffix}"]["properties"]["name"] = {
                "type": "string",
                "const": name,
            }
        for suffix, config in (("", "Config"), ("Create", "Config"), ("Update", "ConfigUpdate")):
            properties = found[f"{kind.title}{suffix}"]["properties"]
            found[f"{kind.title}{config}"] = properties["config"]
            properties["config"] = ref(f"{kind.title}{config}")
    for suffix in ("", "Create"):
        options = {name: f"{kind.title}{suffix}" for name, kind in PLUGIN_TYPES.items()}
        found[f"{resource.title}{suffix}"] = {
            "oneOf": [ref(option) for option in options.values()],
            "discriminator": {
                "propertyName": "name",
                "mapping": {name: ref(option)["$ref"] for name, option in options.items()},
            },
        }
    updates = [ref(f"{kind.title}Update") for kind in PLUGIN_TYPES.values()]
    found[f"{resource.title}Update"] = {"anyOf": updates}
    return found


def _page_model(item: Json) -> Json:
    return {
        "type": "object",
        "properties": {
            "data": {"type": "array", "items": item},
            "next": {"type": ["string", "null"], "description": "path of the next page"},
            "offset": {"type": "string", "description": "of the next page; absent on the last"},
        },
        "required": ["data", "next"],
    }


def _error_model() -> Json:
    return {
        "type": "object",
        "properties": {
            "message": {"type": "string"},
            "code": {"type": "integer"},
            "name": {"type": "string"},
            "fields": {"type": "object", "additionalProperties": True},
            "options": {"type": "object", "additionalProperties": True},
        },
        "required": ["message"],
    }


def _reference_model() -> Json:
    return {
        "type": "object",
        "properties": {"id": {"type": "string", "format": "uuid"}},
        "required": ["id"],
    }


def _properties(fields: Mapping[str, Field], *, defaults: bool = True) -> Json:
    return {name: json_schema(item, defaults=defaults) for name, item in fields.items()}


def json_schema(item: Field, *, defaults: bool = True, element: bool = False) -> Json:
    """The field as JSON Schema.  `defaults` False: for a PATCH; `element`: inside a list or map."""
    if item.type == "foreign":
        return (
            ref("Reference") if item.required else {"oneOf": [ref("Reference"), {"type": "null"}]}
        )
    shown: Json = {"type": _TYPES[item.type]}
    if item.one_of is not None:
        shown["enum"] = list(item.one_of)
    if item.between is not None:
        shown["minimum"], shown["maximum"] = item.between
    if item.type == "string":
        shown |= _string_limits(item)
    elif item.len_min is not None:
        shown["minItems"] = item.len_min
    if item.elements is not None:
        shown["items"] = json_schema(item.elements, defaults=False, element=True)
    if item.values is not None:
        shown["additionalProperties"] = json_schema(item.values, defaults=False, element=True)
    if item.fields is not None:
        shown["properties"] = _properties(item.fields, defaults=defaults)
    elif item.type == "record":
        shown["additionalProperties"] = True
    if item.description is not None:
        shown["description"] = item.description
    if item.default is not None and defaults:
        shown["default"] = item.default
    if item.shown_once or not (element or item.required or item.auto):
        shown["type"] = [shown["type"], "null"]
        if "enum" in shown:
            shown["enum"].append(None)
    return shown


def _string_limits(item: Field) -> Json:
    if item.uuid:
        return {"format": "uuid"}
    return {} if item.one_of is not None else {"minLength": 1}


# --- who may -------------------------------------------------------------------------------------

SECURITY_SCHEMES: Json = {
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
_LOGIN_ERRORS = (401, 403, 429)


def document_login(document: Json) -> None:
    """Say of each operation of the Admin API that it may want a token, and what it answers then.

    For the whole document, which the issuer's operations then differ from: generated clients take
    an operation with a security of its own for one that cannot do without.
    """
    document["security"] = [{"admin_token": []}, {"admin_bearer": []}, {}]
    for path in document["paths"].values():
        for operation in path.values():
            if "oauth" in operation["tags"]:
                operation.setdefault("security", [])
                continue
            for status in _LOGIN_ERRORS:
                operation["responses"].setdefault(str(status), _error_response(status))


def _error_response(status: int) -> Json:
    error = {"application/json": {"schema": ref("AdminError")}}
    return {"description": _ERRORS[status], "content": error}


# --- operations ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One method of one path, as FastAPI takes it."""

    summary: str
    status: int
    answer: Json | None = None  # the schema of a successful answer
    body: Json | None = None
    body_required: bool = False
    query: tuple[Json, ...] = ()
    errors: tuple[int, ...] = (400, 403, 500)

    def responses(self) -> dict[int | str, Json]:
        good: Json = {"description": self.summary}
        if self.answer is not None:
            good["content"] = {"application/json": {"schema": self.answer}}
        found: dict[int | str, Json] = {self.status: good} if self.status < 400 else {}
        return found | {status: _error_response(status) for status in self.errors}

    def beyond_responses(self, path: str) -> Json:
        parameters = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
                "description": "an id, or the name or key that stands for it",
            }
            for name in re.findall(r"{(\w+)}", path)
        ]
        found: Json = {"parameters": [*parameters, *self.query]}
        if self.body is not None:
            # Forms are taken too, and not named here: openapi-python-client sends a body in every
            # type that is, all at once, so that each write would be the last one, multipart.
            content = {"application/json": {"schema": self.body}}
            found["requestBody"] = {"content": content, "required": self.body_required}
        return found


def query_parameter(name: str, schema: Json, description: str) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": description,
    }


PAGE_QUERY = (
    query_parameter(
        "size", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "rows a page"
    ),
    query_parameter("offset", {"type": "string", "minLength": 1}, "from the page before"),
)
TAGS_QUERY = query_parameter(
    "tags", {"type": "string", "minLength": 1}, "`a,b`: both; `a/b`: either"
)

_READ_ERRORS = (403, 404, 500)
_WRITE_ERRORS = (400, 403, 404, 409, 413, 415, 500)


@dataclass(frozen=True)
class Operations:
    """The operations on one entity, wherever in the tree of paths they stand."""

    resource: Resource
    where: str
    parent: Resource | None = None  # that the path names

    def list(self) -> Operation:
        filters = tuple(
            query_parameter(name, {"type": "string", "minLength": 1}, f"only with this {name}")
            for name in self.resource.filters
            if not self.where
        )
        tags = (TAGS_QUERY,) if self.resource.tagged else ()
        return Operation(
            f"A page of {self.resource.path}{self.where}",
            200,
            answer=ref(f"{self.resource.title}Page"),
            query=(*PAGE_QUERY, *tags, *filters),
            errors=(400, 403, 404, 500) if self.where else (400, 403, 500),
        )

    def create(self) -> Operation:
        return self._write("Create", 201, self._whole())

    def upsert(self) -> Operation:
        return self._write("Create or replace", 200, self._whole())

    def update(self) -> Operation:
        return self._write("Change fields of", 200, f"{self.resource.title}Update")

    def _whole(self) -> str:
        """The model of a body that makes the entity."""
        parent = self.parent
        for item in self.resource.foreign_fields.values():
            if parent is not None and item.required and item.reference == parent.name:
                return child_model(self.resource, parent)
        return f"{self.resource.title}Create"

    def get(self) -> Operation:
        title = self.resource.title
        return Operation(f"One {title}{self.where}", 200, answer=ref(title), errors=_READ_ERRORS)

    def delete(self) -> Operation:
        text = f"Delete a {self.resource.title}{self.where} and what depends on it"
        return Operation(text, 204, errors=(400, 403, 404, 500) if self.where else (400, 403, 500))

    def refused_delete(self) -> Operation:
        text = f"Refused: a {self.resource.title} is deleted under its own path"
        return Operation(text, 405, errors=(403, 404, 405, 500))

    def _write(self, verb: str, status: int, model: str) -> Operation:
        title, fields = self.resource.title, self.resource.schema.fields.values()
        return Operation(
            f"{verb} a {title}{self.where}",
            status,
            answer=ref(title),
            body=ref(model),
            body_required=not model.endswith("Update") and any(map(_must_be_sent, fields)),
            errors=_WRITE_ERRORS,
        )


def operations(
    resource: Resource, *, parent: Resource | None = None, child: Resource | None = None
) -> Operations:
    if parent is not None:
        return Operations(resource, f" of a {parent.title}", parent)
    if child is not None:
        return Operations(resource, f" that a {child.title} refers to")
    return Operations(resource, "")
