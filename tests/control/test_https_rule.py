"""OAuth endpoints want HTTPS.  spec/oauth2.md §4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from control.store.tables import OAuth2Credential
from tests.control.issuing import (
    CONTEXT,
    CREDENTIALS,
    PLAIN,
    PLAIN_TRUSTED,
    Issuing,
    refused,
)

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
