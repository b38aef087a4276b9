"""Signing keys: made with an instance, rotated, ended; the Admin API's resource; at rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control.app import admin_app
from control.oauth2.keys import Keeper, Keys
from control.snapshot import build
from control.store import Store, queries, signing_keys
from control.store.signing_keys import KEYS_MAX, LEEWAY_SECONDS
from control.store.tables import OAuth2Token, SigningKey
from dataplane import jws, wire
from tests.control.adminkit import Admin, running_app
from tests.databases import stored_bytes

ISSUER = "https://auth.example"
HOUR = 3600.0
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "k")


@pytest.fixture
def keyed(tmp_path: Path) -> Any:
    """The whole Admin API, whose application tests of entities do without."""
    with running_app(tmp_path, lambda store: admin_app(store, dataplanes=list)) as running:
        yield running


def signs(admin: Admin, **config: Any) -> dict[str, Any]:
    """An instance that issues JWTs."""
    own = {"enable_client_credentials": True, "token_format": "jwt", "issuer": ISSUER}
    return admin.post("/plugins", {"name": "oauth2", "config": own | config})


def keys(store: Store, alg: str | None = None) -> list[SigningKey]:
    with store.reading() as session:
        return signing_keys.all_keys(session, alg)


def signing_kid(store: Store, now: float, alg: str = "ES256") -> str | None:
    with store.reading() as session:
        key = signing_keys.current(signing_keys.all_keys(session), alg, now)
        return key and key.kid


# --- made with the instance ---


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
def test_key_comes_in_the_transaction_of_the_instance_that_signs(admin: Admin, alg: str) -> None:
    signs(admin, signing_alg=alg)
    (change,) = admin.changes
    (key,) = keys(admin.store)
    assert (key.alg, key.retired_at, key.gone_at) == (alg, None, None)
    with admin.store.reading() as session:
        snapshot = build(queries.config_rows(session))
    assert snapshot.version == change.version
    (public,) = snapshot.keys
    assert (public.kid, public.alg, public.until) == (key.kid, alg, 0.0)
    jws.VerifyKey(public.kid, public.alg, json.loads(public.jwk))


def test_instances_of_one_algorithm_share_a_key_and_opaque_ones_need_none(admin: Admin) -> None:
    admin.plugin()
    assert keys(admin.store) == []
    route = admin.route()
    signs_on = {"route": {"id": route["id"]}}
    own = {"enable_client_credentials": True, "token_format": "jwt", "issuer": ISSUER}
    made = admin.post("/plugins", {"name": "oauth2", "config": own} | signs_on)
    admin.patch(f"/plugins/{made['id']}", {"config": {"realm": "r"}})
    assert len(keys(admin.store)) == 1
    admin.patch(f"/plugins/{made['id']}", {"config": {"signing_alg": "EdDSA"}})
    assert sorted(key.alg for key in keys(admin.store)) == ["ES256", "EdDSA"]


def test_instance_that_is_refused_leaves_no_key(admin: Admin) -> None:
    config = {"enable_client_credentials": True, "token_format": "jwt"}
    fields = admin.fields("/plugins", {"name": "oauth2", "config": config})
    assert fields == {"config": {"issuer": "required with token_format 'jwt'"}}
    assert keys(admin.store) == []


def test_issuer_without_a_key_makes_one_when_it_signs(admin: Admin) -> None:
    made = Keys(admin.store).signing("ES256", 1000.0)
    assert [key.kid for key in keys(admin.store)] == [made.key.kid]
    assert made.version == admin.version()


# --- rotation ---


def test_next_key_is_published_before_it_signs_and_the_last_verifies_after_it_did(
    admin: Admin,
) -> None:
    signs(admin, token_expiration=600)
    (old,) = keys(admin.store)
    now = old.active_at + 10
    version = admin.version()
    with admin.store.writing() as session:
        new = signing_keys.rotate(session, "ES256", HOUR, now)
    assert admin.version() == version + 1
    assert (new.created_at, new.active_at) == (now, now + HOUR)
    old = keys(admin.store)[0]
    assert old.retired_at == new.active_at
    assert old.gone_at == new.active_at + 600 + LEEWAY_SECONDS
    assert signing_kid(admin.store, now) == old.kid
    assert signing_kid(admin.store, now + HOUR - 1) == old.kid
    assert signing_kid(admin.store, now + HOUR) == new.kid
    with admin.store.reading() as session:
        published = build(queries.config_rows(session)).keys
    assert {key.kid: key.until for key in published} == {new.kid: 0.0, old.kid: old.gone_at}
    verifying = Keys(admin.store).verifying
    assert set(verifying(old.gone_at - 1)) == {new.kid, old.kid}
    assert set(verifying(old.gone_at)) == {new.kid}


def test_key_that_waits_is_the_next_one_still(admin: Admin) -> None:
    signs(admin)
    now = keys(admin.store)[0].active_at + 1
    with admin.store.writing() as session:
        first = signing_keys.rotate(session, "ES256", HOUR, now)
        again = signing_keys.rotate(session, "ES256", HOUR, now + 60)
    assert first.kid == again.kid
    assert len(keys(admin.store)) == 2


def test_key_verifies_as_long_as_the_longest_token_that_was_signed(admin: Admin) -> None:
    """Also when the instance gives shorter ones by then, or longer ones a moment later."""
    made = signs(admin, token_expiration=60)
    credential = admin.credential()
    (old,) = keys(admin.store)
    with admin.store.writing() as session:
        queries.insert_token(
            session,
            credential_id=credential["id"],
            access_token_digest=b"d" * 32,
            expires_in=90_000,
            created_at=old.active_at,
            is_jwt=True,
        )
    with admin.store.writing() as session:
        signing_keys.rotate(session, "ES256", HOUR, old.active_at + 1)
    assert keys(admin.store)[0].gone_at == old.active_at + 90_000 + LEEWAY_SECONDS
    admin.patch(f"/plugins/{made['id']}", {"config": {"token_expiration": 200_000}})
    old = keys(admin.store)[0]
    assert old.retired_at is not None
    assert old.gone_at == old.retired_at + 200_000 + LEEWAY_SECONDS


def test_more_keys_than_may_verify_are_refused(admin: Admin) -> None:
    signs(admin, token_expiration=10_000_000)
    now = keys(admin.store)[0].active_at
    with admin.store.writing() as session:
        for turn in range(1, KEYS_MAX):
            signing_keys.rotate(session, "ES256", 10, now + turn * 20)
        with pytest.raises(signing_keys.TooManyKeys):
            signing_keys.rotate(session, "ES256", 10, now + KEYS_MAX * 20)


def test_keeper_rotates_when_it_is_time_and_deletes_what_is_gone(admin: Admin) -> None:
    signs(admin, token_expiration=60)
    (first,) = keys(admin.store)
    keeper = Keeper(admin.store, rotation_days=1, publish_seconds=HOUR)
    day = 86400.0
    version = admin.version()
    keeper.tend(first.active_at + day - 1)
    assert admin.version() == version  # nothing was due, nothing was written
    keeper.tend(first.active_at + day)
    keeper.tend(first.active_at + day + 60)
    old, new = keys(admin.store)
    assert (old.kid, new.active_at) == (first.kid, first.active_at + day + HOUR)
    assert old.gone_at is not None
    keeper.tend(old.gone_at - 1)
    assert len(keys(admin.store)) == 2
    version = admin.version()
    keeper.tend(old.gone_at)
    assert [key.kid for key in keys(admin.store)] == [new.kid]
    assert admin.version() == version + 1


def test_keeper_leaves_keys_alone_when_rotation_is_off_or_nobody_signs(admin: Admin) -> None:
    made = signs(admin)
    (key,) = keys(admin.store)
    years = key.active_at + 10 * 365 * 86400
    Keeper(admin.store, rotation_days=0, publish_seconds=HOUR).tend(years)
    admin.delete(f"/plugins/{made['id']}")
    Keeper(admin.store, rotation_days=1, publish_seconds=HOUR).tend(years)
    assert [row.kid for row in keys(admin.store)] == [key.kid]


# --- ending a key ---


def test_another_key_takes_the_place_of_one_that_is_ended(admin: Admin) -> None:
    signs(admin)
    (first,) = keys(admin.store)
    now = first.active_at + 1

    def remove(kid: str) -> None:
        with admin.store.writing() as session:
            assert signing_keys.remove(session, kid, now)

    remove(first.kid)  # the only one
    (second,) = keys(admin.store)
    assert second.kid != first.kid
    assert signing_kid(admin.store, now) == second.kid
    with admin.store.writing() as session:
        third = signing_keys.rotate(session, "ES256", HOUR, now)
    remove(third.kid)  # one that waits
    (left,) = keys(admin.store)
    assert (left.kid, left.retired_at, left.gone_at) == (second.kid, None, None)
    with admin.store.writing() as session:
        fourth = signing_keys.rotate(session, "ES256", HOUR, now)
    remove(second.kid)  # the one that signs, while another waits
    assert signing_kid(admin.store, now) == fourth.kid
    with admin.store.writing() as session:
        assert not signing_keys.remove(session, "unknown", now)


# --- the Admin API ---


def test_resource_lists_rotates_and_ends_keys(keyed: Admin) -> None:
    assert keyed.get("/signing-keys") == {"data": [], "next": None}
    signs(keyed, token_expiration=60)
    (key,) = keyed.get("/signing-keys")["data"]
    assert key["status"] == "signing" and key["alg"] == "ES256"
    assert set(key["public_jwk"]) == {"kty", "crv", "x", "y", "alg", "use", "kid"}
    answer = keyed.call("POST", "/signing-keys/rotate", json={"alg": "ES256"})
    assert answer.status_code == 200
    (waiting,) = answer.json()["data"]
    assert waiting["status"] == "next"
    assert waiting["active_at"] == pytest.approx(waiting["created_at"] + 3600)
    # Without a body all algorithms; as a form too.
    assert keyed.call("POST", "/signing-keys/rotate").json()["data"] == [waiting]
    assert keyed.call("POST", "/signing-keys/rotate", data={"alg": "ES256"}).status_code == 200
    keyed.delete(f"/signing-keys/{key['kid']}")
    keyed.delete(f"/signing-keys/{key['kid']}")
    (left,) = keyed.get("/signing-keys")["data"]
    assert (left["kid"], left["status"]) == (waiting["kid"], "signing")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"alg": "HS256"}, {"alg": "expected one of: ES256, RS256, EdDSA"}),
        ({"alg": "EdDSA"}, {"alg": "there is no key of this algorithm"}),
        ({"alg": 1}, {"alg": "expected a string"}),
        ({"kid": "x"}, {"kid": "unknown field"}),
    ],
)
def test_rotation_that_cannot_be_is_a_schema_violation(
    keyed: Admin, body: dict[str, Any], fields: dict[str, str]
) -> None:
    signs(keyed)
    assert keyed.fields("/signing-keys/rotate", body) == fields


def test_rotation_beyond_the_bound_is_a_conflict(keyed: Admin) -> None:
    signs(keyed, token_expiration=10_000_000)
    (first,) = keys(keyed.store)
    began = first.active_at - 10_000
    with keyed.store.writing() as session:
        session.get_one(SigningKey, first.kid).active_at = began
        for turn in range(1, KEYS_MAX):
            signing_keys.rotate(session, "ES256", 10, began + turn * 20)
    refused = keyed.refused("POST", "/signing-keys/rotate", 409)
    assert refused == {"message": "16 keys of ES256 verify still, and there may not be more"}


def test_methods_that_the_paths_do_not_know_are_refused(keyed: Admin) -> None:
    assert keyed.call("GET", "/signing-keys/rotate").status_code == 405
    assert keyed.call("POST", "/signing-keys").status_code == 405
    assert keyed.call("PATCH", "/signing-keys/x").status_code == 405


# --- S17: the private half stays where it signs ---


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
def test_s17_private_key_is_in_no_answer_and_no_snapshot(keyed: Admin, alg: str) -> None:
    signs(keyed, signing_alg=alg)
    with keyed.store.reading() as session:
        (pem,) = [session.get_one(SigningKey, key.kid).private_pem for key in keys(keyed.store)]
        packed = wire.pack_snapshot(build(queries.config_rows(session)))
    secret = private_number(pem)
    lines = [line for line in pem.splitlines() if line and not line.startswith("-----")]
    for data in (packed, keyed.call("GET", "/signing-keys").content):
        assert secret not in data
        assert not any(line.encode() in data for line in lines)
    for key in keyed.get("/signing-keys")["data"]:
        assert not set(_PRIVATE) & set(key["public_jwk"])
    assert not set(_PRIVATE) & {name for key in keys(keyed.store) for name in key.public_jwk}
    assert "PRIVATE" not in repr(session) + repr(keys(keyed.store))


def private_number(pem: str) -> bytes:
    """The secret part itself, in the base64url that a JWK would hold it in."""
    from base64 import urlsafe_b64encode

    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem.encode(), None)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = key.private_bytes_raw()
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        raw = key.private_numbers().private_value.to_bytes(32, "big")
    else:
        assert isinstance(key, rsa.RSAPrivateKey)
        raw = key.private_numbers().d.to_bytes(256, "big")
    return urlsafe_b64encode(raw).rstrip(b"=")


def test_s93_private_key_is_encrypted_at_rest(admin: Admin) -> None:
    signs(admin)
    with admin.store.reading() as session:
        pem = session.get_one(SigningKey, keys(admin.store)[0].kid).private_pem
    assert "PRIVATE KEY" in pem
    with admin.store.engine.connect() as raw:
        stored = raw.exec_driver_sql("SELECT private_pem FROM signing_keys").scalar_one()
    assert isinstance(stored, bytes) and stored.startswith(b"gAAAA")
    data = stored_bytes(admin.store)
    assert b"PRIVATE KEY" not in data
    assert not any(line.encode() in data for line in pem.splitlines()[1:-1])


# --- rows of JWTs in /oauth2_tokens ---


def jwt_row(admin: Admin) -> OAuth2Token:
    credential = admin.credential()
    with admin.store.writing() as session:
        token = queries.insert_token(
            session,
            credential_id=credential["id"],
            access_token_digest=b"j" * 32,
            expires_in=600,
            ttl=1200,
            is_jwt=True,
        )
        assert token.jti is not None
        row = session.get_one(OAuth2Token, token.jti)
    admin.changes.clear()
    return row


def test_deleting_the_row_of_a_jwt_revokes_its_text_and_its_jti(admin: Admin) -> None:
    row = jwt_row(admin)
    admin.delete(f"/oauth2_tokens/{row.id}")
    (change,) = admin.changes
    assert [(r.kind, r.key) for r in change.revocations] == [
        ("token", b"j" * 32),
        ("jti", bytes.fromhex(row.id.replace("-", ""))),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"expires_in": 5},
        {"scope": "all"},
        {"authenticated_userid": "u"},
        {"created_at": 5},
        {"ttl": 30},
    ],
)
def test_what_a_jwt_says_cannot_be_edited(admin: Admin, change: dict[str, Any]) -> None:
    row = jwt_row(admin)
    fields = admin.fields(f"/oauth2_tokens/{row.id}", change, method="PATCH")
    (name,) = change
    assert list(fields) == [name] and "JWT" in fields[name]
    assert admin.changes == []


def test_row_of_a_jwt_keeps_what_no_field_shows_through_an_edit(admin: Admin) -> None:
    row = jwt_row(admin)
    admin.patch(f"/oauth2_tokens/{row.id}", {"ttl": 5000, "refresh_token": "r"})
    with admin.store.reading() as session:
        after = session.get_one(OAuth2Token, row.id)
    assert after.is_jwt and not after.by_hand
    assert after.refresh_token_digest is not None
    assert admin.changes == []  # data planes have nothing to hear of it


def test_jwt_replaced_by_another_token_is_revoked_and_its_row_is_a_jwts_no_more(
    admin: Admin,
) -> None:
    row = jwt_row(admin)
    admin.patch(f"/oauth2_tokens/{row.id}", {"access_token": "opaque", "scope": "all"})
    with admin.store.reading() as session:
        after = session.get_one(OAuth2Token, row.id)
    assert not after.is_jwt and after.by_hand
    (change,) = admin.changes
    assert [r.kind for r in change.revocations] == ["token", "jti"]
    assert [(t.digest, t.jti, t.scope) for t in change.tokens] == [
        (wire.token_digest("opaque"), None, "all")
    ]
