"""The authorize endpoint.  spec/oauth2.md §5.1."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.gateway.oauth2.answers import (
    HTTPS_ONLY,
    INVALID_CLIENT,
    INVALID_CODE,
    INVALID_PROVISION_KEY,
    INVALID_REDIRECT,
    INVALID_RESPONSE_TYPE,
    MISSING_USER,
    REDIRECT_URI,
    assert_random,
    fragment_of,
    issued,
    query_of,
    redirect,
    refused,
    refused_by_redirect,
)
from tests.gateway.oauth2.apis import (
    OTHER_URI,
    PKCE,
    PROVISION_KEY,
    USER,
    Api,
    App,
    code_request,
    unique,
)
from tests.gateway.oauth2.kit import Site

NEEDS_CHALLENGE = ("invalid_request", "code_challenge is required when code_method is present")
NEEDS_S256 = ("invalid_request", "code_challenge_method is not supported, must be S256")
NEEDS_SCOPE = ("invalid_scope", "You must specify a scope")


def bad_scope(name: str) -> tuple[str, str]:
    return ("invalid_scope", f'"{name}" is an invalid scope')


def pkce_required(client_type: str) -> tuple[str, str]:
    return ("invalid_request", f"code_challenge is required for {client_type} clients")


# --- checks 1 to 3 stop ---------------------------------------------------------------------------


def test_https_is_checked_before_the_provision_key(api: Api) -> None:
    refused(api.authorize({"state": "s"}, tls=False), *HTTPS_ONLY, state="s")


@pytest.mark.parametrize(
    "key",
    [None, "", "x", PROVISION_KEY.upper(), PROVISION_KEY + " ", PROVISION_KEY[:-1]],
    ids=["absent", "empty", "wrong", "upper-case", "longer", "shorter"],
)
def test_provision_key_has_to_be_the_configured_one(api: Api, app: App, key: str | None) -> None:
    params = code_request(app, provision_key=key)
    if key is None:
        del params["provision_key"]
    refused(api.authorize(params), *INVALID_PROVISION_KEY)


@pytest.mark.parametrize("key", [1, True, [PROVISION_KEY], {"a": PROVISION_KEY}], ids=repr)
def test_provision_key_has_to_be_a_string(api: Api, app: App, key: Any) -> None:
    refused(api.authorize(json_body=code_request(app, provision_key=key)), *INVALID_PROVISION_KEY)


def test_provision_key_is_that_of_the_plugin_met(site: Site, api: Api, app: App) -> None:
    other = site.api(provision_key="another key")
    refused(other.authorize(code_request(app)), *INVALID_PROVISION_KEY)
    redirect(other.authorize(code_request(app, provision_key="another key")))
    refused(api.authorize(code_request(app, provision_key="another key")), *INVALID_PROVISION_KEY)


def test_provision_key_is_checked_before_all_but_https(api: Api) -> None:
    refused(api.authorize({"state": "x"}), *INVALID_PROVISION_KEY, state="x")
    refused(api.authorize(), *INVALID_PROVISION_KEY)


@pytest.mark.parametrize("user", [None, "", " ", " \t "], ids=repr)
def test_user_id_has_to_be_there_and_not_blank(api: Api, app: App, user: str | None) -> None:
    params = code_request(app, authenticated_userid=user, state="s t")
    if user is None:
        del params["authenticated_userid"]
    refused(api.authorize(params), *MISSING_USER, state="s t")


def test_user_id_is_checked_before_the_rest(api: Api) -> None:
    refused(api.authorize({"provision_key": PROVISION_KEY}), *MISSING_USER)


# --- checks 4 to 8, one by one --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "", "foo", "Code", "code token"])
def test_response_type_has_to_be_code_or_token(api: Api, app: App, kind: str | None) -> None:
    params = code_request(app, response_type=kind)
    if kind is None:
        del params["response_type"]
    refused_by_redirect(api.authorize(params), *INVALID_RESPONSE_TYPE)


@pytest.mark.parametrize(
    ("flag", "kind", "other"),
    [
        ("enable_authorization_code", "code", "token"),
        ("enable_implicit_grant", "token", "code"),
    ],
)
def test_each_response_type_has_its_flag(
    site: Site, app: App, flag: str, kind: str, other: str
) -> None:
    api = site.api(**{flag: False})
    refused_by_redirect(
        api.authorize(code_request(app, response_type=kind, state="somestate")),
        *INVALID_RESPONSE_TYPE,
        state="somestate",
    )
    redirect(api.authorize(code_request(app, response_type=other)))


def test_scope_is_checked(site: Site, api: Api, app: App) -> None:
    refused_by_redirect(api.authorize(code_request(app, scope="email wot")), *bad_scope("wot"))
    mandatory = site.api(mandatory_scope=True)
    params = code_request(app)
    del params["scope"]
    refused_by_redirect(mandatory.authorize(params), *NEEDS_SCOPE)


@pytest.mark.parametrize("client_id", [None, "", "no-such-client"])
def test_client_has_to_exist(api: Api, app: App, client_id: str | None) -> None:
    params = code_request(app, client_id=client_id, state="s")
    if client_id is None:
        del params["client_id"]
    refused(api.authorize(params), *INVALID_CLIENT, state="s")


def test_client_id_in_a_header_is_not_looked_at_without_a_secret_check(api: Api, app: App) -> None:
    """No secret is checked here: with only its id the client is known."""
    redirect(api.authorize(code_request(app, client_secret="wrong")))


def test_client_without_redirect_uris_is_refused(site: Site, api: Api) -> None:
    app = site.shared_app(redirect_uris=None)
    refused(api.authorize(code_request(app)), *INVALID_CLIENT)
    params = code_request(app, redirect_uri=REDIRECT_URI)
    refused(api.authorize(params), *INVALID_CLIENT)


@pytest.mark.parametrize(
    "uri",
    [
        "http://google.test/kon",
        "http://google.test/kong/",
        "http://google.test/kong?",
        "http://google.test/kong?a=b",
        "http://google.test:80/kong",
        "http://GOOGLE.test/kong",
        "http://google.test.evil.test/kong",
        "http://google.test@evil.test/kong",
        "http://*.test/kong",
        "http://google.test/kong#x",
        "http://google.test/./kong",
        "http://google.test/%6bong",
        "",
    ],
)
def test_s32_redirect_uri_has_to_match_byte_for_byte(api: Api, app: App, uri: str) -> None:
    refused_by_redirect(api.authorize(code_request(app, redirect_uri=uri)), *INVALID_REDIRECT)


def test_redirect_uri_that_is_no_string_is_refused(api: Api, app: App) -> None:
    params = code_request(app, redirect_uri=[REDIRECT_URI, REDIRECT_URI])
    refused_by_redirect(api.authorize(params), *INVALID_REDIRECT)


def test_client_with_an_empty_list_of_redirect_uris_has_no_target(site: Site, api: Api) -> None:
    app = site.shared_app(redirect_uris=[])
    refused(api.authorize(code_request(app, state="s")), *INVALID_REDIRECT, state="s")
    params = code_request(app, redirect_uri=REDIRECT_URI)
    refused(api.authorize(params), *INVALID_REDIRECT)


@pytest.mark.parametrize("kind", ["public", "confidential"])
@pytest.mark.parametrize("pkce", ["none", "lax", "strict"])
def test_challenge_method_needs_a_challenge(site: Site, kind: str, pkce: str) -> None:
    api, app = site.api(pkce=pkce), site.shared_app(client_type=kind)
    params = code_request(app, code_challenge_method="S256", state="s")
    refused_by_redirect(api.authorize(params), *NEEDS_CHALLENGE, state="s")


@pytest.mark.parametrize("method", ["plain", "foo", "S512", "S256 ", "sha256"])
@pytest.mark.parametrize("pkce", ["none", "lax", "strict"])
def test_s35_challenge_method_has_to_be_s256(site: Site, app: App, method: str, pkce: str) -> None:
    api = site.api(pkce=pkce)
    params = code_request(
        app, code_challenge=PKCE.challenge, code_challenge_method=method, state="hello"
    )
    refused_by_redirect(api.authorize(params), *NEEDS_S256, state="hello")


@pytest.mark.parametrize("method", [None, "S256", "s256"])
@pytest.mark.parametrize("kind", ["public", "confidential"])
@pytest.mark.parametrize("pkce", ["none", "lax", "strict"])
def test_challenge_is_taken(site: Site, method: str | None, kind: str, pkce: str) -> None:
    api, app = site.api(pkce=pkce), site.shared_app(client_type=kind)
    params = code_request(app, code_challenge=PKCE.challenge)
    if method:
        params["code_challenge_method"] = method
    code = query_of(redirect(api.authorize(params)))["code"]
    issued(api.redeem(app, code, code_verifier=PKCE.verifier))


@pytest.mark.parametrize(
    ("pkce", "kind", "needed"),
    [
        ("none", "public", False),
        ("none", "confidential", False),
        ("lax", "public", True),
        ("lax", "confidential", False),
        ("strict", "public", True),
        ("strict", "confidential", True),
        (None, "confidential", False),
    ],
)
def test_s35_challenge_is_needed_as_the_mode_says(
    site: Site, pkce: str | None, kind: str, needed: bool
) -> None:
    api, app = site.api(pkce=pkce), site.shared_app(client_type=kind)
    answer = api.authorize(code_request(app))
    if needed:
        refused_by_redirect(answer, *pkce_required(kind))
    else:
        redirect(answer)


# --- the last failing check wins ------------------------------------------------------------------


def test_scope_wins_over_the_response_type(api: Api, app: App) -> None:
    params = code_request(app, response_type="foo", scope="wot")
    refused_by_redirect(api.authorize(params), *bad_scope("wot"))


def test_client_wins_over_response_type_and_scope(api: Api, app: App) -> None:
    params = code_request(app, response_type="foo", scope="wot", client_id=unique("no"))
    refused(api.authorize(params), *INVALID_CLIENT)


def test_redirect_uri_wins_over_response_type_and_scope(api: Api, app: App) -> None:
    params = code_request(
        app, response_type="foo", scope="wot", redirect_uri="http://evil.test/", state="s"
    )
    refused_by_redirect(api.authorize(params), *INVALID_REDIRECT, state="s")


def test_pkce_wins_over_everything(api: Api, app: App) -> None:
    params = code_request(
        app,
        response_type="foo",
        scope="wot",
        redirect_uri="http://evil.test/",
        code_challenge_method="plain",
        code_challenge=PKCE.challenge,
    )
    refused_by_redirect(api.authorize(params), *NEEDS_S256)


def test_challenge_method_without_challenge_wins_over_everything(api: Api, app: App) -> None:
    params = code_request(
        app, response_type="foo", redirect_uri="http://evil.test/", code_challenge_method="plain"
    )
    refused_by_redirect(api.authorize(params), *NEEDS_CHALLENGE)


def test_required_challenge_wins_over_the_scope(site: Site, app: App) -> None:
    api = site.api(pkce="strict")
    refused_by_redirect(
        api.authorize(code_request(app, scope="wot")), *pkce_required("confidential")
    )


def test_pkce_replaces_the_message_of_a_client_without_redirect_uris(site: Site, api: Api) -> None:
    """In the plain form: there is still no target."""
    app = site.shared_app(redirect_uris=None)
    params = code_request(app, code_challenge_method="S256", state="s")
    refused(api.authorize(params), *NEEDS_CHALLENGE, state="s")
    params = code_request(app, code_challenge=PKCE.challenge, code_challenge_method="plain")
    refused(api.authorize(params), *NEEDS_S256)
    refused(site.api(pkce="strict").authorize(code_request(app)), *pkce_required("confidential"))


def test_pkce_replaces_the_message_of_an_empty_list_of_redirect_uris(site: Site, api: Api) -> None:
    app = site.shared_app(redirect_uris=[])
    params = code_request(app, code_challenge_method="S256")
    refused(api.authorize(params), *NEEDS_CHALLENGE)


# --- redirect targets -----------------------------------------------------------------------------


def test_code_is_in_the_query_of_the_first_redirect_uri(api: Api, app: App) -> None:
    uri = redirect(api.authorize(code_request(app)))
    assert re.fullmatch(r"http://google\.test/kong\?code=[A-Za-z0-9]{32}", uri), uri


def test_code_goes_to_the_redirect_uri_that_was_asked_for(api: Api, app: App) -> None:
    uri = redirect(api.authorize(code_request(app, redirect_uri=OTHER_URI)))
    assert re.fullmatch(r"http://google\.test/other\?code=[A-Za-z0-9]{32}", uri), uri


def test_error_goes_to_the_redirect_uri_that_was_asked_for(api: Api, app: App) -> None:
    params = code_request(app, redirect_uri=OTHER_URI, scope="wot")
    refused_by_redirect(api.authorize(params), *bad_scope("wot"), to=OTHER_URI)


def test_s32_refused_redirect_uri_is_never_the_target(api: Api, app: App) -> None:
    answer = api.authorize(code_request(app, redirect_uri="http://evil.test/"))
    refused_by_redirect(answer, *INVALID_REDIRECT, to=REDIRECT_URI)
    assert b"evil" not in answer.body


def test_parameters_of_the_registered_uri_stay_but_for_ours(site: Site, api: Api) -> None:
    app = site.shared_app(redirect_uris=[f"{REDIRECT_URI}?foo=bar&code=123"])
    uri = redirect(api.authorize(code_request(app)))
    assert re.fullmatch(r"http://google\.test/kong\?code=[A-Za-z0-9]{32}&foo=bar", uri), uri


def test_parameters_of_the_registered_uri_stay_beside_an_error(site: Site, api: Api) -> None:
    app = site.shared_app(redirect_uris=[f"{REDIRECT_URI}?zoo=1&error=none"])
    assert redirect(api.authorize(code_request(app, scope="wot")), 400) == (
        f"{REDIRECT_URI}?error=invalid_scope"
        "&error_description=%22wot%22%20is%20an%20invalid%20scope&zoo=1"
    )


def test_state_is_sorted_in(api: Api, app: App) -> None:
    uri = redirect(api.authorize(code_request(app, state="hello")))
    assert re.fullmatch(r"http://google\.test/kong\?code=[A-Za-z0-9]{32}&state=hello", uri), uri


def test_implicit_token_is_in_the_fragment(site: Site, app: App) -> None:
    api = site.api(token_expiration=5)
    uri = redirect(api.authorize(code_request(app, response_type="token", state="wot")))
    assert re.fullmatch(
        r"http://google\.test/kong#access_token=[A-Za-z0-9]{32}"
        r"&expires_in=5&state=wot&token_type=bearer",
        uri,
    ), uri


def test_implicit_token_that_never_expires_does_not_say_so(site: Site, app: App) -> None:
    api = site.api(token_expiration=0)
    uri = redirect(api.authorize(code_request(app, response_type="token")))
    assert re.fullmatch(
        r"http://google\.test/kong#access_token=[A-Za-z0-9]{32}&token_type=bearer", uri
    ), uri


def test_implicit_answer_keeps_the_registered_query(site: Site, api: Api) -> None:
    app = site.shared_app(redirect_uris=[f"{REDIRECT_URI}?foo=bar"])
    uri = redirect(api.authorize(code_request(app, response_type="token")))
    assert uri.startswith(f"{REDIRECT_URI}?foo=bar#access_token="), uri
    assert fragment_of(uri).keys() == {"access_token", "expires_in", "token_type"}


def test_implicit_error_is_in_the_query(api: Api, app: App) -> None:
    params = code_request(app, response_type="token", scope="wot", state="s")
    refused_by_redirect(api.authorize(params), *bad_scope("wot"), state="s")


def test_implicit_answer_has_never_a_refresh_token(api: Api, app: App) -> None:
    uri = redirect(api.authorize(code_request(app, response_type="token")))
    assert fragment_of(uri).keys() == {"access_token", "expires_in", "token_type"}
    assert "refresh" not in uri


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"scope": None}, "error=invalid_scope&error_description=You%20must%20specify%20a%20scope"),
        (
            {"scope": "wot"},
            "error=invalid_scope&error_description=%22wot%22%20is%20an%20invalid%20scope",
        ),
        (
            {"response_type": "foo", "state": "somestate"},
            "error=unsupported_response_type&error_description=Invalid%20response_type"
            "&state=somestate",
        ),
        (
            {"code_challenge": "abc", "code_challenge_method": "foo", "state": "hello"},
            "error=invalid_request&error_description=code_challenge_method%20is%20not%20supported"
            "%2c%20must%20be%20S256&state=hello",
        ),
    ],
    ids=["no scope", "scope", "response_type", "method"],
)
def test_targets_are_spelled_as_kong_spells_them(
    site: Site, app: App, params: dict[str, Any], expected: str
) -> None:
    api = site.api(mandatory_scope=True)
    asked = {k: v for k, v in (code_request(app) | params).items() if v is not None}
    assert redirect(api.authorize(asked), 400) == f"{REDIRECT_URI}?{expected}"


@pytest.mark.parametrize(
    ("state", "spelled"),
    [
        ("a b", "state=a%20b"),
        ('"', "state=%22"),
        (",", "state=%2c"),
        ("é", "state=%c3%a9"),
        ("a&b=c#d", "state=a%26b%3dc%23d"),
        ("a+b", "state=a%2bb"),
        ("100%", "state=100%25"),
        ("\r\nX: y", "state=%0d%0aX%3a%20y"),
        ("A-z_0.9~", "state=A-z_0.9~"),
        ("", "state"),
    ],
)
def test_state_is_encoded_in_the_target(api: Api, app: App, state: str, spelled: str) -> None:
    uri = redirect(api.authorize(code_request(app, scope="wot", state=state)), 400)
    assert uri.endswith(f"&{spelled}"), uri
    uri = redirect(api.authorize(code_request(app, response_type="token", state=state)))
    assert f"&{spelled}&token_type=bearer" in uri, uri


def test_answer_is_no_http_redirect(api: Api, app: App) -> None:
    for params in (code_request(app), code_request(app, scope="wot")):
        answer = api.authorize(params)
        assert answer.status in (200, 400)
        assert answer["Location"] is None


@pytest.mark.parametrize("how", ["form", "json", "query"])
def test_parameters_may_come_in_any_form(api: Api, app: App, how: str) -> None:
    params = code_request(app)
    if how == "form":
        answer = api.authorize(params)
    elif how == "json":
        answer = api.authorize(json_body=params)
    else:
        answer = api.authorize(query="&".join(f"{k}={v}" for k, v in params.items()))
    assert_random(query_of(redirect(answer))["code"])


# --- what is kept with the code -------------------------------------------------------------------


def test_code_keeps_user_and_scope(api: Api, app: App) -> None:
    code = api.code(app, scope="  email   profile ", authenticated_userid="user 7")
    token = issued(api.redeem(app, code))["access_token"]
    seen = api.get(token).seen
    assert seen["X-Authenticated-UserId"] == "user 7"
    assert seen["X-Authenticated-Scope"] == "email profile"
    assert seen["X-Credential-Identifier"] == app.id
    assert seen["X-Consumer-ID"] == app.consumer["id"]


def test_implicit_token_has_user_and_scope(api: Api, app: App) -> None:
    params = code_request(app, response_type="token", scope="email profile")
    token = fragment_of(redirect(api.authorize(params)))["access_token"]
    seen = api.get(token).seen
    assert seen["X-Authenticated-UserId"] == USER
    assert seen["X-Authenticated-Scope"] == "email profile"


def test_implicit_token_is_bound_to_the_service(site: Site, api: Api, app: App) -> None:
    params = code_request(app, response_type="token")
    token = fragment_of(redirect(api.authorize(params)))["access_token"]
    assert api.get(token).status == 200
    assert site.api(token_expiration=4444).get(token).status == 401


def test_codes_and_tokens_differ_each_time(api: Api, app: App) -> None:
    assert len({api.code(app) for _ in range(20)}) == 20


def test_code_is_no_access_token(api: Api, app: App) -> None:
    code = api.code(app)
    assert api.get(code).status == 401
    refused(api.redeem(app, code + "x"), *INVALID_CODE)
