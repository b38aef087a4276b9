"""Records as log lines: one line each, nothing a client sent gets out of its field (S96)."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
import structlog

from dataplane import logs, records
from tests.dataplane.fakes import FakeEngine, until

NASTY = "a\r\nb\x1b[31m\x00\u202e\u2066\u2028\u200f\x85\x9bz\ud800\U000e0041"
REFUSED = {"status": 401, "why": "no token", "route": None, "client": "192.0.2.1:9",
           "request_id": "r1"}  # fmt: skip
ENDED = {
    "ended_by": "client", "why": "close", "client_code": 1000, "upstream_code": 1000,
    "duration_s": 1.5, "messages_from_client": 1, "messages_from_upstream": 2,
    "bytes_from_client": 3, "bytes_from_upstream": 4, "route": "r", "service": "s",
    "consumer": "c", "credential": "d", "client": "[::1]:9", "request_id": "r2",
}  # fmt: skip


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    yield io.StringIO()
    structlog.reset_defaults()
    logs.line_stream = None
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.close()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_record_is_one_json_line_with_its_fields(
    stream: io.StringIO, engine: FakeEngine
) -> None:
    logs.configure("info", "json", stream)
    logs.line_stream = None  # the engine's own lines: test_lines.py
    engine.recorded = [("refused", REFUSED), ("ended", ENDED)]
    assert records.drain(cast("Any", engine)) == 2
    first, second = lines(stream)
    assert (first["event"], second["event"]) == ("handshake.refused", "session.ended")
    assert first.items() >= REFUSED.items()
    assert second.items() >= ENDED.items()
    for line in (first, second):
        assert list(line)[:4] == ["ts", "level", "plane", "event"]
        assert (line["level"], line["plane"]) == ("info", "data")
        assert line["ts"].endswith("Z")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("field", ["why", "client", "request_id", "route"])
def test_s96_control_and_bidi_characters_stay_inside_their_field(
    field: str, form: str, stream: io.StringIO, engine: FakeEngine
) -> None:
    logs.configure("info", form, stream)
    logs.line_stream = None
    engine.recorded = [("refused", {**REFUSED, field: NASTY}), ("refused", REFUSED)]
    records.drain(cast("Any", engine))
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert all(c.isprintable() or c == "\n" for c in text)
    assert text.encode()  # no lone surrogate
    for shown in ("\\x0d\\x0a", "\\x1b", "\\x00", "\\u202e", "\\u2066", "\\x85", "\\ud800"):
        assert shown in text.replace("\\\\", "\\")
    if form == "json":
        assert lines(stream)[0][field].startswith("a\\x0d\\x0ab")


def test_s96_holds_for_other_events_their_keys_values_and_bytes(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    log = structlog.get_logger()
    log.info(NASTY, where={NASTY: [NASTY, b"\x1b\xff", 1, None]}, what=ValueError(NASTY))
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert all(c.isprintable() or c == "\n" for c in text)
    assert lines(stream)[0]["where"].popitem()[1][1] == "\\x1b\\xff"


def test_a_field_is_cut_when_it_is_too_long(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    structlog.get_logger().info("x", why="y" * 100_000)
    assert len(stream.getvalue()) < 2 * logs.FIELD_CHARS_MAX


def test_no_field_that_is_not_named_gets_into_a_line(
    stream: io.StringIO, engine: FakeEngine
) -> None:
    logs.configure("debug", "json", stream)
    logs.line_stream = None
    secret = {"token": "SECRET", "query": "access_token=SECRET", "headers": ["SECRET"]}
    engine.recorded = [("refused", {**REFUSED, **secret}), ("ended", {**ENDED, **secret})]
    records.drain(cast("Any", engine))
    assert "SECRET" not in stream.getvalue()
    assert len(lines(stream)) == 2


def test_less_than_the_level_is_not_written(stream: io.StringIO, engine: FakeEngine) -> None:
    logs.configure("warning", "json", stream)
    engine.recorded = [("ended", ENDED)]
    assert records.drain(cast("Any", engine)) == 1
    assert stream.getvalue() == ""


def test_library_events_come_as_lines_without_traceback(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    logging.getLogger("websockets.client").info("chatter")
    logging.getLogger("asyncio").warning("slow %s", "task")
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("asyncio").exception("boom")
    assert [(line["event"], line["level"]) for line in lines(stream)] == [
        ("slow task", "warning"),
        ("boom", "error"),
    ]
    assert lines(stream)[1]["error"] == "KeyError: 'x'"
    assert "Traceback" not in stream.getvalue()


def test_records_are_drained_for_ever_and_memory_is_swept(
    stream: io.StringIO, engine: FakeEngine
) -> None:
    logs.configure("error", "json", stream)
    engine.recorded = [("ended", ENDED)] * (2 * records.RECORDS_MAX + 1)

    async def main() -> None:
        task = asyncio.create_task(records.run(cast("Any", engine)))
        await until(lambda: engine.swept >= 4)
        task.cancel()

    asyncio.run(main())
    assert not engine.recorded
