"""What the upstream hears of who asks.  spec/oauth2.md §6.3."""

from __future__ import annotations

import pytest

from tests.gateway.oauth2.answers import issued
from tests.gateway.oauth2.apis import PROVISION_KEY, USER, Api, App, bearer
from tests.gateway.oauth2.kit import Site

SEVEN = (
    "X-Consumer-ID",
    "X-Consumer-Custom-ID",
    "X-Consumer-Username",
    "X-Credential-Identifier",
    "X-Authenticated-Scope",
    "X-Authenticated-UserId",
    "X-Anonymous-Consumer",
)
FORGED = [(name, "forged") for name in SEVEN]


def headers_of(site: Site, api: Api, token: str | None = None, **more: object) -> dict[str, object]:
    """The seven headers as the upstream saw them."""
    headers = [*FORGED, *([bearer(token)] if token else [])]
    seen = api.get(headers=headers).seen
    return {name: seen[name] for name in SEVEN}


def test_all_that_is_known_is_told(site: Site, api: Api) -> None:
    owner = site.consumer(custom_id="custom id 7")
    app = site.app(owner)
    token = issued(api.password(app, scope="email profile"))["access_token"]
    assert headers_of(site, api, token) == {
        "X-Consumer-ID": owner["id"],
        "X-Consumer-Custom-ID": "custom id 7",
        "X-Consumer-Username": owner["username"],
        "X-Credential-Identifier": app.id,
        "X-Authenticated-Scope": "email profile",
        "X-Authenticated-UserId": USER,
        "X-Anonymous-Consumer": None,
    }


def test_what_is_not_known_is_removed(site: Site, api: Api) -> None:
    owner = site.consumer()
    app = site.app(owner)
    assert headers_of(site, api, api.access(app)) == {
        "X-Consumer-ID": owner["id"],
        "X-Consumer-Custom-ID": None,
        "X-Consumer-Username": owner["username"],
        "X-Credential-Identifier": app.id,
        "X-Authenticated-Scope": None,
        "X-Authenticated-UserId": None,
        "X-Anonymous-Consumer": None,
    }


def test_consumer_without_username_has_none(site: Site, api: Api) -> None:
    owner = site.post("/consumers", custom_id="only custom " + api.path)
    told = headers_of(site, api, api.access(site.app(owner)))
    assert told["X-Consumer-Custom-ID"] == "only custom " + api.path
    assert told["X-Consumer-Username"] is None


def test_anonymous_consumer_is_told(site: Site) -> None:
    owner = site.consumer(custom_id="nobody in particular")
    api = site.api(anonymous=owner["id"])
    assert headers_of(site, api) == {
        "X-Consumer-ID": owner["id"],
        "X-Consumer-Custom-ID": "nobody in particular",
        "X-Consumer-Username": owner["username"],
        "X-Credential-Identifier": None,
        "X-Authenticated-Scope": None,
        "X-Authenticated-UserId": None,
        "X-Anonymous-Consumer": "true",
    }


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("spell", [str.lower, str.upper, str])
def test_no_copy_that_a_client_sends_gets_through(
    site: Site, api: Api, app: App, name: str, spell: type[str]
) -> None:
    headers = [(spell(name), "forged"), bearer(api.access(app)), (spell(name), "forged again")]
    seen = api.get(headers=headers).seen
    assert not seen.mentions("forged")


@pytest.mark.parametrize("name", SEVEN[:5])
def test_connection_header_does_not_remove_what_we_set(site: Site, api: Api, name: str) -> None:
    app = site.app(site.consumer(custom_id="c " + name))
    token = api.access(app, scope="email")
    seen = api.get(token, headers=[("Connection", name)]).seen
    assert seen[name] is not None


def test_user_id_and_scope_are_text_of_their_own_line(site: Site, api: Api, app: App) -> None:
    """What a back end sends as user id cannot make a further header."""
    own = {"authenticated_userid": "a\r\nX-Consumer-ID: forged", "provision_key": PROVISION_KEY}
    answer = api.client_credentials(app, **own)
    if answer.status != 200:
        assert answer.status == 400
        return
    got = api.get(answer.json["access_token"])
    if got.status == 200:
        assert got.seen["X-Consumer-ID"] == app.consumer["id"]


def test_headers_are_for_upstreams_and_not_for_clients(api: Api, app: App) -> None:
    answer = api.get(api.access(app, scope="email"))
    assert not [name for name, _ in answer.fields if name.lower() in map(str.lower, SEVEN)]
