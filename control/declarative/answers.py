"""What `/narthex/config/…` answers: plans, and errors of files."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from control.declarative.plan import Plan
from control.declarative.problems import FileRefused

_PLAN: dict[str, Any] = {
    "created": 0,
    "updated": 1,
    "deleted": 1,
    "unchanged": 7,
    "tried": True,
    "changes": [
        {
            "change": "updated",
            "type": "routes",
            "name": "example",
            "id": "3f0a1f1c-52f6-4f2c-9d59-5a7c0a3a7f10",
            "fields": [{"field": "paths", "old": ["/a"], "new": ["/b"]}],
        },
        {
            "change": "deleted",
            "type": "plugins",
            "name": "oauth2 on route example",
            "id": "b2f5a1de-2f5c-4a39-8a62-9f1c3d0e7b44",
            "fields": [],
        },
    ],
}
_REFUSED: dict[str, Any] = {
    "message": "services example: port: value should be between 0 and 65535",
    "errors": [
        {
            "message": "value should be between 0 and 65535",
            "entity": "services example",
            "field": "port",
            "line": 5,
            "column": 3,
        }
    ],
}
EXAMPLES = {"ConfigPlan": _PLAN, "ConfigRefused": _REFUSED}


class FieldChanged(BaseModel):
    """One field of an entity.  A secret is `[redacted]` on both sides."""

    field: str = Field(description="`config.scopes` for a field of a record")
    old: Any = None
    new: Any = None


class EntityChanged(BaseModel):
    """One entity that is created, updated or deleted."""

    change: str = Field(description="`created`, `updated` or `deleted`")
    type: str = Field(description="the collection: `services`")
    name: str = Field(description="as a user recognises it")
    id: str
    fields: list[FieldChanged] = Field(description="of a new entity: what is not a default")


class ConfigPlan(BaseModel):
    """What a file changes, or has changed, in the order in which it is done."""

    created: int
    updated: int
    deleted: int
    unchanged: int
    tried: bool = Field(
        description="false: a dry run of more than 1,000 changes, which are planned; a write may "
        "still find an error"
    )
    changes: list[EntityChanged]


class ConfigError(BaseModel):
    """One error of a file; lines and columns count from 1."""

    message: str
    entity: str | None = None
    field: str | None = None
    line: int | None = None
    column: int | None = None


class ConfigRefused(BaseModel):
    """A file that was refused: nothing of it was written."""

    message: str
    errors: list[ConfigError] = Field(description="in the order of their lines, 1,000 at the most")


def shown(planned: Plan) -> ConfigPlan:
    return ConfigPlan(
        created=planned.count("created"),
        updated=planned.count("updated"),
        deleted=planned.count("deleted"),
        unchanged=planned.unchanged,
        tried=planned.tried,
        changes=[
            EntityChanged(
                change=one.change,
                type=one.type,
                name=one.name,
                id=one.id,
                fields=[FieldChanged(field=f.field, old=f.old, new=f.new) for f in one.fields],
            )
            for one in planned.changes
        ],
    )


def refusal(error: FileRefused) -> JSONResponse:
    errors = [ConfigError(**vars(problem)) for problem in error.problems]
    return JSONResponse(
        ConfigRefused(message=error.message, errors=errors).model_dump(), error.status
    )
