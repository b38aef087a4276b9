"""The rules of `scope`, alike at every grant.  spec/oauth2.md §5.6."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.oauth2.answers import (
    Answer,
    fragment_of,
    issued,
    query_of,
    redirect,
    refused,
)
from tests.gateway.oauth2.apis import PROVISION_KEY, USER, Api, App, code_request
from tests.gateway.oauth2.kit import Site

WAYS = ("client_credentials", "password", "code", "token")
NO_STRING = "scope must be a string"
NEEDED = "You must specify a scope"


def ask(api: Api, app: App, way: str, scope: Any) -> Answer:
    """A request of this grant, or for this response type; `scope` None: without it."""
    if way in ("code", "token"):
        body = code_request(app, response_type=way)
        del body["scope"]
    else:
        own = {"provision_key": PROVISION_KEY, "authenticated_userid": USER}
        body = {"grant_type": way} | app.params | own
    if scope is not None:
        body["scope"] = scope
    return api.authorize(json_body=body) if way in ("code", "token") else api.token(json_body=body)


def granted(api: Api, app: App, way: str, scope: Any) -> str | None:
    """The scope that the upstream hears of."""
    answer = ask(api, app, way, scope)
    if way == "code":
        token = issued(api.redeem(app, query_of(redirect(answer))["code"]))["access_token"]
    elif way == "token":
        token = fragment_of(redirect(answer))["access_token"]
    else:
        token = issued(answer)["access_token"]
    return api.get(token).seen["X-Authenticated-Scope"]


def refused_for(answer: Answer, way: str, text: str) -> None:
    if way in ("code", "token"):
        expected = {"error": "invalid_scope", "error_description": text}
        assert query_of(redirect(answer, 400)) == expected
    else:
        refused(answer, "invalid_scope", text)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("scope", "first"),
    [
        ("wot", "wot"),
        ("email wot", "wot"),
        ("wot email", "wot"),
        ("wot wat", "wot"),
        ("emai", "emai"),
        ("Email", "Email"),
        ("email,profile", "email,profile"),
        ("useremail", "useremail"),
    ],
)
def test_s36_scope_that_is_not_on_the_list_is_refused_by_name(
    api: Api, app: App, way: str, scope: str, first: str
) -> None:
    refused_for(ask(api, app, way, scope), way, f'"{first}" is an invalid scope')


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scope", [["email"], ["email", "profile"], 7, True, {"a": 1}], ids=repr)
def test_scope_has_to_be_a_string(api: Api, app: App, way: str, scope: Any) -> None:
    refused_for(ask(api, app, way, scope), way, NO_STRING)


def test_repeated_scope_is_no_string(api: Api, app: App) -> None:
    refused(api.client_credentials(app, scope=["email", "email"]), "invalid_scope", NO_STRING)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("scope", "stored"),
    [
        ("email", "email"),
        ("user.email", "user.email"),
        ("email profile user.email", "email profile user.email"),
        ("profile   email", "profile email"),
        (" \temail \n profile  ", "email profile"),
    ],
    ids=repr,
)
def test_scope_is_kept_with_single_spaces_in_its_order(
    api: Api, app: App, way: str, scope: str, stored: str
) -> None:
    assert granted(api, app, way, scope) == stored


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mandatory", [False, True])
@pytest.mark.parametrize("scope", ["", " ", " \t\n "], ids=repr)
def test_blank_scope_is_none_even_where_one_is_mandatory(
    site: Site, app: App, way: str, mandatory: bool, scope: str
) -> None:
    api = site.api(mandatory_scope=mandatory)
    assert granted(api, app, way, scope) is None


@pytest.mark.parametrize("way", WAYS)
def test_absent_scope_is_refused_where_one_is_mandatory(site: Site, app: App, way: str) -> None:
    api = site.api(mandatory_scope=True)
    refused_for(ask(api, app, way, None), way, NEEDED)
    assert granted(api, app, way, "email") == "email"


@pytest.mark.parametrize("way", WAYS)
def test_absent_scope_is_none_where_it_may_be(api: Api, app: App, way: str) -> None:
    assert granted(api, app, way, None) is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scope", [None, "email", "wot", ["email"], 7], ids=repr)
def test_scope_is_not_looked_at_without_a_list(site: Site, app: App, way: str, scope: Any) -> None:
    assert granted(site.api(scopes=None), app, way, scope) is None


@pytest.mark.parametrize("scope", ["email", "wot"])
def test_nothing_is_on_an_empty_list(site: Site, app: App, scope: str) -> None:
    api = site.api(scopes=[])
    refused(
        api.client_credentials(app, scope=scope),
        "invalid_scope",
        f'"{scope}" is an invalid scope',
    )
    assert granted(api, app, "client_credentials", " ") is None
