"""The token endpoint, case by case through spec/oauth2.md §3-§5.3, §5.6 and §9."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from control.app import create_issuer
from control.oauth2 import token_endpoint
from control.oauth2.secrets import HashVerifier, hash_secret
from control.store import queries
from control.store.tables import ClusterState, OAuth2Credential, Plugin
from dataplane import wire
from tests.control.issuing import (
    CONTEXT,
    ON_SERVICE,
    PLAIN,
    PLAIN_TRUSTED,
    PROVISION_KEY,
    SERVICE_ID,
    Answer,
    Issuing,
    basic,
    issuing,
)

INVALID_CLIENT = {
    "error": "invalid_client",
    "error_description": "Invalid client authentication",
}
UNSUPPORTED = {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"}
NOT_FOR_PUBLIC = {
    "error": "invalid_request",
    "error_description": "client_secret is disallowed for public clients",
}
BAD_REDIRECT = {
    "error": "invalid_request",
    "error_description": "Invalid redirect_uri that does not match with any redirect_uri "
    "created with the application",
}
CREDENTIALS = {"grant_type": "client_credentials", "client_id": "app", "client_secret": "s3cret"}
JSON = {"content-type": "application/json"}


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuing]:
    with issuing(tmp_path) as made:
        yield made


@pytest.fixture
def app(issuer: Issuing) -> OAuth2Credential:
    return issuer.client()


def refused(answer: Answer, body: dict[str, Any], status: int = 400) -> None:
    assert (answer.status, answer.json) == (status, body)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"


def scope_error(description: str) -> dict[str, str]:
    return {"error": "invalid_scope", "error_description": description}


# --- the answer and the row ---


def test_token_is_issued_as_the_how_to_shows(issuer: Issuing, app: OAuth2Credential) -> None:
    answer = issuer.post(headers=JSON, body=json.dumps(CREDENTIALS).encode())
    assert answer.status == 200
    token = answer.json["access_token"]
    assert answer.json == {"access_token": token, "token_type": "bearer", "expires_in": 7200}
    assert len(token) == 32 and token.isalnum() and token.isascii()


def test_s30_every_answer_forbids_caching_and_sniffing(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    good, bad = issuer.grant(), issuer.grant(client_secret="no")
    too_large = issuer.post(body=b"x" * 65537)
    fault = issuer.post(CREDENTIALS, context=replace(CONTEXT, plugin_id="gone"))
    assert [a.status for a in (good, bad, too_large, fault)] == [200, 400, 413, 404]
    for answer in (good, bad, too_large, fault):
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["pragma"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_token_row_holds_digests_and_claims_only(issuer: Issuing, app: OAuth2Credential) -> None:
    before = time.time()
    token = issuer.grant(scope=" email   profile ").json["access_token"]
    (row,) = issuer.tokens()
    assert row.access_token_digest == hashlib.sha256(token.encode()).digest()
    assert (row.credential_id, row.service_id, row.refresh_token_digest) == (app.id, None, None)
    assert (row.scope, row.authenticated_userid, row.expires_in) == ("email profile", None, 7200)
    assert before <= row.created_at <= time.time()
    assert row.gone_at == pytest.approx(row.created_at + 1209600)
    assert not row.by_hand


def test_token_is_told_to_followers_once_committed(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.changes.clear()
    seen: list[bool] = []

    def look(change: Any) -> None:
        with issuer.store.reading() as session:
            found = queries.token_by_digest(session, change.tokens[0].digest)
            seen.append(found is not None)

    issuer.store.subscribe(look)
    token = issuer.grant(scope="email").json["access_token"]
    (change,) = issuer.changes
    assert change.version is None
    (told,) = change.tokens
    assert told.digest == wire.token_digest(token)
    assert (told.credential_id, told.service_id, told.scope) == (app.id, None, "email")
    assert told.expires_at == pytest.approx(time.time() + 7200, abs=5)
    assert seen == [True]


def test_token_carries_the_check_characters_of_the_data_plane(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    token = issuer.grant().json["access_token"]
    with issuer.store.reading() as session:
        key = session.exec(select(ClusterState)).one().check_key
    assert token[26:] == wire.token_check(key, token[:26])


@pytest.mark.parametrize(
    ("config", "answered", "stored", "ttl"),
    [
        ({"token_expiration": 0}, None, 0, None),
        ({"token_expiration": 5}, 5, 5, 1209600),
        ({"token_expiration": 0.2}, 1, 1, 1209600),
        ({"refresh_token_ttl": 0}, 7200, 7200, None),
        ({"refresh_token_ttl": 60}, 7200, 7200, 60),
    ],
)
def test_lifetimes_are_those_of_the_plugin(
    issuer: Issuing,
    app: OAuth2Credential,
    config: dict[str, Any],
    answered: int | None,
    stored: int,
    ttl: float | None,
) -> None:
    issuer.configure(**config)
    assert issuer.grant().json.get("expires_in") == answered
    (row,) = issuer.tokens()
    assert row.expires_in == stored
    assert row.gone_at == (None if ttl is None else pytest.approx(row.created_at + ttl))


def test_token_is_bound_to_the_service_without_global_credentials(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(global_credentials=False)
    assert issuer.post(CREDENTIALS, context=ON_SERVICE).status == 200
    assert issuer.tokens()[0].service_id == SERVICE_ID


def test_token_is_global_with_global_credentials_on_a_service(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    assert issuer.post(CREDENTIALS, context=ON_SERVICE).status == 200
    assert issuer.tokens()[0].service_id is None


def test_serviceless_route_without_global_credentials_is_an_error_of_ours(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(global_credentials=False)
    answer = issuer.grant()
    assert (answer.status, answer.json) == (500, {"message": "An unexpected error occurred"})
    assert issuer.tokens() == []
    # What is wrong with the request itself is told as anywhere else.
    refused(issuer.grant(client_secret="no"), INVALID_CLIENT)


# --- §3 dispatch ---


@pytest.mark.parametrize(
    "path",
    [
        "/oauth2/token",
        "/oauth2/token/",
        "/x/y/oauth2/token",
        "//x//oauth2//token//",
        "/x/%6fauth2/tok%65n",
        "/x/./oauth2/y/../token",
    ],
)
def test_endpoint_is_found_by_the_end_of_the_path(
    issuer: Issuing, app: OAuth2Credential, path: str
) -> None:
    assert issuer.post(CREDENTIALS, path=path).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/oauth2/tokens", "/oauth2/token/x", "/oauth2%2ftoken", "/oauth2/token/.."]
)
def test_other_paths_are_not_the_endpoint(
    issuer: Issuing, app: OAuth2Credential, path: str
) -> None:
    answer = issuer.post(CREDENTIALS, path=path)
    assert answer.status == 404
    assert answer.json["message"] == "no Route matched with those values"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize(("endpoint", "name"), [("token", "token"), ("authorize", "authorization")])
def test_only_post_is_a_method_of_the_endpoints(
    issuer: Issuing, method: str, endpoint: str, name: str
) -> None:
    answer = issuer.post(method=method, path=f"/r/oauth2/{endpoint}")
    text = f"The HTTP method {method} is invalid for the {name} endpoint"
    assert (answer.status, answer.json) == (
        405,
        {"error": "invalid_method", "error_description": text},
    )
    expected = f'Bearer error="invalid_method", error_description="{text}"'
    assert answer.headers["www-authenticate"] == expected
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert "cache-control" not in answer.headers and "pragma" not in answer.headers


def test_s57_realm_stands_first_and_cannot_leave_its_header(issuer: Issuing) -> None:
    issuer.configure(realm='a"b\\c\r\nX: y\u20ac')
    header = issuer.post(method="GET").headers["www-authenticate"]
    assert header.startswith('Bearer realm="a\\"b\\\\c??X: y?", error="invalid_method", ')


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("endpoint", ["token", "authorize"])
def test_plugin_that_is_gone_or_disabled_leaves_no_route(
    issuer: Issuing, app: OAuth2Credential, method: str, endpoint: str
) -> None:
    with issuer.store.writing() as session:
        plugin = session.get_one(Plugin, CONTEXT.plugin_id)
        plugin.enabled = False
        session.add(plugin)
    answer = issuer.post(CREDENTIALS, method=method, path=f"/oauth2/{endpoint}")
    body = {"message": "no Route matched with those values", "request_id": "r1"}
    assert (answer.status, answer.json) == (404, body)


# --- §3.1 parameters ---

MULTIPART = (
    "--b\r\n"
    'Content-Disposition: form-data; name="client_id"\r\n\r\napp\r\n'
    "--b\r\n"
    'content-disposition: form-data; name="client_secret"; filename="x"\r\n'
    "Content-Type: text/plain\r\n\r\ns3cret\r\n"
    "--b\r\n"
    'Content-Disposition: form-data; name="grant_type"\r\n\r\nclient_credentials\r\n'
    "--b--\r\n"
)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"client_id=app&client_secret=s3cret"),
        (
            "Application/X-WWW-Form-Urlencoded; charset=utf-8",
            b"client_id=%61pp&client_secret=s3cret",
        ),
        ("application/json", b'{"client_id":"app","client_secret":"s3cret"}'),
        ("APPLICATION/JSON;charset=UTF-8", b'{"client_id":"app","client_secret":"s3cret"}'),
        ("multipart/form-data; boundary=b", MULTIPART.encode()),
        ('Multipart/Form-Data; boundary="b"', MULTIPART.encode()),
    ],
)
def test_body_is_read_by_its_content_type(
    issuer: Issuing, app: OAuth2Credential, content_type: str, body: bytes
) -> None:
    answer = issuer.post(
        query="grant_type=client_credentials&client_id=other",
        headers={"content-type": content_type},
        body=body,
    )
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b"client_secret=no"),
        ("", b"client_secret=no"),
        ("application/json", b'{"client_secret":"no"'),
        ("application/json", b'"client_secret"'),
        ("application/json", b'[{"client_secret":"no"}]'),
        ("application/json", b'{"client_secret":"no","x":NaN}'),
        ("application/json", b'{"client_secret":"no","x":1e999}'),
        ("application/json", b'{"client_secret":"no","x":"\xff"}'),
        ("application/json", b'{"client_secret":"no","x":' + b"[" * 30000 + b"]" * 30000 + b"}"),
        ("multipart/form-data", MULTIPART.replace("s3cret", "no").encode()),
        ("multipart/form-data; boundary=b", MULTIPART.replace("s3cret", "no").encode()[:-6]),
        ("multipart/form-data; boundary=b", b"--c\r\n\r\nno"),
    ],
)
def test_body_that_cannot_be_read_counts_as_none(
    issuer: Issuing, app: OAuth2Credential, content_type: str, body: bytes
) -> None:
    answer = issuer.post(
        query="grant_type=client_credentials&client_id=app&client_secret=s3cret",
        headers={"content-type": content_type},
        body=body,
    )
    assert answer.status == 200, answer.body


def test_body_overrides_the_query(issuer: Issuing, app: OAuth2Credential) -> None:
    assert issuer.post(CREDENTIALS, query="client_secret=no").status == 200
    query = "grant_type=client_credentials&client_id=app&client_secret=s3cret"
    refused(issuer.post({"client_secret": "no"}, query=query), INVALID_CLIENT)


@pytest.mark.parametrize("name", ["client_id", "client_secret", "grant_type", "scope"])
def test_repeated_parameter_is_a_list_and_so_no_string(
    issuer: Issuing, app: OAuth2Credential, name: str
) -> None:
    value = (CREDENTIALS | {"scope": "email"})[name]
    answer = issuer.post(CREDENTIALS | {name: [value, value]})
    bodies = {"scope": scope_error("scope must be a string"), "grant_type": UNSUPPORTED}
    refused(answer, bodies.get(name, INVALID_CLIENT))


def test_valueless_parameter_is_true(issuer: Issuing, app: OAuth2Credential) -> None:
    assert issuer.post(CREDENTIALS, query="state").json["state"] is True
    refused(issuer.post(CREDENTIALS, query="scope"), scope_error("scope must be a string"))


def test_s31_parameters_past_the_hundredth_are_not_parsed(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    filler = {f"x{n}": "1" for n in range(97)}
    assert issuer.post(filler | CREDENTIALS).status == 200
    refused(issuer.post({"x97": "1"} | filler | CREDENTIALS), INVALID_CLIENT)
    # A query has a hundred of its own.
    query = "&".join(f"q{n}=1" for n in range(100))
    assert issuer.post(filler | CREDENTIALS, query=query).status == 200


def test_s31_body_over_64_kib_is_refused(issuer: Issuing, app: OAuth2Credential) -> None:
    fits = b'{"x":"' + b"x" * (65536 - len(b'{"x":""}')) + b'"}'
    query = "grant_type=client_credentials&client_id=app&client_secret=s3cret"
    assert issuer.post(query=query, headers=JSON, body=fits).status == 200
    answer = issuer.post(query=query, headers=JSON, body=fits + b" ")
    assert (answer.status, answer.json["message"]) == (413, "Payload too large")


def test_s31_body_that_says_it_is_too_large_is_not_read(issuer: Issuing) -> None:
    answer = issuer.post(headers={"content-length": "65537"}, body=b"")
    assert answer.status == 413


@pytest.mark.parametrize(
    "state", ["x", "", 0, 7, 1.5, True, [1, "a"], {"a": None}, "\ud800", "a\r\nb\u202e"]
)
@pytest.mark.parametrize("good", [True, False])
def test_state_comes_back_as_it_was_sent(
    issuer: Issuing, app: OAuth2Credential, state: Any, good: bool
) -> None:
    sent = CREDENTIALS | {"state": state} | ({} if good else {"client_secret": "no"})
    answer = issuer.post(headers=JSON, body=json.dumps(sent).encode())
    assert answer.status == (200 if good else 400)
    assert answer.json["state"] == state
    assert type(answer.json["state"]) is type(state)


def test_state_null_is_left_out(issuer: Issuing, app: OAuth2Credential) -> None:
    body = json.dumps(CREDENTIALS | {"state": None}).encode()
    assert "state" not in issuer.post(headers=JSON, body=body, query="state=x").json


# --- §4 HTTPS ---

MISSING = "You must use HTTPS"
ONE_ONLY = "Only one X-Forwarded-Proto header allowed"


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("context", [CONTEXT, replace(CONTEXT, peer_trusted=True)])
@pytest.mark.parametrize("proto", [None, "http", "a,b"])
def test_tls_is_always_good(
    issuer: Issuing, app: OAuth2Credential, accept: bool, context: Any, proto: str | None
) -> None:
    issuer.configure(accept_http_if_already_terminated=accept)
    headers = {"x-forwarded-proto": proto} if proto else {}
    assert issuer.post(CREDENTIALS, headers=headers, context=context).status == 200


@pytest.mark.parametrize(
    ("accept", "context", "protos", "text"),
    [
        (False, PLAIN_TRUSTED, ["https"], MISSING),
        (False, PLAIN_TRUSTED, ["https, https"], MISSING),
        (True, PLAIN, ["https"], MISSING),
        (True, PLAIN, ["https,https"], MISSING),
        (True, PLAIN_TRUSTED, [], MISSING),
        (True, PLAIN_TRUSTED, ["http"], MISSING),
        (True, PLAIN_TRUSTED, [""], MISSING),
        (True, PLAIN_TRUSTED, ["httpss"], MISSING),
        (True, PLAIN_TRUSTED, ["https,http"], ONE_ONLY),
        (True, PLAIN_TRUSTED, ["https", "https"], ONE_ONLY),
        (True, PLAIN_TRUSTED, ["https"], None),
        (True, PLAIN_TRUSTED, ["HttpS"], None),
    ],
)
def test_s29_plain_http_is_refused_unless_a_trusted_peer_says_https(
    issuer: Issuing,
    app: OAuth2Credential,
    accept: bool,
    context: Any,
    protos: list[str],
    text: str | None,
) -> None:
    issuer.configure(accept_http_if_already_terminated=accept)
    headers = [("x-forwarded-proto", value) for value in protos]
    for path in ("/oauth2/token", "/oauth2/authorize"):
        answer = issuer.post(
            CREDENTIALS | {"state": "s"}, headers=headers, context=context, path=path
        )
        if text is not None:
            body = {"error": "access_denied", "error_description": text, "state": "s"}
            refused(answer, body)
        else:
            assert answer.json.get("error") in (None, "invalid_provision_key")


def test_https_failure_stops_the_other_checks(issuer: Issuing) -> None:
    answer = issuer.post({"grant_type": "no"}, context=PLAIN)
    refused(answer, {"error": "access_denied", "error_description": MISSING})


# --- §5.2 grant types and clients ---


@pytest.mark.parametrize(
    "grant_type",
    [None, "", "no", "CLIENT_CREDENTIALS", "password", "authorization_code", "refresh_token"],
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
    make = token_endpoint.secrets.make_token

    def delete_then_make(check_key: bytes) -> str:
        with issuer.store.writing() as session:
            session.delete(session.get_one(OAuth2Credential, app.id))
        return make(check_key)

    monkeypatch.setattr(token_endpoint.secrets, "make_token", delete_then_make)
    refused(issuer.grant(), INVALID_CLIENT)


# --- §5.3 client_credentials ---


def test_user_is_stored_for_whoever_knows_the_provision_key(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    answer = issuer.grant(authenticated_userid="id 7", provision_key=PROVISION_KEY)
    assert answer.status == 200
    assert issuer.tokens()[0].authenticated_userid == "id 7"


@pytest.mark.parametrize("key", [None, "", "no", PROVISION_KEY + "x", [PROVISION_KEY, "x"]])
@pytest.mark.parametrize("user", ["id7", ""])
def test_user_without_the_provision_key_is_refused(
    issuer: Issuing, app: OAuth2Credential, key: Any, user: str
) -> None:
    sent = {"authenticated_userid": user} | ({} if key is None else {"provision_key": key})
    body = {"error": "invalid_provision_key", "error_description": "Invalid provision_key"}
    refused(issuer.grant(**sent), body)
    # It comes before the client and the scope.
    refused(issuer.grant(**sent, client_id="nobody", scope="wot"), body)


def test_plugin_without_a_provision_key_lets_nobody_name_users(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(provision_key="")
    answer = issuer.grant(authenticated_userid="id7", provision_key="")
    assert answer.json["error"] == "invalid_provision_key"


@pytest.mark.parametrize("user", [True, 7, ["a"], {"a": 1}, "\ud800", "a\0"])
def test_user_must_be_a_string(issuer: Issuing, app: OAuth2Credential, user: Any) -> None:
    sent = CREDENTIALS | {"authenticated_userid": user, "provision_key": PROVISION_KEY}
    answer = issuer.post(headers=JSON, body=json.dumps(sent).encode())
    refused(
        answer,
        {
            "error": "invalid_authenticated_userid",
            "error_description": "authenticated_userid must be a string",
        },
    )


@pytest.mark.parametrize("key", [PROVISION_KEY, "no"])
def test_provision_key_is_not_needed_without_a_user(
    issuer: Issuing, app: OAuth2Credential, key: str
) -> None:
    assert issuer.grant(provision_key=key).status == 200


# --- §5.6 scope ---


@pytest.mark.parametrize("mandatory", [False, True])
@pytest.mark.parametrize(
    ("scope", "stored"),
    [
        ("email", "email"),
        ("profile email", "profile email"),
        ("  email \t\n profile ", "email profile"),
        ("email email", "email email"),
        ("", None),
        ("   ", None),
    ],
)
def test_s36_scope_is_stored_as_asked_within_the_list(
    issuer: Issuing, app: OAuth2Credential, scope: str, stored: str | None, mandatory: bool
) -> None:
    issuer.configure(mandatory_scope=mandatory)
    assert issuer.grant(scope=scope).status == 200
    assert issuer.tokens()[0].scope == stored


@pytest.mark.parametrize(
    ("scope", "word"),
    [("wot", "wot"), ("email wot no", "wot"), ("Email", "Email"), ('em"ail', 'em"ail')],
)
def test_s36_scope_outside_the_list_is_refused(
    issuer: Issuing, app: OAuth2Credential, scope: str, word: str
) -> None:
    refused(issuer.grant(scope=scope), scope_error(f'"{word}" is an invalid scope'))
    assert issuer.tokens() == []


def test_scope_may_be_mandatory(issuer: Issuing, app: OAuth2Credential) -> None:
    assert issuer.grant().status == 200
    issuer.configure(mandatory_scope=True)
    refused(issuer.grant(), scope_error("You must specify a scope"))


@pytest.mark.parametrize("scope", [1, True, False, ["email"], {"a": 1}])
def test_scope_must_be_a_string(issuer: Issuing, app: OAuth2Credential, scope: Any) -> None:
    body = json.dumps(CREDENTIALS | {"scope": scope}).encode()
    refused(issuer.post(headers=JSON, body=body), scope_error("scope must be a string"))


@pytest.mark.parametrize("scope", ["wot", ["a", "b"]])
def test_scope_is_ignored_where_the_plugin_has_none(
    issuer: Issuing, app: OAuth2Credential, scope: Any
) -> None:
    issuer.configure(scopes=None)
    assert issuer.grant(scope=scope).status == 200
    assert issuer.tokens()[0].scope is None


# --- §9 hashed secrets ---


def test_hashed_secret_is_verified(issuer: Issuing) -> None:
    phc = hash_secret("s3cret")
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
    b64 = token_endpoint.secrets._b64
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


def test_s25_each_failure_costs_one_hash_and_reads_the_same(
    issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.client("plain")
    issuer.client("hashed", client_secret=hash_secret("s3cret"), hash_secret=True)
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


# --- store and threads ---


def test_store_out_of_reach_is_503_with_retry_after(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise OperationalError("SELECT secret", {}, Exception("database is locked"))

    monkeypatch.setattr(queries, "plugin_by_id", locked)
    for method in ("POST", "GET"):
        answer = issuer.post(CREDENTIALS, method=method)
        assert (answer.status, answer.json) == (503, {"error": "temporarily_unavailable"})
        assert answer.headers["retry-after"] == "1"


def test_s97_fault_of_ours_shows_nothing_of_it(
    issuer: Issuing,
    app: OAuth2Credential,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("SELECT * FROM /etc/passwd")

    monkeypatch.setattr(queries, "insert_token", broken)
    answer = issuer.grant()
    assert (answer.status, answer.json) == (500, {"message": "An unexpected error occurred"})


def test_store_is_never_used_in_the_event_loop(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    for name in ("plugin_by_id", "credential_by_client_id", "insert_token", "cluster_state"):
        function = getattr(queries, name)

        def noting(*args: Any, _function: Any = function, **kwargs: Any) -> Any:
            threads.add(threading.get_ident())
            return _function(*args, **kwargs)

        monkeypatch.setattr(queries, name, noting)
    assert issuer.grant().status == 200
    assert issuer.post(method="GET").status == 405
    assert threads and threading.get_ident() not in threads


# --- the authorize endpoint, as far as it goes ---


@pytest.mark.parametrize(
    ("params", "error", "description"),
    [
        ({}, "invalid_provision_key", "Invalid provision_key"),
        ({"provision_key": "no"}, "invalid_provision_key", "Invalid provision_key"),
        (
            {"provision_key": PROVISION_KEY, "authenticated_userid": "  "},
            "invalid_authenticated_userid",
            "Missing authenticated_userid parameter",
        ),
        (
            {"provision_key": PROVISION_KEY, "authenticated_userid": "u", "response_type": "code"},
            "unsupported_response_type",
            "Invalid response_type",
        ),
    ],
)
def test_authorize_refuses_in_the_order_of_its_checks(
    issuer: Issuing, params: dict[str, str], error: str, description: str
) -> None:
    answer = issuer.post(params, path="/r/oauth2/authorize")
    refused(answer, {"error": error, "error_description": description})


def test_authorize_refuses_a_body_over_64_kib(issuer: Issuing) -> None:
    assert issuer.post(path="/r/oauth2/authorize", body=b"x" * 65537).status == 413


# --- ISSUER_LISTEN: the route is found by path ---


def test_issuer_by_itself_finds_route_and_plugin_by_path(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    app_ = create_issuer(issuer.store)

    def ask(path: str, **kwargs: Any) -> Answer:
        return issuer.post(CREDENTIALS, context=None, path=path, app=app_, **kwargs)

    assert ask("/token-route/oauth2/token", scheme="https").status == 200
    assert ask("/elsewhere/oauth2/token", scheme="https").status == 404
    assert ask("/token-route/oauth2/token").json["error"] == "access_denied"
    forged = {"x-forwarded-proto": "https"}
    assert ask("/token-route/oauth2/token", headers=forged).json["error"] == "access_denied"
    # A change of the configuration is seen by the next request.
    with issuer.store.writing() as session:
        plugin = session.get_one(Plugin, CONTEXT.plugin_id)
        plugin.enabled = False
        session.add(plugin)
        session.note_config()
    assert ask("/token-route/oauth2/token", scheme="https").status == 404
