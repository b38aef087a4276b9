"""OAuth 2.0 credentials.  oauth2.md §1.1, §9, §11."""

import base64
import hashlib
import json
import re
import uuid
from typing import Any

import pytest

from control.store import queries
from control.store.secrets import hash_client_secret, is_hashed
from dataplane import jws
from tests.control.adminkit import Admin

PHC = r"\$pbkdf2-sha512\$i=10000,l=32\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}"


def verifies(secret: str, phc: str) -> bool:
    _, _, _, salt, expected = phc.split("$")
    derived = hashlib.pbkdf2_hmac(
        "sha512", secret.encode(), base64.b64decode(salt + "=="), 10_000, 32
    )
    return base64.b64encode(derived).decode().rstrip("=") == expected


def test_credential_has_kongs_defaults(admin: Admin) -> None:
    consumer = admin.consumer(username="alex")
    uris = ["http://localhost:8000/anything"]
    made = admin.post("/consumers/alex/oauth2", {"name": "TestApp", "redirect_uris": uris})
    for field in ("client_id", "client_secret"):
        assert re.fullmatch("[A-Za-z0-9]{32}", made[field])
    assert made["client_id"] != made["client_secret"]
    assert made | {"id": 0, "created_at": 0, "client_id": 0, "client_secret": 0} == {
        "id": 0,
        "created_at": 0,
        "consumer": {"id": consumer["id"]},
        "name": "TestApp",
        "client_id": 0,
        "client_secret": 0,
        "hash_secret": False,
        "redirect_uris": uris,
        "tags": None,
        "client_type": "confidential",
    }


def test_secret_is_shown_again_and_encrypted_at_rest(admin: Admin) -> None:
    made = admin.credential(client_secret="my secret")
    assert admin.get(f"/oauth2/{made['id']}")["client_secret"] == "my secret"
    assert admin.get("/oauth2")["data"][0]["client_secret"] == "my secret"
    with admin.store.engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT client_secret FROM oauth2_credentials")
        assert b"my secret" not in stored.scalar_one()


def test_consumer_and_name_are_required(admin: Admin) -> None:
    refused = admin.refused("POST", "/oauth2", json={"name": "app"})
    assert refused["message"] == "schema violation (consumer: required field missing)"
    assert admin.fields("/oauth2", {}) == {
        "consumer": "required field missing",
        "name": "required field missing",
    }


def test_credential_of_another_consumer_is_not_found(admin: Admin) -> None:
    admin.consumer(username="alex")
    admin.consumer(username="bob")
    made = admin.post("/consumers/alex/oauth2", {"name": "app", "client_id": "id"})
    assert admin.get("/consumers/alex/oauth2/id") == made
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        admin.refused(method, "/consumers/bob/oauth2/id", 404, json={"name": "x"})
    admin.delete("/consumers/alex/oauth2/none", 404)
    admin.delete("/oauth2/none")


def test_put_by_client_id_uses_it(admin: Admin) -> None:
    admin.consumer(username="alex")
    made = admin.put("/consumers/alex/oauth2/my-id", {"name": "app"})
    assert made["client_id"] == "my-id"
    again = admin.put("/consumers/alex/oauth2/my-id", {"name": "app"})
    assert again == made  # its secret stays


def test_client_id_is_unique_and_may_change(admin: Admin) -> None:
    made = admin.credential(client_id="one")
    admin.credential(client_id="two")
    path = f"/oauth2/{made['id']}"
    refused = admin.refused("PATCH", path, 409, json={"client_id": "two"})
    assert refused["fields"] == {"client_id": "two"}
    admin.patch(path, {"client_id": "three"})
    admin.refused("GET", "/oauth2/one", 404)
    assert admin.get("/oauth2/three")["id"] == made["id"]
    renewed = admin.patch(path, {"client_id": None})["client_id"]
    assert re.fullmatch("[A-Za-z0-9]{32}", renewed)


def test_two_credentials_may_share_name_and_secret(admin: Admin) -> None:
    made = [admin.credential(name="app", client_secret="same") for _ in range(2)]
    assert made[0]["client_id"] != made[1]["client_id"]


@pytest.mark.parametrize("kind", ["confidential", "public"])
def test_client_type_of_the_list(kind: str, admin: Admin) -> None:
    assert admin.credential(client_type=kind)["client_type"] == kind


def test_client_type_beyond_the_list_is_refused(admin: Admin) -> None:
    fields = admin.fields("/oauth2", {"name": "a", "client_type": "x", "consumer": {"id": "x"}})
    assert fields == {
        "client_type": "expected one of: confidential, public",
        "consumer": {"id": "expected a valid UUID"},
    }


@pytest.mark.parametrize(
    "uri", ["https://h", "http://localhost:8000/anything", "app://callback/x?y=z", "https://[::1]/"]
)
def test_redirect_uri(uri: str, admin: Admin) -> None:
    assert admin.credential(redirect_uris=[uri])["redirect_uris"] == [uri]


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("not-valid", "cannot parse 'not-valid'"),
        ("https://", "cannot parse 'https://'"),
        ("/path", "cannot parse '/path'"),
        ("//h/path", "cannot parse '//h/path'"),
        ("mailto:a@b", "cannot parse 'mailto:a@b'"),
        ("https://[::1", "cannot parse 'https://[::1'"),
        ("https://h/#x", "fragment not allowed in 'https://h/#x'"),
        ("https://h/#", "fragment not allowed in 'https://h/#'"),
    ],
)
def test_broken_redirect_uri_is_refused_at_its_place(uri: str, text: str, admin: Admin) -> None:
    body = {"name": "a", "redirect_uris": ["https://good", uri]}
    fields = admin.fields("/oauth2", body | {"consumer": {"id": str(uuid.uuid4())}})
    assert fields == {"redirect_uris": [None, text]}


def test_redirect_uris_by_form(admin: Admin) -> None:
    admin.consumer(username="alex")
    for name in ("redirect_uris", "redirect_uris[]"):
        answer = admin.call(
            "POST", "/consumers/alex/oauth2", data={"name": "app", name: "https://h"}
        )
        assert answer.json()["redirect_uris"] == ["https://h"]


# --- hash_secret -----------------------------------------------------------------------------


def test_hash_secret_keeps_the_hash_alone(admin: Admin) -> None:
    made = admin.credential(client_secret="tofu", hash_secret=True)
    assert re.fullmatch(PHC, made["client_secret"])
    assert verifies("tofu", made["client_secret"])
    assert admin.get(f"/oauth2/{made['id']}") == made


def test_hash_of_the_made_secret_is_allowed(admin: Admin) -> None:
    assert re.fullmatch(PHC, admin.credential(hash_secret=True)["client_secret"])


def test_hash_is_the_one_kong_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.urandom", lambda _: b"a litte bit, just a little bit")
    assert hash_client_secret("tofu") == (
        "$pbkdf2-sha512$i=10000,l=32$YSBsaXR0ZSBiaXQsIGp1c3QgYSBsaXR0bGUgYml0$"
        "z6ysNworexAhDELywIDi0ba0B0T7F/MBZ6Ige9lWRYI"
    )


@pytest.mark.parametrize("text", ["", "x", "$pbkdf2", "$pbkdf2-sha512$i=1,l=1$$", "x$pbkdf2-sha1$"])
def test_other_text_is_no_hash(text: str) -> None:
    assert not is_hashed(text)


def test_hash_is_not_hashed_again_when_it_is_written_back(admin: Admin) -> None:
    made = admin.credential(client_secret="tofu", hash_secret=True)
    path = f"/oauth2/{made['id']}"
    dump = {name: made[name] for name in ("name", "consumer", "client_id", "client_secret")}
    assert admin.put(path, dump | {"hash_secret": True}) == made
    assert admin.patch(path, {"name": "other"})["client_secret"] == made["client_secret"]


def test_secret_that_is_sent_again_keeps_its_hash(admin: Admin) -> None:
    """A file with the clear secret, applied twice, changes nothing."""
    body = {"name": "app", "client_id": "a", "client_secret": "tofu", "hash_secret": True}
    made = admin.credential(**body)
    path, version = f"/oauth2/{made['id']}", admin.version()
    assert admin.put(path, body | {"consumer": made["consumer"]}) == made
    assert admin.version() == version
    other = admin.put(path, body | {"consumer": made["consumer"], "client_secret": "seitan"})
    assert verifies("seitan", other["client_secret"])
    assert admin.version() > version


@pytest.mark.parametrize("body", [{"client_secret": "x"}, {"hash_secret": True}])
def test_patch_takes_secret_and_hash_secret_together(body: dict[str, Any], admin: Admin) -> None:
    made = admin.credential()
    fields = admin.fields(f"/oauth2/{made['id']}", body, "PATCH")
    assert fields == {
        "@entity": ["all or none of these fields must be set: 'hash_secret', 'client_secret'"]
    }


def test_patch_changes_how_the_secret_is_kept(admin: Admin) -> None:
    made = admin.credential(client_secret="one")
    path = f"/oauth2/{made['id']}"
    hashed = admin.patch(path, {"client_secret": "two", "hash_secret": True})
    assert verifies("two", hashed["client_secret"])
    clear = admin.patch(path, {"client_secret": "three", "hash_secret": False})
    assert (clear["client_secret"], clear["hash_secret"]) == ("three", False)


def test_put_without_a_secret_keeps_or_hashes_or_replaces_it(admin: Admin) -> None:
    made = admin.credential(client_secret="one")
    path, body = f"/oauth2/{made['id']}", {"name": "app", "consumer": made["consumer"]}
    assert admin.put(path, body)["client_secret"] == "one"
    hashed = admin.put(path, body | {"hash_secret": True})["client_secret"]
    assert verifies("one", hashed)
    clear = admin.put(path, body)["client_secret"]
    assert re.fullmatch("[A-Za-z0-9]{32}", clear)


# --- cascades --------------------------------------------------------------------------------


def test_deleting_a_credential_takes_its_tokens_and_revokes_it(admin: Admin) -> None:
    credential = admin.credential()
    for life in (10, 0):
        admin.token(credential={"id": credential["id"]}, expires_in=life)
    admin.delete(f"/oauth2/{credential['id']}")
    assert admin.get("/oauth2_tokens")["data"] == []
    (revoked,) = admin.changes[-1].revocations
    assert (revoked.kind, revoked.key) == ("credential", uuid.UUID(credential["id"]).bytes)
    assert revoked.expires_at == 0  # one of its tokens never expires
    with admin.store.reading() as session:
        assert queries.config_rows(session).credentials == []


def test_consumer_of_a_credential(admin: Admin) -> None:
    made = admin.credential()
    consumer = admin.get(f"/oauth2/{made['id']}/consumer")
    assert consumer["id"] == made["consumer"]["id"]
    admin.delete(f"/oauth2/{made['id']}/consumer", 405)


# --- public keys in client_secret: private_key_jwt, RFC 7523 ---


@pytest.mark.parametrize("alg", jws.ALGORITHMS)
@pytest.mark.parametrize("several", [False, True])
def test_client_may_have_public_keys_for_a_secret(admin: Admin, alg: str, several: bool) -> None:
    jwk = jws.generate(alg).public_jwk
    secret = json.dumps({"keys": [jwk, jws.generate("ES256").public_jwk]} if several else jwk)
    made = admin.credential(client_secret=secret)
    assert made["client_secret"] == secret


def wrong_keys() -> dict[str, tuple[dict[str, Any], str]]:
    jwk = jws.generate("ES256").public_jwk
    return {
        "private": ({**jwk, "d": jwk["x"]}, "the key has a private part"),
        "symmetric": ({"kty": "oct", "k": "c2VjcmV0"}, "the key's algorithm is none of"),
        "encryption": ({**jwk, "use": "enc"}, "the key is not for signatures"),
        "broken": ({**jwk, "x": "!"}, "the key cannot be read"),
        "none": ({"keys": []}, "the number of keys is not between 1 and 10"),
        "twice": ({"keys": [jwk, jwk]}, "the keys' names are not different strings"),
    }


@pytest.mark.parametrize("name", sorted(wrong_keys()))
def test_keys_that_could_not_verify_are_refused_when_they_are_written(
    admin: Admin, name: str
) -> None:
    keys, text = wrong_keys()[name]
    body = {"name": "app", "consumer": {"id": admin.consumer()["id"]}}
    fields = admin.fields("/oauth2", body | {"client_secret": json.dumps(keys)})
    assert list(fields) == ["client_secret"]
    assert fields["client_secret"].startswith(text)


def test_public_keys_are_neither_hashed_nor_a_public_clients(admin: Admin) -> None:
    secret = json.dumps(jws.generate("ES256").public_jwk)
    body = {"name": "app", "consumer": {"id": admin.consumer()["id"]}, "client_secret": secret}
    assert admin.fields("/oauth2", body | {"hash_secret": True, "client_type": "public"}) == {
        "hash_secret": "must be false where client_secret holds public keys",
        "client_type": "must be confidential where client_secret holds public keys",
    }


@pytest.mark.parametrize("secret", ['{"a": 1}', "{not json", '["kty"]', "{" * 4000])
def test_secret_that_only_looks_like_json_is_a_secret(admin: Admin, secret: str) -> None:
    assert admin.credential(client_secret=secret)["client_secret"] == secret
