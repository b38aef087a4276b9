"""The token and authorize endpoints want HTTPS.  spec/oauth2.md §4."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.oauth2.answers import (
    HTTPS_ONLY,
    INVALID_PROVISION_KEY,
    Answer,
    issued,
    refused,
)
from tests.gateway.oauth2.apis import Api, App
from tests.gateway.oauth2.kit import TRUSTED, Site

ONE_ONLY = ("access_denied", "Only one X-Forwarded-Proto header allowed")
STRANGER = "127.0.0.1"
PROTOS: list[list[str]] = [[], ["https"], ["http"], ["https,http"], ["https, https"]]


def token(site: Site, api: Api, app: App, protos: list[str], **more: Any) -> Answer:
    headers = [("X-Forwarded-Proto", proto) for proto in protos]
    params = {"grant_type": "client_credentials", "state": "s"} | app.params
    return api.token(params, headers=headers, **more)


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("source", [STRANGER, TRUSTED])
@pytest.mark.parametrize("protos", PROTOS, ids=repr)
def test_tls_is_good_whatever_is_claimed(
    site: Site, app: App, accept: bool, source: str, protos: list[str]
) -> None:
    api = site.api(accept_http_if_already_terminated=accept)
    issued(token(site, api, app, protos, source=source))


@pytest.mark.parametrize("source", [STRANGER, TRUSTED])
@pytest.mark.parametrize("protos", PROTOS, ids=repr)
def test_s29_plain_http_is_refused_by_default(
    site: Site, api: Api, app: App, source: str, protos: list[str]
) -> None:
    answer = token(site, api, app, protos, source=source, tls=False)
    refused(answer, *HTTPS_ONLY, state="s")


@pytest.mark.parametrize("protos", PROTOS, ids=repr)
def test_s29_claims_of_strangers_change_nothing(site: Site, app: App, protos: list[str]) -> None:
    api = site.api(accept_http_if_already_terminated=True)
    answer = token(site, api, app, protos, source=STRANGER, tls=False)
    refused(answer, *HTTPS_ONLY, state="s")


@pytest.mark.parametrize(
    ("protos", "error"),
    [
        ([], HTTPS_ONLY),
        ([""], HTTPS_ONLY),
        (["http"], HTTPS_ONLY),
        (["httpsa"], HTTPS_ONLY),
        (["wss"], HTTPS_ONLY),
        (["https,http"], ONE_ONLY),
        (["https, https"], ONE_ONLY),
        ([","], ONE_ONLY),
        (["https"], None),
        (["HTTPS"], None),
        (["Https"], None),
    ],
    ids=repr,
)
def test_s29_trusted_peer_says_whether_it_ended_tls(
    site: Site, app: App, protos: list[str], error: tuple[str, str] | None
) -> None:
    api = site.api(accept_http_if_already_terminated=True)
    headers = [("X-Forwarded-Proto", proto) for proto in protos]
    cc = token(site, api, app, protos, source=TRUSTED, tls=False)
    authorize = api.authorize({"state": "s"}, headers=headers, source=TRUSTED, tls=False)
    if error:
        refused(cc, *error, state="s")
        refused(authorize, *error, state="s")
    else:
        issued(cc)
        refused(authorize, *INVALID_PROVISION_KEY, state="s")


@pytest.mark.parametrize("name", ["X-Real-IP", "X-Forwarded-For", "Forwarded"])
def test_s29_stranger_does_not_become_trusted_by_naming_an_address(
    site: Site, app: App, name: str
) -> None:
    api = site.api(accept_http_if_already_terminated=True)
    value = f"for={TRUSTED}" if name == "Forwarded" else TRUSTED
    headers = [("X-Forwarded-Proto", "https"), (name, value)]
    params = {"grant_type": "client_credentials"} | app.params
    refused(api.token(params, headers=headers, tls=False), *HTTPS_ONLY)


def test_trusted_peer_stays_trusted_whatever_address_it_names(site: Site, app: App) -> None:
    api = site.api(accept_http_if_already_terminated=True)
    headers = [("X-Forwarded-Proto", "https"), ("X-Real-IP", "192.0.2.7")]
    params = {"grant_type": "client_credentials"} | app.params
    issued(api.token(params, headers=headers, tls=False, source=TRUSTED))


def test_https_failure_stops_every_other_check(api: Api) -> None:
    refused(api.token({"grant_type": "foo"}, tls=False), *HTTPS_ONLY)
    refused(api.authorize({"client_id": "foo"}, tls=False), *HTTPS_ONLY)


def test_other_requests_need_no_https(api: Api, app: App) -> None:
    assert api.get(api.access(app)).status == 200


def test_route_for_https_only_refuses_before_the_plugin(site: Site, app: App) -> None:
    sockets = site.sockets()
    answer = sockets.issuer.client_credentials(app)
    issued(answer)
    params = {"grant_type": "client_credentials"} | app.params
    plain = sockets.issuer.token(params, tls=False)
    assert plain.status == 426
    assert plain.json["message"] == "Please use HTTPS protocol"
    assert plain["Upgrade"] == "TLS/1.2, HTTP/1.1"
