"""One class per error body of the Admin API.  Codes, names and texts are Kong's."""

from collections.abc import Iterator, Mapping
from typing import Any

Fields = dict[str, Any]  # field → text, list of texts (by position) or Fields of a record

ENTITY = "@entity"  # key of errors that belong to no single field


class AdminError(Exception):
    """An answer other than success; `body` is its JSON."""

    status = 400

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body.get("message"))
        self.body = body


class PlainError(AdminError):
    """`{"message": …}` alone."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__({"message": message})
        self.status = status


class NotFound(PlainError):
    def __init__(self) -> None:
        super().__init__(404, "Not found")


class MethodNotAllowed(PlainError):
    def __init__(self) -> None:
        super().__init__(405, "Method not allowed")


class CodedError(AdminError):
    """`{"code", "name", "message", "fields"}`."""

    code: int
    name: str
    member = "fields"

    def __init__(self, message: str, fields: Fields | None = None) -> None:
        body: dict[str, Any] = {"code": self.code, "name": self.name, "message": message}
        if fields is not None:
            body[self.member] = fields
        super().__init__(body)


class SchemaViolation(CodedError):
    code = 2
    name = "schema violation"

    def __init__(self, fields: Fields) -> None:
        found = list(_texts(fields))
        head = self.name if len(found) == 1 else f"{len(found)} schema violations"
        super().__init__(f"{head} ({'; '.join(found)})", fields)


class ForeignKeyMissing(CodedError):
    """The parent that a reference names by id does not exist."""

    code = 4
    name = "foreign key violation"

    def __init__(self, field: str, collection: str, key: Mapping[str, Any]) -> None:
        super().__init__(
            f"the foreign key '{key_text(key)}' does not reference "
            f"an existing '{collection}' entity.",
            {field: dict(key)},
        )


class StillReferenced(CodedError):
    """A deletion is refused, since other entities refer to this one."""

    code = 4
    name = "foreign key violation"

    def __init__(self, collection: str, referenced_by: str) -> None:
        super().__init__(
            f"an existing '{referenced_by}' entity references this '{collection}' entity",
            {"@referenced_by": referenced_by},
        )


class ReferencedByOthers(CodedError):
    """A deletion is refused, since a list of another entity names this one."""

    code = 19
    name = "referenced by others"


class UniqueViolation(CodedError):
    code = 5
    name = "unique constraint violation"
    status = 409

    def __init__(self, key: Mapping[str, Any]) -> None:
        super().__init__(f"UNIQUE violation detected on '{key_text(key)}'", dict(key))


class InvalidOffset(CodedError):
    code = 7
    name = "invalid offset"

    def __init__(self, offset: str, reason: str) -> None:
        super().__init__(f"'{offset}' is not a valid offset: {reason}")


class InvalidSize(CodedError):
    code = 9
    name = "invalid size"


class InvalidOptions(CodedError):
    code = 11
    name = "invalid options"
    member = "options"

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"invalid option ({option}: {reason})", {option: reason})


class ForeignKeyUnresolved(CodedError):
    """The parent that a reference names by its endpoint key does not exist."""

    code = 13
    name = "foreign keys unresolved"

    def __init__(self, field: str, collection: str, key: str, value: str) -> None:
        reason = (
            f"the foreign key cannot be resolved with '{key_text({key: value})}' "
            f"for an existing '{collection}' entity"
        )
        super().__init__(
            f"foreign key unresolved ({field}.{key}: {reason})", {field: {key: reason}}
        )


def key_text(key: Mapping[str, Any]) -> str:
    """A key as Kong writes it: `{name="x",service={id="…"}}`, members sorted."""
    return "{" + ",".join(f"{name}={_value_text(key[name])}" for name in sorted(key)) + "}"


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return key_text(value)
    if value is None:
        return "null"
    return f'"{value}"'


def _texts(errors: Any, path: str = "") -> Iterator[str]:
    """Each error as `path: text`; what concerns a whole entity first, then fields sorted."""
    if isinstance(errors, str):
        yield f"{path}: {errors}"
    elif isinstance(errors, list):
        for place, error in enumerate(errors, start=1):
            if error is not None:
                yield from _texts(error, f"{path}.{place}")
    else:
        yield from errors.get(ENTITY, ())
        for name in sorted(errors.keys() - {ENTITY}):
            yield from _texts(errors[name], f"{path}.{name}" if path else name)
