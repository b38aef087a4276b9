"""The operations of openapi.json: what can be asked of each path of the Admin API."""

import re
from dataclasses import dataclass, field

from control.admin import links
from control.admin.models import Json, child_model, must_be_sent, ref
from control.admin.resource import Resource

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


_ALWAYS = (401, 403, 429, 500, 503)  # whatever is asked


@dataclass(frozen=True)
class Operation:
    """One method of one path, as FastAPI takes it."""

    summary: str
    status: int
    answer: Json | None = None  # the schema of a successful answer
    body: Json | None = None
    body_required: bool = False
    query: tuple[Json, ...] = ()
    errors: tuple[int, ...] = (400,)  # beside those that any operation may answer
    description: str = ""
    links: Json = field(default_factory=dict)
    key: str = "an id, or the name or key that stands for it"  # what `{key}` in the path is

    def responses(self) -> dict[int | str, Json]:
        good: Json = {"description": self.summary}
        if self.answer is not None:
            good["content"] = {"application/json": {"schema": self.answer}}
        if self.links:
            good["links"] = self.links
        found: dict[int | str, Json] = {self.status: good} if self.status < 400 else {}
        return found | self.responses_of_errors()

    def responses_of_errors(self) -> dict[int | str, Json]:
        return {status: error_response(status) for status in sorted({*self.errors, *_ALWAYS})}

    def beyond_responses(self, path: str) -> Json:
        parameters = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
                "description": self.key if name == "key" else _KEY_TEXTS.get(name, name),
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


_KEY_TEXTS = {
    "parent": "id of the parent, or the name or key that stands for it",
    "entity": "a collection, as `services`",
    "name": "of a plugin",
    "tag": "as entities have it in `tags`",
    "kid": "the key's id",
    "address": "the target's own address",
}


def error_response(status: int) -> Json:
    return {
        "description": _ERRORS[status],
        "content": {"application/json": {"schema": ref("AdminError")}},
    }


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

_READ_ERRORS = (404,)
_WRITE_ERRORS = (400, 404, 409, 413, 415)


def a(resource: Resource) -> str:
    """One of them, with its article."""
    title = resource.title
    return f"an {title}" if title[0] in "AEIOU" or title.startswith("SN") else f"a {title}"


@dataclass(frozen=True)
class Operations:
    """The operations on one entity, wherever in the tree of paths they stand."""

    resource: Resource
    where: str
    parent: Resource | None = None  # that the path names
    child: Resource | None = None  # that the path names, and that refers to the entity

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
            errors=(400, 404) if self.where else (400,),
            description="In the order of their ids. `next` is the path of the page after this one, "
            "`offset` what to ask for there; the last page has no `offset`.",
        )

    def create(self) -> Operation:
        text = "The answer shows every field: defaults are filled in, ids and secrets made."
        return self._write("Create", 201, self._whole(), text, links.of_made(self.resource))

    def upsert(self) -> Operation:
        text = (
            "Fields that are not sent get their defaults. What is there keeps its id; what is not "
            "is made, with the id or key that the path has."
        )
        return self._write("Create or replace", 200, self._whole(), text, {})

    def update(self) -> Operation:
        text = "Fields that are not sent stay; records are merged, lists and maps replaced."
        return self._write("Change fields of", 200, f"{self.resource.title}Update", text, {})

    def _whole(self) -> str:
        """The model of a body that makes the entity."""
        parent = self.parent
        for item in self.resource.foreign_fields.values():
            if parent is not None and item.required and item.reference == parent.name:
                return child_model(self.resource, parent)
        return f"{self.resource.title}Create"

    def get(self) -> Operation:
        title = self.resource.title
        return Operation(
            f"One {title}{self.where}",
            200,
            answer=ref(title),
            errors=_READ_ERRORS,
            description="All its fields, those that are null too.",
            key=self._key(),
        )

    def delete(self) -> Operation:
        gone = "404 when there is none." if self.where else "204 also when there is none."
        return Operation(
            f"Delete {a(self.resource)}{self.where} and what depends on it",
            204,
            errors=(400, 404) if self.where else (400,),
            description=f"Refused while something refers to it that may not go with it. {gone}",
            key=self._key(),
        )

    def refused_delete(self) -> Operation:
        return Operation(
            f"Refused: {a(self.resource)} is deleted under its own path",
            405,
            errors=(404, 405),
            description="404 where nothing is referred to.",
        )

    def _key(self) -> str:
        key = (self.child or self.resource).endpoint_key
        return "the id" if key is None else f"the id, or the {key}"

    def _write(
        self, verb: str, status: int, model: str, description: str, found_links: Json
    ) -> Operation:
        title, fields = self.resource.title, self.resource.schema.fields.values()
        return Operation(
            f"{verb} {a(self.resource)}{self.where}",
            status,
            answer=ref(title),
            body=ref(model),
            body_required=not model.endswith("Update") and any(map(must_be_sent, fields)),
            errors=_WRITE_ERRORS,
            description=description,
            links=found_links,
            key=self._key(),
        )


def operations(
    resource: Resource, *, parent: Resource | None = None, child: Resource | None = None
) -> Operations:
    if parent is not None:
        return Operations(resource, f" of {a(parent)}", parent)
    if child is not None:
        return Operations(resource, f" that {a(child)} refers to", child=child)
    return Operations(resource, "")
