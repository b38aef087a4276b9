"""Tokens that wait together are stored together, and none because of another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from control.oauth2.requests import StoreThreads
from control.oauth2.writer import TokenWriter
from control.store import Store, queries
from tests.databases import new_store
from tests.linkkit import fill, run


class Plain:
    """Of `Issuing` what the writer uses; what is made is a digest and a credential."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def insert(self, session: Any, made: tuple[bytes, str]) -> None:
        digest, credential = made
        queries.insert_token(
            session, credential_id=credential, access_token_digest=digest, expires_in=60
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def writer(store: Store) -> TokenWriter:
    return TokenWriter(Plain(store), StoreThreads(1))  # type: ignore[arg-type]


def stored(store: Store, *digests: bytes) -> list[bool]:
    with store.reading() as session:
        return [queries.token_by_digest(session, digest) is not None for digest in digests]


def test_tokens_that_wait_together_share_a_transaction(store: Store) -> None:
    credential = fill(store)
    changes: list[Any] = []
    store.subscribe(changes.append)
    digests = [bytes([n]) * 32 for n in range(5)]

    async def work() -> None:
        made = writer(store)
        await asyncio.gather(*(made.insert((digest, credential)) for digest in digests))  # type: ignore[arg-type]

    run(work())
    assert all(stored(store, *digests))
    assert [len(change.tokens) for change in changes] == [5]


def test_token_that_cannot_be_stored_takes_no_other_with_it(store: Store) -> None:
    credential = fill(store)
    good, bad, also_good = (bytes([n]) * 32 for n in range(3))

    async def work() -> list[Any]:
        made = writer(store)
        asked = ((good, credential), (bad, "gone"), (also_good, credential))
        return await asyncio.gather(
            *(made.insert(one) for one in asked),  # type: ignore[arg-type]
            return_exceptions=True,
        )

    outcomes = run(work())
    assert [type(one) for one in outcomes] == [type(None), IntegrityError, type(None)]
    assert stored(store, good, bad, also_good) == [True, False, True]


def test_token_that_no_database_takes_takes_no_other_with_it(store: Store) -> None:
    """Its scope is half a surrogate pair: no UTF-8 has that."""
    credential = fill(store)

    class Scoped(Plain):
        def insert(self, session: Any, made: tuple[bytes, str]) -> None:
            scope = "\ud800" if made[0] == bad else None
            queries.insert_token(
                session,
                credential_id=credential,
                access_token_digest=made[0],
                expires_in=60,
                scope=scope,
            )

    good, bad = (bytes([n]) * 32 for n in range(2))

    async def work() -> list[Any]:
        made = TokenWriter(Scoped(store), StoreThreads(1))  # type: ignore[arg-type]
        asked = [made.insert((digest, credential)) for digest in (good, bad)]  # type: ignore[arg-type]
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = run(work())
    assert [type(one) for one in outcomes] == [type(None), UnicodeEncodeError]
    assert stored(store, good) == [True]


def test_token_that_was_given_up_is_not_stored(store: Store) -> None:
    credential = fill(store)
    first, given_up, last = (bytes([n]) * 32 for n in range(3))

    async def work() -> None:
        made = writer(store)
        waiting = [
            asyncio.create_task(made.insert((digest, credential)))  # type: ignore[arg-type]
            for digest in (first, given_up, last)
        ]
        await asyncio.sleep(0)  # all of them stand in line
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(work())
    assert stored(store, first, given_up, last) == [True, False, True]


def test_fault_of_the_store_is_everybodys_and_the_next_one_is_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential = fill(store)

    async def work() -> list[Any]:
        made = writer(store)
        with monkeypatch.context() as patch:
            patch.setattr(store, "writing", lambda: 1 / 0)
            asked = [made.insert((bytes([n]) * 32, credential)) for n in range(2)]  # type: ignore[arg-type]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
        await made.insert((b"x" * 32, credential))  # type: ignore[arg-type]
        return list(outcomes)

    assert [type(one) for one in run(work())] == [ZeroDivisionError, ZeroDivisionError]
    assert stored(store, b"x" * 32) == [True]
