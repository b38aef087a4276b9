"""The parameters of a request to an OAuth endpoint, from query and body.  spec/oauth2.md §3.1.

Kong's rules: the body overrides the query, repeated names become lists, a name without `=` is
True, JSON keeps its types, and a body that cannot be read counts as none.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any, TypeGuard
from urllib.parse import unquote_plus

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

ARGS_MAX = 100  # from the query, and again from a form; the rest is not looked at (S31)
BODY_BYTES_MAX = 64 * 1024
_JSON = "application/json"

Params = dict[str, Any]


class Sent(Params):
    """All parameters of a request, and how they were sent, which `oauth_profile: strict` asks."""

    __slots__ = ("in_query", "repeated")

    in_query: frozenset[str]
    repeated: frozenset[str]  # names that stood twice in the query or in a form


def collect(query: bytes, content_type: str, body: bytes) -> Sent:
    """All parameters of a POST.  JSON null stands as None: present, but without a value."""
    kind = _kind(content_type)
    in_query, in_body = parse_pairs(query), _from_body(kind, content_type, body)
    sent = Sent(in_query | in_body)
    sent.in_query = frozenset(in_query)
    # In JSON a list is one value. That a name stands twice there is not seen: the last one wins.
    repeated = _repeated(in_query)
    sent.repeated = repeated if kind.startswith(_JSON) else repeated | _repeated(in_body)
    return sent


def is_set(value: object) -> bool:
    """Whether a parameter was sent: JSON's null and false count as not sent, as in Kong."""
    return value is not None and value is not False


def is_text(value: object) -> TypeGuard[str]:
    """Whether a parameter is a string that every database can hold."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, out of JSON
        return False
    return True


def parse_pairs(data: bytes) -> Params:
    """`application/x-www-form-urlencoded` data, in a query or a body."""
    if not data:
        return {}
    escaped = b"%" in data or b"+" in data
    # Through Latin-1, so that bytes which were not escaped count as the same bytes escaped.
    text = data.decode("latin-1") if escaped else data.decode(errors="replace")
    params: Params = {}
    for pair in text.split("&", ARGS_MAX)[:ARGS_MAX]:
        name, equals, value = pair.partition("=")
        if escaped:
            name, value = _unquote(name), _unquote(value)
        if not name:
            continue
        if name in params:
            _add(params, name, value if equals else True)
        else:
            params[name] = value if equals else True
    return params


def _unquote(text: str) -> str:
    return unquote_plus(text, "latin-1").encode("latin-1").decode(errors="replace")


def _repeated(params: Params) -> frozenset[str]:
    return frozenset([name for name, value in params.items() if type(value) is list])


def _add(params: Params, name: str, value: object) -> None:
    if name not in params:
        params[name] = value
    elif isinstance(params[name], list):
        params[name].append(value)
    else:
        params[name] = [params[name], value]


def _from_body(kind: str, content_type: str, body: bytes) -> Params:
    if kind.startswith("application/x-www-form-urlencoded"):
        return parse_pairs(body)
    if kind.startswith(_JSON):
        return _parse_json(body)
    if kind.startswith("multipart/form-data"):
        return _parse_multipart(content_type, body)
    return {}


@lru_cache(maxsize=64)  # of at most 8 KiB each: what fits a header
def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _parse_json(body: bytes) -> Params:
    try:
        # What JSON does not know (NaN, 1e999) could not be echoed in `state`.
        found = json.loads(body.decode(), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _no_number(text: str) -> float:
    raise ValueError(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _parse_multipart(content_type: str, body: bytes) -> Params:
    """The parts that have a name, as text.  RFC 7578."""
    options = parse_options_header(content_type)[1]
    reader = _MultipartReader()
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except (KeyError, MultipartParseError):
        return {}
    return reader.params if reader.complete else {}


class _MultipartReader:
    """Collects the parts that the parser tells of."""

    def __init__(self) -> None:
        self.params: Params = {}
        self.complete = False
        self._parts = 0
        self._header, self._value, self._data = b"", b"", b""
        self._name: bytes | None = None

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._parts += 1
        self._name, self._data = None, b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._name = parse_options_header(self._value)[1].get(b"name")
        self._header = self._value = b""

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _on_part_end(self) -> None:
        if self._name and self._parts <= ARGS_MAX:
            name, value = self._name.decode(errors="replace"), self._data.decode(errors="replace")
            _add(self.params, name, value)

    def _on_end(self) -> None:
        self.complete = True
