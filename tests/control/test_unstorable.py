"""Texts that no database holds, where a row is looked up by them: they name nothing, on both
databases. PostgreSQL refuses to compare with a NUL, no driver sends half a surrogate pair."""

import base64
import json
from typing import Any

import pytest

from tests.control.adminkit import guarded_admin
from tests.control.issuing import Issuing, basic

NUL = "a\0"
FILE = '_format_version: "3.0"\n'
IMPORT = "/narthex/import/kong"
GRANT = {"grant_type": "client_credentials"}
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture(scope="module")
def everyone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with guarded_admin(tmp_path_factory.mktemp("admin")) as made:
        yield made.client("super")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/oauth2?client_id=a%00", None, 200),
        ("GET", "/consumers?custom_id=%00", None, 200),
        ("GET", "/services/a%00", None, 404),
        ("GET", "/oauth2_tokens/a%00", None, 404),
        ("GET", "/certificates/a%00", None, 404),
        ("GET", "/tags/a%00", None, 400),
        ("GET", "/narthex/audit?type=%00", None, 400),
        ("DELETE", "/signing-keys/a%00", None, 204),
        ("POST", "/routes", {"paths": ["/a"], "service": {"name": NUL}}, 400),
        ("POST", "/narthex/config/apply", f'{FILE}routes: [{{name: a, service: "a\\0"}}]', 400),
        ("POST", "/narthex/config/apply", f'{FILE}consumers: [{{username: "a\\0"}}]', 400),
        ("POST", IMPORT, {"collections": {"consumers": [{"custom_id": NUL}]}}, 200),
        ("POST", IMPORT, {"collections": {"snis": [{"name": "a", "certificate": NUL}]}}, 200),
    ],
)
def test_admin_api_finds_nothing(
    everyone: Any, method: str, path: str, body: Any, status: int
) -> None:
    sent = {"content": body} if isinstance(body, str) else {"json": body} if body else {}
    answer = everyone.request(method, path, **sent)
    assert answer.status_code == status, answer.text
    assert answer.status_code != 200 or not answer.json().get("data")


@pytest.mark.parametrize("client_id", [NUL, "\ud800"])
def test_token_endpoint_knows_no_such_client(issuer: Issuing, client_id: str) -> None:
    """Nobody has to be anybody to ask."""
    claims = json.dumps({"sub": client_id, "iss": client_id})
    parts = ('{"alg":"ES256"}', claims, "signature")
    assertion = ".".join(base64.urlsafe_b64encode(p.encode()).decode().strip("=") for p in parts)
    by_assertion = {"client_assertion_type": JWT_BEARER, "client_assertion": assertion}
    by_body = json.dumps(GRANT | {"client_id": client_id, "client_secret": "s"}).encode()
    json_type = {"content-type": "application/json"}
    issuer.configure(issuer="https://auth.example/token-route")
    answers = [
        issuer.post(GRANT | by_assertion),
        issuer.post(body=by_body, headers=json_type),
    ]
    if client_id == NUL:  # a header has bytes
        answers.append(issuer.post(GRANT, headers=basic(client_id, "s")))
    assert {answer.status for answer in answers} <= {400, 401}, answers
