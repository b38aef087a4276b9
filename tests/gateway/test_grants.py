"""All grants through the gateway, two data planes and a real client.  S19, S20, S21, S37."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.gateway import howto
from tests.gateway.howto import OAUTH2, HowTo
from tests.harness import Gateway, eventually, running_gateway

AUTHORIZE_PATH = "/token-route/oauth2/authorize"
URI = "http://localhost:8000/anything"
BOUND_SECONDS = 6.0  # B of the checklist, and a second of the machine's
SECRET = "a link secret that both planes are given"


@dataclass
class Planes:
    """One control plane, two data planes, the how-to with every grant."""

    howto: HowTo
    planes: list[Gateway] = field(default_factory=list)

    def post(self, path: str, plane: int = 0, **form: str) -> httpx.Response:
        return self.planes[plane].request("POST", path, tls=True, data=form)

    def token(self, plane: int = 0, **form: str) -> httpx.Response:
        """A token request of the how-to's client."""
        client = {
            "client_id": self.howto.client_id,
            "client_secret": self.howto.client_secret,
        }
        return self.post(howto.TOKEN_PATH, plane, **client, **form)

    def code(self) -> str:
        answer = self.post(
            AUTHORIZE_PATH,
            provision_key=OAUTH2["provision_key"],
            authenticated_userid="u7",
            response_type="code",
            client_id=self.howto.client_id,
            scope="email",
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        (code,) = parse_qs(urlsplit(answer.json()["redirect_uri"]).query)["code"]
        return code

    def redeem(self, code: str, plane: int = 0) -> httpx.Response:
        return self.token(plane, grant_type="authorization_code", code=code)

    def pair(self) -> dict[str, Any]:
        answer = self.redeem(self.code())
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def refresh(self, token: str, plane: int = 0) -> httpx.Response:
        return self.token(plane, grant_type="refresh_token", refresh_token=token)

    def at_once(self, ask: Callable[[int], httpx.Response], count: int = 50) -> list[int]:
        """The statuses of so many requests side by side, spread over both data planes."""
        with ThreadPoolExecutor(count) as pool:
            return [a.status_code for a in pool.map(ask, (n % 2 for n in range(count)))]

    def status_of(self, token: str, plane: int) -> int:
        """The status of a handshake with this token."""
        there = HowTo(self.planes[plane], self.howto.client_id, self.howto.client_secret)
        return there.status_of(token)

    def refused(self, token: str) -> None:
        """Wait until both data planes refuse a token, at most as long as revocations may take."""
        for plane in range(len(self.planes)):
            eventually(
                lambda: self.status_of(token, plane) == 401,  # noqa: B023
                BOUND_SECONDS,
                "the token refused",
            )

    def configure(self, **config: Any) -> None:
        """Change the config of both instances."""
        for plugin in self.howto.gateway.admin.get("/plugins").json()["data"]:
            answer = self.howto.gateway.admin.patch(
                f"/plugins/{plugin['id']}", json={"config": config}
            )
            assert answer.status_code == 200, answer.text
        self.howto.gateway.wait_carried()


@pytest.fixture
def planes(tmp_path: Path, echo_url: str) -> Iterator[Planes]:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with running_gateway(folders[0], LINK_SECRET=SECRET) as first:
        first.start()
        made = howto.set_up(first, echo_url)
        link = f"ws://127.0.0.1:{first.ports.link}"
        with running_gateway(folders[1], LINK_SECRET=SECRET, LINK_URL=link) as second:
            second.start_dataplane()
            found = Planes(made, [first, second])
            found.configure(enable_authorization_code=True, enable_password_grant=True,
                            enable_implicit_grant=True)  # fmt: skip
            eventually(
                lambda: found.token(1, grant_type="client_credentials").status_code == 200,
                10,
                "a token by way of the second data plane",
            )
            yield found


def test_every_grant_gives_a_token_that_opens_a_websocket_at_either_plane(planes: Planes) -> None:
    backend = {"provision_key": OAUTH2["provision_key"], "authenticated_userid": "u7"}
    tokens = [
        planes.token(1, grant_type="client_credentials").json(),
        planes.token(1, grant_type="password", **backend).json(),
        planes.redeem(planes.code(), 1).json(),
        planes.refresh(planes.pair()["refresh_token"], 1).json(),
    ]
    answer = planes.post(
        AUTHORIZE_PATH, 1, **backend, response_type="token", client_id=planes.howto.client_id
    )
    uri = answer.json()["redirect_uri"]
    found = re.fullmatch(rf"{URI}#access_token=(\w{{32}})&expires_in=7200&token_type=bearer", uri)
    assert found, uri
    for token in [*(t["access_token"] for t in tokens), found[1]]:
        for plane in range(2):
            # The answer to the client and the push to the data planes go side by side.
            eventually(lambda: planes.status_of(token, plane) == 101, 10)  # noqa: B023


@pytest.mark.parametrize("profile", ["kong", "strict"])
def test_s19_code_redeemed_by_50_over_two_data_planes_gives_one_token(
    planes: Planes, profile: str
) -> None:
    _profile(planes, profile)
    code = planes.code()
    statuses = planes.at_once(lambda plane: planes.redeem(code, plane))
    assert sorted(statuses) == [200] + [400] * 49


@pytest.mark.parametrize("profile", ["kong", "strict"])
def test_s20_refresh_token_used_by_50_over_two_data_planes_gives_one_token(
    planes: Planes, profile: str
) -> None:
    _profile(planes, profile)
    token = planes.pair()["refresh_token"]
    statuses = planes.at_once(lambda plane: planes.refresh(token, plane))
    assert sorted(statuses) == [200] + [400] * 49


def _profile(planes: Planes, profile: str) -> None:
    strict = profile == "strict"
    planes.configure(
        oauth_profile=profile, enable_password_grant=not strict, enable_implicit_grant=not strict
    )


def test_s21_and_s22_tokens_of_a_family_that_ended_are_refused_at_both_planes(
    planes: Planes,
) -> None:
    _profile(planes, "strict")
    first = planes.pair()
    second = planes.refresh(first["refresh_token"], 1).json()
    eventually(lambda: planes.status_of(second["access_token"], 0) == 101, 10)
    eventually(lambda: planes.status_of(second["access_token"], 1) == 101, 10)
    assert planes.refresh(first["refresh_token"]).json()["error"] == "invalid_grant"
    planes.refused(second["access_token"])

    code = planes.code()
    token = planes.redeem(code).json()["access_token"]
    eventually(lambda: planes.status_of(token, 1) == 101, 10)
    assert planes.redeem(code, 1).json()["error"] == "invalid_grant"
    planes.refused(token)


def test_old_access_token_is_refused_once_it_was_refreshed(planes: Planes) -> None:
    first = planes.pair()
    eventually(lambda: planes.status_of(first["access_token"], 1) == 101, 10)
    second = planes.refresh(first["refresh_token"]).json()
    planes.refused(first["access_token"])
    assert planes.status_of(second["access_token"], 0) == 101


@pytest.mark.parametrize("what", ["token", "plugin", "credential", "consumer"])
def test_s37_tokens_of_what_was_deleted_are_refused_at_both_planes(
    planes: Planes, what: str
) -> None:
    token = planes.pair()["access_token"]
    for plane in range(2):
        eventually(lambda: planes.status_of(token, plane) == 101, 10)  # noqa: B023
    admin = planes.howto.gateway.admin
    plugin = next(p for p in admin.get("/plugins").json()["data"] if p["route"] is not None)
    path = {
        "token": f"/oauth2_tokens/{token}",
        "plugin": f"/plugins/{plugin['id']}",
        "credential": f"/oauth2/{planes.howto.client_id}",
        "consumer": "/consumers/alex",
    }[what]
    assert admin.delete(path).status_code == 204
    planes.refused(token)
