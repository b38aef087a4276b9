"""oauth_profile strict: what differs from Kong's answers.

decisions.md, "OAuth wire behaviour compared", right-hand column; the statements marked [strict].
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from tests.gateway.oauth2.answers import (
    BASIC_CHALLENGE,
    INVALID_CLIENT,
    INVALID_PROVISION_KEY,
    REDIRECT_URI,
    Answer,
    issued,
    not_cached,
    query_of,
    redirect,
    refused,
    refused_by_redirect,
)
from tests.gateway.oauth2.apis import (
    OTHER_URI,
    PKCE,
    STRICT,
    Api,
    App,
    basic,
    bearer,
    code_request,
    unique,
)
from tests.gateway.oauth2.kit import Site, at_once

GRANT = {"grant_type": "client_credentials"}


def refused_as(answer: Answer, error: str, status: int = 400) -> None:
    """An error whose text the contract leaves open."""
    assert (answer.status, answer.json["error"]) == (status, error), answer.body
    assert answer.json["error_description"]
    not_cached(answer)


# --- what is as in Kong's profile ----------------------------------------------------------------


def test_right_requests_are_answered_as_ever(strict: Api, app: App) -> None:
    issued(strict.client_credentials(app, scope="email"))
    issued(strict.token(GRANT, headers=[app.basic()]))
    pair = issued(strict.redeem(app, strict.code(app)))
    issued(strict.refresh(app, pair["refresh_token"]))
    # The one documented example sends JSON.
    issued(strict.token(json_body=GRANT | app.params))


def test_get_is_405(site: Site, strict: Api) -> None:
    for name in ("token", "authorize"):
        answer = site.ask("GET", f"{strict.path}/oauth2/{name}")
        assert (answer.status, answer.json["error"]) == (405, "invalid_method")


def test_wrong_secret_in_the_header_is_challenged(strict: Api, app: App) -> None:
    answer = strict.token(GRANT, headers=[app.basic("x")])
    refused(answer, *INVALID_CLIENT, status=401, challenge=BASIC_CHALLENGE)


def test_unknown_scope_is_refused(strict: Api, app: App) -> None:
    answer = strict.client_credentials(app, scope="email wot")
    refused(answer, "invalid_scope", '"wot" is an invalid scope')


# --- client authentication -----------------------------------------------------------------------


def test_wrong_secret_in_the_body_is_401(strict: Api, app: App) -> None:
    answer = strict.client_credentials(app, client_secret="x")
    assert (answer.status, answer.json["error"]) == (401, "invalid_client")
    not_cached(answer)


@pytest.mark.parametrize("grant", ["client_credentials", "refresh_token", "authorization_code"])
@pytest.mark.parametrize("hashed", [False, True], ids=["plain", "hashed"])
@pytest.mark.parametrize("where", ["header", "body"])
def test_s25_unknown_client_and_wrong_secret_are_answered_alike(
    site: Site, strict: Api, grant: str, hashed: bool, where: str
) -> None:
    app = site.app(client_secret="the-secret", hash_secret=hashed)
    answers = []
    for client_id in (app.id, unique("no")):
        form = {"grant_type": grant, "code": "x", "refresh_token": "x"}
        if where == "header":
            answers.append(strict.token(form, headers=[basic(client_id, "wrong")]))
        else:
            own = {"client_id": client_id, "client_secret": "wrong"}
            answers.append(strict.token(form | own))
    known, unknown = answers
    assert known.status == unknown.status == 401
    assert known.json == unknown.json
    assert known.json["error"] == "invalid_client"
    assert known["WWW-Authenticate"] == unknown["WWW-Authenticate"]
    assert [name for name, _ in known.fields] == [name for name, _ in unknown.fields]


def test_s27_credentials_in_header_and_body_are_refused(strict: Api, app: App) -> None:
    answer = strict.token(GRANT | app.params, headers=[app.basic()])
    refused_as(answer, "invalid_request")
    answer = strict.token(GRANT | {"client_secret": app.secret}, headers=[app.basic()])
    refused_as(answer, "invalid_request")


@pytest.mark.parametrize(
    "name", ["grant_type", "client_id", "client_secret", "scope", "state", "unheard_of"]
)
@pytest.mark.parametrize("equal", [True, False])
def test_s27_repeated_parameter_is_refused(strict: Api, app: App, name: str, equal: bool) -> None:
    params: dict[str, Any] = GRANT | app.params | {"scope": "email"}
    value = params.get(name, "x")
    params[name] = [value, value if equal else "y"]
    refused_as(strict.token(params), "invalid_request")


@pytest.mark.parametrize(
    "name", ["grant_type", "client_id", "client_secret", "scope", "code", "refresh_token"]
)
def test_s28_parameters_in_the_query_are_refused(strict: Api, app: App, name: str) -> None:
    params = GRANT | app.params | {"scope": "email", "code": "x", "refresh_token": "y"}
    query = urlencode({name: params.pop(name)})
    refused_as(strict.token(params, query=query), "invalid_request")


def test_s28_everything_in_the_query_is_refused(strict: Api, app: App) -> None:
    answer = strict.token(query=urlencode(GRANT | app.params))
    refused_as(answer, "invalid_request")


def test_s34_public_client_has_no_client_credentials(strict: Api, public: App) -> None:
    for answer in (
        strict.client_credentials(public),
        strict.token(GRANT, headers=[public.basic("")]),
    ):
        assert answer.status in (400, 401)
        assert answer.json["error"] in ("unauthorized_client", "invalid_client")
        not_cached(answer)


def test_grant_type_that_is_missing_is_an_invalid_request(strict: Api, app: App) -> None:
    refused_as(strict.token(app.params), "invalid_request")


@pytest.mark.parametrize("grant", ["password", "implicit", "foo"])
def test_grant_type_that_is_not_there_is_unsupported(strict: Api, app: App, grant: str) -> None:
    refused_as(strict.token(app.params | {"grant_type": grant}), "unsupported_grant_type")


# --- codes ---------------------------------------------------------------------------------------


def test_bad_code_is_an_invalid_grant(site: Site, strict: Api, app: App) -> None:
    refused_as(strict.redeem(app, "no-such-code"), "invalid_grant")
    code = strict.code(app)
    refused_as(strict.redeem(site.shared_app(), code), "invalid_grant")
    refused_as(site.api(**STRICT, token_expiration=4444).redeem(app, code), "invalid_grant")


def test_s22_code_used_again_revokes_what_came_of_it(strict: Api, app: App) -> None:
    code, other = strict.code(app), strict.code(app)
    first = issued(strict.redeem(app, code))
    unharmed = issued(strict.redeem(app, other))
    second = issued(strict.refresh(app, first["refresh_token"]))
    assert strict.get(second["access_token"]).status == 200
    refused_as(strict.redeem(app, code), "invalid_grant")
    strict.until(401, second["access_token"], 5)
    assert strict.get(first["access_token"]).status == 401
    refused_as(strict.refresh(app, second["refresh_token"]), "invalid_grant")
    assert strict.get(unharmed["access_token"]).status == 200
    issued(strict.refresh(app, unharmed["refresh_token"]))


def test_s22_code_used_again_by_a_stranger_revokes_nothing(
    site: Site, strict: Api, app: App
) -> None:
    code = strict.code(app)
    pair = issued(strict.redeem(app, code))
    refused_as(strict.redeem(site.shared_app(), code), "invalid_grant")
    assert strict.get(pair["access_token"]).status == 200
    issued(strict.refresh(app, pair["refresh_token"]))


@pytest.mark.parametrize("sent", [None, OTHER_URI, REDIRECT_URI])
@pytest.mark.parametrize("at_authorize", [None, OTHER_URI, REDIRECT_URI])
def test_s23_code_is_bound_to_the_redirect_uri_it_was_asked_for_with(
    strict: Api, app: App, at_authorize: str | None, sent: str | None
) -> None:
    """RFC 6749 §4.1.3: the same again where one was sent.  Left out, the first is meant."""
    asked = {} if at_authorize is None else {"redirect_uri": at_authorize}
    code = strict.code(app, **asked)
    answer = strict.redeem(app, code, **({} if sent is None else {"redirect_uri": sent}))
    same = (at_authorize or REDIRECT_URI) == (sent or REDIRECT_URI)
    if at_authorize is not None and sent is None:
        # Required then, whichever it was.
        refused_as(answer, "invalid_grant")
    elif same:
        issued(answer)
    else:
        refused_as(answer, "invalid_grant")


@pytest.mark.parametrize("pkce", ["none", "lax", "strict"])
def test_s35_public_clients_have_to_use_pkce(site: Site, public: App, pkce: str) -> None:
    api = site.api(**STRICT, pkce=pkce)
    refused_by_redirect(
        api.authorize(code_request(public)),
        "invalid_request",
        "code_challenge is required for public clients",
    )
    code = api.code(public, code_challenge=PKCE.challenge)
    issued(api.redeem(public, code, code_verifier=PKCE.verifier))


def test_s35_wrong_verifier_is_refused(strict: Api, app: App) -> None:
    code = strict.code(app, code_challenge=PKCE.challenge)
    refused_as(strict.redeem(app, code, code_verifier="x" * 43), "invalid_grant")
    answer = strict.redeem(app, code)
    assert answer.status == 400
    assert answer.json["error"] in ("invalid_grant", "invalid_request")


# --- redirect URIs -------------------------------------------------------------------------------

LOOPBACK = ["http://127.0.0.1/cb", "http://[::1]/cb", "http://127.0.0.1:7777/other"]


@pytest.mark.parametrize(
    ("uri", "good"),
    [
        ("http://127.0.0.1/cb", True),
        ("http://127.0.0.1:5000/cb", True),
        ("http://[::1]:61000/cb", True),
        ("http://127.0.0.1:1/other", True),
        ("http://127.0.0.1/other", True),
        ("http://localhost:5000/cb", False),
        ("http://127.0.0.1:5000/cb/", False),
        ("http://127.0.0.1:5000/CB", False),
        ("http://127.0.0.1:5000/cb?x=y", False),
        ("http://127.0.0.1:5000@evil.test/cb", False),
        ("http://127.0.0.1.evil.test:5000/cb", False),
        ("http://127.0.0.2:5000/cb", False),
        ("http://127.0.0.1:5000x/cb", False),
        ("http://127.0.0.1:/cb", False),
        ("http://127.0.0.1:99999/cb", False),
        ("https://127.0.0.1:5000/cb", False),
        ("http://[::2]:5000/cb", False),
    ],
)
def test_s32_only_the_port_of_a_loopback_address_may_vary(
    site: Site, strict: Api, uri: str, good: bool
) -> None:
    app = site.shared_app(redirect_uris=LOOPBACK)
    answer = strict.authorize(code_request(app, redirect_uri=uri))
    if good:
        assert redirect(answer).startswith(f"{uri}?code=")
    else:
        assert query_of(redirect(answer, 400))["error"] == "invalid_request"
        assert redirect(answer, 400).startswith(f"{LOOPBACK[0]}?error=")


@pytest.mark.parametrize("uri", ["http://localhost:81/cb", "http://app.test:81/cb"])
def test_s32_port_of_other_hosts_does_not_vary(site: Site, strict: Api, uri: str) -> None:
    app = site.shared_app(redirect_uris=["http://localhost/cb", "http://app.test/cb"])
    answer = strict.authorize(code_request(app, redirect_uri=uri))
    assert query_of(redirect(answer, 400))["error"] == "invalid_request"


def test_s32_port_of_a_loopback_address_is_fixed_in_kongs_profile(site: Site, api: Api) -> None:
    app = site.shared_app(redirect_uris=LOOPBACK)
    answer = api.authorize(code_request(app, redirect_uri="http://127.0.0.1:5000/cb"))
    assert query_of(redirect(answer, 400))["error"] == "invalid_request"


# --- the authorize endpoint ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["client_id", "response_type", "scope", "redirect_uri"])
def test_s27_repeated_parameter_is_refused_at_authorize(strict: Api, app: App, name: str) -> None:
    params = code_request(app, redirect_uri=REDIRECT_URI)
    params[name] = [params[name], params[name]]
    answer = strict.authorize(params)
    assert answer.status == 400
    body = answer.json
    error = body.get("error") or query_of(body["redirect_uri"])["error"]
    assert error == "invalid_request"


def test_implicit_grant_is_not_there(strict: Api, app: App) -> None:
    answer = strict.authorize(code_request(app, response_type="token"))
    assert query_of(redirect(answer, 400))["error"] == "unsupported_response_type"


def test_provision_key_is_needed(strict: Api, app: App) -> None:
    refused(strict.authorize(code_request(app, provision_key="x")), *INVALID_PROVISION_KEY)


# --- refresh tokens ------------------------------------------------------------------------------


def family(api: Api, app: App, rotations: int = 2) -> list[dict[str, Any]]:
    """A pair and those it was rotated to, oldest first."""
    pairs = [api.pair(app)]
    for _ in range(rotations):
        pairs.append(issued(api.refresh(app, pairs[-1]["refresh_token"])))
    return pairs


def test_bad_refresh_token_is_an_invalid_grant(site: Site, strict: Api, app: App) -> None:
    refused_as(strict.refresh(app, "no-such-token"), "invalid_grant")
    elsewhere = site.api(**STRICT, token_expiration=4444)
    refused_as(elsewhere.refresh(app, strict.pair(app)["refresh_token"]), "invalid_grant")


@pytest.mark.parametrize("replayed", [0, 1])
def test_s21_rotated_refresh_token_used_again_revokes_its_family(
    strict: Api, app: App, replayed: int
) -> None:
    pairs, unharmed = family(strict, app), strict.pair(app)
    assert strict.get(pairs[-1]["access_token"]).status == 200
    refused_as(strict.refresh(app, pairs[replayed]["refresh_token"]), "invalid_grant")
    strict.until(401, pairs[-1]["access_token"], 5)
    for pair in pairs:
        assert strict.get(pair["access_token"]).status == 401
        refused_as(strict.refresh(app, pair["refresh_token"]), "invalid_grant")
    assert strict.get(unharmed["access_token"]).status == 200
    issued(strict.refresh(app, unharmed["refresh_token"]))


def test_s21_stranger_cannot_revoke_a_family(site: Site, strict: Api, app: App) -> None:
    pairs = family(strict, app)
    other = site.shared_app()
    answer = strict.refresh(other, pairs[0]["refresh_token"])
    assert answer.status in (400, 401)
    assert strict.get(pairs[-1]["access_token"]).status == 200
    issued(strict.refresh(app, pairs[-1]["refresh_token"]))


def test_rotation_is_kept_up_even_where_reuse_is_configured_off(strict: Api, app: App) -> None:
    pair = strict.pair(app)
    new = issued(strict.refresh(app, pair["refresh_token"]))
    assert new["refresh_token"] != pair["refresh_token"]


def test_s20_within_its_grace_a_rotated_refresh_token_gives_the_same_again(
    site: Site, app: App
) -> None:
    api = site.api(**STRICT, refresh_grace=60)
    pair = api.pair(app)
    form = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]} | app.params
    answers = list(at_once(site, api, [form] * 10))
    bodies = [issued(answer) for answer in answers]
    assert len({(b["access_token"], b["refresh_token"]) for b in bodies}) == 1
    assert api.get(bodies[0]["access_token"]).status == 200
    again = issued(api.refresh(app, pair["refresh_token"]))
    assert again["access_token"] == bodies[0]["access_token"]


def test_grace_is_for_the_client_it_belongs_to(site: Site, app: App) -> None:
    api = site.api(**STRICT, refresh_grace=60)
    pair = api.pair(app)
    issued(api.refresh(app, pair["refresh_token"]))
    answer = api.refresh(site.shared_app(), pair["refresh_token"])
    assert answer.status in (400, 401)
    assert "access_token" not in answer.json


def test_s36_refresh_never_widens_the_scope(strict: Api, app: App) -> None:
    pair = strict.pair(app)
    answer = strict.refresh(app, pair["refresh_token"], scope="email profile")
    if answer.status == 200:
        # RFC 6749 §5.1: a scope that is another than was asked for has to be told.
        assert answer.json["scope"] == "email"
        token = answer.json["access_token"]
        assert strict.get(token).seen["X-Authenticated-Scope"] == "email"
    else:
        refused_as(answer, "invalid_scope")


def test_token_of_the_strict_profile_is_taken_like_any_other(strict: Api, app: App) -> None:
    seen = strict.get(headers=[bearer(strict.access(app, scope="email"))]).seen
    assert seen["X-Credential-Identifier"] == app.id
