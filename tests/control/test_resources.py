"""Resource indicators.  RFC 8707."""

from __future__ import annotations

import time
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from control.oauth2 import resources
from control.oauth2.errors import InvalidTarget
from control.store.tables import OAuth2Credential, Plugin
from dataplane import jws
from tests.control.issuing import (
    AUTHORIZE,
    AUTHORIZE_PATH,
    CREDENTIALS,
    JSON,
    PROVISION_KEY,
    SERVICE_ID,
    Issuing,
    refused,
)

ISSUER = "https://auth.example/token-route"
API, SOCKETS = "https://api.example", "wss://sockets.example/v1"
INVALID = {
    "error": "invalid_target",
    "error_description": "The resource is unknown or malformed",
}

both = pytest.mark.parametrize("profile", ["kong", "strict"])


@pytest.fixture(autouse=True)
def enabled(issuer: Issuing) -> None:
    """The token route's instance, and one on a service that protects SOCKETS."""
    issuer.configure(
        enable_authorization_code=True, enable_password_grant=True, issuer=ISSUER, audience=API
    )
    now = int(time.time())
    with issuer.store.writing() as session:
        session.add(
            Plugin(
                id=str(uuid.UUID(int=21)),
                name="oauth2",
                service_id=SERVICE_ID,
                config={},
                policy={"global_credentials": True, "audience": SOCKETS, "issuer": ISSUER},
                protocols=["wss"],
                created_at=now,
                updated_at=now,
            )
        )
        session.note_config()


def audiences(issuer: Issuing) -> list[list[str] | None]:
    return [row.audience for row in issuer.tokens()]


@both
def test_token_is_for_the_resources_that_its_client_names(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile, enable_password_grant=False)
    for asked in (API, ISSUER, SOCKETS, [API, SOCKETS], [API, API]):
        assert issuer.grant(resource=asked).status == 200
    assert audiences(issuer) != []
    assert sorted(audience or [] for audience in audiences(issuer)) == sorted(
        [[API], [ISSUER], [SOCKETS], [API, SOCKETS], [API]]
    )
    (change,) = [c for c in issuer.changes if c.tokens and c.tokens[0].audience == (ISSUER,)]
    assert len(change.tokens) == 1


def test_token_without_the_parameter_is_for_whoever_takes_it(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    assert issuer.grant().status == 200
    assert audiences(issuer) == [None]


def test_jwt_names_the_resources_it_is_for(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(token_format="jwt")
    found = [
        jws.unverified_claims(issuer.grant(**params).json["access_token"])["aud"]
        for params in ({}, {"resource": SOCKETS}, {"resource": [SOCKETS, API]})
    ]
    assert found == [API, SOCKETS, [SOCKETS, API]]


@both
@pytest.mark.parametrize(
    "asked",
    [
        "https://other.example",
        f"{API}/",
        f"{API}#part",
        "relative",
        "",
        "https://a b.example",
        [API, "https://other.example"],
        [API] * 9,
        "https://api.example/" + "x" * 2000,
    ],
    ids=lambda asked: str(asked)[:30],
)
def test_resource_that_is_unknown_or_malformed_is_an_invalid_target(
    issuer: Issuing, app: OAuth2Credential, profile: str, asked: Any
) -> None:
    issuer.configure(oauth_profile=profile, enable_password_grant=False)
    refused(issuer.grant(resource=asked), INVALID)
    assert issuer.tokens() == []


@pytest.mark.parametrize("value", [1, True, {"a": 1}, [], [1]])
def test_resource_of_another_json_type_is_an_invalid_target(value: Any) -> None:
    with pytest.raises(InvalidTarget):
        resources.asked({"resource": value})


def test_other_instances_count_where_credentials_are_global(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    with issuer.store.writing() as session:
        plugin = session.get_one(Plugin, str(uuid.UUID(int=21)))
        plugin.enabled = False
        session.add(plugin)
        session.note_config()
    refused(issuer.grant(resource=SOCKETS), INVALID)
    body = b'{"grant_type":"client_credentials","client_id":"app","client_secret":"s3cret"'
    good = issuer.post(headers=JSON, body=body + f',"resource":["{API}"]}}'.encode())
    assert good.status == 200


@both
def test_code_carries_its_resources_and_gives_no_others(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile, enable_password_grant=False)
    assert issuer.redeem(issuer.code(resource=[API, SOCKETS])).status == 200
    assert audiences(issuer) == [[API, SOCKETS]]
    code = issuer.code(resource=API)
    refused(issuer.redeem(code, resource=SOCKETS), INVALID)
    assert issuer.redeem(code, resource=API).status == 200


def test_backend_hears_of_an_invalid_target_in_the_redirect(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    answer = issuer.post(
        AUTHORIZE | {"resource": "https://other.example", "state": "s"}, path=AUTHORIZE_PATH
    )
    assert answer.status == 400
    query = parse_qs(urlsplit(answer.json["redirect_uri"]).query)
    assert query["error"] == ["invalid_target"] and query["state"] == ["s"]


@both
@pytest.mark.parametrize("reuse", [False, True])
def test_refresh_narrows_and_never_widens(
    issuer: Issuing, app: OAuth2Credential, profile: str, reuse: bool
) -> None:
    issuer.configure(oauth_profile=profile, enable_password_grant=False, reuse_refresh_token=reuse)
    pair = issuer.redeem(issuer.code(resource=[API, SOCKETS])).json
    refused(issuer.refresh(pair["refresh_token"], resource=ISSUER), INVALID)
    pair = issuer.refresh(pair["refresh_token"]).json
    assert audiences(issuer) == [[API, SOCKETS]]
    pair = issuer.refresh(pair["refresh_token"], resource=SOCKETS).json
    assert audiences(issuer) == [[SOCKETS]]
    refused(issuer.refresh(pair["refresh_token"], resource=API), INVALID)
    assert issuer.refresh(pair["refresh_token"]).status == 200
    assert audiences(issuer) == [[SOCKETS]]


def test_password_and_implicit_tokens_are_for_resources_too(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(enable_implicit_grant=True)
    user = {"provision_key": PROVISION_KEY, "authenticated_userid": "alex"}
    password = CREDENTIALS | {"grant_type": "password", **user, "resource": SOCKETS}
    assert issuer.post(password).status == 200
    implicit = AUTHORIZE | {"response_type": "token", "resource": API}
    assert issuer.post(implicit, path=AUTHORIZE_PATH).status == 200
    assert sorted(audience or [] for audience in audiences(issuer)) == [[API], [SOCKETS]]
