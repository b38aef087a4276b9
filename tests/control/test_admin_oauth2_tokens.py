"""OAuth 2.0 tokens.  oauth2.md §1.3, §11."""

import re
import time
import uuid

import pytest

from control.store import queries
from control.store.secrets import token_digest
from tests.control.adminkit import Admin


def test_token_has_kongs_defaults(admin: Admin) -> None:
    credential = admin.credential()
    made = admin.token(credential={"id": credential["id"]})
    assert re.fullmatch("[A-Za-z0-9]{32}", made["access_token"])
    assert made | {"id": 0, "created_at": 0, "access_token": 0} == {
        "id": 0,
        "created_at": 0,
        "service": None,
        "credential": {"id": credential["id"]},
        "token_type": "bearer",
        "expires_in": 60,
        "access_token": 0,
        "refresh_token": None,
        "authenticated_userid": None,
        "scope": None,
        "ttl": None,
    }


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"credential": "required field missing", "expires_in": "required field missing"}),
        (
            {"expires_in": "x", "credential": {"id": str(uuid.uuid4())}},
            {"expires_in": "expected an integer"},
        ),
        (
            {"expires_in": 1, "credential": {"id": str(uuid.uuid4())}, "token_type": "mac"},
            {"token_type": "expected one of: bearer"},
        ),
        (
            {"expires_in": 1, "credential": {"id": str(uuid.uuid4())}, "ttl": -1},
            {"ttl": "value should be between 0 and 100000000"},
        ),
        (
            {"expires_in": 1, "credential": {"id": str(uuid.uuid4())}, "scope": "a\r\nb"},
            {"scope": "must not contain control characters"},
        ),
    ],
)
def test_broken_token_is_refused(
    body: dict[str, object], fields: dict[str, str], admin: Admin
) -> None:
    assert admin.fields("/oauth2_tokens", body) == fields


def test_token_is_readable_in_the_answer_that_set_it_alone(admin: Admin) -> None:
    made = admin.token(access_token="at", refresh_token="rt")
    assert (made["access_token"], made["refresh_token"]) == ("at", "rt")
    path = f"/oauth2_tokens/{made['id']}"
    for answer in (admin.get(path), admin.get("/oauth2_tokens/at"), admin.patch(path, {})):
        assert (answer["access_token"], answer["refresh_token"]) == (None, None)
    assert admin.get("/oauth2_tokens")["data"][0]["access_token"] is None
    changed = admin.patch(path, {"access_token": "new"})
    assert (changed["access_token"], changed["refresh_token"]) == ("new", None)
    with admin.store.engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT * FROM oauth2_tokens").one()
    assert not {"at", "rt", "new"}.intersection(str(value) for value in row)
    assert {token_digest("new"), token_digest("rt")}.issubset(row)


def test_token_is_pushed_when_it_is_made(admin: Admin) -> None:
    credential, service = admin.credential(), admin.service()
    made = admin.token(
        credential={"id": credential["id"]},
        service={"id": service["id"]},
        access_token="at",
        scope="a b",
        authenticated_userid="u",
    )
    change = admin.changes[-1]
    (token,) = change.tokens
    assert change.version is None
    assert token.digest == token_digest("at")
    assert (token.credential_id, token.service_id) == (credential["id"], service["id"])
    assert (token.scope, token.user_id, token.version) == ("a b", "u", admin.version())
    assert made["created_at"] + 60 <= token.expires_at < made["created_at"] + 61
    with admin.store.reading() as session:
        assert queries.tokens_to_replay(session) == [token]
        assert queries.token_by_digest(session, token.digest) == token


def test_changed_token_is_pushed_again(admin: Admin) -> None:
    made = admin.token(access_token="at", refresh_token="rt", ttl=1000)
    before = admin.changes[-1].tokens[0]
    admin.patch(f"/oauth2_tokens/{made['id']}", {"scope": "a", "expires_in": 100})
    (token,) = admin.changes[-1].tokens
    assert (token.digest, token.scope) == (before.digest, "a")
    assert token.expires_at == before.expires_at + 40  # from the same base, to the microsecond
    assert admin.changes[-1].revocations == ()
    assert admin.get(f"/oauth2_tokens/{made['id']}")["ttl"] in (999, 1000)


def test_patch_of_the_access_token_ends_the_old_one(admin: Admin) -> None:
    made = admin.token(access_token="old")
    admin.patch(f"/oauth2_tokens/{made['id']}", {"access_token": "new"})
    change = admin.changes[-1]
    assert [(r.kind, r.key) for r in change.revocations] == [("token", token_digest("old"))]
    assert [token.digest for token in change.tokens] == [token_digest("new")]
    admin.refused("GET", "/oauth2_tokens/old", 404)
    assert admin.get("/oauth2_tokens/new")["id"] == made["id"]


def test_null_in_a_patch_renews_the_access_token_and_clears_the_refresh_token(
    admin: Admin,
) -> None:
    made = admin.token(access_token="old", refresh_token="rt")
    changed = admin.patch(
        f"/oauth2_tokens/{made['id']}", {"access_token": None, "refresh_token": None}
    )
    assert re.fullmatch("[A-Za-z0-9]{32}", changed["access_token"])
    assert admin.get(f"/oauth2_tokens/{changed['access_token']}")["id"] == made["id"]
    admin.token(refresh_token="rt")  # free again


def test_deleted_token_is_revoked(admin: Admin) -> None:
    made = admin.token(access_token="at")
    expires = admin.changes[-1].tokens[0].expires_at
    admin.delete("/oauth2_tokens/at")
    change = admin.changes[-1]
    assert change.version is None
    assert [(r.seq, r.kind, r.key) for r in change.revocations] == [
        (1, "token", token_digest("at"))
    ]
    assert change.revocations[0].expires_at == expires
    admin.refused("GET", f"/oauth2_tokens/{made['id']}", 404)
    admin.delete("/oauth2_tokens/at")
    assert admin.changes[-1] is change
    admin.token(access_token="at")
    with admin.store.reading() as session:
        assert queries.revocations_after(session, 0) == []  # made again: not revoked


def test_put_by_token_makes_it_and_keeps_it(admin: Admin) -> None:
    credential = {"id": admin.credential()["id"]}
    body = {"credential": credential, "expires_in": 60}
    made = admin.put("/oauth2_tokens/my-token", body)
    assert made["access_token"] == "my-token"
    again = admin.put("/oauth2_tokens/my-token", body | {"scope": "a"})
    assert (again["id"], again["created_at"]) == (made["id"], made["created_at"])
    by_id = admin.put(f"/oauth2_tokens/{made['id']}", body)
    assert (by_id["access_token"], by_id["scope"]) == (None, None)
    assert admin.get("/oauth2_tokens/my-token")["id"] == made["id"]


def test_put_resets_the_refresh_token(admin: Admin) -> None:
    made = admin.token(refresh_token="rt")
    body = {"credential": made["credential"], "expires_in": 60}
    admin.put(f"/oauth2_tokens/{made['id']}", body)
    admin.token(refresh_token="rt")  # free again


@pytest.mark.parametrize("field", ["access_token", "refresh_token"])
def test_s95_duplicate_token_is_refused_without_showing_it(field: str, admin: Admin) -> None:
    made = admin.token(**{field: "the-token"})
    body = {"credential": made["credential"], "expires_in": 1, field: "the-token"}
    refused = admin.refused("POST", "/oauth2_tokens", 409, json=body)
    assert refused["code"] == 5
    assert refused["fields"] == {field: "***"}
    assert "the-token" not in str(refused)


def test_created_at_is_the_base_of_expiry(admin: Admin) -> None:
    made = admin.token(created_at=1000, expires_in=60)
    assert made["created_at"] == 1000
    assert admin.changes[-1].tokens[0].expires_at == 1060
    moved = admin.patch(f"/oauth2_tokens/{made['id']}", {"created_at": 2000})
    assert moved["created_at"] == 2000
    assert admin.changes[-1].tokens[0].expires_at == 2060


def test_token_with_expires_in_0_never_expires(admin: Admin) -> None:
    admin.token(expires_in=0)
    assert admin.changes[-1].tokens[0].expires_at == 0


def test_ttl_counts_down_and_ends_the_token(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    made = admin.token(ttl=30, expires_in=0)
    assert made["ttl"] == 30
    expires = admin.changes[-1].tokens[0].expires_at
    assert 0 < expires - time.time() <= 30
    later = time.time() + 10
    monkeypatch.setattr("time.time", lambda: later)
    path = f"/oauth2_tokens/{made['id']}"
    assert admin.get(path)["ttl"] == 20
    body = {"credential": made["credential"], "expires_in": 0}
    assert admin.put(path, body)["ttl"] is None


def test_token_past_its_ttl_is_not_shown_while_its_row_waits_for_the_clean_up(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, kept = admin.token(ttl=30), admin.token()
    later = time.time() + 31
    monkeypatch.setattr("time.time", lambda: later)
    path = f"/oauth2_tokens/{made['id']}"
    admin.refused("GET", path, 404)
    admin.refused("PATCH", path, 404, json={"scope": "email"})
    assert [row["id"] for row in admin.get("/oauth2_tokens")["data"]] == [kept["id"]]
    admin.delete(path)


def test_token_by_form(admin: Admin) -> None:
    credential = admin.credential()
    form = {"credential.id": credential["id"], "expires_in": "7200", "scope": ""}
    answer = admin.call("POST", "/oauth2_tokens", data=form)
    assert answer.status_code == 201
    assert (answer.json()["expires_in"], answer.json()["scope"]) == (7200, None)


def test_deleting_a_service_takes_and_revokes_its_tokens_each(admin: Admin) -> None:
    service = admin.service()
    credential = {"id": admin.credential()["id"]}
    for name in ("a", "b"):
        admin.token(credential=credential, service={"id": service["id"]}, access_token=name)
    admin.token(credential=credential, access_token="global")
    admin.delete(f"/services/{service['id']}")
    revocations = admin.changes[-1].revocations
    assert {r.key for r in revocations} == {token_digest("a"), token_digest("b")}
    assert {r.kind for r in revocations} == {"token"}
    assert len(admin.get("/oauth2_tokens")["data"]) == 1


def test_credential_and_service_of_a_token(admin: Admin) -> None:
    service = admin.service()
    made = admin.token(service={"id": service["id"]})
    path = f"/oauth2_tokens/{made['id']}"
    assert admin.get(f"{path}/service") == service
    assert admin.get(f"{path}/credential")["id"] == made["credential"]["id"]


def test_tokens_are_not_config(admin: Admin) -> None:
    credential = admin.credential()
    version = admin.version()
    made = admin.token(credential={"id": credential["id"]})
    admin.patch(f"/oauth2_tokens/{made['id']}", {"scope": "a"})
    admin.delete(f"/oauth2_tokens/{made['id']}")
    assert admin.version() == version


# --- JWTs ------------------------------------------------------------------------------------

SAID = "cannot be changed: the JWT says it"


@pytest.fixture
def jwt(admin: Admin) -> str:
    """The path of a JWT's row."""
    credential = admin.credential()
    with admin.store.writing() as session:
        queries.insert_token(
            session,
            token_id=str(uuid.uuid4()),
            credential_id=credential["id"],
            access_token_digest=token_digest("a.b.c"),
            expires_in=3600,
            scope="email",
            is_jwt=True,
        )
    (row,) = admin.get("/oauth2_tokens")["data"]
    return f"/oauth2_tokens/{row['id']}"


@pytest.mark.parametrize("same", [{}, {"access_token": "a.b.c"}])
@pytest.mark.parametrize(
    ("edit", "fields"),
    [
        ({"expires_in": 60}, {"expires_in": SAID}),
        ({"scope": None}, {"scope": SAID}),
        ({"authenticated_userid": "x"}, {"authenticated_userid": SAID}),
        ({"created_at": 1}, {"created_at": SAID}),
        ({"ttl": 60}, {"ttl": "must not end before the JWT expires; delete the token to end it"}),
    ],
)
def test_what_a_jwt_says_is_not_changed_by_an_edit(
    admin: Admin, jwt: str, edit: dict[str, object], fields: dict[str, str], same: dict[str, str]
) -> None:
    """Also not where its own text comes along, which makes it no other token."""
    assert admin.fields(jwt, edit | same, "PATCH") == fields


def test_another_access_token_ends_the_jwt(admin: Admin, jwt: str) -> None:
    admin.changes.clear()
    made = admin.patch(jwt, {"access_token": "opaque", "expires_in": 60})
    assert (made["access_token"], made["expires_in"]) == ("opaque", 60)
    ended = [(item.kind, item.key) for change in admin.changes for item in change.revocations]
    jti = uuid.UUID(jwt.rpartition("/")[2]).bytes
    assert ended == [("token", token_digest("a.b.c")), ("jti", jti)]
