"""PKCE at the token endpoint.  spec/oauth2.md §5.7."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from tests.gateway.oauth2.answers import INVALID_CODE, issued, refused
from tests.gateway.oauth2.apis import PKCE, Api, App
from tests.gateway.oauth2.kit import Site

REQUIRED = ("invalid_request", "code_verifier is required for PKCE authorization requests")
NO_STRING = ("invalid_request", "code_verifier is not a string")
LENGTH = ("invalid_request", "code_verifier must be between 43 and 128 characters")
WRONG = ("invalid_grant", "Invalid code")
MODES = ("none", "lax", "strict")


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode()


@pytest.mark.parametrize("pkce", MODES)
@pytest.mark.parametrize("kind", ["public", "confidential"])
def test_s35_challenge_is_enforced_in_every_mode(site: Site, pkce: str, kind: str) -> None:
    api, app = site.api(pkce=pkce), site.shared_app(client_type=kind)
    code = api.code(app, code_challenge=PKCE.challenge)
    refused(api.redeem(app, code), *REQUIRED)
    refused(api.redeem(app, code, code_verifier="x" * 43), *WRONG)
    issued(api.redeem(app, code, code_verifier=PKCE.verifier))


@pytest.mark.parametrize(
    ("verifier", "error"),
    [
        ("", LENGTH),
        ("a", LENGTH),
        ("a" * 42, LENGTH),
        ("a" * 129, LENGTH),
        ("a" * 43, WRONG),
        ("a" * 128, WRONG),
        (PKCE.verifier + "x", WRONG),
        (PKCE.verifier.upper(), WRONG),
        (PKCE.challenge, WRONG),
    ],
    ids=lambda value: f"{len(value)}" if isinstance(value, str) else value[0],
)
def test_s23_wrong_verifier_is_refused_and_the_code_is_still_good(
    api: Api, app: App, verifier: str, error: tuple[str, str]
) -> None:
    code = api.code(app, code_challenge=PKCE.challenge)
    refused(api.redeem(app, code, code_verifier=verifier, state="s"), *error, state="s")
    issued(api.redeem(app, code, code_verifier=PKCE.verifier))


@pytest.mark.parametrize("verifier", [12345, True, ["a" * 43], {"a": "b"}], ids=repr)
def test_verifier_has_to_be_a_string(api: Api, app: App, verifier: Any) -> None:
    code = api.code(app, code_challenge=PKCE.challenge)
    body = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
    refused(api.token(json_body=body | app.params), *NO_STRING)


def test_repeated_verifier_is_no_string(api: Api, app: App) -> None:
    code = api.code(app, code_challenge=PKCE.challenge)
    refused(api.redeem(app, code, code_verifier=[PKCE.verifier, PKCE.verifier]), *NO_STRING)


@pytest.mark.parametrize("length", [43, 128])
def test_verifier_may_have_43_to_128_characters(api: Api, app: App, length: int) -> None:
    verifier = ("abcXYZ019-._~" * 10)[:length]
    code = api.code(app, code_challenge=challenge_of(verifier).rstrip("="))
    issued(api.redeem(app, code, code_verifier=verifier))


@pytest.mark.parametrize("form", ["unpadded", "padded", "plain alphabet", "plain and padded"])
def test_challenge_may_be_padded_and_of_either_alphabet(api: Api, app: App, form: str) -> None:
    # A verifier whose challenge has both characters in which the alphabets differ.
    verifier = next(
        v for v in (f"{n:043}" for n in range(10000)) if {"-", "_"} <= set(challenge_of(v))
    )
    challenge = challenge_of(verifier)
    if "plain" in form:
        challenge = challenge.replace("-", "+").replace("_", "/")
    if "padded" not in form.replace("unpadded", "") and form != "plain and padded":
        challenge = challenge.rstrip("=")
    code = api.code(app, code_challenge=challenge)
    issued(api.redeem(app, code, code_verifier=verifier))


def test_challenge_that_is_no_base64_is_kept_as_it_is(api: Api, app: App) -> None:
    """And matches no verifier then."""
    code = api.code(app, code_challenge="!!!")
    refused(api.redeem(app, code), *REQUIRED)
    refused(api.redeem(app, code, code_verifier=PKCE.verifier), *WRONG)


def test_s35_challenge_is_no_verifier_by_itself(api: Api, app: App) -> None:
    """Which is what the method `plain` would be."""
    code = api.code(app, code_challenge=PKCE.verifier)
    refused(api.redeem(app, code, code_verifier=PKCE.verifier), *WRONG)


@pytest.mark.parametrize(
    ("pkce", "kind", "at_authorize"),
    [("lax", "public", "none"), ("strict", "confidential", "lax"), ("strict", "public", "none")],
)
def test_code_without_a_challenge_is_refused_where_one_is_needed(
    site: Site, pkce: str, kind: str, at_authorize: str
) -> None:
    """The code comes of a plugin of the same service that asks for less."""
    easy, app = site.api(pkce=at_authorize), site.shared_app(client_type=kind)
    api = site.routed(easy, pkce=pkce)
    code = easy.code(app)
    refused(api.redeem(app, code), *REQUIRED)
    refused(api.redeem(app, code, code_verifier=PKCE.verifier), *WRONG)
    issued(easy.redeem(app, code))


@pytest.mark.parametrize(
    ("pkce", "kind"), [("none", "public"), ("none", "confidential"), ("lax", "confidential")]
)
def test_code_without_a_challenge_is_good_where_none_is_needed(
    site: Site, pkce: str, kind: str
) -> None:
    api, app = site.api(pkce=pkce), site.shared_app(client_type=kind)
    issued(api.redeem(app, api.code(app)))
    # A verifier that nothing asks for is not looked at.
    issued(api.redeem(app, api.code(app), code_verifier="x"))


def test_code_is_looked_at_before_the_verifier(site: Site, api: Api, app: App) -> None:
    refused(api.redeem(app, "no-such-code", code_verifier="x"), *INVALID_CODE)
    foreign = api.code(app, code_challenge=PKCE.challenge)
    refused(api.redeem(site.shared_app(), foreign, code_verifier="x"), *INVALID_CODE)


def test_verifier_is_looked_at_before_the_plugin(site: Site, app: App) -> None:
    first = site.api(global_credentials=True)
    other = site.serviceless(global_credentials=True)
    code = first.code(app, code_challenge=PKCE.challenge)
    refused(other.redeem(app, code), *REQUIRED)
    refused(other.redeem(app, code, code_verifier=PKCE.verifier), *INVALID_CODE)
    issued(first.redeem(app, code, code_verifier=PKCE.verifier))


def test_client_is_looked_at_before_the_verifier(api: Api, app: App) -> None:
    code = api.code(app, code_challenge=PKCE.challenge)
    answer = api.redeem(app, code, client_secret="x", code_verifier="x")
    refused(answer, "invalid_client", "Invalid client authentication")
