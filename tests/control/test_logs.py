"""control/logs.py: one line an event, no secret in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from control import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_event_is_one_json_line_with_its_plane(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger("x").info("listening", address="127.0.0.1:1")
    text = capsys.readouterr().err
    (line,) = [json.loads(text)]
    assert list(line)[:4] == ["ts", "level", "plane", "event"]
    assert line | {"ts": ""} == {
        "ts": "",
        "level": "info",
        "plane": "control",
        "event": "listening",
        "address": "127.0.0.1:1",
    }


def test_libraries_log_the_same_way_from_warning_on(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("uvicorn.error").info("Shutting down")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    (line,) = lines(capsys)
    assert (line["level"], line["event"]) == ("warning", "Invalid HTTP request received.")


def test_level_keeps_what_is_below_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("error", "json")
    structlog.get_logger("x").warning("no")
    structlog.get_logger("x").error("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes"]


def test_exception_stays_within_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise ValueError("client_secret=hunter2")
    except ValueError:
        structlog.get_logger("x").exception("fault")
    (line,) = lines(capsys)
    assert "ValueError" in line["exception"]
    assert "hunter2" not in json.dumps(line)


def test_console_is_for_reading(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console")
    structlog.get_logger("x").info("listening", client_secret="hunter2")
    text = capsys.readouterr().err
    assert "listening" in text and "{" not in text and "hunter2" not in text


@pytest.mark.parametrize(
    "fields",
    [
        {"client_secret": "hunter2"},
        {"Authorization": "hunter2"},
        {"access_token": "hunter2"},
        {"set_cookie": ["hunter2"]},
        {"config": {"provision_key": "hunter2"}},
        {"config": [{"deep": {"password": "hunter2"}}]},
        {"url": "/x?a=1&access_token=hunter2&b=2"},
        {"body": '{"client_secret": "hunter2"}'},
        {"header": "Bearer hunter2hunter2"},
        {"header": "authorization: basic aHVudGVyMg=="},
        {"event": "got refresh_token: 'hunter2'"},
    ],
)
def test_s95_secrets_never_reach_the_log(fields: dict[str, Any]) -> None:
    cleaned = json.dumps(logs.redact(None, "info", fields))
    assert "hunter2" not in cleaned and "aHVudGVyMg" not in cleaned
    assert logs.REDACTED in cleaned


@pytest.mark.parametrize(
    "fields",
    [
        {"token_digest_hex": "ab", "path": "/oauth2/token"},
        {"event": "listening", "count": 3, "none": None, "secret": None},
        {"list": [1, "a", None], "hash_secret": False, "enable_password_grant": True},
    ],
)
def test_what_is_no_secret_is_kept(fields: dict[str, Any]) -> None:
    assert logs.redact(None, "info", dict(fields)) == fields


def test_s96_control_and_bidi_characters_stay_in_their_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "json")
    nasty = "a\r\nb\x1b[31m\0\u202e\u2028c"
    structlog.get_logger("x").info("refused", path=nasty)
    text = capsys.readouterr().err
    assert text.isascii() and text.count("\n") == 1
    assert not any(ord(character) < 32 for character in text.rstrip("\n"))
    assert json.loads(text)["path"] == nasty
