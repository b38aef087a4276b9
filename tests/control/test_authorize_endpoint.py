"""The authorize endpoint: its checks in their order, and what it answers.  spec/oauth2.md §5.1."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlmodel import select

from control.store.tables import AuthorizationCode, OAuth2Credential
from tests.control.issuing import (
    CONTEXT,
    JSON,
    ON_SERVICE,
    PLAIN,
    PROVISION_KEY,
    SERVICE_ID,
    Answer,
    Issuing,
    refused,
)

PATH = "/r/oauth2/authorize"
URI = "https://app.example/cb"
BAD_REDIRECT = (
    "Invalid redirect_uri that does not match with any redirect_uri created with the application"
)
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"  # RFC 7636 appendix B
ASKED = {
    "provision_key": PROVISION_KEY,
    "authenticated_userid": "u7",
    "response_type": "code",
    "client_id": "app",
}


@pytest.fixture(autouse=True)
def enabled(issuer: Issuing) -> None:
    issuer.configure(enable_authorization_code=True, enable_implicit_grant=True)


def ask(issuer: Issuing, **params: Any) -> Answer:
    """An authorize request; a parameter of None is left out."""
    sent = {name: value for name, value in (ASKED | params).items() if value is not None}
    return issuer.post(sent, path=PATH)


def redirected(answer: Answer, status: int = 200) -> str:
    """The URI that is the whole of an answer, which nobody may keep (S30)."""
    assert answer.status == status, answer.body
    assert answer.json.keys() == {"redirect_uri"}
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "location" not in answer.headers
    return str(answer.json["redirect_uri"])


def sent_back(answer: Answer, code: str, description: str) -> None:
    """Asserts that an answer sends the user back with this error."""
    query = parse_qs(urlsplit(redirected(answer, 400)).query)
    assert query == {"error": [code], "error_description": [description]}


def plain(code: str, description: str) -> dict[str, str]:
    return {"error": code, "error_description": description}


def stored_codes(issuer: Issuing) -> list[AuthorizationCode]:
    with issuer.store.reading() as session:
        return list(session.exec(select(AuthorizationCode)))


# --- success -------------------------------------------------------------------------------------


def test_code_is_sent_to_the_first_registered_uri_and_stored_as_a_digest(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    before = time.time()
    uri = redirected(ask(issuer, scope=" email  profile "))
    found = re.fullmatch(r"https://app\.example/cb\?code=([A-Za-z0-9]{32})", uri)
    assert found, uri
    (row,) = stored_codes(issuer)
    assert row.code_digest == hashlib.sha256(found[1].encode()).digest()
    assert (row.credential_id, row.plugin_id) == (app.id, CONTEXT.plugin_id)
    assert (row.service_id, row.authenticated_userid, row.scope) == (None, "u7", "email profile")
    assert (row.challenge, row.challenge_method, row.redirect_uri) == (None, None, None)
    assert row.used_at is None
    assert row.expires_at == pytest.approx(row.created_at + 300)
    assert before <= row.created_at <= time.time()


def test_code_is_bound_to_the_service_without_global_credentials(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(global_credentials=False)
    assert issuer.post(ASKED, path=PATH, context=ON_SERVICE).status == 200
    assert stored_codes(issuer)[0].service_id == SERVICE_ID


def test_implicit_token_stands_in_the_fragment_without_refresh_token(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(token_expiration=5)
    uri = redirected(ask(issuer, response_type="token", state="wot", scope="email"))
    found = re.fullmatch(
        r"https://app\.example/cb#access_token=(\w{32})&expires_in=5&state=wot&token_type=bearer",
        uri,
    )
    assert found, uri
    (row,) = issuer.tokens()
    assert row.access_token_digest == hashlib.sha256(found[1].encode()).digest()
    assert (row.refresh_token_digest, row.scope, row.authenticated_userid) == (None, "email", "u7")
    assert (row.plugin_id, row.credential_id) == (CONTEXT.plugin_id, app.id)


def test_implicit_token_that_never_expires_says_no_expires_in(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(token_expiration=0)
    uri = redirected(ask(issuer, response_type="token"))
    assert re.fullmatch(r".*/cb#access_token=\w{32}&token_type=bearer", uri)


def test_implicit_token_of_a_route_without_service_is_an_error_of_ours(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(global_credentials=False)
    answer = ask(issuer, response_type="token")
    assert (answer.status, answer.json) == (500, {"message": "An unexpected error occurred"})
    assert issuer.tokens() == []


@pytest.mark.parametrize(
    ("registered", "pattern"),
    [
        ("http://g.test/kong?foo=bar&code=123", r"http://g\.test/kong\?code=\w{32}&foo=bar"),
        ("http://g.test/?b=2&a=x%20y%2Fz", r"http://g\.test/\?a=x%20y%2fz&b=2&code=\w{32}"),
        ("http://g.test/?flag&e=", r"http://g\.test/\?code=\w{32}&e&flag"),
        ("http://g.test/?zoo=1&zoo=2", r"http://g\.test/\?code=\w{32}&zoo=1&zoo=2"),
        ("app:/cb", r"app:/cb\?code=\w{32}"),
    ],
)
def test_code_is_merged_into_the_query_of_the_registered_uri(
    issuer: Issuing, registered: str, pattern: str
) -> None:
    issuer.client(redirect_uris=[registered])
    assert re.fullmatch(pattern, redirected(ask(issuer)))


def test_implicit_leaves_the_query_of_the_registered_uri_alone(issuer: Issuing) -> None:
    issuer.client(redirect_uris=["http://g.test/kong?foo=bar&code=123"])
    uri = redirected(ask(issuer, response_type="token"))
    assert uri.startswith("http://g.test/kong?foo=bar&code=123#access_token=")


def test_uri_that_was_asked_for_is_the_target_and_is_kept_with_the_code(issuer: Issuing) -> None:
    issuer.client(redirect_uris=[URI, "https://b.example/"])
    uri = redirected(ask(issuer, redirect_uri="https://b.example/"))
    assert uri.startswith("https://b.example/?code=")
    assert stored_codes(issuer)[0].redirect_uri == "https://b.example/"


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("a b", "&state=a%20b"),
        ("é,\"/~-._'", "&state=%c3%a9%2c%22%2f~-._%27"),
        ("", "&state"),
        (7, "&state=7"),
        (True, "&state"),
        (["a", "b"], "&state=a&state=b"),
        ({"a": 1}, "&state=%7b%22a%22%3a1%7d"),
        (None, ""),
    ],
)
def test_state_comes_back_whatever_it_is(
    issuer: Issuing, app: OAuth2Credential, state: Any, shown: str
) -> None:
    body = json.dumps(ASKED | {"state": state}).encode()
    uri = redirected(issuer.post(headers=JSON, body=body, path=PATH))
    assert re.sub(r"code=\w{32}", "", uri) == f"{URI}?{shown}"


# --- the checks ----------------------------------------------------------------------------------


def test_plain_http_stops_before_everything_else(issuer: Issuing, app: OAuth2Credential) -> None:
    body = plain("access_denied", "You must use HTTPS")
    refused(issuer.post(ASKED, path=PATH, context=PLAIN), body)
    sent = ASKED | {"provision_key": "no", "state": "s"}
    refused(issuer.post(sent, path=PATH, context=PLAIN), body | {"state": "s"})


@pytest.mark.parametrize("key", [None, "", "no", PROVISION_KEY + "x"])
def test_provision_key_stops_before_the_user(
    issuer: Issuing, app: OAuth2Credential, key: str | None
) -> None:
    answer = ask(issuer, provision_key=key, authenticated_userid=None, scope="wot", state="s")
    refused(answer, plain("invalid_provision_key", "Invalid provision_key") | {"state": "s"})


@pytest.mark.parametrize("user", [None, "", "  \t", True, 7, ["u"]])
def test_user_stops_before_the_rest(issuer: Issuing, app: OAuth2Credential, user: Any) -> None:
    sent = ASKED | {"response_type": "no", "scope": "wot", "authenticated_userid": user}
    answer = issuer.post(headers=JSON, body=json.dumps(sent).encode(), path=PATH)
    text = "Missing authenticated_userid parameter"
    refused(answer, plain("invalid_authenticated_userid", text))


@pytest.mark.parametrize(
    ("asked", "config"),
    [
        (None, {}),
        ("", {}),
        ("code token", {}),
        (["code", "token"], {}),
        ("code", {"enable_authorization_code": False}),
        ("token", {"enable_implicit_grant": False}),
    ],
)
def test_response_type_that_does_not_work(
    issuer: Issuing, app: OAuth2Credential, asked: Any, config: Mapping[str, Any]
) -> None:
    issuer.configure(**config)
    sent_back(
        ask(issuer, response_type=asked), "unsupported_response_type", "Invalid response_type"
    )


def test_examples_of_the_contract_to_the_letter(issuer: Issuing) -> None:
    issuer.client(redirect_uris=["http://google.test/kong"])
    issuer.configure(mandatory_scope=True)
    base = "http://google.test/kong?error="
    assert redirected(ask(issuer), 400) == (
        base + "invalid_scope&error_description=You%20must%20specify%20a%20scope"
    )
    assert redirected(ask(issuer, scope="wot"), 400) == (
        base + "invalid_scope&error_description=%22wot%22%20is%20an%20invalid%20scope"
    )
    answer = ask(issuer, scope="email", response_type="no", state="somestate")
    assert redirected(answer, 400) == (
        base + "unsupported_response_type&error_description=Invalid%20response_type&state=somestate"
    )
    answer = ask(
        issuer, scope="email", code_challenge="x", code_challenge_method="plain", state="hello"
    )
    assert redirected(answer, 400) == (
        base + "invalid_request&error_description=code_challenge_method%20is%20not%20supported"
        "%2c%20must%20be%20S256&state=hello"
    )


@pytest.mark.parametrize("client_id", [None, "", "nobody", "a\0", ["app", "app"]])
def test_unknown_client_gets_the_plain_form(
    issuer: Issuing, app: OAuth2Credential, client_id: Any
) -> None:
    answer = ask(issuer, client_id=client_id, redirect_uri=URI)
    refused(answer, plain("invalid_client", "Invalid client authentication"))


def test_client_without_uris_fails_check_6_and_check_8_may_replace_it(issuer: Issuing) -> None:
    issuer.client(redirect_uris=None)
    refused(ask(issuer), plain("invalid_client", "Invalid client authentication"))
    issuer.configure(pkce="strict")
    text = "code_challenge is required for confidential clients"
    refused(ask(issuer), plain("invalid_request", text))


def test_client_with_no_uri_in_its_list_fails_check_7_in_the_plain_form(issuer: Issuing) -> None:
    issuer.client(redirect_uris=[])
    refused(ask(issuer), plain("invalid_request", BAD_REDIRECT))
    refused(ask(issuer, redirect_uri=URI), plain("invalid_request", BAD_REDIRECT))


@pytest.mark.parametrize(
    "asked",
    [
        URI + "/",
        URI + "?",
        URI + "#",
        "https://app.example:443/cb",
        "https://APP.example/cb",
        "https://app.example/%63b",
        "https://user@app.example/cb",
        "https://app.example@evil.example/cb",
        "https://app.example.evil.example/cb",
        "https://evil.example/cb",
        "http://app.example/cb",
        "https://app.example/cb/../cb",
        "",
    ],
)
@pytest.mark.parametrize("profile", ["kong", "strict"])
def test_s32_redirect_uri_that_is_not_one_of_the_clients_byte_for_byte(
    issuer: Issuing, app: OAuth2Credential, asked: str, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    answer = ask(issuer, redirect_uri=asked)
    sent_back(answer, "invalid_request", BAD_REDIRECT)
    assert redirected(answer, 400).startswith(URI + "?")
    assert stored_codes(issuer) == []


def test_later_check_that_fails_replaces_the_earlier(issuer: Issuing) -> None:
    issuer.client(redirect_uris=[URI])
    issuer.configure(pkce="strict")
    wrong = {"response_type": "no", "scope": "wot", "redirect_uri": "https://no.example/"}
    ok = {"code_challenge": CHALLENGE}
    sent_back(ask(issuer, response_type="no", **ok), "unsupported_response_type",
              "Invalid response_type")  # fmt: skip
    sent_back(ask(issuer, response_type="no", scope="wot", **ok), "invalid_scope",
              '"wot" is an invalid scope')  # fmt: skip
    answer = ask(issuer, **wrong, **ok, client_id="nobody")
    refused(answer, plain("invalid_client", "Invalid client authentication"))
    sent_back(ask(issuer, **wrong, **ok), "invalid_request", BAD_REDIRECT)
    sent_back(ask(issuer, **wrong), "invalid_request",
              "code_challenge is required for confidential clients")  # fmt: skip


# --- PKCE at authorize: check 8, §5.7 ---


@pytest.mark.parametrize(
    ("kind", "pkce", "needed"),
    [
        ("confidential", "none", False),
        ("confidential", "lax", False),
        ("confidential", "strict", True),
        ("public", "none", False),
        ("public", "lax", True),
        ("public", "strict", True),
    ],
)
def test_challenge_is_required_as_the_mode_says(
    issuer: Issuing, kind: str, pkce: str, needed: bool
) -> None:
    issuer.client(client_type=kind)
    issuer.configure(pkce=pkce)
    answer = ask(issuer)
    if needed:
        text = f"code_challenge is required for {kind} clients"
        sent_back(answer, "invalid_request", text)
        sent_back(ask(issuer, code_challenge=""), "invalid_request", text)
    else:
        assert answer.status == 200


def test_s35_public_client_must_use_pkce_with_strict(issuer: Issuing) -> None:
    issuer.client(client_type="public")
    issuer.configure(oauth_profile="strict", pkce="none")
    text = "code_challenge is required for public clients"
    sent_back(ask(issuer), "invalid_request", text)
    assert ask(issuer, code_challenge=CHALLENGE).status == 200


@pytest.mark.parametrize("profile", ["kong", "strict"])
@pytest.mark.parametrize("pkce", ["none", "lax", "strict"])
@pytest.mark.parametrize("method", ["plain", "PLAIN", "s512", ""])
def test_s35_method_other_than_s256_is_never_accepted(
    issuer: Issuing, app: OAuth2Credential, profile: str, pkce: str, method: str
) -> None:
    issuer.configure(oauth_profile=profile, pkce=pkce)
    answer = ask(issuer, code_challenge="x" * 43, code_challenge_method=method)
    text = "code_challenge_method is not supported, must be S256"
    sent_back(answer, "invalid_request", text)


def test_method_without_a_challenge(issuer: Issuing, app: OAuth2Credential) -> None:
    text = "code_challenge is required when code_method is present"
    for method in ("S256", "plain"):
        sent_back(ask(issuer, code_challenge_method=method), "invalid_request", text)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (CHALLENGE, CHALLENGE),
        (CHALLENGE + "=", CHALLENGE),
        (CHALLENGE.replace("-", "+"), CHALLENGE),
        ("ab+/cd", "ab-_cQ"),  # bits that mean nothing are gone
        ("not base64!", "not base64!"),
        ("a", "a"),
    ],
)
@pytest.mark.parametrize("method", [None, "S256", "s256"])
def test_challenge_is_stored_in_one_form(
    issuer: Issuing, app: OAuth2Credential, sent: str, stored: str, method: str | None
) -> None:
    assert ask(issuer, code_challenge=sent, code_challenge_method=method).status == 200
    (row,) = stored_codes(issuer)
    assert (row.challenge, row.challenge_method) == (stored, "S256")


# --- strict --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registered", "asked", "good"),
    [
        ("http://127.0.0.1/cb", "http://127.0.0.1:50123/cb", True),
        ("http://127.0.0.1:8000/cb", "http://127.0.0.1:50123/cb", True),
        ("http://127.0.0.1:8000/cb", "http://127.0.0.1/cb", True),
        ("http://[::1]/cb?a=b", "http://[::1]:50123/cb?a=b", True),
        ("http://127.0.0.1/cb", "http://127.0.0.1:50123/cb2", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:50123/cb?a=b", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:50123/cb#x", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:x/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:80@evil.example/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.2:50123/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1.evil.example:1/cb", False),
        ("http://127.0.0.1/cb", "http://[::1]:50123/cb", False),
        ("http://127.0.0.1/cb", "https://127.0.0.1:50123/cb", False),
        ("https://127.0.0.1/cb", "https://127.0.0.1:50123/cb", False),
        ("http://localhost/cb", "http://localhost:50123/cb", False),
        ("https://app.example/cb", "https://app.example:50123/cb", False),
    ],
)
def test_s32_only_loopback_addresses_may_vary_and_in_their_port_alone(
    issuer: Issuing, registered: str, asked: str, good: bool
) -> None:
    issuer.client(redirect_uris=[registered])
    assert ask(issuer, redirect_uri=asked).status == 400
    issuer.configure(oauth_profile="strict")
    answer = ask(issuer, redirect_uri=asked)
    if good:
        assert redirected(answer).startswith(asked.split("?")[0] + "?")
    else:
        sent_back_to = redirected(answer, 400)
        assert sent_back_to.startswith(registered.split("?")[0])


@pytest.mark.parametrize(
    "registered", ["https://u:p@app.example/cb", "https://*.example/cb", "https://a\\.example/cb"]
)
def test_s32_registered_uri_that_looks_like_what_it_is_not_is_never_used_by_strict(
    issuer: Issuing, registered: str
) -> None:
    issuer.client(redirect_uris=[registered])
    assert ask(issuer).status == 200
    issuer.configure(oauth_profile="strict")
    refused(ask(issuer), plain("invalid_request", BAD_REDIRECT))
    refused(ask(issuer, redirect_uri=registered), plain("invalid_request", BAD_REDIRECT))


def test_s27_strict_takes_no_parameter_twice(issuer: Issuing, app: OAuth2Credential) -> None:
    assert ask(issuer, state=["a", "b"]).status == 200
    issuer.configure(oauth_profile="strict")
    answer = ask(issuer, state=["a", "b"])
    text = "A parameter is repeated"
    refused(answer, plain("invalid_request", text) | {"state": ["a", "b"]})


def test_s36_code_holds_a_subset_of_the_plugins_scopes(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    for scope in ("email admin", "admin", "emai"):
        assert ask(issuer, scope=scope).status == 400
    assert stored_codes(issuer) == []
    issuer.configure(scopes=None)
    assert ask(issuer, scope="admin").status == 200
    assert stored_codes(issuer)[0].scope is None
