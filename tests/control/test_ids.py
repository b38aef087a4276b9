"""Ids that sort by when they were made."""

import time
import uuid

import pytest

from control.store.ids import ordered_id


def test_id_is_a_uuid_of_version_4_as_kongs() -> None:
    text = ordered_id()
    made = uuid.UUID(text)
    assert str(made) == text
    assert (made.version, made.variant) == (4, uuid.RFC_4122)


def test_id_begins_with_its_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 0x0123456789AB_000_000)
    milliseconds = 0x0123456789AB_000_000 // 1_000_000
    assert uuid.UUID(ordered_id()).int >> 80 == milliseconds


def test_ids_of_one_millisecond_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    assert len({ordered_id() for _ in range(10_000)}) == 10_000
