"""A token request that nobody waits for any more leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from control.oauth2.requests import StoreThreads
from control.store import queries
from control.store.session import GivenUp
from control.store.tables import OAuth2Credential
from tests.control.issuing import CONTEXT, CREDENTIALS, Issuing
from tests.control.issuing import _call as call
from tests.control.issuing import _request as request_of

POLL_SECONDS = 0.001


def test_request_given_up_commits_no_token(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserting, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    insert, writing = queries.insert_token, issuer.store.writing
    outcome: list[BaseException] = []

    def slow(*args: Any, **values: Any) -> Any:
        made = insert(*args, **values)
        inserting.set()
        assert go_on.wait(30)
        return made

    class Watched:
        """A transaction that says how it ended."""

        def __enter__(self) -> Any:
            self.inner = writing()
            return self.inner.__enter__()

        def __exit__(self, *error: Any) -> Any:
            try:
                return self.inner.__exit__(*error)
            except BaseException as found:
                outcome.append(found)
                raise
            finally:
                ended.set()

    monkeypatch.setattr(queries, "insert_token", slow)
    monkeypatch.setattr(issuer.store, "writing", Watched)

    async def ask_and_give_up() -> None:
        scope, body = request_of(CREDENTIALS, context=CONTEXT)
        asking = asyncio.create_task(call(issuer.app, scope, body))
        while not inserting.is_set():
            await asyncio.sleep(POLL_SECONDS)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    issuer.runner.run(ask_and_give_up())
    go_on.set()
    assert ended.wait(30)
    assert [type(error) for error in outcome] == [GivenUp]
    assert issuer.tokens() == []
    assert not any(change.tokens for change in issuer.changes)  # no data plane heard of one
    assert issuer.grant().status == 200  # and the next one is as ever
    assert len(issuer.tokens()) == 1


def test_work_of_one_request_knows_nothing_of_another() -> None:
    threads = StoreThreads(1)
    started, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        go_on.wait(30)

    async def run() -> str:
        first = asyncio.create_task(threads.run(wait))
        while not started.is_set():
            await asyncio.sleep(POLL_SECONDS)
        second = asyncio.create_task(threads.run(lambda: "second"))
        first.cancel()
        go_on.set()
        return await second

    assert asyncio.run(run()) == "second"
