"""Clients that prove themselves by a signature: private_key_jwt.  RFC 7523; S41."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest
from sqlmodel import select

from control.store.tables import OAuth2Credential, SeenAssertion
from dataplane import jws
from tests.control.issuing import INVALID_CLIENT, Answer, Issuing, basic, refused

ISSUER = "https://auth.example/token-route"
TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
KEYS = {alg: jws.generate(alg) for alg in jws.ALGORITHMS}

both = pytest.mark.parametrize("profile", ["kong", "strict"])


@pytest.fixture(autouse=True)
def issuing(issuer: Issuing) -> None:
    issuer.configure(issuer=ISSUER)


@pytest.fixture
def signer(issuer: Issuing) -> OAuth2Credential:
    return issuer.client("signer", client_secret=json.dumps(KEYS["ES256"].public_jwk))


def assertion(alg: str = "ES256", typ: str = "JWT", kid: str | None = None, **claims: Any) -> str:
    pair = KEYS[alg]
    key = jws.SigningKey(kid or pair.public_jwk["kid"], alg, pair.private_pem)
    now = int(time.time())
    said = {
        "iss": "signer",
        "sub": "signer",
        "aud": ISSUER,
        "exp": now + 60,
        "iat": now,
        "jti": str(uuid.uuid4()),
        **claims,
    }
    return key.sign({k: v for k, v in said.items() if v is not None}, typ)


def ask(issuer: Issuing, text: object, endpoint: str = "token", **params: Any) -> Answer:
    sent = {
        "grant_type": "client_credentials",
        "token": "unknown",
        "client_assertion_type": TYPE,
        "client_assertion": text,
        **params,
    }
    sent = {k: v for k, v in sent.items() if v is not None}
    if endpoint != "token":
        del sent["grant_type"]
    else:
        del sent["token"]
    return issuer.post(sent, path=f"/token-route/oauth2/{endpoint}")


def is_refused(issuer: Issuing, text: object, **params: Any) -> None:
    refused(ask(issuer, text, **params), INVALID_CLIENT)
    assert issuer.tokens() == []


@both
@pytest.mark.parametrize("endpoint", ["token", "revoke", "introspect"])
def test_client_proves_itself_by_its_key(
    issuer: Issuing, signer: OAuth2Credential, profile: str, endpoint: str
) -> None:
    issuer.configure(oauth_profile=profile)
    assert ask(issuer, assertion(), endpoint).status == 200
    assert ask(issuer, assertion(aud=[ISSUER]), endpoint, client_id="signer").status == 200
    assert ask(issuer, assertion(typ="client-authentication+jwt"), endpoint).status == 200


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
def test_client_may_have_several_keys_of_every_kind(issuer: Issuing, alg: str) -> None:
    keys = {"keys": [pair.public_jwk for pair in KEYS.values()]}
    issuer.client("signer", client_secret=json.dumps(keys))
    assert ask(issuer, assertion(alg)).status == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": f"{ISSUER}/oauth2/token"},
        {"aud": [ISSUER, "https://other.example"]},
        {"aud": None},
        {"exp": 7200},
        {"exp": -1},
        {"exp": None},
        {"jti": None},
        {"iss": "app"},
        {"sub": "app"},
        {"nbf": 7200},
    ],
    ids=lambda claims: "-".join(f"{k}={v}"[:24] for k, v in claims.items()),
)
def test_s41_assertion_that_is_not_for_us_now_is_refused(
    issuer: Issuing, signer: OAuth2Credential, claims: dict[str, Any]
) -> None:
    issuer.client("app")
    now = int(time.time())  # which numbers are counted from
    said = {k: now + v if isinstance(v, int) else v for k, v in claims.items()}
    is_refused(issuer, assertion(**said))


def test_s41_assertion_ends_within_five_minutes(issuer: Issuing, signer: OAuth2Credential) -> None:
    is_refused(issuer, assertion(exp=int(time.time()) + 302))
    assert ask(issuer, assertion(exp=int(time.time()) + 298)).status == 200


@pytest.mark.parametrize("endpoint", ["token", "revoke", "introspect"])
def test_s41_assertion_is_good_once(
    issuer: Issuing, signer: OAuth2Credential, endpoint: str
) -> None:
    text = assertion()
    assert ask(issuer, text, endpoint).status == 200
    refused(ask(issuer, text), INVALID_CLIENT)
    refused(ask(issuer, assertion(jti=jws.unverified_claims(text)["jti"])), INVALID_CLIENT)


def test_s41_of_many_at_once_one_is_the_first(issuer: Issuing, signer: OAuth2Credential) -> None:
    sent = {
        "grant_type": "client_credentials",
        "client_assertion_type": TYPE,
        "client_assertion": assertion(),
    }
    answers = issuer.post_at_once([sent] * 20)
    assert sorted(answer.status for answer in answers) == [200] + [400] * 19


def test_same_jti_of_two_clients_is_two(issuer: Issuing, signer: OAuth2Credential) -> None:
    issuer.client("other", client_secret=json.dumps(KEYS["ES256"].public_jwk))
    assert ask(issuer, assertion(jti="1")).status == 200
    assert ask(issuer, assertion(jti="1", iss="other", sub="other")).status == 200


def test_used_assertions_are_forgotten_some_time_after_their_end(
    issuer: Issuing, signer: OAuth2Credential
) -> None:
    assert ask(issuer, assertion()).status == 200
    with issuer.store.writing() as session:
        for row in session.exec(select(SeenAssertion)):
            row.expires_at = time.time() - 3600
            session.add(row)
    assert ask(issuer, assertion()).status == 200
    with issuer.store.reading() as session:
        assert len(session.exec(select(SeenAssertion)).all()) == 1


def test_assertion_of_another_key_or_type_is_refused(
    issuer: Issuing, signer: OAuth2Credential
) -> None:
    is_refused(issuer, assertion("EdDSA"))
    is_refused(issuer, assertion("EdDSA", kid=KEYS["ES256"].public_jwk["kid"]))
    is_refused(issuer, assertion(typ="at+jwt"))
    is_refused(issuer, "not.a.jwt")
    is_refused(issuer, "")
    is_refused(issuer, [assertion(), assertion()])
    is_refused(issuer, None)
    is_refused(issuer, assertion(), client_assertion_type="urn:other")
    is_refused(issuer, assertion(), client_assertion_type=None)
    is_refused(issuer, assertion(), client_id="other")
    is_refused(issuer, assertion(iss="nobody", sub="nobody"))


def test_instance_without_issuer_takes_no_assertions(
    issuer: Issuing, signer: OAuth2Credential
) -> None:
    issuer.configure(issuer=None)
    is_refused(issuer, assertion())


def test_client_with_a_secret_has_no_key(issuer: Issuing) -> None:
    issuer.client("signer")
    is_refused(issuer, assertion())


@pytest.mark.parametrize("sent", ["the keys", "s3cret", ""])
def test_public_keys_are_nobodys_secret(
    issuer: Issuing, signer: OAuth2Credential, sent: str
) -> None:
    secret = signer.client_secret if sent == "the keys" else sent
    params = {"grant_type": "client_credentials", "client_id": "signer", "client_secret": secret}
    refused(issuer.post(params), INVALID_CLIENT)
    headers = basic("signer", secret)
    refused(issuer.post({"grant_type": "client_credentials"}, headers=headers), INVALID_CLIENT, 401)


@both
def test_two_ways_of_authentication_are_one_too_many(
    issuer: Issuing, signer: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    body = {
        "error": "invalid_request",
        "error_description": "Use one method of client authentication",
    }
    refused(ask(issuer, assertion(), client_secret="x", client_id="signer"), body)
    params = {
        "grant_type": "client_credentials",
        "client_assertion_type": TYPE,
        "client_assertion": assertion(),
    }
    refused(issuer.post(params, headers=basic("signer", "x")), body)


def test_strict_answers_401_to_an_assertion_that_proves_nothing(
    issuer: Issuing, signer: OAuth2Credential
) -> None:
    issuer.configure(oauth_profile="strict")
    refused(ask(issuer, assertion("EdDSA")), INVALID_CLIENT, 401)
    query = f"client_assertion={assertion()}"
    answer = issuer.post({"grant_type": "client_credentials"}, query=query)
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
