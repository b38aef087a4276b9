"""The supervisor's log: one line an event, in the planes' format."""

from __future__ import annotations

import logging
import sys

import structlog

from narthex.supervisor import Log


def make_log(level: str, form: str) -> Log:
    """A log on stderr; `form` is `json` or `console`, as LOG_FORMAT."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        plane="supervisor",
    )
    return log
