"""Log lines made in C: the same fields as the console format, one JSON object a line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
import structlog

from dataplane import logs, records


class Recorded:
    """An engine with one batch of lines."""

    def __init__(self, lines: bytes) -> None:
        self.lines = lines

    def record_lines(self, ts: str, limit: int) -> tuple[int, bytes]:
        assert ts.endswith("Z")
        assert limit == records.RECORDS_MAX
        found, self.lines = self.lines, b""
        return found.count(b"\n"), found


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    yield io.StringIO()
    structlog.reset_defaults()
    logs.line_stream = None
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)


def test_ready_lines_are_written_as_they_are(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    engine = Recorded(b'{"event": "session.ended"}\n')
    assert records.drain(cast("Any", engine)) == 1
    assert records.drain(cast("Any", engine)) == 0
    assert json.loads(stream.getvalue()) == {"event": "session.ended"}


@pytest.mark.parametrize(("level", "form"), [("warning", "json"), ("info", "console")])
def test_ready_lines_are_not_wanted_elsewhere(level: str, form: str, stream: io.StringIO) -> None:
    logs.configure(level, form, stream)
    assert logs.line_stream is None
