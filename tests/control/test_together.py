"""control/oauth2/together.py: transactions that are shared, and who gets whose error."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from control.oauth2.requests import StoreThreads
from control.oauth2.together import Together
from control.store import queries
from control.store.secrets import token_digest
from control.store.session import WriteSession
from control.store.tables import OAuth2Credential
from tests.control.issuing import CREDENTIALS, Issuing

Row = tuple[str, bytes]  # credential id, digest


@pytest.fixture
def together(issuer: Issuing) -> Iterator[Together[Row]]:
    def insert(session: WriteSession, row: Row) -> None:
        if row[0] == "locked":
            tries.append(row)
            raise OperationalError("INSERT", {}, Exception("database is locked"))
        queries.insert_token(
            session, credential_id=row[0], access_token_digest=row[1], expires_in=60
        )

    tries.clear()
    yield Together(issuer.store, StoreThreads(), insert)


tries: list[Row] = []


def row(credential_id: str) -> Row:
    return credential_id, secrets.token_bytes(32)


def write_all(together: Together[Row], rows: list[Any]) -> list[Any]:
    """What came of each, asked for side by side; an exception among them is raised by its make."""

    def make(item: Any) -> Row:
        if isinstance(item, Exception):
            raise item
        made: Row = item
        return made

    async def ask() -> list[Any]:
        works = (together.write(lambda item=item: make(item)) for item in rows)  # type: ignore[misc]
        return await asyncio.gather(*works, return_exceptions=True)

    return asyncio.run(ask())


def test_those_who_come_meanwhile_share_one_transaction(
    issuer: Issuing, app: OAuth2Credential, together: Together[Row]
) -> None:
    rows = [row(app.id) for _ in range(50)]
    issuer.changes.clear()
    assert write_all(together, rows) == rows
    assert len(issuer.tokens()) == 50
    assert [len(change.tokens) for change in issuer.changes] == [50]


def test_one_transaction_holds_64_at_most(
    issuer: Issuing, app: OAuth2Credential, together: Together[Row]
) -> None:
    issuer.changes.clear()
    write_all(together, [row(app.id) for _ in range(150)])
    assert [len(change.tokens) for change in issuer.changes] == [64, 64, 22]


def test_row_that_cannot_be_is_its_writers_fault_alone(
    issuer: Issuing, app: OAuth2Credential, together: Together[Row]
) -> None:
    rows = [row(app.id), row("gone"), row(app.id), row("gone")]
    issuer.changes.clear()
    first, second, third, fourth = write_all(together, rows)
    assert (first, third) == (rows[0], rows[2])
    assert isinstance(second, IntegrityError) and isinstance(fourth, IntegrityError)
    told = [token.digest for change in issuer.changes for token in change.tokens]
    assert sorted(told) == sorted(r.access_token_digest for r in issuer.tokens())
    assert len(told) == 2


def test_what_cannot_be_made_is_not_written_and_hinders_nobody(
    issuer: Issuing, app: OAuth2Credential, together: Together[Row]
) -> None:
    fault = RuntimeError("no")
    good = row(app.id)
    assert write_all(together, [fault, good, fault]) == [fault, good, fault]
    assert write_all(together, [fault]) == [fault]
    assert len(issuer.tokens()) == 1


def test_database_out_of_reach_is_so_for_all_and_tried_once(
    issuer: Issuing, app: OAuth2Credential, together: Together[Row]
) -> None:
    outcomes = write_all(together, [row(app.id), row("locked"), row(app.id)])
    assert {type(outcome) for outcome in outcomes} == {OperationalError}
    assert len(tries) == 1
    assert issuer.tokens() == []
    assert write_all(together, [row(app.id)])[0][0] == app.id  # and it goes on


def test_who_gives_up_takes_nobody_along(
    issuer: Issuing, app: OAuth2Credential, together: Together[Row]
) -> None:
    async def ask() -> Row:
        impatient = asyncio.create_task(together.write(lambda: row(app.id)))
        other = asyncio.create_task(together.write(lambda: row(app.id)))
        await asyncio.sleep(0)
        impatient.cancel()
        return await other

    assert asyncio.run(ask())[0] == app.id


def test_tokens_of_many_clients_are_each_their_own(issuer: Issuing) -> None:
    ids = {name: issuer.client(name).id for name in (f"app{n}" for n in range(20))}
    answers = issuer.post_at_once([CREDENTIALS | {"client_id": name} for name in ids])
    by_digest = {r.access_token_digest: r.credential_id for r in issuer.tokens()}
    for (_, credential_id), answer in zip(ids.items(), answers, strict=True):
        assert by_digest[token_digest(answer.json["access_token"])] == credential_id
