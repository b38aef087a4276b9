"""`oauth_profile: strict` at the token endpoint: the right-hand column of the table of wire
behaviour.  RFC 6749 §2.3, §3.2, §5; RFC 9700.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from control.oauth2.secrets import HashVerifier
from control.store.secrets import hash_client_secret
from control.store.tables import OAuth2Credential
from tests.control.issuing import (
    CREDENTIALS,
    INVALID_CLIENT,
    JSON,
    PROVISION_KEY,
    UNSUPPORTED,
    Answer,
    Issuing,
    basic,
    refused,
)

CHALLENGE = 'Basic realm="OAuth2.0"'


@pytest.fixture(autouse=True)
def strict(issuer: Issuing) -> None:
    issuer.configure(oauth_profile="strict", enable_authorization_code=True)


def invalid_request(description: str) -> dict[str, str]:
    return {"error": "invalid_request", "error_description": description}


IN_QUERY = invalid_request("Parameters must be in the request body")
TWICE = invalid_request("A parameter is repeated")
TWO_WAYS = invalid_request("Use one method of client authentication")


def unauthorized(answer: Answer) -> None:
    """Asserts 401 with the challenge that HTTP asks for."""
    refused(answer, INVALID_CLIENT, 401)
    assert answer.headers["www-authenticate"] == CHALLENGE


# --- clients -------------------------------------------------------------------------------------


def test_good_client_gets_its_token_by_either_way(issuer: Issuing, app: OAuth2Credential) -> None:
    assert issuer.grant().status == 200
    grant = {"grant_type": "client_credentials"}
    assert issuer.post(grant, headers=basic("app", "s3cret")).status == 200
    # An id beside the header says nothing new.
    assert issuer.post(grant | {"client_id": "app"}, headers=basic("app", "s3cret")).status == 200


@pytest.mark.parametrize("grant_type", ["client_credentials", "authorization_code", "wot"])
@pytest.mark.parametrize("more", [{}, {"scope": "wot"}, {"authenticated_userid": "u"}])
def test_s25_unknown_client_and_wrong_secret_are_told_alike_for_one_hash_each(
    issuer: Issuing, monkeypatch: pytest.MonkeyPatch, grant_type: str, more: dict[str, str]
) -> None:
    issuer.client("plain")
    issuer.client("hashed", client_secret=hash_client_secret("s3cret"), hash_secret=True)
    counted: list[str] = []
    verify = HashVerifier.verify

    async def counting(self: HashVerifier, *args: Any, **kwargs: Any) -> bool:
        counted.append("one")
        return await verify(self, *args, **kwargs)

    monkeypatch.setattr(HashVerifier, "verify", counting)
    sent = {"grant_type": grant_type, "code": "unknown", **more}
    answers = []
    for name in ("plain", "hashed", "nobody"):
        before = len(counted)
        in_body = sent | {"client_id": name, "client_secret": "no"}
        answers += [issuer.post(in_body), issuer.post(sent, headers=basic(name, "no"))]
        assert len(counted) - before == 2, name
    for answer in answers:
        unauthorized(answer)
    assert len({(a.body, tuple(a.headers.items())) for a in answers}) == 1


def test_request_without_a_client_is_unauthorized(issuer: Issuing, app: OAuth2Credential) -> None:
    unauthorized(issuer.post({"grant_type": "client_credentials"}))
    unauthorized(issuer.post({"grant_type": "client_credentials", "client_id": "nobody"}))
    headers = [("authorization", "Basic !!!")]
    unauthorized(issuer.post({"grant_type": "client_credentials"}, headers=headers))


def test_s34_public_client_cannot_use_client_credentials(issuer: Issuing) -> None:
    issuer.client(client_type="public")
    sent = {"grant_type": "client_credentials", "client_id": "app"}
    answer = issuer.post(sent)
    text = "Public clients cannot use client_credentials"
    refused(answer, {"error": "unauthorized_client", "error_description": text})
    issuer.configure(oauth_profile="kong")
    assert issuer.post(sent).status == 200


def test_s27_two_ways_of_authentication(issuer: Issuing, app: OAuth2Credential) -> None:
    good = basic("app", "s3cret")
    refused(issuer.post(CREDENTIALS, headers=good), TWO_WAYS)
    without_id = {k: v for k, v in CREDENTIALS.items() if k != "client_id"}
    refused(issuer.post(without_id, headers=good), TWO_WAYS)
    # Whose client is it, the header's or the body's?
    other = {"grant_type": "client_credentials", "client_id": "other"}
    refused(issuer.post(other, headers=good), TWO_WAYS)
    refused(issuer.grant(client_assertion="a.b.c"), TWO_WAYS)
    issuer.configure(oauth_profile="kong")
    assert issuer.post(CREDENTIALS, headers=good).status == 200


def test_bearer_header_beside_credentials_is_no_authentication_of_a_client(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    headers = [("authorization", "Bearer xyz")]
    assert issuer.post(CREDENTIALS, headers=headers).status == 200


# --- the form of a request -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["grant_type", "client_id", "client_secret", "scope", "state", "unknown"]
)
@pytest.mark.parametrize("kind", ["form", "multipart"])
def test_s27_parameter_twice(issuer: Issuing, app: OAuth2Credential, name: str, kind: str) -> None:
    sent = [*CREDENTIALS.items(), (name, "x"), (name, "x")]
    if kind == "form":
        headers = {"content-type": "application/x-www-form-urlencoded"}
        body = "&".join(f"{key}={value}" for key, value in sent)
    else:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
        body = "".join(part.format(*item) for item in sent) + "--b--\r\n"
    answer = issuer.post(headers=headers, body=body.encode())
    state = {"state": ["x", "x"]} if name == "state" else {}
    refused(answer, TWICE | state)


def test_s27_resource_may_be_repeated(issuer: Issuing, app: OAuth2Credential) -> None:
    answer = issuer.grant(resource=["https://a.example/", "https://b.example/"])
    assert answer.json.get("error_description") != TWICE["error_description"]


@pytest.mark.parametrize(
    "query",
    [
        "client_id=app",
        "client_secret=s3cret",
        "client_secret",
        "code=x",
        "refresh_token=x",
        "code_verifier=x",
        "grant_type=client_credentials",
        "scope=email",
        "%63ode=x",
    ],
)
def test_s28_parameter_in_the_query(issuer: Issuing, app: OAuth2Credential, query: str) -> None:
    refused(issuer.post(CREDENTIALS, query=query), IN_QUERY)
    issuer.configure(oauth_profile="kong")
    assert issuer.post(CREDENTIALS, query=query).status == 200


def test_query_of_the_endpoints_own_is_left_alone(issuer: Issuing, app: OAuth2Credential) -> None:
    """RFC 6749 §3.2: the endpoint's URI may have one."""
    assert issuer.post(CREDENTIALS, query="tenant=7").status == 200


def test_json_is_accepted_in_both_profiles(issuer: Issuing, app: OAuth2Credential) -> None:
    assert issuer.post(headers=JSON, body=json.dumps(CREDENTIALS).encode()).status == 200


@pytest.mark.parametrize("grant_type", [None, ""])
def test_request_without_grant_type(
    issuer: Issuing, app: OAuth2Credential, grant_type: str | None
) -> None:
    sent = {k: v for k, v in CREDENTIALS.items() if k != "grant_type"}
    sent |= {} if grant_type is None else {"grant_type": grant_type}
    refused(issuer.post(sent), invalid_request("grant_type is missing"))


@pytest.mark.parametrize("needed", ["code", "refresh_token"])
@pytest.mark.parametrize("value", [None, ""])
def test_request_without_what_its_grant_needs(
    issuer: Issuing, app: OAuth2Credential, needed: str, value: str | None
) -> None:
    """RFC 6749 §5.2: a missing parameter is a bad request, a bad value is a bad grant."""
    grant_type = "authorization_code" if needed == "code" else needed
    sent = CREDENTIALS | {"grant_type": grant_type} | ({} if value is None else {needed: value})
    refused(issuer.post(sent), invalid_request(f"{needed} is missing"))


def test_credentials_in_a_basic_header_are_form_encoded(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    """RFC 6749 §2.3.1; in the kong profile they are taken as they are."""
    grant = {"grant_type": "client_credentials"}
    issuer.client("a b+c", client_secret="100 %:x")
    assert issuer.post(grant, headers=basic("a+b%2Bc", "100+%25%3Ax")).status == 200
    assert issuer.post(grant, headers=basic("a b+c", "100 %:x")).status == 401
    issuer.configure(oauth_profile="kong")
    assert issuer.post(grant, headers=basic("a+b%2Bc", "100+%25%3Ax")).status == 400
    assert issuer.post(grant, headers=basic("a b+c", "100 %:x")).status == 200


def test_unknown_grant_type(issuer: Issuing, app: OAuth2Credential) -> None:
    refused(issuer.grant(grant_type="wot"), UNSUPPORTED)


@pytest.mark.parametrize(
    ("scopes", "asked", "told"),
    [
        (["email"], None, None),
        (["email"], "email", None),
        (["email", "profile"], " profile  email ", None),
        (["email"], "", None),
        (["email"], "  ", None),
        (None, "email", ""),
    ],
)
def test_scope_is_told_where_it_is_not_what_was_asked_for(
    issuer: Issuing,
    app: OAuth2Credential,
    scopes: list[str] | None,
    asked: str | None,
    told: str | None,
) -> None:
    issuer.configure(scopes=scopes)
    answer = issuer.grant(**({} if asked is None else {"scope": asked}))
    assert answer.status == 200
    assert answer.json.get("scope") == told
    issuer.configure(oauth_profile="kong")
    assert "scope" not in issuer.grant(**({} if asked is None else {"scope": asked})).json


def test_provision_key_is_as_in_the_kong_profile(issuer: Issuing, app: OAuth2Credential) -> None:
    assert issuer.grant(authenticated_userid="u", provision_key=PROVISION_KEY).status == 200
    answer = issuer.grant(authenticated_userid="u", provision_key="no")
    refused(answer, {
        "error": "invalid_provision_key", "error_description": "Invalid provision_key"
    })  # fmt: skip
