"""Guesses are counted and refused before any hash runs.  S24."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import structlog
from starlette.types import ASGIApp

from control.app import create_issuer
from control.oauth2 import throttle as module
from control.oauth2.secrets import HashVerifier
from control.oauth2.throttle import Failures, Throttle, network_of
from control.store.secrets import hash_client_secret
from control.store.tables import OAuth2Credential
from tests.control.issuing import CONTEXT, CREDENTIALS, INVALID_CLIENT, Answer, Issuing, refused
from tests.control.issuing import _call as call
from tests.control.issuing import _request as request_of

TOO_MANY = {
    "error": "temporarily_unavailable",
    "error_description": "Too many failed attempts, try again later",
}
BUSY = {"error": "temporarily_unavailable", "error_description": "The server is busy, try again"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app_of(issuer: Issuing, clock: Clock) -> ASGIApp:
    """An issuer on the same store whose minute is the test's."""
    return create_issuer(issuer.store, Throttle(clock=clock))


# --- counting, by itself ---


def test_the_bound_is_reached_with_the_last_failure_that_is_allowed(clock: Clock) -> None:
    throttle = Throttle(3, 100, clock)
    for _ in range(3):
        assert throttle.wait_seconds("app", "192.0.2.1") == 0
        throttle.failed("app", "192.0.2.1")
        clock.now += 10
    assert throttle.wait_seconds("app", "192.0.2.1") == 30
    assert throttle.wait_seconds("app", "192.0.2.2") == 0
    assert throttle.wait_seconds("other", "192.0.2.1") == 0


def test_the_minute_slides(clock: Clock) -> None:
    """At every moment the last minute holds no more failures than allowed: a dictionary's word."""
    number = random.randrange(1 << 30)
    print(f"seed {number}")
    seed = random.Random(number)
    throttle = Throttle(5, 1000, clock)
    failed: list[float] = []
    for _ in range(2000):
        clock.now += seed.choice((0.0, 0.5, 3.0, 20.0, 70.0))
        recent = [at for at in failed if at > clock.now - 60]
        wait = throttle.wait_seconds("app", "a")
        assert (wait == 0) == (len(recent) < 5)
        if wait:
            assert wait - 1 < recent[-5] + 60 - clock.now <= wait <= 60
        else:
            throttle.failed("app", "a")
            failed.append(clock.now)


def test_an_address_is_bounded_whatever_the_name(clock: Clock) -> None:
    throttle = Throttle(20, 200, clock)
    reached = [throttle.failed(f"client {n}", "192.0.2.1") for n in range(200)]
    assert reached == [None] * 199 + ["address"]
    assert throttle.wait_seconds("never seen", "192.0.2.1") == 60
    assert throttle.wait_seconds("never seen", "192.0.2.2") == 0
    clock.now += 60
    assert throttle.wait_seconds("never seen", "192.0.2.1") == 0


def test_reaching_a_bound_is_told_once_a_window(clock: Clock) -> None:
    throttle = Throttle(2, 100, clock)
    told = []
    for _ in range(50):
        while throttle.wait_seconds("app", "a"):
            clock.now += 1
        if throttle.failed("app", "a") == "client":
            told.append(clock.now)
        clock.now += 20
    assert len(told) > 5
    assert all(later - earlier >= 60 for earlier, later in pairwise(told))


@pytest.mark.parametrize(
    ("left", "right", "one"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("", "", True),
        ("unix:", "no address", False),
    ],
)
def test_what_counts_as_one_address(left: str, right: str, one: bool) -> None:
    assert (network_of(left) == network_of(right)) is one


def test_memory_is_bounded_and_who_failed_longest_ago_is_forgotten() -> None:
    failures = Failures(20, 100)
    for n in range(1000):
        failures.note(b"%d" % n, 1.0)
        failures.note(b"0", 1.0)  # who fails again is young again
    assert len(failures) == 100
    assert failures.wait(b"0", 2.0) > 0
    assert failures.wait(b"999", 2.0) == 0

    throttle = Throttle()
    tracemalloc.start()
    for n in range(3 * module.NAMES_MAX):
        for _ in range(3):
            throttle.failed(f"client {n}", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(throttle._names) == module.NAMES_MAX
    assert len(throttle._addresses) == module.ADDRESSES_MAX
    assert size < 16 * 1024 * 1024


# --- at the endpoints ---


def throttled(answer: Answer, seconds: int = 60) -> None:
    refused(answer, TOO_MANY, 429)
    assert 1 <= int(answer.headers["retry-after"]) <= seconds
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "www-authenticate" not in answer.headers


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was given to be hashed."""
    found: list[str] = []
    run = HashVerifier._run

    async def counting(self: HashVerifier, work: Any, *args: str) -> Any:
        found.append(args[0])
        return await run(self, work, *args)

    monkeypatch.setattr(HashVerifier, "_run", counting)
    return found


@pytest.mark.parametrize("kind", ["plain", "hashed", "unknown"])
def test_s24_twenty_wrong_secrets_and_the_next_is_429_without_a_hash(
    issuer: Issuing, app_of: ASGIApp, clock: Clock, hashes: list[str], kind: str
) -> None:
    if kind == "plain":
        issuer.client()
    elif kind == "hashed":
        issuer.client(client_secret=hash_client_secret("s3cret"), hash_secret=True)

    def guess(secret: str = "no", address: str = CONTEXT.client_ip) -> Answer:
        context = replace(CONTEXT, client_ip=address)
        return issuer.post(CREDENTIALS | {"client_secret": secret}, context=context, app=app_of)

    for n in range(20):
        refused(guess(f"no {n}"), INVALID_CLIENT)
    assert len(hashes) == 20
    for _ in range(3):
        throttled(guess())
    throttled(guess("s3cret"))  # from this address not even the right one
    assert len(hashes) == 20
    if kind != "unknown":
        assert guess("s3cret", "192.0.2.8").status == 200
        assert guess("s3cret", "2001:db8::8").status == 200
    clock.now += 60
    if kind != "unknown":
        assert guess("s3cret").status == 200
    refused(guess(), INVALID_CLIENT)


def test_s24_only_failures_count(issuer: Issuing, app: OAuth2Credential, app_of: ASGIApp) -> None:
    for _ in range(50):
        assert issuer.post(CREDENTIALS, app=app_of).status == 200
    issuer.client("open", client_type="public")
    for _ in range(50):  # no secret is looked at, so none is guessed
        answer = issuer.post(CREDENTIALS | {"client_id": "open"}, app=app_of)
        assert answer.status == 400
    for _ in range(20):
        refused(issuer.post(CREDENTIALS | {"client_secret": "no"}, app=app_of), INVALID_CLIENT)
        if _ < 19:
            assert issuer.post(CREDENTIALS, app=app_of).status == 200
    throttled(issuer.post(CREDENTIALS, app=app_of))


def test_s24_guesses_side_by_side_are_no_more_than_one_by_one(
    issuer: Issuing, hashes: list[str]
) -> None:
    issuer.client(client_secret=hash_client_secret("s3cret"), hash_secret=True)
    sent = [CREDENTIALS | {"client_secret": f"no {n}"} for n in range(60)]
    answers = issuer.post_at_once(sent)
    assert sorted(a.status for a in answers) == [400] * 20 + [429] * 40
    assert len(hashes) == 20


def test_right_secret_side_by_side_is_hashed_once(issuer: Issuing, hashes: list[str]) -> None:
    issuer.client(client_secret=hash_client_secret("s3cret"), hash_secret=True)
    answers = issuer.post_at_once([CREDENTIALS] * 60)
    assert [a.status for a in answers] == [200] * 60
    assert hashes == ["s3cret"]


def test_s24_many_clients_of_one_address_are_bounded_together(
    issuer: Issuing, app: OAuth2Credential, app_of: ASGIApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(_self: HashVerifier, _secret: str, _phc: str) -> bool:
        return False

    monkeypatch.setattr(HashVerifier, "verify", at_once)
    for n in range(200):
        sent = CREDENTIALS | {"client_id": f"nobody {n}"}
        refused(issuer.post(sent, app=app_of), INVALID_CLIENT)
    throttled(issuer.post(CREDENTIALS | {"client_id": "nobody else"}, app=app_of))
    throttled(issuer.post(CREDENTIALS, app=app_of))
    elsewhere = replace(CONTEXT, client_ip="192.0.2.8")
    assert issuer.post(CREDENTIALS, context=elsewhere, app=app_of).status == 200


def test_s24_provision_keys_guessed_at_once_are_counted_one_by_one(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    """None of them is known to be wrong yet when the last one comes."""
    sent = CREDENTIALS | {"authenticated_userid": "sam"}
    guesses = [sent | {"provision_key": f"guess {n}"} for n in range(60)]
    statuses = [answer.status for answer in issuer.post_at_once(guesses)]
    assert (statuses.count(400), statuses.count(429)) == (20, 40)


def test_provision_key_that_no_grant_looks_at_is_not_counted(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    for _ in range(25):
        assert issuer.grant(provision_key="whatever").status == 200


@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth2/authorize"])
def test_wrong_provision_keys_are_counted(
    issuer: Issuing, app: OAuth2Credential, app_of: ASGIApp, path: str
) -> None:
    sent = CREDENTIALS | {"authenticated_userid": "sam", "provision_key": "no"}
    wrong = {"error": "invalid_provision_key", "error_description": "Invalid provision_key"}
    for _ in range(20):
        refused(issuer.post(sent, path=path, app=app_of), wrong)
    throttled(issuer.post(sent, path=path, app=app_of))
    throttled(issuer.post(sent | {"provision_key": "x"}, path=path, app=app_of))
    # Who shows none guesses nothing, neither then nor before.
    assert issuer.post(CREDENTIALS, app=app_of).status == 200
    elsewhere = replace(CONTEXT, client_ip="192.0.2.8")
    refused(issuer.post(sent, path=path, context=elsewhere, app=app_of), wrong)


def test_throttling_is_logged_once_and_without_what_was_sent(
    issuer: Issuing, app: OAuth2Credential, app_of: ASGIApp
) -> None:
    with structlog.testing.capture_logs() as logged:
        for client_id in ("app", "a secret in the wrong field"):
            sent = CREDENTIALS | {"client_id": client_id, "client_secret": "gu355"}
            for _ in range(25):
                issuer.post(sent, app=app_of)
    lines = [line for line in logged if line["event"] == "oauth2.throttled"]
    assert [line["credential"] for line in lines] == [app.id, None]
    assert {(line["bound"], line["address"]) for line in lines} == {("client", "192.0.2.7")}
    assert "gu355" not in str(logged) and "wrong field" not in str(logged)


# --- too much to hash ---


def test_full_line_of_hashes_is_503_and_counts_as_no_failure(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred clients at once, of as many addresses, with a line of two."""
    monkeypatch.setattr("control.oauth2.secrets.HASHES_WAITING_MAX", 1)
    throttle = Throttle()
    app_ = create_issuer(issuer.store, throttle)

    async def flood() -> list[Answer]:
        calls = []
        for n in range(100):
            context = replace(CONTEXT, client_ip=f"198.51.100.{n}")
            scope, body = request_of(CREDENTIALS | {"client_secret": "no"}, context=context)
            calls.append(call(app_, scope, body))
        return await asyncio.gather(*calls)

    answers = issuer.runner.run(flood())
    busy = [answer for answer in answers if answer.status == 503]
    assert busy and len(busy) < 100
    for answer in busy:
        refused(answer, BUSY, 503)
        assert answer.headers["retry-after"] == "1"
    assert len(throttle._names) == 100 - len(busy)
    # The right secret of a client whose secret is not hashed needs no place in the line.
    assert issuer.post(CREDENTIALS, app=app_).status == 200
