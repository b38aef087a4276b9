"""Grant types, clients and their secrets.  spec/oauth2.md §5.2, §9."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any

import pytest

from control.oauth2.client_auth import Presented, presented
from control.oauth2.grants import client_credentials
from control.oauth2.secrets import HashVerifier
from control.store.secrets import hash_client_secret
from control.store.tables import OAuth2Credential
from tests.control.issuing import (
    CREDENTIALS,
    INVALID_CLIENT,
    JSON,
    UNSUPPORTED,
    Issuing,
    basic,
    refused,
)

NOT_FOR_PUBLIC = {
    "error": "invalid_request",
    "error_description": "client_secret is disallowed for public clients",
}
BAD_REDIRECT = {
    "error": "invalid_request",
    "error_description": "Invalid redirect_uri that does not match with any redirect_uri "
    "created with the application",
}


# --- §5.2 grant types and clients ---


@pytest.mark.parametrize(
    "grant_type", [None, "", "no", "CLIENT_CREDENTIALS", "password", "implicit"]
)
def test_grant_type_that_does_not_work_is_unsupported(
    issuer: Issuing, app: OAuth2Credential, grant_type: str | None
) -> None:
    sent = {k: v for k, v in (CREDENTIALS | {"grant_type": grant_type}).items() if v is not None}
    refused(issuer.post(sent), UNSUPPORTED)


def test_grant_that_is_not_enabled_is_unsupported(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(enable_client_credentials=False)
    refused(issuer.grant(), UNSUPPORTED)
    refused(issuer.grant(client_secret="no"), INVALID_CLIENT)
    # client_credentials looks at no redirect URI, enabled or not.
    refused(issuer.grant(redirect_uri="https://elsewhere.example/"), UNSUPPORTED)


@pytest.mark.parametrize(
    ("uris", "asked", "body"),
    [
        (None, None, INVALID_CLIENT),
        ([], None, BAD_REDIRECT),
        (["https://a/", "https://b/"], None, UNSUPPORTED),
        (["https://a/", "https://b/"], "https://b/", UNSUPPORTED),
        (["https://a/", "https://b/"], "https://c/", BAD_REDIRECT),
        (["https://a/", "https://b/"], ["https://a/", "https://b/"], BAD_REDIRECT),
    ],
)
def test_other_grants_need_a_registered_redirect_uri(
    issuer: Issuing, uris: list[str] | None, asked: Any, body: dict[str, str]
) -> None:
    issuer.client(redirect_uris=uris)
    sent = CREDENTIALS | {"grant_type": "password"} | ({"redirect_uri": asked} if asked else {})
    refused(issuer.post(sent), body)
    # Step 6 comes later, and the last error wins.
    refused(issuer.post(sent | {"client_secret": "no"}), INVALID_CLIENT)


def test_other_grants_challenge_an_unknown_client_of_the_header(issuer: Issuing) -> None:
    answer = issuer.post({"grant_type": "password"}, headers=basic("nobody", "x"))
    refused(answer, INVALID_CLIENT, 401)
    assert answer.headers["www-authenticate"] == 'Basic realm="OAuth2.0"'


def test_client_credentials_ignores_redirect_uris(issuer: Issuing) -> None:
    issuer.client(redirect_uris=None)
    assert issuer.grant(redirect_uri="https://elsewhere.example/").status == 200


@pytest.mark.parametrize(
    "header",
    [
        basic("app", "s3cret")["authorization"],
        basic("app", "s3cret")["authorization"].replace("Basic", "basic"),
        basic("app", "s3cret")["authorization"].replace("Basic ", "Basic"),
        "  Basic   " + basic("app", "s3cret")["authorization"][6:].rstrip("=") + " ",
    ],
)
def test_client_may_come_in_a_basic_header(
    issuer: Issuing, app: OAuth2Credential, header: str
) -> None:
    answer = issuer.post({"grant_type": "client_credentials"}, headers={"authorization": header})
    assert answer.status == 200


def test_client_comes_in_the_header_the_plugin_names(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(auth_header_name="X-Auth")
    value = basic("app", "s3cret")["authorization"]
    sent = {"grant_type": "client_credentials"}
    assert issuer.post(sent, headers={"x-auth": value}).status == 200
    refused(issuer.post(sent, headers={"authorization": value}), INVALID_CLIENT)


def test_basic_secret_may_hold_colons_and_utf_8(issuer: Issuing) -> None:
    issuer.client(client_secret="a:b:ü")
    sent = {"grant_type": "client_credentials"}
    assert issuer.post(sent, headers=basic("app", "a:b:ü")).status == 200


def test_first_of_two_headers_counts(issuer: Issuing, app: OAuth2Credential) -> None:
    good, bad = basic("app", "s3cret")["authorization"], basic("app", "no")["authorization"]
    sent = {"grant_type": "client_credentials"}
    both = [("authorization", good), ("authorization", bad)]
    assert issuer.post(sent, headers=both).status == 200
    assert issuer.post(sent, headers=both[::-1]).status == 401


def test_body_credentials_win_over_the_header(issuer: Issuing, app: OAuth2Credential) -> None:
    assert issuer.post(CREDENTIALS, headers=basic("app", "no")).status == 200
    answer = issuer.post(CREDENTIALS | {"client_secret": "no"}, headers=basic("app", "s3cret"))
    refused(answer, INVALID_CLIENT)
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("header", ["Bearer x", "Basic", "Basic !!!", "Basic YQ=b", "Basic A", ""])
def test_header_that_is_not_basic_means_no_client(issuer: Issuing, header: str) -> None:
    issuer.client(client_type="public")
    sent = {"grant_type": "client_credentials", "client_id": "app"}
    assert issuer.post(sent).status == 200
    refused(issuer.post(sent, headers={"authorization": header}), INVALID_CLIENT)


def test_header_of_spaces_is_read_in_no_time() -> None:
    """A pattern that tried each space anew held the GIL for seconds, whoever had sent it."""
    spaces = " " * 20_000
    began = time.thread_time()
    assert presented({}, f"x{spaces}y") == Presented(None, None, from_header=True)
    shown = presented({}, f"x{spaces}Basic{spaces}{base64.b64encode(b'id:secret').decode()}")
    assert (shown.client_id, shown.client_secret) == ("id", "secret")
    assert time.thread_time() - began < 0.5


def test_bearer_header_is_harmless_beside_body_credentials(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    assert issuer.post(CREDENTIALS, headers={"authorization": "Bearer x"}).status == 200


def test_wrong_secret_is_400_in_the_body_and_401_in_the_header(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    answer = issuer.grant(client_secret="no")
    refused(answer, INVALID_CLIENT)
    assert "www-authenticate" not in answer.headers
    answer = issuer.post({"grant_type": "client_credentials"}, headers=basic("app", "no"))
    refused(answer, INVALID_CLIENT, 401)
    assert answer.headers["www-authenticate"] == 'Basic realm="OAuth2.0"'
    assert issuer.tokens() == []


@pytest.mark.parametrize(
    "params",
    [
        {"client_id": "nobody", "client_secret": "s3cret"},
        {"client_id": "", "client_secret": ""},
        {"client_id": "app"},
        {"client_secret": "s3cret"},
        {"client_id": "app", "client_secret": ""},
        {"client_id": "APP", "client_secret": "s3cret"},
        {"client_id": "app", "client_secret": "s3cret "},
        {"client_id": "app\0", "client_secret": "s3cret"},
        {},
    ],
)
def test_client_that_cannot_be_told_is_400(
    issuer: Issuing, app: OAuth2Credential, params: dict[str, str]
) -> None:
    refused(issuer.post({"grant_type": "client_credentials"} | params), INVALID_CLIENT)


@pytest.mark.parametrize("value", [None, True, False, 1, ["app"], {"a": 1}, "\ud800"])
@pytest.mark.parametrize("name", ["client_id", "client_secret"])
def test_client_of_another_json_type_is_400(
    issuer: Issuing, app: OAuth2Credential, name: str, value: Any
) -> None:
    body = json.dumps(CREDENTIALS | {name: value}).encode()
    refused(issuer.post(headers=JSON, body=body), INVALID_CLIENT)


def test_unknown_client_in_the_header_is_400_without_challenge(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    answer = issuer.post({"grant_type": "client_credentials"}, headers=basic("nobody", "x"))
    refused(answer, INVALID_CLIENT)
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("secret", [None, "", "   "])
def test_public_client_needs_no_secret(issuer: Issuing, secret: str | None) -> None:
    issuer.client(client_type="public")
    sent = {"grant_type": "client_credentials", "client_id": "app"}
    assert issuer.post(sent | ({} if secret is None else {"client_secret": secret})).status == 200
    if secret is not None:
        headers = basic("app", secret)
        assert issuer.post({"grant_type": "client_credentials"}, headers=headers).status == 200


@pytest.mark.parametrize("secret", ["s3cret", "no", 1, ["s3cret"], True])
def test_public_client_may_not_send_a_secret(issuer: Issuing, secret: Any) -> None:
    issuer.client(client_type="public")
    body = json.dumps(CREDENTIALS | {"client_secret": secret}).encode()
    refused(issuer.post(headers=JSON, body=body), NOT_FOR_PUBLIC)


def test_public_client_with_a_secret_in_the_header_is_400(issuer: Issuing) -> None:
    issuer.client(client_type="public")
    answer = issuer.post({"grant_type": "client_credentials"}, headers=basic("app", "x"))
    refused(answer, NOT_FOR_PUBLIC)


def test_last_error_wins(issuer: Issuing, app: OAuth2Credential) -> None:
    sent = {"grant_type": "no", "redirect_uri": "https://elsewhere.example/"}
    refused(issuer.post(sent, headers=basic("app", "s3cret")), BAD_REDIRECT)
    refused(issuer.post(sent, headers=basic("app", "no")), INVALID_CLIENT, 401)
    issuer.client("open", client_type="public", redirect_uris=None)
    refused(issuer.post(sent | {"client_id": "open"}), INVALID_CLIENT)
    refused(issuer.post(sent | {"client_id": "open", "client_secret": "x"}), NOT_FOR_PUBLIC)


def test_client_deleted_while_its_token_is_made_gets_none(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is gone by then, though the client was known a moment ago."""
    make = client_credentials.make

    def delete_then_make(*args: Any) -> Any:
        with issuer.store.writing() as session:
            session.delete(session.get_one(OAuth2Credential, app.id))
        return make(*args)

    monkeypatch.setattr(client_credentials, "make", delete_then_make)
    refused(issuer.grant(), INVALID_CLIENT)


# --- §9 hashed secrets ---


def test_hashed_secret_is_verified(issuer: Issuing) -> None:
    phc = hash_client_secret("s3cret")
    issuer.client(client_secret=phc, hash_secret=True)
    assert issuer.grant().status == 200
    refused(issuer.grant(client_secret="no"), INVALID_CLIENT)
    refused(issuer.grant(client_secret=phc), INVALID_CLIENT)
    headers = basic("app", "no")
    answer = issuer.post({"grant_type": "client_credentials"}, headers=headers)
    refused(answer, INVALID_CLIENT, 401)


def test_secret_that_should_be_hashed_but_is_not_never_verifies(issuer: Issuing) -> None:
    issuer.client(hash_secret=True)
    refused(issuer.grant(), INVALID_CLIENT)


def test_good_secret_with_an_old_hash_is_hashed_anew(issuer: Issuing) -> None:
    derived = hashlib.pbkdf2_hmac("sha256", b"s3cret", b"salt", 1000, 32)

    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode().rstrip("=")

    old = f"$pbkdf2-sha256$i=1000,l=32${b64(b'salt')}${b64(derived)}"
    client = issuer.client(client_secret=old, hash_secret=True)

    def stored() -> str:
        with issuer.store.reading() as session:
            return session.get_one(OAuth2Credential, client.id).client_secret

    refused(issuer.grant(client_secret="no"), INVALID_CLIENT)
    assert stored() == old
    assert issuer.grant().status == 200
    renewed = stored()
    assert renewed.startswith("$pbkdf2-sha512$i=10000,l=32$")
    assert issuer.grant().status == 200
    assert stored() == renewed


@pytest.mark.parametrize("gone", [False, True])
def test_secret_that_was_changed_meanwhile_is_not_put_back(
    issuer: Issuing, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """It was right when it was looked at; while it was hashed anew the Admin API wrote another."""
    derived = base64.b64encode(hashlib.pbkdf2_hmac("sha256", b"s3cret", b"salt", 1000, 32))
    old = f"$pbkdf2-sha256$i=1000,l=32$c2FsdA${derived.decode().rstrip('=')}"
    client = issuer.client(client_secret=old, hash_secret=True)
    other = hash_client_secret("another")
    hash_anew = HashVerifier.hash

    async def change_and_hash(self: HashVerifier, secret: str) -> str:
        with issuer.store.writing() as session:
            row = session.get_one(OAuth2Credential, client.id)
            if gone:
                session.delete(row)
            else:
                row.client_secret = other
                session.add(row)
            session.note_config()
        return await hash_anew(self, secret)

    monkeypatch.setattr(HashVerifier, "hash", change_and_hash)
    assert issuer.grant().status == (400 if gone else 200)
    refused(issuer.grant(), INVALID_CLIENT)
    assert issuer.grant(client_secret="another").status == (400 if gone else 200)


def test_s25_each_failure_costs_one_hash_and_reads_the_same(
    issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.client("plain")
    issuer.client("hashed", client_secret=hash_client_secret("s3cret"), hash_secret=True)
    counted: list[str] = []
    verify = HashVerifier.verify

    async def counting(self: HashVerifier, secret: str, phc: str) -> bool:
        counted.append(phc)
        return await verify(self, secret, phc)

    monkeypatch.setattr(HashVerifier, "verify", counting)
    answers = {
        name: issuer.grant(client_id=name, client_secret="no")
        for name in ("plain", "hashed", "nobody")
    }
    assert len(counted) == 3
    assert len({(a.status, a.body) for a in answers.values()}) == 1
    counted.clear()
    assert issuer.grant(client_id="plain").status == 200
    assert counted == []


def test_changed_secret_is_another_secret_at_once(issuer: Issuing) -> None:
    """A secret that was right a moment ago is known without a hash; not past its change."""
    client = issuer.client(client_secret=hash_client_secret("s3cret"), hash_secret=True)
    assert [issuer.grant().status for _ in range(2)] == [200, 200]
    with issuer.store.writing() as session:
        row = session.get_one(OAuth2Credential, client.id)
        row.client_secret = hash_client_secret("other")
        session.add(row)
        session.note_config()
    refused(issuer.grant(), INVALID_CLIENT)
    assert issuer.grant(client_secret="other").status == 200
    with issuer.store.writing() as session:
        row = session.get_one(OAuth2Credential, client.id)
        row.client_secret, row.hash_secret = "plain", False
        session.add(row)
        session.note_config()
    refused(issuer.grant(client_secret="other"), INVALID_CLIENT)
