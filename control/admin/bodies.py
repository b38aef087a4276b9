"""Request bodies: JSON, urlencoded and multipart forms, read into one shape.

A form has only text, so that a field's type comes from its schema: `infer` turns the text into
what the JSON body would have held. Nesting is by name: `service.id`, `config.scopes[]`, `hosts[1]`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import MultipartParseError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from control.admin.errors import PlainError
from control.admin.schema import Field

BODY_BYTES_MAX = 10 * 1024 * 1024
_FORM_FIELDS_MAX = 10_000
_DEPTH_MAX = 20  # of names in a form: a.b.c…
_PARSE_ASIDE_BYTES = 64 * 1024  # larger bodies are parsed off the event loop

_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_INDEXED = re.compile(r"(.+?)\[([0-9]{0,9})\]")


@dataclass(frozen=True)
class Body:
    """What a request carried.  `typed`: from JSON, else all values are text."""

    values: dict[str, Any]
    typed: bool = True

    def for_fields(self, fields: Mapping[str, Field]) -> dict[str, Any]:
        """The values as the entity's fields want them."""
        return self.values if self.typed else infer(fields, self.values)


async def read_body(request: Request) -> Body:
    """The request's body by its content type; no body is an empty object.

    Raises:
        PlainError: 400 broken, 413 larger than BODY_BYTES_MAX, 415 another content type.
    """
    types = request.headers.getlist("content-type")
    if len(types) > 1:
        raise PlainError(400, "Only one Content-Type header is allowed")
    data = await _read(request)
    if not data:
        return Body({})
    kind = types[0].split(";")[0].strip().lower() if types else ""
    parse = _PARSERS.get(kind)
    if parse is None:
        raise PlainError(415, "Unsupported media type")
    if kind == "multipart/form-data":
        return await _multipart(request.headers, data)
    if len(data) > _PARSE_ASIDE_BYTES:
        return await run_in_threadpool(parse, data)
    return parse(data)


async def _read(request: Request) -> bytes:
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > BODY_BYTES_MAX:
                raise PlainError(413, "Payload too large")
    except ClientDisconnect:
        raise PlainError(400, "the body was cut short") from None
    return bytes(data)


def _json(data: bytes) -> Body:
    return Body(json_object(data))


def json_object(data: bytes) -> dict[str, Any]:
    """A JSON object all of which can be stored and shown again.

    Raises:
        PlainError: it is none.
    """
    try:
        values = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        if _HALF_PAIR.search(data):  # half a surrogate pair is no character: nothing can store it
            json.dumps(values, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise PlainError(400, "Cannot parse JSON body")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _urlencoded(data: bytes) -> Body:
    try:
        pairs = parse_qsl(
            data.decode("utf-8"),
            keep_blank_values=True,
            max_num_fields=_FORM_FIELDS_MAX,
            errors="strict",
        )
    except ValueError:
        raise PlainError(400, "Cannot parse form body") from None
    return Body(nest(pairs), typed=False)


async def _multipart(headers: Headers, data: bytes) -> Body:
    async def once() -> Any:
        yield data

    parser = MultiPartParser(headers, once(), max_fields=_FORM_FIELDS_MAX)
    try:
        form = await parser.parse()
        pairs = []
        for name, value in form.multi_items():
            content = value if isinstance(value, str) else (await value.read()).decode("utf-8")
            pairs.append((name, content))
        await form.close()
    except (MultiPartException, MultipartParseError, UnicodeDecodeError, KeyError):
        raise PlainError(400, "Cannot parse form body") from None
    return Body(nest(pairs), typed=False)


_PARSERS = {
    "application/json": _json,
    "application/x-www-form-urlencoded": _urlencoded,
    "multipart/form-data": _urlencoded,  # stands for the kind; its parser needs the headers
}


# --- forms -------------------------------------------------------------------------------------


class _Items(dict[int, Any]):
    """An array on its way: its items by index.  `end`: the index after all of them."""

    end = 1

    def put(self, index: str, value: Any) -> Any:
        """Put `value` at `index`, or at the end when that is empty or taken."""
        at = int(index) if index and int(index) not in self else self.end
        self[at] = value
        self.end = max(self.end, at + 1)
        return value


def nest(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Form fields as nested dicts and lists of text; an empty value is null.

    `a[2]` comes after `a[1]`, `a[]` and a further `a` come after what is there, and the fields of
    one record in a list have one index: `sources[1].ip`, `sources[1].port`.
    """
    values: dict[Any, Any] = {}
    for name, text in pairs:
        *steps, (last, index) = _path(name)
        place = values
        for step, at in steps:
            place = _inner(place, step, at)
        if index is not None or last in place:
            _append(place, last, index, text or None)
        else:
            place[last] = text or None
    found: dict[str, Any] = _plain(values)
    return found


def _path(name: str) -> list[tuple[str, str | None]]:
    """`a.b[]` → [("a", None), ("b", "")]: each step with its index, if it has one."""
    parts = name.split(".")
    if len(parts) > _DEPTH_MAX:
        raise PlainError(400, "Cannot parse form body")
    found = [(_INDEXED.fullmatch(part), part) for part in parts]
    return [(match[1], match[2]) if match else (part, None) for match, part in found]


def _inner(place: dict[Any, Any], step: str, index: str | None) -> dict[Any, Any]:
    """The record at this step, made when there is none."""
    held = place.get(step)
    if index is None:
        if not isinstance(held, dict) or isinstance(held, _Items):
            held = place[step] = {}
        return held
    items = held if isinstance(held, _Items) else _Items()
    place[step] = items
    held = items.get(int(index or 1))
    return held if isinstance(held, dict) else items.put(index or "1", {})


def _append(place: dict[Any, Any], step: str, index: str | None, value: str | None) -> None:
    items = place.get(step)
    if not isinstance(items, _Items):
        items = _Items()
        if step in place:
            items.put("", place[step])
        place[step] = items
    items.put(index or "", value)


def _plain(value: Any) -> Any:
    if isinstance(value, _Items):
        return [_plain(item) for _, item in sorted(value.items())]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def infer(fields: Mapping[str, Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """Text turned into the types of `fields`; what does not fit stays text and fails there."""
    return {
        name: _infer(fields[name], value) if name in fields else value
        for name, value in values.items()
    }


def _infer(field: Field, value: Any) -> Any:
    if value is None:
        return None
    if field.type in ("array", "set"):
        assert field.elements is not None
        items = value if isinstance(value, list) else [value]
        return [_infer(field.elements, item) for item in items]
    if isinstance(value, dict):
        return _infer_nested(field, value)
    if isinstance(value, str):
        return _scalar(field.type, value)
    return value


def _infer_nested(field: Field, value: dict[str, Any]) -> dict[str, Any]:
    if field.type == "record" and field.fields is not None:
        return infer(field.fields, value)
    if field.type == "map" and field.values is not None:
        return {key: _infer(field.values, item) for key, item in value.items()}
    return value


def _scalar(kind: str, text: str) -> Any:
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if kind in ("integer", "number"):
        try:
            return int(text)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            return text
    return text
