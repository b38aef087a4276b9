"""control/tenure.py: what is said while the hold cannot be looked at.  With a database:
test_postgres.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import OperationalError

from control import tenure
from control.store import Store
from control.store.faults import Unavailable
from control.store.postgres import Postgres

BUSY = Unavailable("writers before this one took more than 10 s")
GONE = OperationalError(None, None, Exception("connection refused"))


class Held:
    """A store whose `hold` answers one of these after the other."""

    shared = True

    def __init__(self, *answers: bool | Exception) -> None:
        self._answers: Iterator[bool | Exception] = iter(answers)

    def hold(self) -> bool:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def said(monkeypatch: pytest.MonkeyPatch, *answers: bool | Exception) -> list[Any]:
    monkeypatch.setattr(tenure, "WATCH_SECONDS", 0)
    with structlog.testing.capture_logs() as logged:
        asyncio.run(tenure.keep_turn(cast(Store, Held(*answers))))
    return [one["event"] for one in logged]


def test_long_write_of_its_own_is_no_lost_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import, say: the hold is held by the very session that it writes with."""
    assert said(monkeypatch, True, BUSY, BUSY, True, False) == ["database.taken"]


def test_lost_database_is_said_once_and_so_is_its_return(monkeypatch: pytest.MonkeyPatch) -> None:
    found = said(monkeypatch, True, GONE, BUSY, GONE, True, GONE, False)
    assert found == ["database.lost", "database.back", "database.lost", "database.taken"]


def test_followers_that_were_not_told_are_told_by_the_next_transaction() -> None:
    """A session that took the hold, and then could not read what others wrote meanwhile."""
    database = Postgres(make_url("postgresql://nobody@localhost/none"))
    told: list[str] = []
    wrong: list[Exception] = []

    def regained(session: Any) -> None:
        if wrong:
            raise wrong.pop()
        told.append(session.name)

    first, second = (SimpleNamespace(name=n, info={}, exec_driver_sql=_granted) for n in "ab")
    database._take_hold(cast(Connection, first), regained)
    assert told == []  # nobody else wrote before
    wrong.append(GONE)
    with pytest.raises(OperationalError):
        database._take_hold(cast(Connection, second), regained)
    assert not second.info.get("narthex.held")
    database._take_hold(cast(Connection, second), regained)
    assert told == ["b"] and second.info["narthex.held"]


def _granted(_statement: str) -> Any:
    return SimpleNamespace(scalar_one=lambda: True)
