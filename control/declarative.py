"""Files in decK's format: created and updated in one transaction, by the Admin API's machinery.

A file names entities by their natural keys (`name`, `username`, `client_id`; a plugin by its name
and scope), nests children in their parents and refers to others by name. What the file does not
mention stays. The endpoint is what `narthex config apply` calls.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from control.admin import openapi
from control.admin.apply import apply, lookup
from control.admin.ca_certificates import certificate_id
from control.admin.errors import AdminError
from control.admin.registry import BY_NAME
from control.admin.resource import Resource, Values
from control.store import rows
from control.store.session import Store, WriteSession

FORMAT_VERSION = "3.0"
BYTES_MAX = 10 * 1024 * 1024
NODES_MAX = 1_000_000  # aliases make a small file large: this is what they may add up to
DEPTH_MAX = 30

# In the order in which they are written: what is referred to comes first.
ORDER = (
    "certificates",
    "ca_certificates",
    "snis",
    "services",
    "consumers",
    "routes",
    "oauth2_credentials",
    "upstreams",
    "targets",
    "plugins",
)
# collection → {member: (collection of its items, the field that points back)}
NESTED = {
    "certificates": {"snis": ("snis", "certificate")},
    "services": {"routes": ("routes", "service"), "plugins": ("plugins", "service")},
    "routes": {"plugins": ("plugins", "route")},
    "consumers": {
        "plugins": ("plugins", "consumer"),
        "oauth2_credentials": ("oauth2_credentials", "consumer"),
    },
    "upstreams": {"targets": ("targets", "upstream")},
}
IGNORED = ("_comment", "_transform", "_workspace")
SCOPE = ("service", "route", "consumer")
_CERTIFICATES = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")  # whose names are PEM texts

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FileRefused(Exception):
    """The file cannot be applied; nothing was written.  `entity` is the one at fault, if one is."""

    def __init__(self, message: str, entity: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.entity = entity
        self.status = status


class ChangeMade(BaseModel):
    """One entity that the file created or changed."""

    change: str = Field(description="`created` or `updated`")
    type: str
    name: str


class Applied(BaseModel):
    changes: list[ChangeMade]


class ApplyRefused(BaseModel):
    message: str
    entity: str | None = None


@dataclass(frozen=True)
class Item:
    """One entity of the file, its children taken out."""

    resource: Resource
    values: Values

    @property
    def label(self) -> str:
        """How a user recognises it."""
        name = next(
            (str(self.values[k])
             for k in ("name", "username", "custom_id", "client_id", "target", "id")
             if self.values.get(k)),
            "without a name",
        )  # fmt: skip
        scopes = [f"{f} {_named(self.values[f])}" for f in SCOPE if self.values.get(f)]
        return (
            f"{name} on {', '.join(scopes)}" if scopes and self.resource.name == "plugins" else name
        )


def router(store: Store) -> APIRouter:
    """`POST /narthex/config/apply`."""
    routes = APIRouter(tags=["config"])

    @routes.post(
        "/narthex/config/apply",
        summary="Apply a file",
        response_model=Applied,
        responses={
            400: {"model": ApplyRefused, "description": "The file is wrong; nothing was written"},
            413: {"model": ApplyRefused, "description": "The file is too large"},
            **openapi.Operation("", 200, errors=()).responses_of_errors(),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/yaml": {"schema": {"$ref": "#/components/schemas/DeckFile"}}
                },
            }
        },
    )
    async def apply_config(request: Request) -> Any:
        """Create and update what a decK file holds, in one transaction; delete nothing."""
        try:
            text = await _read(request)
            changes = await run_in_threadpool(apply_text, store, text)
        except FileRefused as refused:
            body = {"message": refused.message, "entity": refused.entity}
            return JSONResponse(body, refused.status)
        return Applied(changes=changes)

    return routes


async def _read(request: Request) -> str:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BYTES_MAX:
            raise FileRefused(f"larger than {BYTES_MAX // 2**20} MiB", status=413)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FileRefused("not UTF-8 text") from None


def apply_text(store: Store, text: str) -> list[ChangeMade]:
    """Create and update what the file holds, in one transaction.

    Raises:
        FileRefused: nothing was written.
    """
    items = flatten(parse(text))
    try:
        with store.writing() as session:
            return _apply_items(session, items)
    except AdminError as error:  # of all entities together, at the commit
        raise FileRefused(_reason(error)) from None


def _apply_items(session: WriteSession, items: Sequence[Item]) -> list[ChangeMade]:
    changes = []
    for item in items:
        name = item.resource.name
        try:
            _, change = apply(session, name, item.values, _known(session, item))
        except AdminError as error:
            raise FileRefused(_reason(error), f"{name} {item.label}") from None
        if change != "unchanged":
            changes.append(ChangeMade(change=change, type=name, name=item.label))
    return changes


def _reason(error: AdminError) -> str:
    return str(error.body.get("message") or error.body)


def parse(text: str) -> dict[str, Any]:
    """The file as plain JSON values.

    Raises:
        FileRefused: not YAML, not of this format, or more than a file may hold.
    """
    try:
        # A safe loader: it makes plain values only.
        document = yaml.load(text, _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise FileRefused(
            f"not YAML: {getattr(error, 'problem', None) or 'broken'}{where}"
        ) from None
    except (ValueError, RecursionError):
        raise FileRefused("not YAML: a value that cannot be read") from None
    if not isinstance(document, dict):
        raise FileRefused("a mapping with _format_version was expected")
    for count, _ in enumerate(_walk(document, 0)):
        if count > NODES_MAX:
            raise FileRefused(f"more than {NODES_MAX} values")
    version = document.pop("_format_version", None)
    if str(version) != FORMAT_VERSION:
        raise FileRefused(f'_format_version: "{FORMAT_VERSION}" was expected, not {version!r}')
    return document


def _walk(value: Any, depth: int) -> Iterator[None]:
    """One step for each value below; refuses what JSON cannot hold."""
    if depth > DEPTH_MAX:
        raise FileRefused(f"nested deeper than {DEPTH_MAX} levels")
    yield
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise FileRefused(f"the key {key!r} is not text: put it in quotes")
            yield from _walk(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise FileRefused(f"{value} is not a number that JSON knows")
    elif value is not None and not isinstance(value, str | int | float):
        raise FileRefused(f"{value} is no text, number or boolean: put it in quotes")


def flatten(document: Mapping[str, Any]) -> list[Item]:
    """Every entity of the file, parents before what refers to them.

    Raises:
        FileRefused: a collection that is not known, or is no list of mappings.
    """
    found: dict[str, list[Item]] = {name: [] for name in ORDER}
    for name, entries in document.items():
        if name in IGNORED:
            continue
        if name not in ORDER:
            raise FileRefused(f"{name}: not supported; expected {', '.join(ORDER)}")
        _collect(found, name, entries, {})
    return [item for name in ORDER for item in found[name]]


def _collect(
    found: dict[str, list[Item]], name: str, entries: Any, injected: Mapping[str, Any]
) -> None:
    if entries is None:
        return
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise FileRefused(f"{name}: a list of mappings was expected")
    nested = NESTED.get(name, {})
    for entry in entries:
        values = {key: value for key, value in entry.items() if key not in nested}
        if name == "certificates" and not values.get("id"):
            # Nothing else names one: the same certificate is the same entity.
            values["id"] = str(uuid.uuid5(_CERTIFICATES, str(values.get("cert")).strip()))
        item = Item(BY_NAME[name], {**values, **injected})
        found[name].append(item)
        for member, (kind, field) in nested.items():
            if entry.get(member) is not None:
                _collect(found, kind, entry[member], {field: _reference(item)})


def _reference(parent: Item) -> dict[str, Any]:
    """How a nested child refers to its parent."""
    for key in ("id", parent.resource.endpoint_key):
        if key is not None and parent.values.get(key):
            return {key: parent.values[key]}
    raise FileRefused(
        f"needs {parent.resource.endpoint_key} or id, since others refer to it",
        f"{parent.resource.name} {parent.label}",
    )


def _named(reference: Any) -> str:
    return (
        str(next(iter(reference.values()), "")) if isinstance(reference, dict) else str(reference)
    )


def _known(session: WriteSession, item: Item) -> str | None:
    """The key of the row that this entity of the file stands for, where `apply` cannot find it.

    None leaves it to `apply`, which looks by id, endpoint key, or a plugin's name and scope.
    """
    resource, values = item.resource, item.values
    if resource.name == "plugins" or values.get("id") or values.get(str(resource.endpoint_key)):
        return None
    if resource.name == "consumers" and isinstance(values.get("custom_id"), str):
        return rows.find_id(session, resource.model, {"custom_id": values["custom_id"]})
    if resource.name == "ca_certificates" and isinstance(values.get("cert"), str):
        return certificate_id(session, values["cert"])
    if resource.name == "oauth2_credentials":
        # Without a client id, which is then made: the consumer's application of that name.
        owner = values.get("consumer")
        key = next(iter(owner.values()), None) if isinstance(owner, dict) else owner
        parent = lookup(session, "consumers", str(key))
        where = {"consumer_id": parent and parent["id"], "name": str(values.get("name"))}
        return rows.find_id(session, resource.model, where)
    raise FileRefused(
        f"needs {resource.endpoint_key} or id, to be found when applied again",
        f"{resource.name} {item.label}",
    )
