"""control/cleanup.py: what has expired is deleted in batches, and nothing else."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import uuid
from typing import Any

import pytest
import structlog
from sqlalchemy import Connection, Select, insert
from sqlmodel import select

from control import cleanup
from control.cleanup import BATCH_ROWS, clean, clean_for_ever
from control.store import audit, expired, queries
from control.store.audit import Retention
from control.store.tables import (
    AuthorizationCode,
    OAuth2Credential,
    OAuth2Token,
    SeenAssertion,
    SpentRefreshToken,
    Ticket,
)
from tests.control.issuing import Issuing
from tests.linkkit import until

RETENTION = Retention(days=90, rows=1000)
PAST, FUTURE = time.time() - 100, time.time() + 3600


def add_token(issuer: Issuing, app: OAuth2Credential, **values: Any) -> bytes:
    """A token made long ago; its digest."""
    digest = secrets.token_bytes(32)
    given = {"created_at": PAST - 1000, "expires_in": 100} | values
    with issuer.store.writing() as session:
        queries.insert_token(session, credential_id=app.id, access_token_digest=digest, **given)
    return digest


def turn(issuer: Issuing) -> dict[str, int]:
    return asyncio.run(clean(issuer.store, RETENTION, pause_seconds=0))


def test_tokens_whose_time_is_over_go_and_the_others_stay(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    refresh = {"refresh_token_digest": secrets.token_bytes(32)}
    stay = {
        add_token(issuer, app, expires_in=5000),
        add_token(issuer, app, expires_in=0),  # never expires
        add_token(issuer, app, **refresh),  # may be refreshed still
        add_token(issuer, app, by_hand=True),  # ends by hand
        add_token(issuer, app, by_hand=True, ttl=5000),
    }
    add_token(issuer, app)
    add_token(issuer, app, ttl=5000)
    add_token(issuer, app, expires_in=5000, ttl=1000)
    add_token(issuer, app, by_hand=True, ttl=1000)
    add_token(issuer, app, ttl=1000, refresh_token_digest=secrets.token_bytes(32))
    issuer.changes.clear()
    assert turn(issuer) == {"tokens": 3, "access_tokens": 2}
    assert {row.access_token_digest for row in issuer.tokens()} == stay
    assert issuer.changes == []  # nobody has to be told
    assert turn(issuer) == {}


def test_codes_spent_tokens_tickets_and_assertions_go(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    code: dict[str, Any] = {"credential_id": app.id, "created_at": 1.0}
    with issuer.store.writing() as session:
        for at in (PAST, FUTURE):
            session.add(
                AuthorizationCode(
                    id=str(uuid.uuid4()),
                    code_digest=secrets.token_bytes(32),
                    expires_at=at,
                    used_at=at - 10,
                    **code,
                )
            )
            session.add(
                SpentRefreshToken(
                    digest=secrets.token_bytes(32),
                    credential_id=app.id,
                    family_id="f",
                    spent_at=at,
                    gone_at=at,
                )
            )
            session.add(
                Ticket(
                    digest=secrets.token_bytes(32),
                    token_digest=b"t" * 32,
                    host="h",
                    path="/",
                    expires_at=at,
                )
            )
            session.add(SeenAssertion(digest=secrets.token_bytes(32), expires_at=at))
    kinds = ("codes", "spent_refresh_tokens", "tickets", "seen_assertions")
    assert turn(issuer) == dict.fromkeys(kinds, 1)
    with issuer.store.reading() as session:
        for model, name in (
            (AuthorizationCode, "expires_at"),
            (SpentRefreshToken, "gone_at"),
            (Ticket, "expires_at"),
            (SeenAssertion, "expires_at"),
        ):
            (row,) = session.exec(select(model)).all()
            assert getattr(row, name) == FUTURE


def test_used_assertion_is_remembered_for_clocks_that_are_behind(issuer: Issuing) -> None:
    with issuer.store.writing() as session:
        session.add(SeenAssertion(digest=b"s" * 32, expires_at=time.time() - 5))
    assert turn(issuer) == {}


def test_kept_answer_goes_when_no_grace_period_is_that_long(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    now = time.time()
    with issuer.store.writing() as session:
        for age in (10, 70):
            session.add(
                SpentRefreshToken(
                    digest=bytes([age]) * 32,
                    credential_id=app.id,
                    family_id="f",
                    answer="{}",
                    spent_at=now - age,
                    gone_at=FUTURE,
                )
            )
    assert turn(issuer) == {"answers": 1}
    with issuer.store.reading() as session:
        rows = session.exec(select(SpentRefreshToken)).all()
    assert {row.digest[0]: row.answer for row in rows} == {10: "{}", 70: None}


def fill(issuer: Issuing, app: OAuth2Credential, count: int) -> None:
    """So many tokens that have expired."""
    row = {"credential_id": app.id, "created_at": 1.0, "expires_in": 1, "token_type": "bearer"}
    flags = {"by_hand": False, "is_jwt": False}
    with issuer.store.writing() as session:
        session.execute(
            insert(OAuth2Token),
            [
                {"id": str(uuid.uuid4()), "access_token_digest": n.to_bytes(32), **row, **flags}
                for n in range(count)
            ],
        )


def test_batches_are_of_1000_rows_at_most(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(issuer, app, 2500)
    counts: list[int] = []
    delete = expired.delete_expired

    def counting(*args: Any) -> int:
        counts.append(delete(*args))
        return counts[-1]

    monkeypatch.setattr(expired, "delete_expired", counting)
    assert turn(issuer) == {"access_tokens": 2500}
    assert counts == [1000, 1000, 500]
    assert BATCH_ROWS == 1000


def test_turn_does_a_bounded_amount_of_work(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(issuer, app, 2500)
    monkeypatch.setattr(cleanup, "BATCHES_MAX", 2)
    assert turn(issuer) == {"access_tokens": 2000}
    assert turn(issuer) == {"access_tokens": 500}


def test_turn_that_finds_nothing_waits_for_no_writer(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    with issuer.store.writing():
        assert turn(issuer) == {}


def explained(connection: Connection, statement: Select[Any], values: dict[str, Any]) -> str:
    """The plan, a step a line, in capitals."""
    words = "EXPLAIN QUERY PLAN"
    if connection.dialect.name == "postgresql":
        words = "EXPLAIN"
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # it would do for so few rows
    made = statement.compile(connection)
    given: Any = made.construct_params(values)
    if made.positiontup is not None:
        given = tuple(given[name] for name in made.positiontup)
    rows = connection.exec_driver_sql(f"{words} {made}", given)
    return "\n".join(str(row[-1]).upper() for row in rows)


@pytest.mark.parametrize("kind", expired.KINDS)
def test_what_has_expired_is_found_by_an_index(issuer: Issuing, kind: str) -> None:
    due = expired._KINDS[kind].due
    with issuer.store.reading() as session:
        plan = explained(session.connection(), due, {"before": 1.0, "limit": 1})
    assert "INDEX" in plan
    assert not re.search(r"^SCAN|SEQ SCAN|TEMP B-TREE|\bSORT", plan, re.MULTILINE), plan


def test_task_cleans_turn_after_turn_and_survives_a_failure(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_token(issuer, app)
    calls: list[str] = []
    batch = cleanup._batch

    def failing_first(*args: Any) -> int:
        calls.append("one")
        if len(calls) == 1:
            raise RuntimeError("SELECT secret")
        return batch(*args)

    monkeypatch.setattr(cleanup, "_batch", failing_first)

    async def work() -> None:
        task = asyncio.create_task(clean_for_ever(issuer.store, RETENTION, turn_seconds=0.01))
        try:
            await until(lambda: not issuer.tokens())
        finally:
            task.cancel()

    with structlog.testing.capture_logs() as logged:
        asyncio.run(work())
    assert [line["event"] for line in logged if line["log_level"] == "warning"] == [
        "cleanup.failed"
    ]
    assert "secret" not in str(logged)


def test_old_records_of_the_audit_trail_go_in_batches(issuer: Issuing) -> None:
    by = audit.Writer("al", "super", "::1", "r", lambda _: None)
    written = audit.Written("created", "services", "1", None, None, {})
    old, kept = BATCH_ROWS + 5, RETENTION.rows
    for age_days, count in ((91, old), (89, kept + 3)):
        with issuer.store.writing() as session:
            audit.keep(session, by, [written] * count, time.time() - age_days * 86400)
    assert turn(issuer) == {"audit_records": old + 3}
    with issuer.store.reading() as session:
        assert len(audit.page(session, {}, before=None, limit=2 * kept)) == kept
    assert turn(issuer) == {}
