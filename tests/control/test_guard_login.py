"""control/guard/login.py: who gets through, and what those hear who do not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.types import Receive, Scope, Send

from control.guard.callers import ANYBODY, Role, caller
from control.guard.login import Login, shown_path
from control.guard.tokens import TokensFile, make_token
from control.store import audit

READS = ["GET", "HEAD", "OPTIONS"]
WRITES = ["POST", "PUT", "PATCH", "DELETE", "BREW", "get"]
PATH = "/oauth2_tokens/T0kenT0kenT0kenT0kenT0kenT0ken"


class Door:
    """A login before an application that answers who is calling."""

    def __init__(self, folder: Path, status: int = 200, tokens: bool = True) -> None:
        made = {role: make_token(f"the-{role}", role) for role in Role}
        self.tokens = {role: token for role, (token, _) in made.items()}
        self.file = folder / "tokens"
        self.file.write_text("\n".join(line for _, line in made.values()))
        self.file.chmod(0o600)
        self.now = 0.0
        self.status = status
        self.answered: list[Any] = []
        known = TokensFile(self.file) if tokens else None
        self.login = Login(self.app, known, failures_max=3, clock=lambda: self.now)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.answered.append((caller.get(), audit.writer.get()))
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": self.status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def ask(
        self, *headers: tuple[str, str], method: str = "GET", kind: str = "http", peer: str = "::1"
    ) -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        scope = {
            "type": kind,
            "method": method,
            "path": PATH,
            "client": (peer, 1),
            "request_id": "r1",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        }
        asyncio.run(self.login(scope, receive, send))
        return sent

    def status_of(self, *headers: tuple[str, str], **options: Any) -> int:
        status: int = self.ask(*headers, **options)[0]["status"]
        return status


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_either_header_is_taken(door: Door) -> None:
    token = door.tokens[Role.READ_ONLY]
    for name, value in (
        ("Kong-Admin-Token", token),
        ("Authorization", f"Bearer {token}"),
        ("Authorization", f"bearer   {token} "),
    ):
        assert door.status_of((name, value)) == 200
    both = (("Kong-Admin-Token", token), ("Authorization", f"Bearer {token}"))
    assert door.status_of(*both) == 200
    # What is for somebody before us is none of our business.
    for other in ("Basic YTpi", "Bearer of-another-house"):
        assert door.status_of(("Authorization", other), ("Kong-Admin-Token", token)) == 200


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Authorization", "Basic YTpi"),),
        (("Authorization", "Bearer"),),
        (("Cookie", "kong-admin-token=x"),),
    ],
)
def test_request_without_a_token_is_401_and_told_how(door: Door, headers: Any) -> None:
    start, body = door.ask(*headers)
    assert start["status"] == 401
    head = dict(start["headers"])
    assert head[b"www-authenticate"] == b'Bearer realm="narthex-admin"'
    assert head[b"content-type"] == b"application/json; charset=utf-8"
    assert int(head[b"content-length"]) == len(body["body"])
    assert "Kong-Admin-Token" in json.loads(body["body"])["message"]
    assert door.answered == []


def test_wrong_cut_or_different_tokens_are_401(door: Door) -> None:
    good, other = door.tokens[Role.SUPER], door.tokens[Role.OPERATOR]
    for number, headers in enumerate(
        (
            [("Kong-Admin-Token", good[:-1])],
            [("Kong-Admin-Token", good + "x")],
            [("Kong-Admin-Token", "")],
            [("Kong-Admin-Token", good.lower())],
            [("Kong-Admin-Token", "x"), ("Authorization", f"Bearer {good}")],
            [("Kong-Admin-Token", good), ("Kong-Admin-Token", other)],
            [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {other}")],
            [("Authorization", "Bearer ")],
            [("Authorization", f"Bearer {good}, Bearer {good}")],
        )
    ):
        start, body = door.ask(*headers, peer=f"192.0.2.{number}")
        assert start["status"] == 401, headers
        assert good not in body["body"].decode()
    assert door.answered == []


@pytest.mark.parametrize("method", [*READS, *WRITES])
@pytest.mark.parametrize("role", Role)
def test_only_read_only_is_kept_from_writing(door: Door, role: Role, method: str) -> None:
    start, *_ = door.ask(("Kong-Admin-Token", door.tokens[role]), method=method)
    allowed = role is not Role.READ_ONLY or method in READS
    assert start["status"] == (200 if allowed else 403)
    assert len(door.answered) == allowed


def test_application_knows_who_calls_and_only_while_it_answers(door: Door) -> None:
    door.ask(("Kong-Admin-Token", door.tokens[Role.OPERATOR]), method="POST", peer="192.0.2.7")
    ((known, writer),) = door.answered
    assert (known.name, known.role) == ("the-operator", Role.OPERATOR)
    assert (writer.who, writer.role, writer.address) == ("the-operator", "operator", "192.0.2.7")
    assert writer.request_id == "r1"
    assert caller.get() == ANYBODY and audit.writer.get() is None


def test_without_a_file_everybody_may_everything_and_is_nobody(tmp_path: Path) -> None:
    door = Door(tmp_path, tokens=False)
    assert door.status_of(method="DELETE") == 200
    ((known, writer),) = door.answered
    assert known == ANYBODY and writer.who is None


def test_wrong_tokens_are_throttled_by_address_and_good_ones_never(door: Door) -> None:
    wrong, good = ("Kong-Admin-Token", "x"), ("Kong-Admin-Token", door.tokens[Role.SUPER])
    with structlog.testing.capture_logs() as logged:
        assert [door.status_of(wrong) for _ in range(5)] == [401, 401, 401, 429, 429]
    assert [one["event"] for one in logged].count("admin.throttled") == 1
    assert [one["event"] for one in logged].count("admin.refused") == 3
    start, body = door.ask(wrong)
    assert dict(start["headers"])[b"retry-after"] == b"60"
    assert "try again later" in json.loads(body["body"])["message"]
    assert door.status_of(good) == 200
    assert door.status_of() == 401  # who shows none guesses nothing
    assert door.status_of(wrong, peer="::2") == 429  # the same /64
    assert door.status_of(wrong, peer="192.0.2.1") == 401
    door.now += 60.5
    assert door.status_of(wrong) == 401


def test_withdrawn_token_is_refused_by_the_next_request(door: Door) -> None:
    good = ("Kong-Admin-Token", door.tokens[Role.SUPER])
    assert door.status_of(good) == 200
    door.file.write_text("# nobody\n")
    assert door.status_of(good) == 401


def test_refusals_are_logged_without_any_token(door: Door) -> None:
    reader = door.tokens[Role.READ_ONLY]
    with structlog.testing.capture_logs() as logged:
        door.ask(peer="192.0.2.1")
        door.ask(("Kong-Admin-Token", "n0-such-token"), peer="192.0.2.2")
        door.ask(("Kong-Admin-Token", reader), method="DELETE", peer="192.0.2.3")
    seen = [(one["status"], one["why"], one["who"], one["address"]) for one in logged]
    assert seen == [
        (401, "no token", None, "192.0.2.1"),
        (401, "wrong token", None, "192.0.2.2"),
        (403, "role", "the-read-only", "192.0.2.3"),
    ]
    assert {one["path"] for one in logged} == {"/oauth2_tokens/[redacted]"}
    assert {one["request_id"] for one in logged} == {"r1"}
    assert "n0-such" not in str(logged) and reader not in str(logged)


@pytest.mark.parametrize("token", ["ab/cd+ef==", "/ab", "ab\ncd", "ab/"])
@pytest.mark.parametrize("above", ["", "/oauth2/app"])
def test_token_of_any_form_is_no_part_of_a_logged_path(above: str, token: str) -> None:
    shown = shown_path({"path": f"{above}/oauth2_tokens/{token}"})
    assert shown == f"{above}/oauth2_tokens/[redacted]"


def test_refusal_of_an_endpoint_is_logged_too(tmp_path: Path) -> None:
    door = Door(tmp_path, status=403)
    with structlog.testing.capture_logs() as logged:
        door.ask(("Kong-Admin-Token", door.tokens[Role.OPERATOR]), method="POST")
    assert [(one["event"], one["who"]) for one in logged] == [("admin.refused", "the-operator")]


def test_lifespan_passes_and_a_websocket_does_not(door: Door) -> None:
    good = ("Kong-Admin-Token", door.tokens[Role.SUPER])
    assert door.ask(good, kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert door.answered == []
    door.ask(kind="lifespan")
    assert len(door.answered) == 1
