"""The models of openapi.json, made from the schemas of the entities.

Models are named, and every reference to one is a `$ref`, so that generated clients have a type
for each: `Service` (as shown), `ServiceCreate` (POST, PUT), `ServiceUpdate` (PATCH), `ServicePage`,
and `ServiceReference`, which names one by id or name in a body.  Below a parent that an entity
must have, the path says which, and not the body: `OAuth2CredentialOfConsumerCreate`.
Examples are in `examples` and find their models by name.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from control.admin.plugin_types import PLUGIN_TYPES
from control.admin.plugins import Plugins, plugin_schema
from control.admin.registry import BY_NAME, referring_to
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


def ref(model: str) -> Json:
    return {"$ref": f"#/components/schemas/{model}"}


def models(resources: Iterable[Resource]) -> Json:
    """All component schemas of the Admin API."""
    found: Json = {"AdminError": _error_model(), "Reference": _reference_model()}
    found["JsonObject"] = {"type": "object", "additionalProperties": ref("JsonValue")}
    for resource in resources:
        if referring_to(resource):
            found[f"{resource.title}Reference"] = _reference_model(resource.endpoint_key)
        if isinstance(resource, Plugins):
            found |= _plugin_models(resource)
        else:
            found |= _entity_models(resource.title, resource.schema)
            found |= _child_models(resource, found[f"{resource.title}Create"])
            if resource.below_only:  # so that no path takes one that names its parent
                del found[f"{resource.title}Create"]
        found[f"{resource.title}Page"] = _page_model(ref(resource.title))
    return found


def _entity_models(title: str, schema: Schema) -> Json:
    stored = {name: item for name, item in schema.fields.items() if item.stored}
    create = _body(_properties(schema.fields, given=True))
    # A shorthand may stand for what is needed otherwise: `url` gives the host.
    needed = [] if schema.shorthands else [n for n, i in schema.fields.items() if must_be_sent(i)]
    if needed:
        create["required"] = needed
    return {
        title: {
            "type": "object",
            "properties": _properties(stored),
            "required": list(stored),
        },
        f"{title}Create": create,
        f"{title}Update": _body(_properties(schema.fields, defaults=False, given=True)),
    }


def _body(properties: Json) -> Json:
    """What may be sent: unknown fields are refused."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _child_models(resource: Resource, create: Json) -> Json:
    """`create` without a parent that has to be named, for the paths below that parent."""
    found = {}
    for name, item in resource.foreign_fields.items():
        if item.required:
            model = child_model(resource, BY_NAME[item.reference or ""])
            found[model] = _body({k: v for k, v in create["properties"].items() if k != name})
            found[model]["required"] = [other for other in create["required"] if other != name]
    return found


def child_model(resource: Resource, parent: Resource) -> str:
    return f"{resource.title}Of{parent.title}Create"


def must_be_sent(item: Field) -> bool:
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
            "fields": ref("JsonObject"),
            "options": ref("JsonObject"),
        },
        "required": ["message"],
    }


def _reference_model(key: str | None = None) -> Json:
    """As shown: an id.  With a `key`, as given: an id or that key."""
    by_id: Json = {"type": "string", "format": "uuid"}
    if key is None:
        return {"type": "object", "properties": {"id": by_id}, "required": ["id"]}
    properties = {"id": by_id, key: {"type": "string", "minLength": 1}}
    return _body(properties) | {"minProperties": 1}


def _properties(fields: Mapping[str, Field], *, defaults: bool = True, given: bool = False) -> Json:
    return {n: json_schema(item, defaults=defaults, given=given) for n, item in fields.items()}


def json_schema(
    item: Field, *, defaults: bool = True, given: bool = False, element: bool = False
) -> Json:
    """The field as JSON Schema.

    `defaults` False: for a PATCH; `given`: as sent, else as shown; `element`: in a list or map.
    """
    if item.type == "foreign":
        return _foreign(item, given)
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
        shown["items"] = json_schema(item.elements, defaults=False, given=given, element=True)
    if item.values is not None:
        inner = json_schema(item.values, defaults=False, given=given, element=True)
        shown["additionalProperties"] = inner
    if item.fields is not None:
        shown["properties"] = _properties(item.fields, defaults=defaults, given=given)
        if given:
            shown["additionalProperties"] = False
    elif item.type == "record":
        shown = ref("JsonObject")
    if not element and (_takes_null(item) if given else _shows_null(item)):
        shown = _nullable(shown)
    if item.description is not None:
        shown["description"] = item.description
    if item.default is not None and defaults:
        shown["default"] = item.default
    return shown


def _takes_null(item: Field) -> bool:
    """Null sent means: the default, or another one made."""
    return item.auto or not item.required or (not item.nullable and item.default is not None)


def _shows_null(item: Field) -> bool:
    always = item.required or item.auto or (not item.nullable and item.default is not None)
    return item.shown_once or not always


def _foreign(item: Field, given: bool) -> Json:
    parent = BY_NAME.get(item.reference or "")
    if item.eq_null:
        return {"type": "null"}
    shown = ref(f"{parent.title}Reference" if given and parent is not None else "Reference")
    return shown if item.required else _nullable(shown)


def _nullable(shown: Json) -> Json:
    """The value or null; a plain type takes it in, so that generated clients have one type."""
    if "enum" in shown or "type" not in shown:
        return {"anyOf": [shown, {"type": "null"}]}
    return shown | {"type": [shown["type"], "null"]}


def _string_limits(item: Field) -> Json:
    if item.uuid:
        return {"format": "uuid"}
    return {} if item.one_of is not None else {"minLength": 1}


def described(*models: type[BaseModel]) -> Json:
    """Component schemas of models that no endpoint of FastAPI's kind names."""
    asked: Any = [(model, "serialization") for model in models]
    _, made = models_json_schema(asked, ref_template="#/components/schemas/{model}")
    found: Json = made["$defs"]
    return found


def choice(models: Iterable[type[BaseModel]]) -> Json:
    """One of these."""
    return {"anyOf": [ref(model.__name__) for model in models]}
