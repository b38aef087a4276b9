"""The plugin `websocket-session`, ours: what holds for a WebSocket while it is open.

spec/routing-and-proxy.md §12.6.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from control.admin.plugin_types.base import PluginType
from control.admin.schema import Field

PING_SECONDS_MAX = 86400
IDLE_SECONDS_MAX = 30 * 86400
WRITE_SECONDS = (0.1, 86400)  # the engine's timers tick every 0.1 s
BUFFERED_BYTES = (1024, 16 * 1024 * 1024)  # a direction of one session

ORIGINS_MAX = 100
ORIGIN_CHARS_MAX = 255
# As browsers send them (RFC 6454 §6.2): lower case, no path; or each name below one.
_NAME = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_PORT = r"(?::[1-9][0-9]{0,4})?"
_ORIGIN = re.compile(rf"[a-z][a-z0-9+.-]*://(?:{_NAME}|\[[0-9a-f:.]+\]){_PORT}")
_WILD_ORIGIN = re.compile(rf"https?://\*\.{_NAME}{_PORT}")
_OWN_PORTS = {"http:": ":80", "https:": ":443"}  # which browsers leave out

_ON_CHANGE = (
    "`keep`: they stay as they are; `drain`: Close 1012, spread over time; `close`: 1012 at once."
)


def _seconds(default: int, between: tuple[float, float], description: str) -> Field:
    return Field(
        type="number", required=True, default=default, between=between, description=description
    )


def _on_change(default: str, description: str) -> Field:
    return Field(
        type="string",
        required=True,
        default=default,
        one_of=("keep", "drain", "close"),
        description=f"{description} {_ON_CHANGE}",
    )


def _check_origin(origin: str) -> str | None:
    if len(origin) <= ORIGIN_CHARS_MAX and (
        _ORIGIN.fullmatch(origin) or _WILD_ORIGIN.fullmatch(origin)
    ):
        return None
    return (
        "must be an origin in lower case, such as https://app.example.com or https://*.example.com"
    )


def _as_sent(origin: str) -> str:
    for scheme, port in _OWN_PORTS.items():
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin


def _check_origins(origins: list[str]) -> str | None:
    return None if len(origins) <= ORIGINS_MAX else f"length must be at most {ORIGINS_MAX}"


CONFIG = {
    "ping_interval": _seconds(
        30, (0, PING_SECONDS_MAX), "Seconds of silence until the gateway sends a Ping; 0: never."
    ),
    "ping_timeout": _seconds(
        20, (0, PING_SECONDS_MAX), "Seconds that its Pong may take; 0: it is not waited for."
    ),
    "idle_timeout": _seconds(
        0, (0, IDLE_SECONDS_MAX), "Seconds without a data frame in either direction; 0: any."
    ),
    "write_timeout": _seconds(
        60, WRITE_SECONDS, "Seconds for which a peer may take nothing of what is due to it."
    ),
    "max_buffered_bytes": Field(
        type="integer",
        required=True,
        default=65536,
        between=BUFFERED_BYTES,
        description="Bytes held for a slow reader, a direction; then the fast side is not read.",
    ),
    "validate_utf8": Field(
        type="boolean",
        required=True,
        default=False,
        description="Text messages that are not UTF-8 end the session with 1007.",
    ),
    "allowed_origins": Field(
        type="set",
        elements=Field(type="string", check=_check_origin),
        len_min=1,
        check=_check_origins,
        description="Exact origins or `https://*.example.com`; a handshake whose Origin is not "
        "among them gets 403, one without Origin passes unless its token is a cookie. Null: any, "
        "and no token by cookie. Pages of the exact ones may call the token endpoint.",
    ),
    "deflate": Field(
        type="string",
        required=True,
        default="pass",
        one_of=("pass", "refuse"),
        description="`refuse`: no extension of WebSocket is offered to the upstream, so messages "
        "are not compressed, and one marked so ends a ws or wss session with 1002.",
    ),
    "on_auth_failure": Field(
        type="string",
        required=True,
        default="http",
        one_of=("http", "close", "auto"),
        description="`http`: a refused handshake gets an HTTP error; `close`: 101 and a Close "
        "that a browser's script can read; `auto`: `close` for browsers, else `http`.",
    ),
    "on_edit": _on_change(
        "keep", "What an edit of their route, service or its plugins does to open sessions."
    ),
    "on_delete": _on_change(
        "drain", "What the removal or disabling of one of these does to open sessions."
    ),
}


def _check(config: Mapping[str, Any]) -> None:
    return None


def _ms(seconds: float) -> int:
    """Milliseconds, never 0 for what is more than nothing: 0 means off."""
    return math.ceil(seconds * 1000)


def _compile(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ping_interval_ms": _ms(config["ping_interval"]),
        "ping_timeout_ms": _ms(config["ping_timeout"]),
        "idle_timeout_ms": _ms(config["idle_timeout"]),
        "stall_timeout_ms": _ms(config["write_timeout"]),
        "buffered_max": config["max_buffered_bytes"],
        "validate_utf8": config["validate_utf8"],
        "allowed_origins": [_as_sent(origin) for origin in config["allowed_origins"] or ()],
        "on_edit": config["on_edit"],
        "on_delete": config["on_delete"],
        "deflate": config["deflate"],
        "on_auth_failure": config["on_auth_failure"],
    }


PLUGIN = PluginType(
    name="websocket-session",
    title="WebSocketSessionPlugin",
    version="0.1.0",
    priority=1002,
    protocols=("http", "https", "ws", "wss"),
    config=CONFIG,
    check=_check,
    compile=_compile,
    consumer_scope=False,
)
