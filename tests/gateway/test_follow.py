"""Live sessions follow the grant, on two data planes of one control plane.  spec/oauth2.md §14."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.gateway import howto
from tests.harness import Gateway, eventually

B_SECONDS = 1.0  # from the end of a right to the Close of its sessions, on every data plane
PROVISION_KEY = howto.OAUTH2["provision_key"]


class Planes:
    """A control plane, two data planes, and the how-to with a password grant beside."""

    def __init__(self, control: Gateway, other: Gateway, echo_url: str) -> None:
        self.control, self.both = control, (control, other)
        self.made = howto.configure(control, echo_url)
        self.configure(enable_password_grant=True, endpoints="all")

    def configure(self, **config: Any) -> None:
        for plugin in self.control.admin.get("/plugins").json()["data"]:
            path, body = f"/plugins/{plugin['id']}", {"config": config}
            assert self.control.admin.patch(path, json=body).status_code == 200
        eventually(self._carried, what="two data planes with the newest configuration")

    def _carried(self) -> bool:
        rows = self.control.admin.get("/dataplanes").json()["data"]
        states = [row["sync_status"] for row in rows if row["connected"]]
        return states == ["normal", "normal"]

    def grant(self, user: str = "u", **params: str) -> dict[str, Any]:
        """Tokens for a user, by the password grant unless `params` say otherwise."""
        given = {
            "grant_type": "password",
            "provision_key": PROVISION_KEY,
            "authenticated_userid": user,
            **params,
        }
        return self.ask(**given)

    def ask(self, **params: str) -> dict[str, Any]:
        """What the token endpoint gives."""
        answer = self.made.ask_token(**params)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def token_made_by_hand(self, **fields: Any) -> dict[str, Any]:
        (client,) = self.control.admin.get("/consumers/alex/oauth2").json()["data"]
        body = {"credential": {"id": client["id"]}, "expires_in": 7200, **fields}
        return howto.post(self.control, "/oauth2_tokens", **body)

    def sessions(self, token: str) -> list[ClientConnection]:
        """One on each data plane, which may have to be told of the token first."""
        return [
            eventually(lambda at=plane: at.websocket(howto.PATH, token), 10, "a session")
            for plane in self.both
        ]


@pytest.fixture
def planes(new_gateway: Callable[..., Gateway], echo_url: str) -> Planes:
    secret = "5" * 64
    control = new_gateway(WORKERS="2", LINK_SECRET=secret)
    link = f"ws://127.0.0.1:{control.ports.link}"
    other = new_gateway(WORKERS="1", LINK_SECRET=secret, LINK_URL=link)
    control.start_control()
    control.start_dataplane()
    other.start_dataplane()
    return Planes(control, other, echo_url)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def echoes(session: ClientConnection) -> None:
    session.send("still there")
    assert session.recv(timeout=10) == "still there"


def ended(session: ClientConnection, code: int, reason: str) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        session.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


def refused(planes: Planes, token: str) -> bool:
    """Whether both data planes refuse a handshake with this token."""
    for plane in planes.both:
        answer = howto.HowTo(plane, "", "").status_of(token)
        if answer != 401:
            return False
    return True


@pytest.mark.parametrize(
    ("what", "code", "reason"),
    [
        ("token", 4401, "token revoked"),
        ("credential", 4403, "credential is gone"),
        ("consumer", 4403, "consumer is gone"),
    ],
)
def test_s14_s37_sessions_end_on_every_data_plane_within_a_second(
    what: str, code: int, reason: str, planes: Planes, opened: ExitStack
) -> None:
    admin = planes.control.admin
    row = planes.token_made_by_hand()
    other = howto.post(planes.control, "/consumers", username="other")["id"]
    howto.post(planes.control, f"/consumers/{other}/oauth2", name="app")
    (client,) = admin.get(f"/consumers/{other}/oauth2").json()["data"]
    neighbour = planes.token_made_by_hand(credential={"id": client["id"]})
    going = [opened.enter_context(s) for s in planes.sessions(row["access_token"])]
    staying = [opened.enter_context(s) for s in planes.sessions(neighbour["access_token"])]
    for session in (*going, *staying):
        echoes(session)
    path = {
        "token": f"/oauth2_tokens/{row['id']}",
        "credential": f"/oauth2/{row['credential']['id']}",
        "consumer": "/consumers/alex",
    }[what]
    began = time.monotonic()
    assert admin.delete(path).status_code == 204
    for session in going:
        ended(session, code, reason)
    assert time.monotonic() - began <= B_SECONDS
    for session in staying:
        echoes(session)
    assert refused(planes, row["access_token"])


def test_s37_sessions_end_with_the_plugin_instance_that_issued_their_token(
    planes: Planes, opened: ExitStack
) -> None:
    issued, by_hand = planes.grant(), planes.token_made_by_hand()
    going = [opened.enter_context(s) for s in planes.sessions(issued["access_token"])]
    staying = [opened.enter_context(s) for s in planes.sessions(by_hand["access_token"])]
    (issuer,) = planes.control.admin.get("/routes/token-route/plugins").json()["data"]
    began = time.monotonic()
    assert planes.control.admin.delete(f"/plugins/{issuer['id']}").status_code == 204
    for session in going:
        ended(session, 4403, "issuer of the token is gone")
    assert time.monotonic() - began <= B_SECONDS
    for session in staying:
        echoes(session)
    assert refused(planes, issued["access_token"])


def test_sessions_end_within_a_second_of_exp_on_every_data_plane(
    planes: Planes, opened: ExitStack
) -> None:
    row = planes.token_made_by_hand(expires_in=4)
    expires_at = time.time() + 4  # within what making it took
    sessions = [opened.enter_context(s) for s in planes.sessions(row["access_token"])]
    for session in sessions:
        ended(session, 4401, "token expired")
    assert expires_at - 1.5 <= time.time() <= expires_at + B_SECONDS


def test_refresh_moves_the_sessions_of_its_token_and_no_neighbours(
    planes: Planes, opened: ExitStack
) -> None:
    planes.configure(token_expiration=6)
    one, neighbour = planes.grant(), planes.grant()
    moving = [opened.enter_context(s) for s in planes.sessions(one["access_token"])]
    staying = [opened.enter_context(s) for s in planes.sessions(neighbour["access_token"])]
    planes.configure(token_expiration=7200)
    new = planes.grant(grant_type="refresh_token", refresh_token=one["refresh_token"])
    for session in staying:
        ended(session, 4401, "token expired")
    for session in moving:
        echoes(session)  # past the end of the token that they began with
    # The new token is theirs now, with its end.
    answer = planes.control.admin.delete(f"/oauth2_tokens/{new['access_token']}")
    assert answer.status_code == 204
    for session in moving:
        ended(session, 4401, "token revoked")


def test_sessions_endpoint_moves_sessions_of_all_data_planes(
    planes: Planes, opened: ExitStack
) -> None:
    old, new, other = planes.grant(), planes.grant(), planes.grant("another user")
    sessions = [opened.enter_context(s) for s in planes.sessions(old["access_token"])]

    def ask(token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        body = {"token": old["access_token"]}
        path = "/token-route/oauth2/sessions"
        return planes.control.request("POST", path, tls=True, json=body, headers=headers)

    assert ask(other["access_token"]).status_code == 403
    answer = ask(new["access_token"])
    assert (answer.status_code, answer.json()) == (200, {"sessions": 2})
    assert ask(new["access_token"]).json() == {"sessions": 0}
    admin = planes.control.admin
    assert admin.delete(f"/oauth2_tokens/{old['access_token']}").status_code == 204
    assert refused(planes, old["access_token"])
    for session in sessions:
        echoes(session)
    assert admin.delete(f"/oauth2_tokens/{new['access_token']}").status_code == 204
    for session in sessions:
        ended(session, 4401, "token revoked")


def test_s21_family_revoked_by_a_replay_ends_its_sessions(
    planes: Planes, opened: ExitStack
) -> None:
    planes.configure(
        oauth_profile="strict", enable_password_grant=False, enable_authorization_code=True
    )
    uri = "http://localhost:8000/anything"
    params = {"response_type": "code", "client_id": planes.made.client_id, "redirect_uri": uri}
    asked = planes.control.request(
        "POST", "/token-route/oauth2/authorize", tls=True,
        data={**params, "provision_key": PROVISION_KEY, "authenticated_userid": "u"},
    )  # fmt: skip
    code = parse_qs(urlsplit(asked.json()["redirect_uri"]).query)["code"][0]
    spent = planes.ask(grant_type="authorization_code", code=code, redirect_uri=uri)
    family = {"grant_type": "refresh_token", "refresh_token": spent["refresh_token"]}
    sessions = [opened.enter_context(s) for s in planes.sessions(spent["access_token"])]
    planes.ask(**family)
    for session in sessions:
        echoes(session)  # they went over to the new token
    began = time.monotonic()
    assert planes.made.ask_token(**family).status_code == 400
    for session in sessions:
        ended(session, 4401, "token revoked")
    assert time.monotonic() - began <= B_SECONDS


def test_expiry_ignored_is_kongs_behaviour(planes: Planes, opened: ExitStack) -> None:
    planes.configure(session_expiry="ignore")
    row = planes.token_made_by_hand()
    sessions = [opened.enter_context(s) for s in planes.sessions(row["access_token"])]
    assert planes.control.admin.delete(f"/oauth2_tokens/{row['id']}").status_code == 204
    eventually(lambda: refused(planes, row["access_token"]), 10)
    assert planes.control.admin.delete("/consumers/alex").status_code == 204
    eventually(planes._carried, 10)
    for session in sessions:
        echoes(session)


def test_newer_token_of_client_and_user_takes_sessions_over_where_configured(
    planes: Planes, opened: ExitStack
) -> None:
    planes.configure(session_follow="credential", token_expiration=6)
    old, others = planes.grant("u"), planes.grant("v")
    moving = [opened.enter_context(s) for s in planes.sessions(old["access_token"])]
    staying = [opened.enter_context(s) for s in planes.sessions(others["access_token"])]
    planes.configure(token_expiration=7200)
    planes.grant("u")
    for session in staying:
        ended(session, 4401, "token expired")
    for session in moving:
        echoes(session)


def test_data_plane_that_was_away_during_a_refresh_keeps_its_sessions(
    planes: Planes, opened: ExitStack
) -> None:
    old = planes.grant()
    sessions = [opened.enter_context(s) for s in planes.sessions(old["access_token"])]
    gone = planes.token_made_by_hand()
    going = [opened.enter_context(s) for s in planes.sessions(gone["access_token"])]
    control = planes.control
    control.processes[0].stop()
    eventually(lambda: not control.status().json()["link"]["connected"], 20)
    other = planes.both[1]
    held = other.processes[0]
    os.kill(held.pid, signal.SIGSTOP)  # it comes back when all has happened
    try:
        control.start_control()
        eventually(lambda: control.status().json()["link"]["connected"], 20)
        new = planes.grant(grant_type="refresh_token", refresh_token=old["refresh_token"])
        assert control.admin.delete(f"/oauth2_tokens/{gone['id']}").status_code == 204
    finally:
        os.kill(held.pid, signal.SIGCONT)
    for session in going:
        ended(session, 4401, "token revoked")
    eventually(planes._carried, 20)
    for session in sessions:
        echoes(session)
    assert control.admin.delete(f"/oauth2_tokens/{new['access_token']}").status_code == 204
    for session in sessions:
        ended(session, 4401, "token revoked")
