"""Redirect URIs: which may be used, and what is added to them.  spec/oauth2.md §5.1."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from control.oauth2.params import parse_pairs

_LOOPBACK = re.compile(r"(http://(?:127\.0\.0\.1|\[::1\]))(?::([1-9][0-9]{0,4}))?([/?].*)?")
_PORT_MAX = 65535
_UPPER_HEX = re.compile(r"%[0-9A-F]{2}")


def allowed(asked: object, registered: Sequence[str], *, strict: bool) -> bool:
    """Whether a client may ask for this URI: byte for byte one of its own (S32).

    With `strict` a native app on the loopback interface may choose its port (RFC 8252 §7.3), and
    what should never have been registered does not count.
    """
    if not isinstance(asked, str):
        return False
    if not strict:
        return asked in registered
    mine = [uri for uri in registered if is_sound(uri)]
    if asked in mine:
        return True
    without_port = _without_port(asked)
    return without_port is not None and without_port in map(_without_port, mine)


def first(registered: Sequence[str], *, strict: bool) -> str | None:
    """The URI of a request that names none."""
    return next((uri for uri in registered if not strict or is_sound(uri)), None)


def is_sound(uri: str) -> bool:
    """No user info, wildcard or fragment, which make a URI look like what it is not."""
    try:
        authority = urlsplit(uri).netloc
    except ValueError:
        return False
    return not {"@", "*", "\\"} & set(authority) and "#" not in uri


def _without_port(uri: str) -> tuple[str, str] | None:
    """A loopback URI in its two halves; None for any other."""
    found = _LOOPBACK.fullmatch(uri)
    if found is None or int(found[2] or 0) > _PORT_MAX:
        return None
    return found[1], found[3] or ""


def with_query(uri: str, params: Mapping[str, Any]) -> str:
    """The URI with these in its query, over those that it has."""
    base, _, query = uri.partition("?")
    return f"{base}?{encode(parse_pairs(query.encode()) | dict(params))}"


def with_fragment(uri: str, params: Mapping[str, Any]) -> str:
    """The URI with these as its fragment."""
    return f"{uri}#{encode(params)}"


def encode(params: Mapping[str, Any]) -> str:
    """`k=v` joined with `&`, sorted; a name alone for what is empty or True, nothing for None."""
    pairs = []
    for name in sorted(params):
        value = params[name]
        for item in value if isinstance(value, list) else [value]:
            if item is None or item is False:
                continue
            text = "" if item is True else _text(item)
            pairs.append(_quoted(name) + (f"={_quoted(text)}" if text else ""))
    return "&".join(pairs)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _quoted(text: str) -> str:
    """As Kong escapes a URI component: hexadecimal digits in lower case."""
    escaped = quote(text.encode("utf-8", "replace"), safe="-._~")
    return _UPPER_HEX.sub(lambda found: found[0].lower(), escaped)
