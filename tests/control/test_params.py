"""control/oauth2/params.py, as the endpoint uses it.  spec/oauth2.md §3.1."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control.store.tables import OAuth2Credential
from tests.control.issuing import (
    CREDENTIALS,
    INVALID_CLIENT,
    JSON,
    UNSUPPORTED,
    Issuing,
    refused,
    scope_error,
)

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
