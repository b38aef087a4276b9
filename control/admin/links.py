"""The links of openapi.json: what can be done next with an entity that an answer shows.

Whoever walks the API by its document follows them, as a stateful test does: make, read, change,
delete, and make what refers to it.
"""

from collections.abc import Iterator
from typing import Any

from control.admin.registry import referring_to
from control.admin.resource import Resource

Json = dict[str, Any]

_ID = "$response.body#/id"


def of_made(resource: Resource) -> Json:
    """Links of the answer to a POST, by name."""
    own = {
        f"{verb.capitalize()}{resource.title}": _to_itself(resource, verb)
        for verb in ("get", "upsert", "update", "delete")
    }
    return own | dict(_to_children(resource))


def _to_itself(resource: Resource, verb: str) -> Json:
    """By its own path, or by the one below its parent where that is its only one."""
    if not resource.below_only:
        return _link(f"{resource.path}-{verb}", "key")
    (parent,) = (name for name, item in resource.foreign_fields.items() if item.required)
    link = _link(f"{resource.path}-{verb}_of_{parent}", "key")
    link["parameters"]["parent"] = f"$response.body#/{parent}/id"
    return link


def _to_children(resource: Resource) -> Iterator[tuple[str, Json]]:
    """To the collections below it."""
    for child, name, _ in referring_to(resource):
        for verb in ("list", "create"):
            operation = f"{child.path}-{verb}_of_{name}"
            yield f"{verb.capitalize()}{child.title}", _link(operation, "parent")


def _link(operation: str, parameter: str) -> Json:
    return {"operationId": operation, "parameters": {parameter: _ID}}
