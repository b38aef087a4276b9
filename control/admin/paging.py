"""Pages of a collection: the query's size, offset and tags, and the envelope of the answer."""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from control.admin.errors import InvalidOffset, InvalidOptions, InvalidSize
from control.admin.names import TAG_CHARS
from control.store.rows import TagFilter

SIZE_DEFAULT = 100
SIZE_MAX = 1000

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_ALL_OF = re.compile(rf"{TAG_CHARS}(,{TAG_CHARS})*")
_ANY_OF = re.compile(rf"{TAG_CHARS}(/{TAG_CHARS})*")


@dataclass(frozen=True)
class PageRequest:
    """Which page is asked for.  `after`: the sort key of the last row of the page before."""

    size: int = SIZE_DEFAULT
    after: Sequence[str] | None = None
    tags: TagFilter | None = None
    carried: str = ""  # the part of the query that `next` repeats

    @property
    def limit(self) -> int:
        """One row more than shown tells whether there is a next page."""
        return self.size + 1


def page_request(query: Mapping[str, str], *, key_parts: int = 1) -> PageRequest:
    """Read size, offset and tags.

    Raises:
        InvalidSize, InvalidOffset, InvalidOptions
    """
    size, tags, offset = query.get("size"), query.get("tags"), query.get("offset")
    carried = ""
    if tags is not None:
        carried += f"&tags={quote(tags, safe='')}"
    if size is not None:
        carried += f"&size={quote(size, safe='')}"
    return PageRequest(
        size=SIZE_DEFAULT if size is None else _size(size),
        tags=None if tags is None else tag_filter(tags),
        after=None if offset is None else _after(offset, key_parts),
        carried=carried,
    )


def _size(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise InvalidSize("size must be a number")
    size = float(text)
    if not 1 <= size <= SIZE_MAX or size != int(size):
        raise InvalidSize(f"size must be an integer between 1 and {SIZE_MAX}")
    return int(size)


def tag_filter(text: str) -> TagFilter:
    if not text:
        raise InvalidOptions("tags", "cannot be null")
    if _ALL_OF.fullmatch(text):
        return TagFilter(text.split(","), every=True)
    if _ANY_OF.fullmatch(text):
        return TagFilter(text.split("/"), every=False)
    raise InvalidOptions("tags", "invalid filter syntax")


def _after(offset: str, key_parts: int) -> list[str]:
    try:
        decoded = base64.b64decode(offset, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidOffset(offset, "bad base64 encoding") from None
    try:
        key = json.loads(decoded)
    except (ValueError, RecursionError):
        raise InvalidOffset(offset, "bad json encoding") from None
    if not isinstance(key, list) or len(key) != key_parts:
        raise InvalidOffset(offset, "bad key")
    if not all(isinstance(part, str) and "\0" not in part for part in key):
        raise InvalidOffset(offset, "bad key")
    try:
        "".join(key).encode()
    except UnicodeEncodeError:
        raise InvalidOffset(offset, "bad key") from None
    return key


def envelope(
    path: str,
    request: PageRequest,
    found: Sequence[Any],
    shown: Sequence[dict[str, Any]],
    key: Sequence[str],
    *,
    carry: bool = True,
) -> dict[str, Any]:
    """The answer: `found` is what the query gave (limit rows), `shown` its first `size` as JSON.

    `key` is the sort key of the last row shown; used only when there are more.
    """
    if len(found) <= request.size:
        return {"data": shown, "next": None}
    offset = base64.b64encode(json.dumps(list(key), separators=(",", ":")).encode()).decode()
    query = f"offset={quote(offset, safe='')}" + (request.carried if carry else "")
    return {"data": shown, "next": f"{path}?{query}", "offset": offset}
