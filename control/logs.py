"""The control plane's log: one line an event on stderr, JSON unless told otherwise.

Events of uvicorn and websockets come the same way.  Whatever is logged, values under a secret's
name and tokens in query strings are taken out first.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_SECRET_NAME = re.compile(
    r"secret|token$|password|passwd|authorization|cookie|provision_key|check_key|credentials$|"
    r"^code$|code_verifier|private",
    re.IGNORECASE,
)
_SECRET_PAIR = re.compile(
    r"((?:access_token|refresh_token|client_secret|provision_key|code_verifier|ticket|password)"
    r"[\"']?\s*[=:]\s*[\"']?)[^\s&\"',;}]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
REDACTED = "[redacted]"
_FIRST = ("ts", "level", "plane", "event")  # the order in which a reader wants them


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """structlog processor: the event without what nobody may read in a log.  S95."""
    return {name: _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value  # `hash_secret` is none
    if _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, Mapping):
        return {key: _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", item) for item in value]
    if isinstance(value, str):
        return _SCHEME.sub(rf"\1 {REDACTED}", _SECRET_PAIR.sub(rf"\1{REDACTED}", value))
    return value


def _dump(event: Any, **_: Any) -> str:
    # ASCII only: control and bidi characters of a client stay escaped inside their field (S96).
    ordered = {name: event[name] for name in _FIRST if name in event} | event
    return json.dumps(ordered, default=str)


def configure(level: str, form: str) -> None:
    """Send all logging of this process through one chain.  Called once, by `main`."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _name_plane,
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_dump)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("uvicorn.error", "websockets", "alembic", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _name_plane(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    event["plane"] = "control"
    return event
