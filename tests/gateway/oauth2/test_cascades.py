"""What deletions and edits do to tokens: nothing stale is served.  spec/oauth2.md §10."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.oauth2.answers import (
    INVALID,
    INVALID_CLIENT,
    INVALID_REFRESH,
    issued,
    refused,
    unauthorized,
)
from tests.gateway.oauth2.apis import Api, App, bearer, unique
from tests.gateway.oauth2.kit import Site
from tests.harness import eventually

BOUND = 5.0  # seconds until a deletion holds everywhere: B of the security checklist


def warm(api: Api, app: App) -> dict[str, Any]:
    """A pair whose access token is in every cache."""
    pair = api.pair(app)
    for _ in range(3):
        assert api.get(pair["access_token"]).status == 200
    return pair


def test_s37_deleted_client_takes_its_tokens_along(site: Site, api: Api, app: App) -> None:
    pair, code = warm(api, app), api.code(app)
    site.admin("DELETE", f"/oauth2/{app.id}", 204)
    unauthorized(api.until(401, pair["access_token"], BOUND), INVALID)
    refused(api.client_credentials(app), *INVALID_CLIENT)
    refused(api.redeem(app, code), *INVALID_CLIENT)
    refused(api.refresh(app, pair["refresh_token"]), *INVALID_CLIENT)
    site.admin("GET", f"/oauth2_tokens/{pair['access_token']}", 404)


def test_s37_deleted_consumer_takes_clients_and_tokens_along(site: Site, api: Api) -> None:
    owner = site.consumer()
    app = site.app(owner)
    pair = warm(api, app)
    site.admin("DELETE", f"/consumers/{owner['id']}", 204)
    unauthorized(api.until(401, pair["access_token"], BOUND), INVALID)
    refused(api.client_credentials(app), *INVALID_CLIENT)
    site.admin("GET", f"/oauth2/{app.id}", 404)
    site.admin("GET", f"/oauth2_tokens/{pair['access_token']}", 404)


@pytest.mark.parametrize("by", ["id", "access_token"])
def test_s37_deleted_token_is_refused(site: Site, api: Api, app: App, by: str) -> None:
    pair, other = warm(api, app), warm(api, app)
    row = site.admin("GET", f"/oauth2_tokens/{pair['access_token']}", 200)
    key = row["id"] if by == "id" else pair["access_token"]
    site.admin("DELETE", f"/oauth2_tokens/{key}", 204)
    unauthorized(api.until(401, pair["access_token"], BOUND), INVALID)
    refused(api.refresh(app, pair["refresh_token"]), *INVALID_REFRESH)
    assert api.get(other["access_token"]).status == 200


def test_s14_deleted_token_opens_no_websocket(site: Site, app: App) -> None:
    sockets = site.sockets()
    token = sockets.issuer.access(app)
    assert sockets.handshake(token).status == 101
    site.admin("DELETE", f"/oauth2_tokens/{token}", 204)
    eventually(lambda: sockets.handshake(token).status == 401, BOUND)


def test_s37_deleted_service_takes_its_tokens_along(site: Site, app: App) -> None:
    api = site.new_api()
    pair = warm(api, app)
    site.admin("DELETE", f"/plugins/{api.plugin['id']}", 204)
    site.admin("DELETE", f"/routes/{api.route['id']}", 204)
    assert api.service is not None
    site.admin("DELETE", f"/services/{api.service['id']}", 204)
    site.admin("GET", f"/oauth2_tokens/{pair['access_token']}", 404)


def test_s37_tokens_of_a_deleted_plugin_are_refused(site: Site, app: App) -> None:
    api = site.new_api(global_credentials=True)
    other = site.api(global_credentials=True)
    token = api.access(app)
    assert other.get(token).status == 200
    site.admin("DELETE", f"/plugins/{api.plugin['id']}", 204)
    other.until(401, token, BOUND)


def test_changed_access_token_moves_what_it_was(site: Site, api: Api, app: App) -> None:
    old, new = api.access(app, scope="email"), unique("changed")
    assert api.get(old).status == 200
    row = site.admin("PATCH", f"/oauth2_tokens/{old}", 200, {"access_token": new})
    assert row["access_token"] == new
    assert api.until(200, new, BOUND).seen["X-Authenticated-Scope"] == "email"
    unauthorized(api.until(401, old, BOUND), INVALID)


def test_changed_scope_and_user_reach_the_upstream(site: Site, api: Api, app: App) -> None:
    token = api.access(app, scope="email")
    assert api.get(token).seen["X-Authenticated-Scope"] == "email"
    body = {"scope": "profile", "authenticated_userid": "somebody"}
    site.admin("PATCH", f"/oauth2_tokens/{token}", 200, body)

    def told() -> bool:
        seen = api.get(token).seen
        now = (seen["X-Authenticated-Scope"], seen["X-Authenticated-UserId"])
        return now == ("profile", "somebody")

    eventually(told, BOUND)


def test_shortened_token_expires(site: Site, api: Api, app: App) -> None:
    token = api.access(app)
    assert api.get(token).status == 200
    site.admin("PATCH", f"/oauth2_tokens/{token}", 200, {"expires_in": 1})
    unauthorized(api.until(401, token, BOUND), INVALID)


def test_token_made_later_is_known_though_it_was_refused_before(
    site: Site, api: Api, app: App
) -> None:
    """That it was unknown is cached no longer than that."""
    token = unique("later")
    for _ in range(3):
        unauthorized(api.get(token), INVALID)
    assert api.service is not None
    site.post(
        "/oauth2_tokens", access_token=token, expires_in=60,
        credential={"id": app.row["id"]}, service={"id": api.service["id"]},
    )  # fmt: skip
    assert api.until(200, token, BOUND)


def test_renamed_client_is_known_by_its_new_id_only(site: Site, api: Api, app: App) -> None:
    token, new = api.access(app), unique("renamed")
    assert api.get(token).seen["X-Credential-Identifier"] == app.id
    site.admin("PATCH", f"/oauth2/{app.id}", 200, {"client_id": new})
    refused(api.client_credentials(app), *INVALID_CLIENT)
    issued(api.client_credentials(app, client_id=new))
    # Its tokens stay, and say who it is now.
    eventually(lambda: api.get(token).seen["X-Credential-Identifier"] == new, BOUND)


def test_changed_secret_is_the_only_one_at_once(site: Site, api: Api, app: App) -> None:
    issued(api.client_credentials(app))
    body = {"client_secret": "another", "hash_secret": False}
    site.admin("PATCH", f"/oauth2/{app.id}", 200, body)
    refused(api.client_credentials(app), *INVALID_CLIENT)
    issued(api.client_credentials(app, client_secret="another"))


def test_changed_redirect_uris_hold_at_once(site: Site, api: Api, app: App) -> None:
    body = {"redirect_uris": ["http://new.test/"]}
    site.admin("PATCH", f"/oauth2/{app.id}", 200, body)
    issued(api.password(app, redirect_uri="http://new.test/"))
    answer = api.password(app, redirect_uri="http://google.test/kong")
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


def test_client_that_becomes_public_needs_no_secret(site: Site, api: Api, app: App) -> None:
    site.admin("PATCH", f"/oauth2/{app.id}", 200, {"client_type": "public"})
    answer = api.client_credentials(app)
    refused(answer, "invalid_request", "client_secret is disallowed for public clients")
    issued(api.token({"grant_type": "client_credentials", "client_id": app.id}))


def test_changed_consumer_is_told_to_the_upstream(site: Site, api: Api) -> None:
    owner = site.consumer()
    app = site.app(owner)
    token = api.access(app)
    assert api.get(token).seen["X-Consumer-Username"] == owner["username"]
    new = {"username": unique("renamed"), "custom_id": unique("custom")}
    site.admin("PATCH", f"/consumers/{owner['id']}", 200, new)

    def told() -> bool:
        seen = api.get(token).seen
        return (seen["X-Consumer-Username"], seen["X-Consumer-Custom-ID"]) == (*new.values(),)

    eventually(told, BOUND)


def test_client_that_moves_to_another_consumer_takes_its_tokens_along(
    site: Site, api: Api, app: App
) -> None:
    token, other = api.access(app), site.consumer()
    assert api.get(token).seen["X-Consumer-ID"] == app.consumer["id"]
    site.admin("PATCH", f"/oauth2/{app.id}", 200, {"consumer": {"id": other["id"]}})
    eventually(lambda: api.get(token).seen["X-Consumer-ID"] == other["id"], BOUND)


def test_edited_plugin_holds_for_tokens_that_are_there(site: Site, app: App) -> None:
    api = site.new_api(global_credentials=True)
    token = api.access(app)
    assert api.get(token).status == 200
    body = {"config": {"global_credentials": False, "hide_credentials": True}}
    site.admin("PATCH", f"/plugins/{api.plugin['id']}", 200, body)
    api.until(401, token, BOUND)


def test_disabled_plugin_lets_everybody_in(site: Site) -> None:
    api = site.new_api()
    assert api.get().status == 401
    site.admin("PATCH", f"/plugins/{api.plugin['id']}", 200, {"enabled": False})
    eventually(lambda: api.get().status == 200, BOUND)


def test_expiry_is_looked_at_on_every_request(site: Site, app: App) -> None:
    """A token that is known and used all the time expires like any other."""
    sockets = site.sockets(token_expiration=2)
    token = sockets.issuer.access(app)
    seen: list[int] = []

    def asked() -> bool:
        seen.append(site.handshake(sockets.path, [bearer(token)]).status)
        return seen[-1] == 401

    eventually(asked, 10)
    assert seen[0] == 101 and set(seen) == {101, 401}
