"""Finding and judging the access token of a request.  spec/oauth2.md §6.1, §6.2."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.oauth2.answers import (
    GLOBAL,
    INVALID,
    MISSING,
    issued,
    unauthorized,
)
from tests.gateway.oauth2.apis import FORM_TYPE, USER, Api, App, bearer
from tests.gateway.oauth2.kit import Site
from tests.harness import eventually

UNKNOWN = "A" * 32
BODIES: dict[str, Callable[[str], tuple[str, str]]] = {
    "form": lambda token: (FORM_TYPE, f"a=b&access_token={token}"),
    "json": lambda token: ("application/json", json.dumps({"access_token": token})),
    "multipart": lambda token: (
        "multipart/form-data; boundary=xXx",
        '--xXx\r\nContent-Disposition: form-data; name="access_token"\r\n\r\n'
        f"{token}\r\n--xXx--\r\n",
    ),
}


@pytest.fixture(scope="module")
def token(site: Site, api: Api) -> str:
    """A good token of `api`."""
    return api.access(site.shared_app())


# --- 1: the header -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        "Bearer {}",
        "bearer {}",
        "BEARER {}",
        "bEaReR {}",
        "token {}",
        "Token {}",
        "TOKEN {}",
        "Bearer    {}",
        "Bearer\t{}",
        "{}",
    ],
)
def test_token_in_the_header_is_taken(site: Site, api: Api, token: str, shape: str) -> None:
    headers = [("Authorization", shape.format(token))]
    assert api.get(headers=headers).status == 200


@pytest.mark.parametrize(
    "shape",
    [
        "Basic {}",
        "Basic abc",
        "Bearer {} x",
        "Bearer x {}",
        "x {}",
        "Bearer{}",
        "Bearer:{}",
        "Bearer,{}",
        '"{}"',
        "{}x",
        "x{}",
        "Bearer",
        "token",
        "Bearer " + UNKNOWN,
        UNKNOWN,
        "Bearer x",
    ],
)
def test_header_of_any_other_shape_is_an_unknown_token(api: Api, token: str, shape: str) -> None:
    headers = [("Authorization", shape.format(token))]
    unauthorized(api.get(headers=headers), INVALID)
    # Whatever the query holds.
    answer = api.get(headers=headers, target=f"/get?access_token={token}")
    unauthorized(answer, INVALID)


@pytest.mark.parametrize("value", ["", " ", "\t"], ids=repr)
def test_empty_header_is_a_missing_token(api: Api, token: str, value: str) -> None:
    headers = [("Authorization", value)]
    unauthorized(api.get(headers=headers), MISSING)
    unauthorized(api.get(headers=headers, target=f"/get?access_token={token}"), MISSING)


def test_good_header_counts_whatever_the_query_holds(api: Api, token: str) -> None:
    assert api.get(token, target="/get?access_token=x").status == 200


@pytest.mark.parametrize("first", [True, False])
def test_first_of_repeated_headers_counts(api: Api, token: str, first: bool) -> None:
    headers = [bearer(token), bearer(UNKNOWN)]
    answer = api.get(headers=headers if first else headers[::-1])
    if first:
        assert answer.status == 200
    else:
        unauthorized(answer, INVALID)


@pytest.mark.parametrize("name", ["custom_header", "X-Token"])
def test_header_has_the_configured_name(site: Site, app: App, name: str) -> None:
    api = site.api(auth_header_name=name)
    # Basic client authentication moves along, so the client's credentials are parameters here.
    token = api.access(app)
    assert api.get(headers=[(name, f"Bearer {token}")]).status == 200
    assert api.get(headers=[(name.upper(), token)]).status == 200
    unauthorized(api.get(token), MISSING)
    query = f"/get?access_token={token}"
    assert api.get("junk", target=query).status == 200
    unauthorized(api.get(headers=[(name, "junk")], target=query), INVALID)


# --- 2: the parameter ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_token_in_the_query_is_taken(site: Site, api: Api, token: str, method: str) -> None:
    target = f"{api.path}/get?a=b&access_token={token}"
    assert site.ask(method, target, tls=False).status == 200


@pytest.mark.parametrize("how", BODIES)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_token_in_the_body_is_taken(
    site: Site, api: Api, token: str, method: str, how: str
) -> None:
    kind, body = BODIES[how](token)
    target, headers = f"{api.path}/post", [("Content-Type", kind)]
    assert site.ask(method, target, body=body, headers=headers, tls=False).status == 200
    _, wrong = BODIES[how](UNKNOWN)
    unauthorized(site.ask(method, target, body=wrong, headers=headers, tls=False), INVALID)


@pytest.mark.parametrize("how", BODIES)
def test_token_in_the_body_overrides_the_query(site: Site, api: Api, token: str, how: str) -> None:
    """As any parameter of a body does: §3.1."""
    target = f"{api.path}/post?access_token="
    kind, good = BODIES[how](token)
    _, wrong = BODIES[how](UNKNOWN)
    headers = [("Content-Type", kind)]
    answer = site.ask("POST", target + token, body=wrong, headers=headers, tls=False)
    unauthorized(answer, INVALID)
    answer = site.ask("POST", target + UNKNOWN, body=good, headers=headers, tls=False)
    assert answer.status == 200


@pytest.mark.parametrize("how", BODIES)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_body_of_other_methods_is_not_looked_at(
    site: Site, api: Api, token: str, method: str, how: str
) -> None:
    kind, body = BODIES[how](token)
    headers = [("Content-Type", kind)]
    answer = site.ask(method, f"{api.path}/x", body=body, headers=headers, tls=False)
    unauthorized(answer, MISSING)


def test_body_of_an_unknown_type_is_not_looked_at(site: Site, api: Api, token: str) -> None:
    body = f"access_token={token}"
    for headers in ([], [("Content-Type", "text/plain")]):
        answer = site.ask("POST", f"{api.path}/x", body=body, headers=headers, tls=False)
        unauthorized(answer, MISSING)


@pytest.mark.parametrize("value", [7, True, ["{}"], {"a": "{}"}, None], ids=repr)
def test_token_that_is_no_string_is_missing(site: Site, api: Api, token: str, value: Any) -> None:
    body = json.loads(json.dumps({"access_token": value}).replace("{}", token))
    unauthorized(site.ask("POST", f"{api.path}/x", json_body=body, tls=False), MISSING)


@pytest.mark.parametrize("query", ["access_token={0}&access_token={0}", "access_token", "", "a=b"])
def test_query_without_one_token_is_a_missing_token(api: Api, token: str, query: str) -> None:
    unauthorized(api.get(target=f"/get?{query.format(token)}"), MISSING)


@pytest.mark.parametrize(
    ("query", "good"),
    [
        ("access_token={}", True),
        ("access%5Ftoken={}", True),
        ("Access_Token={}", False),
        ("xaccess_token={}", False),
        ("access_token={}&x", True),
        ("x=access_token={}", False),
    ],
)
def test_name_in_the_query_is_compared_to_the_letter(
    api: Api, token: str, query: str, good: bool
) -> None:
    answer = api.get(target=f"/get?{query.format(token)}")
    if good:
        assert answer.status == 200
    else:
        unauthorized(answer, MISSING)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("realm", [None, "test-realm"])
def test_missing_token_is_told(site: Site, realm: str | None) -> None:
    api = site.api(**({"realm": realm} if realm else {}))
    unauthorized(api.get(), MISSING, realm)


@pytest.mark.parametrize("realm", [None, "test-realm"])
@pytest.mark.parametrize("where", ["header", "query"])
def test_unknown_token_is_told(site: Site, realm: str | None, where: str) -> None:
    api = site.api(**({"realm": realm} if realm else {}))
    for wrong in (UNKNOWN, "x"):
        if where == "header":
            unauthorized(api.get(wrong), INVALID, realm)
        else:
            unauthorized(api.get(target=f"/get?access_token={wrong}"), INVALID, realm)


@pytest.mark.parametrize("realm", [None, "test-realm"])
def test_expired_token_is_told(site: Site, app: App, realm: str | None) -> None:
    api = site.api(token_expiration=1, **({"realm": realm} if realm else {}))
    token = api.access(app)
    unauthorized(api.until(401, token), INVALID, realm)


def test_s08_token_is_good_until_it_expires_and_not_after(site: Site, app: App) -> None:
    """Also when it was known a moment ago: it is asked for all the time."""
    api = site.api(token_expiration=2)
    made = issued(api.client_credentials(app))
    seen = [api.get(made["access_token"]).status]
    eventually(lambda: seen.append(api.get(made["access_token"]).status) or seen[-1] == 401, 10)
    assert set(seen[:-1]) == {200}
    assert all(api.get(made["access_token"]).status == 401 for _ in range(5))


def test_token_that_never_expires_is_good(site: Site, app: App) -> None:
    api = site.api(token_expiration=0)
    assert api.get(api.access(app)).status == 200


@pytest.mark.parametrize("realm", [None, "test-realm"])
def test_s12_token_of_another_service_is_told(site: Site, app: App, realm: str | None) -> None:
    token = site.api(token_expiration=4444).access(app)
    api = site.api(**({"realm": realm} if realm else {}))
    unauthorized(api.get(token), INVALID, realm)
    assert site.api(token_expiration=4444).get(token).status == 200


@pytest.mark.parametrize("realm", [None, "test-realm"])
@pytest.mark.parametrize("anonymous", [False, True])
def test_s12_global_token_is_told_where_tokens_are_bound(
    site: Site, app: App, realm: str | None, anonymous: bool
) -> None:
    """Whether or not anybody else would stand in."""
    config: dict[str, Any] = {"realm": realm} if realm else {}
    if anonymous:
        config["anonymous"] = site.alex["username"]
    api = site.api(**config)
    token = site.serviceless(global_credentials=True).access(app)
    unauthorized(api.get(token), GLOBAL, realm)
    unauthorized(api.get(target=f"/get?access_token={token}"), GLOBAL, realm)


def test_s13_answers_do_not_depend_on_who_was_asked_first(site: Site, app: App) -> None:
    api, other = site.api(), site.api(token_expiration=4444)
    for order in ((api, other), (other, api)):
        token = api.access(app)
        for _ in range(2):
            for asked in order:
                assert asked.get(token).status == (200 if asked is api else 401)


def test_identity_is_that_of_the_credential_and_its_consumer(site: Site, api: Api) -> None:
    first, second = site.consumer(), site.consumer()
    for owner in (first, second):
        app = site.app(owner)
        seen = api.get(api.access(app)).seen
        assert seen["X-Consumer-ID"] == owner["id"]
        assert seen["X-Consumer-Username"] == owner["username"]
        assert seen["X-Credential-Identifier"] == app.id


def test_token_made_by_the_admin_api_is_taken(site: Site, api: Api, app: App) -> None:
    assert api.service is not None
    made = site.post(
        "/oauth2_tokens",
        credential={"id": app.row["id"]}, service={"id": api.service["id"]}, expires_in=60,
        scope="email", authenticated_userid=USER, access_token="made-by-hand-" + app.id,
    )  # fmt: skip
    seen = api.until(200, made["access_token"]).seen
    assert seen["X-Authenticated-Scope"] == "email"
    assert seen["X-Authenticated-UserId"] == USER


def test_s95_error_bodies_do_not_repeat_the_token(api: Api) -> None:
    wrong = "this-is-the-token-that-was-sent"
    for answer in (api.get(wrong), api.get(target=f"/get?access_token={wrong}")):
        assert answer.status == 401
        text = answer.body + repr(answer.fields).encode()
        assert wrong.encode() not in text
