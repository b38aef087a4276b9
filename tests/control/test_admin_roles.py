"""What each role may do, over every operation that openapi.json has.  S85."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from control.admin.redaction import redacted
from control.admin.registry import BY_NAME
from control.guard.callers import REDACTED
from tests import pki
from tests.control.adminkit import Guarded, guarded_admin
from tests.harness import ROOT

DOCUMENT = json.loads((ROOT / "openapi.json").read_text())
READ = {"get", "head", "options"}
SUPER = {("post", "/signing-keys/rotate"), ("delete", "/signing-keys/{kid}")}
OF_SECRETS = {("get", "/narthex/config/dump")}
UNDOCUMENTED = ["/openapi.json", "/upstreams", "/no-such-path", "//", "/services/"]


def wants_login(operation: dict[str, Any]) -> bool:
    security = operation.get("security", DOCUMENT["security"])
    return any("admin_token" in scheme for scheme in security)


OPERATIONS = [
    (method, path)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if wants_login(operation)
]
WRITES = [(method, path) for method, path in OPERATIONS if method not in READ]
READS = [(method, path) for method, path in OPERATIONS if method in READ]


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One for all tests: what they write concerns nobody else here."""
    with guarded_admin(tmp_path_factory.mktemp("roles")) as running:
        yield running


def real(path: str) -> str:
    return re.sub(r"{\w+}", "none", path)


def test_walk_is_of_the_whole_admin_api() -> None:
    assert len(WRITES) > 80 and len(READS) > 40
    tags = {
        operation["tags"][0]
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
        if not wants_login(operation)
    }
    assert tags == {"oauth"}  # the issuer's, which the Admin API does not serve


def test_s85_each_operation_without_credentials_is_401(admin: Guarded) -> None:
    client = admin.client()
    paths = [*OPERATIONS, *(("get", path) for path in UNDOCUMENTED), ("options", "/services")]
    for method, path in paths:
        for headers in ({}, {"Kong-Admin-Token": "nxa_wrong"}):
            other = admin.client(address=f"10.0.{len(path)}.{len(method)}") if headers else client
            answer = other.request(method, real(path), headers=headers)
            assert answer.status_code in ((401, 429) if headers else (401,)), (method, path)
            assert answer.headers["content-type"] == "application/json; charset=utf-8"
            assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-kong-request-id"])
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"].startswith("Bearer ")
            if method != "head":
                assert set(answer.json()) == {"message"}


def test_s85_each_write_of_a_read_only_role_is_403(admin: Guarded) -> None:
    client = admin.client("read-only")
    for method, path in WRITES:
        answer = client.request(method, real(path), json={})
        assert answer.status_code == 403, (method, path)
        assert "read-only" in answer.json()["message"]
    for method, path in READS:
        refused = client.request(method, real(path)).status_code in (401, 403)
        assert refused == ((method, path) in OF_SECRETS), path
    for method, path in OF_SECRETS:
        assert admin.client("operator").request(method, real(path)).status_code == 200, path


def test_s86_s87_good_token_opens_nothing_to_another_host_or_origin(admin: Guarded) -> None:
    client = admin.client("super")
    for headers in (
        {"Host": "evil.example"},
        {"Host": "localhost/status?"},
        {"Host": "localhost:8001@evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        for method, path in (
            ("GET", "/services"),
            ("POST", "/services"),
            ("GET", "/narthex/audit"),
        ):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 403, headers
            assert answer.json()["message"].startswith("the Admin API does not answer to this")


def test_s87_what_decides_is_the_path_that_is_routed(admin: Guarded) -> None:
    """No spelling of a path that only `super` may write lets an operator through."""
    client = admin.client("operator")
    for path in (
        "/signing-keys/rotate",
        "/signing-keys/rotate/",
        "/signing-keys/rotate?x=/services",
        "/signing-keys/%72otate",
        "//signing-keys/rotate",
        "/services/../signing-keys/rotate",
    ):
        assert client.post(path, json={}).status_code in (403, 404, 405), path
    assert client.get("/narthex/audit?type=signing_keys").json()["data"] == []


def test_operator_writes_all_but_what_ends_keys(admin: Guarded) -> None:
    client = admin.client("operator")
    refused = {
        (method, path)
        for method, path in OPERATIONS
        if client.request(method, real(path), json={}).status_code in (401, 403)
    }
    assert refused == SUPER


def test_super_may_everything(admin: Guarded) -> None:
    client = admin.client("super")
    for method, path in OPERATIONS:
        answer = client.request(method, real(path), json={})
        assert answer.status_code not in (401, 403), (method, path)


def test_login_is_documented_as_optional_and_its_refusals_everywhere() -> None:
    assert {} in DOCUMENT["security"]
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert schemes["admin_token"]["name"] == "Kong-Admin-Token"
    assert schemes["admin_bearer"]["scheme"] == "bearer"
    for method, path in OPERATIONS:
        operation = DOCUMENT["paths"][path][method]
        assert {"401", "403", "429"} <= operation["responses"].keys(), (method, path)
        assert "security" not in operation  # an SDK would then demand a token


# --- secrets ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeded(admin: Guarded) -> tuple[dict[str, str], dict[str, str]]:
    """One of each entity: ids by collection, and the secrets that they hold by what they are."""
    client = admin.client("operator")

    def make(path: str, **body: Any) -> dict[str, Any]:
        answer = client.post(path, json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    pair = pki.make("a.example")
    secrets = {"key": pair.key, "provision_key": "pr0vision-key", "client_secret": "cl1ent-secret"}
    certificate = make("/certificates", cert=pair.cert, key=pair.key, snis=["a.example"])
    service = make("/services", name="s", host="up.example", tags=["t"])
    plugin = make(
        "/services/s/plugins",
        name="oauth2",
        instance_name="p",
        config={"enable_client_credentials": True, "provision_key": secrets["provision_key"]},
    )
    route = make("/services/s/routes", name="r", paths=["/a"])
    consumer = make("/consumers", username="c")
    credential = make("/consumers/c/oauth2", name="app", client_secret=secrets["client_secret"])
    make("/consumers/c/oauth2", name="hashed", client_secret="0ther-secret", hash_secret=True)
    token = make("/oauth2_tokens", credential={"id": credential["id"]}, expires_in=60)
    ids = {
        "certificates": certificate, "services": service, "plugins": plugin, "routes": route,
        "consumers": consumer, "oauth2": credential, "oauth2_tokens": token,
    }  # fmt: skip
    secrets |= {"access_token": token["access_token"], "hash": "$pbkdf2-sha512$"}
    return {name: entity["id"] for name, entity in ids.items()}, secrets


def test_read_only_role_is_shown_no_secret_by_any_operation(
    admin: Guarded, seeded: tuple[dict[str, str], dict[str, str]]
) -> None:
    ids, secrets = seeded
    reader, operator = admin.client("read-only"), admin.client("operator")
    seen: set[str] = set()
    shown = 0
    for _, path in READS:
        url = re.sub(r"/([\w-]+)/{\w+}", lambda m: f"/{m[1]}/{ids.get(m[1], 'oauth2')}", path)
        texts = [client.get(url).text for client in (reader, operator)]
        assert not {name for name, value in secrets.items() if _within(value, texts[0])}, path
        seen |= {name for name, value in secrets.items() if _within(value, texts[1])}
        shown += REDACTED in texts[0]
    # An operator has to see them, as Kong's tools compare them; the token is nobody's any more.
    assert seen == {"key", "provision_key", "client_secret", "hash"}
    assert shown >= 10


def _within(value: str, text: str) -> bool:
    return json.dumps(value)[1:-1] in text


@pytest.mark.parametrize(
    ("path", "field"), [("/consumers/c/oauth2", "client_secret"), ("/certificates", "key")]
)
def test_what_stands_for_a_secret_is_never_taken_for_one(
    admin: Guarded, seeded: tuple[dict[str, str], dict[str, str]], path: str, field: str
) -> None:
    """A reader's dump that an operator writes back would set every secret to a known text."""
    client = admin.client("operator")
    entity = admin.client("read-only").get(path).json()["data"][0]
    assert entity[field] == REDACTED
    answer = client.put(f"{path}/{entity['id']}", json=entity)
    assert answer.status_code == 400
    assert "stands for a secret" in answer.json()["fields"][field]
    kept = {name: value for name, value in entity.items() if value != REDACTED}
    if field == "client_secret":
        assert client.put(f"{path}/{entity['id']}", json=kept).status_code == 200
        assert client.get(f"{path}/{entity['id']}").json()[field] not in (REDACTED, None)


def test_every_encrypted_field_is_redacted_where_it_is_set() -> None:
    plugin = {"name": "oauth2", "config": {"provision_key": "x", "scopes": ["a"]}}
    assert redacted(BY_NAME["plugins"], plugin) == {
        "name": "oauth2",
        "config": {"provision_key": REDACTED, "scopes": ["a"]},
    }
    assert redacted(BY_NAME["certificates"], {"key": "x", "key_alt": None, "cert": "c"}) == {
        "key": REDACTED,
        "key_alt": None,
        "cert": "c",
    }
