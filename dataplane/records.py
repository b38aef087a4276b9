"""The engine's records as log lines: one for each refused handshake and each ended session.

Only the fields named here are written, whatever a record holds: no token, no query string and no
header can get into a line by mistake. `logs.configure` escapes what is inside them (S96).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from dataplane import logs

if TYPE_CHECKING:
    from dataplane._engine import Engine

DRAIN_SECONDS = 0.1  # how late a record is written, at most, while the rate is bearable
QUIET_SECONDS = 0.25  # how late the first one is, after a time without any
RECORDS_MAX = 4096  # written in one turn; the event loop breathes in between

FIELDS = {
    "refused": ("status", "why", "route", "client", "request_id"),
    "ended": (
        "ended_by", "why", "client_code", "upstream_code", "duration_s",
        "messages_from_client", "messages_from_upstream",
        "bytes_from_client", "bytes_from_upstream",
        "route", "service", "consumer", "credential", "client", "request_id",
    ),
}  # fmt: skip
EVENTS = {"refused": "handshake.refused", "ended": "session.ended"}

log = structlog.get_logger()


def now() -> str:
    """The time as log lines have it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def write(record: tuple[str, dict[str, Any]]) -> None:
    """One log line for one record of the engine."""
    kind, values = record
    log.info(EVENTS[kind], **{name: values.get(name) for name in FIELDS[kind]})


def drain(engine: Engine) -> int:
    """Write what the engine has, RECORDS_MAX at the most; how many there were.

    JSON lines come ready from the engine: at thousands a second a line must not cost more than
    the handshake it is about.
    """
    if logs.line_stream is not None:
        count, lines = engine.record_lines(now(), RECORDS_MAX)
        if count:
            logs.line_stream.write(lines.decode())
            logs.line_stream.flush()
        return count
    found = engine.records(RECORDS_MAX)
    for record in found:
        write(record)
    return len(found)


async def run(engine: Engine) -> None:
    """For ever: write records, and free what the engine no longer uses."""
    while True:
        count = drain(engine)
        engine.sweep()
        if count < RECORDS_MAX:
            await asyncio.sleep(DRAIN_SECONDS if count else QUIET_SECONDS)
        else:
            await asyncio.sleep(0)
