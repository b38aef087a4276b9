"""Log lines of the data plane: one event, one line, on standard error.

Whatever a client, an upstream or a library put into a field stays inside it: characters that a
terminal or a line-based reader would obey (CR, LF, ESC, NUL, bidi and other invisible ones) come
out escaped in both formats, and long fields are cut (S96).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

FIELD_CHARS_MAX = 1024
line_stream: TextIO | None = None  # where ready-made JSON lines go; None when they are not wanted
FIRST = ("ts", "level", "plane", "event")
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def escape(text: str) -> str:
    """The text with every character that is not printable written out, `\\x1b` or `\\u202e`."""
    if len(text) > FIELD_CHARS_MAX:
        text = text[:FIELD_CHARS_MAX] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def escape_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor: each field escaped, nested ones too."""
    return {str(key): _escaped(value) for key, value in event.items()}


def _escaped(value: object) -> object:
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, bytes):
        return escape(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return {escape(str(key)): _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return escape(str(value))


def add_plane(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Say which plane, and put first what a reader looks for first."""
    named = {**event, "plane": "data"}
    return {name: named.pop(name) for name in FIRST if name in named} | named


class _Forward(logging.Handler):
    """Hands what libraries log to structlog, an exception as its type and text, not a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        fields: dict[str, object] = {"library": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            fields["error"] = f"{type(error).__name__}: {error}"
        log.log(record.levelno, record.getMessage(), **fields)


def configure(level: str, fmt: str, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for this process."""
    global line_stream
    renderer: structlog.typing.Processor
    line_stream = (stream or sys.stderr) if fmt == "json" and LEVELS[level] <= 20 else None
    if fmt == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            add_plane,
            escape_fields,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(max(LEVELS[level], logging.WARNING))
