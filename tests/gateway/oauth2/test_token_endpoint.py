"""What all grants share at the token endpoint.  spec/oauth2.md §3.2, §5.2."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.oauth2.answers import (
    BASIC_CHALLENGE,
    INVALID_CLIENT,
    INVALID_CODE,
    INVALID_GRANT_TYPE,
    INVALID_REDIRECT,
    INVALID_REFRESH,
    issued,
    refused,
)
from tests.gateway.oauth2.apis import (
    OTHER_URI,
    PROVISION_KEY,
    USER,
    Api,
    App,
    basic,
    bearer,
    unique,
)
from tests.gateway.oauth2.kit import Site

GRANTS = {
    "password": {"provision_key": PROVISION_KEY, "authenticated_userid": USER},
    "authorization_code": {"code": "no-such-code"},
    "refresh_token": {"refresh_token": "no-such-token"},
}
PUBLIC_SECRET = ("invalid_request", "client_secret is disallowed for public clients")


def form(grant: str, **params: Any) -> dict[str, Any]:
    """A request of this grant with all that it needs but a client."""
    return {"grant_type": grant, **GRANTS.get(grant, {}), **params}


# --- step 2: grant_type --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grant",
    [None, "", "foo", "implicit", "Client_Credentials", ["password", "password"]],
    ids=["absent", "empty", "unknown", "implicit", "upper-case", "repeated"],
)
def test_grant_type_that_is_none_of_ours_is_refused(api: Api, app: App, grant: Any) -> None:
    params = {} if grant is None else {"grant_type": grant}
    refused(api.token(app.params | params), *INVALID_GRANT_TYPE)


@pytest.mark.parametrize("value", [1, True, ["client_credentials"], {"a": "b"}])
def test_grant_type_that_is_no_string_is_refused(api: Api, app: App, value: Any) -> None:
    refused(api.token(json_body=app.params | {"grant_type": value}), *INVALID_GRANT_TYPE)


@pytest.mark.parametrize(
    ("flag", "grant"),
    [("enable_client_credentials", "client_credentials"), ("enable_password_grant", "password")],
)
def test_grant_that_is_not_enabled_is_refused(site: Site, app: App, flag: str, grant: str) -> None:
    api = site.api(**{flag: False})
    refused(api.token(form(grant) | app.params), *INVALID_GRANT_TYPE)


@pytest.mark.parametrize(
    ("grant", "error"), [("authorization_code", INVALID_CODE), ("refresh_token", INVALID_REFRESH)]
)
def test_code_and_refresh_grants_are_there_whatever_is_enabled(
    site: Site, app: App, grant: str, error: tuple[str, str]
) -> None:
    api = site.api(
        enable_authorization_code=False, enable_implicit_grant=False, enable_password_grant=False
    )
    refused(api.token(form(grant) | app.params), *error)


# --- the last error wins -------------------------------------------------------------------------


def test_wrong_grant_type_is_told_where_the_client_is_right(api: Api, app: App) -> None:
    refused(api.token(form("foo") | app.params), *INVALID_GRANT_TYPE)


def test_wrong_grant_type_gives_way_to_an_unknown_client(api: Api) -> None:
    refused(api.token(form("foo", client_id=unique("no"), client_secret="x")), *INVALID_CLIENT)


def test_wrong_grant_type_gives_way_to_a_wrong_redirect_uri(api: Api, app: App) -> None:
    params = form("foo", redirect_uri="http://a.test/") | app.params
    refused(api.token(params), *INVALID_REDIRECT)


def test_wrong_grant_type_gives_way_to_a_wrong_secret(api: Api, app: App) -> None:
    refused(api.token(form("foo", client_id=app.id, client_secret="x")), *INVALID_CLIENT)


def test_wrong_redirect_uri_gives_way_to_a_wrong_secret(api: Api, app: App) -> None:
    wrong = {"client_id": app.id, "client_secret": "x", "redirect_uri": "http://a.test/"}
    refused(api.token(form("password") | wrong), *INVALID_CLIENT)


def test_wrong_redirect_uri_gives_way_to_a_public_clients_secret(api: Api, public: App) -> None:
    wrong = {"client_id": public.id, "client_secret": "x", "redirect_uri": "http://a.test/"}
    refused(api.token(form("password") | wrong), *PUBLIC_SECRET)


def test_disabled_client_credentials_of_an_unknown_client_tells_of_the_grant(site: Site) -> None:
    """Neither step 5 nor step 6 has anything to say of it."""
    api = site.api(enable_client_credentials=False)
    params = form("client_credentials", client_id=unique("no"), client_secret="x")
    refused(api.token(params), *INVALID_GRANT_TYPE)


def test_disabled_client_credentials_gives_way_to_a_wrong_secret(site: Site, app: App) -> None:
    api = site.api(enable_client_credentials=False)
    params = form("client_credentials", client_id=app.id, client_secret="x")
    refused(api.token(params), *INVALID_CLIENT)


def test_grant_is_not_run_after_an_error(api: Api, app: App) -> None:
    """Else its own error, of the provision key, would be the last one."""
    wrong = {"redirect_uri": "http://a.test/", "provision_key": "x"}
    refused(api.token(form("password") | app.params | wrong), *INVALID_REDIRECT)


# --- step 3: where the client's credentials are ---------------------------------------------------


@pytest.mark.parametrize("scheme", ["Basic ", "basic ", "  Basic  ", "Basic"])
def test_client_may_be_in_a_basic_header(api: Api, app: App, scheme: str) -> None:
    value = scheme + app.basic()[1].removeprefix("Basic ")
    headers = [("Authorization", value)]
    issued(api.token(form("client_credentials"), headers=headers))


def test_basic_header_is_split_at_the_first_colon(site: Site, api: Api) -> None:
    app = site.app(client_secret="a:b::c")
    issued(api.token(form("client_credentials"), headers=[app.basic()]))


@pytest.mark.parametrize(
    "headers",
    [[basic("no-such", "x")], [bearer("abc")], [("Authorization", "junk")]],
    ids=["basic", "bearer", "junk"],
)
def test_parameters_win_over_the_header(api: Api, app: App, headers: Any) -> None:
    issued(api.token(form("client_credentials") | app.params, headers=headers))


def test_wrong_parameters_win_over_a_right_header(api: Api, app: App) -> None:
    params = form("client_credentials", client_id=app.id, client_secret="x")
    refused(api.token(params, headers=[app.basic()]), *INVALID_CLIENT)


NO_CLIENT = ["Bearer abc", "Digest abc", "BASIC {}", "Basic", "Basic !!!!", "junk"]


@pytest.mark.parametrize("value", NO_CLIENT)
def test_header_without_basic_credentials_hides_the_client_id(
    api: Api, public: App, value: str
) -> None:
    """Though the client would need nothing but its id."""
    text = value.format(public.basic("")[1].removeprefix("Basic "))
    params = form("client_credentials", client_id=public.id)
    refused(api.token(params, headers=[("Authorization", text)]), *INVALID_CLIENT)


@pytest.mark.parametrize("value", NO_CLIENT)
def test_header_without_basic_credentials_counts_as_a_header(
    api: Api, public: App, value: str
) -> None:
    text = value.format(public.basic("")[1].removeprefix("Basic "))
    answer = api.token(form("password", client_id=public.id), headers=[("Authorization", text)])
    refused(answer, *INVALID_CLIENT, status=401, challenge=BASIC_CHALLENGE)


def test_secret_alone_in_the_parameters_is_not_joined_with_the_header(api: Api, app: App) -> None:
    """Both or none: the header is what counts then."""
    params = form("client_credentials", client_secret="x")
    issued(api.token(params, headers=[app.basic()]))


def test_client_id_alone_gives_way_to_the_header(api: Api, app: App) -> None:
    params = form("client_credentials", client_id=unique("no"))
    issued(api.token(params, headers=[app.basic()]))


def test_client_id_alone_is_enough_of_a_public_client(api: Api, public: App) -> None:
    issued(api.token(form("password", client_id=public.id)))


def test_client_id_alone_is_not_enough_of_a_confidential_client(api: Api, app: App) -> None:
    refused(api.token(form("password", client_id=app.id)), *INVALID_CLIENT)
    refused(api.token(form("client_credentials", client_id=app.id)), *INVALID_CLIENT)


@pytest.mark.parametrize(
    ("name", "status"), [("X-Custom", 200), ("x-CUSTOM", 200), ("Authorization", 400)]
)
def test_basic_credentials_are_in_the_header_that_the_config_names(
    site: Site, app: App, name: str, status: int
) -> None:
    api = site.api(auth_header_name="x-custom")
    answer = api.token(form("client_credentials"), headers=[(name, app.basic()[1])])
    assert answer.status == status
    if status == 200:
        issued(answer)
    else:
        refused(answer, *INVALID_CLIENT)


# --- step 4: looking it up -----------------------------------------------------------------------


@pytest.mark.parametrize("client_id", ["", 7, True, ["x"], {"x": "y"}], ids=repr)
def test_client_id_has_to_be_a_string_with_something_in_it(api: Api, client_id: Any) -> None:
    for grant in ("client_credentials", "password"):
        body = form(grant, client_id=client_id, client_secret="x")
        refused(api.token(json_body=body), *INVALID_CLIENT)


def test_client_is_found_for_any_consumer_and_any_plugin(site: Site, api: Api) -> None:
    issued(api.client_credentials(site.app(site.consumer())))


@pytest.mark.parametrize("change", [str.upper, str.lower, lambda text: text + " "])
def test_client_id_is_compared_to_the_letter(site: Site, api: Api, change: Any) -> None:
    app = site.app(client_id=unique("MixedCase"))
    params = form("client_credentials") | app.params | {"client_id": change(app.id)}
    refused(api.token(params), *INVALID_CLIENT)


# --- step 5: the client's redirect URIs -----------------------------------------------------------


@pytest.mark.parametrize("grant", [*GRANTS, "foo"])
def test_client_without_redirect_uris_has_client_credentials_only(
    site: Site, api: Api, grant: str
) -> None:
    app = site.shared_app(redirect_uris=None)
    refused(api.token(form(grant) | app.params), *INVALID_CLIENT)
    answer = api.token(form(grant), headers=[app.basic()])
    refused(answer, *INVALID_CLIENT, status=401, challenge=BASIC_CHALLENGE)


def test_client_without_redirect_uris_gets_client_credentials(site: Site, api: Api) -> None:
    issued(api.client_credentials(site.shared_app(redirect_uris=None), redirect_uri="no-uri"))


@pytest.mark.parametrize("grant", GRANTS)
def test_unknown_client_is_refused(api: Api, grant: str) -> None:
    client_id = unique("no")
    refused(api.token(form(grant, client_id=client_id, client_secret="x")), *INVALID_CLIENT)
    answer = api.token(form(grant), headers=[basic(client_id, "x")])
    refused(answer, *INVALID_CLIENT, status=401, challenge=BASIC_CHALLENGE)


@pytest.mark.parametrize("grant", GRANTS)
def test_no_client_at_all_is_refused(api: Api, grant: str) -> None:
    refused(api.token(form(grant)), *INVALID_CLIENT)


@pytest.mark.parametrize("grant", GRANTS)
@pytest.mark.parametrize(
    "uri",
    ["http://google.test/kon", "http://google.test/kong/", "HTTP://google.test/kong", ""],
)
def test_s32_redirect_uri_has_to_be_one_of_the_clients(
    api: Api, app: App, grant: str, uri: str
) -> None:
    refused(api.token(form(grant, redirect_uri=uri) | app.params), *INVALID_REDIRECT)
    answer = api.token(form(grant, redirect_uri=uri), headers=[app.basic()])
    refused(answer, *INVALID_REDIRECT)


@pytest.mark.parametrize("grant", GRANTS)
def test_client_with_an_empty_list_of_redirect_uris_has_none_that_fits(
    site: Site, api: Api, grant: str
) -> None:
    app = site.shared_app(redirect_uris=[])
    refused(api.token(form(grant) | app.params), *INVALID_REDIRECT)


@pytest.mark.parametrize("uri", [None, OTHER_URI], ids=["first by default", "second"])
def test_any_of_the_clients_redirect_uris_is_good(api: Api, app: App, uri: str | None) -> None:
    params = {} if uri is None else {"redirect_uri": uri}
    pair = issued(api.password(app, **params))
    issued(api.refresh(app, pair["refresh_token"], **params))


def test_client_credentials_do_not_look_at_the_redirect_uri(api: Api, app: App) -> None:
    issued(api.client_credentials(app, redirect_uri="http://a.test/"))


# --- step 6: the secret --------------------------------------------------------------------------


@pytest.mark.parametrize("grant", [*GRANTS, "client_credentials"])
@pytest.mark.parametrize("hashed", [False, True], ids=["plain", "hashed"])
def test_wrong_secret_is_refused(site: Site, api: Api, grant: str, hashed: bool) -> None:
    app = site.app(client_secret="the-secret", hash_secret=hashed)
    wrong = form(grant, client_id=app.id, client_secret="the-secret ")
    refused(api.token(wrong), *INVALID_CLIENT)
    answer = api.token(form(grant), headers=[basic(app.id, "the-Secret")])
    refused(answer, *INVALID_CLIENT, status=401, challenge=BASIC_CHALLENGE)


@pytest.mark.parametrize("secret", ["", " ", 7, True, ["a"]], ids=repr)
def test_secret_of_a_confidential_client_has_to_be_its_string(
    api: Api, app: App, secret: Any
) -> None:
    body = form("client_credentials", client_id=app.id, client_secret=secret)
    refused(api.token(json_body=body), *INVALID_CLIENT)


def test_challenge_for_the_client_names_no_realm_of_the_config(site: Site, app: App) -> None:
    """`realm` is for tokens; this one is fixed."""
    api = site.api(realm="test-realm")
    answer = api.token(form("client_credentials"), headers=[basic(app.id, "x")])
    refused(answer, *INVALID_CLIENT, status=401, challenge=BASIC_CHALLENGE)


@pytest.mark.parametrize("grant", [*GRANTS, "client_credentials"])
def test_public_client_must_not_send_a_secret(api: Api, public: App, grant: str) -> None:
    answer = api.token(form(grant, client_id=public.id, client_secret=public.secret))
    refused(answer, *PUBLIC_SECRET)
    refused(api.token(form(grant), headers=[public.basic("x")]), *PUBLIC_SECRET)


@pytest.mark.parametrize("blank", ["", " ", "    "], ids=repr)
def test_blank_secret_of_a_public_client_is_none(api: Api, public: App, blank: str) -> None:
    issued(api.token(form("password"), headers=[public.basic(blank)]))
    issued(api.token(form("password", client_id=public.id, client_secret=blank)))


# --- step 7: the answer --------------------------------------------------------------------------


def test_answer_to_client_credentials_has_three_members(api: Api, app: App) -> None:
    body = issued(api.client_credentials(app, scope="email"))
    assert body.keys() == {"access_token", "token_type", "expires_in"}
    assert body["expires_in"] == 7200


def test_answer_with_a_refresh_token_has_four_members(api: Api, app: App) -> None:
    body = issued(api.password(app, scope="email"))
    assert body.keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert body["expires_in"] == 7200
    assert len(body["refresh_token"]) == 32 and body["refresh_token"].isalnum()


def test_expires_in_is_the_configured_time(site: Site, app: App) -> None:
    assert issued(site.api(token_expiration=77).client_credentials(app))["expires_in"] == 77


def test_tokens_that_never_expire_come_alone(site: Site, app: App) -> None:
    api = site.api(token_expiration=0)
    for answer in (api.client_credentials(app), api.password(app)):
        assert issued(answer).keys() == {"access_token", "token_type"}


@pytest.mark.parametrize(
    "state", ["a state", "", 7, 1.5, True, False, ["a", "b"], {"a": {"b": "c"}}], ids=repr
)
def test_state_is_echoed_whatever_it_is(api: Api, app: App, state: Any) -> None:
    body = {"grant_type": "client_credentials", "state": state} | app.params
    echoed = issued(api.token(json_body=body))["state"]
    assert echoed == state and type(echoed) is type(state)
    refused(api.token(json_body={"state": state}), *INVALID_CLIENT, state=state)


def test_state_that_is_null_is_not_echoed(api: Api, app: App) -> None:
    body = {"grant_type": "client_credentials", "state": None} | app.params
    assert "state" not in issued(api.token(json_body=body))


@pytest.mark.parametrize("case", ["issued", "refused", "challenged", "authorize", "not HTTPS"])
def test_s30_answers_forbid_caching_and_sniffing(api: Api, app: App, case: str) -> None:
    cc = {"grant_type": "client_credentials"}
    answer = {
        "issued": lambda: api.client_credentials(app),
        "refused": lambda: api.token(cc),
        "challenged": lambda: api.token(cc, headers=[app.basic("x")]),
        "authorize": lambda: api.authorize({}),
        "not HTTPS": lambda: api.token(cc, tls=False),
    }[case]()
    assert answer["Content-Type"] == "application/json; charset=utf-8"
    assert answer["Cache-Control"] == "no-store"
    assert answer["Pragma"] == "no-cache"
    assert answer["X-Content-Type-Options"] == "nosniff"
