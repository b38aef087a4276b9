"""Consumers, and what goes with them."""

import uuid

import pytest

from control.store import queries
from tests.control.adminkit import Admin


@pytest.mark.parametrize("body", [{}, {"tags": ["a"]}, {"username": None, "custom_id": None}])
def test_consumer_needs_a_username_or_a_custom_id(body: dict[str, object], admin: Admin) -> None:
    refused = admin.refused("POST", "/consumers", json=body)
    text = "at least one of these fields must be non-empty: 'custom_id', 'username'"
    assert refused["message"] == f"schema violation ({text})"
    assert refused["fields"] == {"@entity": [text]}


def test_one_of_them_is_enough(admin: Admin) -> None:
    assert admin.post("/consumers", {"custom_id": "1"})["username"] is None
    made = admin.post("/consumers", {"username": "u"})
    assert made.keys() == {"id", "created_at", "updated_at", "username", "custom_id", "tags"}
    assert "@entity" in admin.fields("/consumers/u", {"username": None}, "PATCH")


@pytest.mark.parametrize("field", ["username", "custom_id"])
def test_names_are_unique(field: str, admin: Admin) -> None:
    admin.post("/consumers", {field: "x"})
    assert admin.refused("POST", "/consumers", 409, json={field: "x"})["fields"] == {field: "x"}


def test_s57_name_cannot_end_a_header_line(admin: Admin) -> None:
    for value in ("a\r\nb", "a\nb", "a\0b"):
        assert admin.fields("/consumers", {"username": value}) == {
            "username": "must not contain control characters"
        }


def test_deleting_a_consumer_takes_credentials_and_tokens_and_revokes_them(admin: Admin) -> None:
    consumer = admin.consumer(username="alex")
    credential = admin.post("/consumers/alex/oauth2", {"name": "app", "tags": ["t"]})
    token = admin.token(credential={"id": credential["id"]}, expires_in=500)
    kept = admin.token(expires_in=5)
    admin.delete("/consumers/alex")
    admin.refused("GET", f"/oauth2/{credential['id']}", 404)
    admin.refused("GET", f"/oauth2_tokens/{token['id']}", 404)
    assert [row["id"] for row in admin.get("/oauth2_tokens")["data"]] == [kept["id"]]
    assert admin.get("/tags")["data"] == []
    change = admin.changes[-1]
    assert change.version is not None
    assert [(r.seq, r.kind, r.key) for r in change.revocations] == [
        (1, "consumer", uuid.UUID(consumer["id"]).bytes),
        (2, "credential", uuid.UUID(credential["id"]).bytes),
    ]
    ends = token["created_at"] + 500
    assert all(ends <= r.expires_at <= ends + 1 for r in change.revocations)
    with admin.store.reading() as session:
        assert queries.revocations_after(session, 0) == list(change.revocations)


def test_consumer_made_again_is_not_revoked_by_the_end_of_the_one_before(admin: Admin) -> None:
    consumer = admin.consumer(username="alex")
    credential = admin.post("/consumers/alex/oauth2", {"name": "app"})
    admin.delete("/consumers/alex")
    admin.put(f"/consumers/{consumer['id']}", {"username": "alex"})
    admin.put(f"/consumers/alex/oauth2/{credential['id']}", {"name": "app"})
    with admin.store.reading() as session:
        ended = queries.revocations_after(session, 0)
        assert {end.kind for end in ended} == {"consumer", "credential"}
        # Tokens of a version from theirs on, as all are that the new ones get, are good.
        assert max(e.version for e in ended) < queries.cluster_state(session).config_version


def test_many_children_are_deleted_in_one_transaction(admin: Admin) -> None:
    admin.consumer(username="alex")
    for number in range(1001):
        admin.post("/consumers/alex/oauth2", {"name": f"app-{number}"})
    before = len(admin.changes)
    admin.delete("/consumers/alex")
    assert len(admin.changes) == before + 1
    assert len(admin.changes[-1].revocations) == 1002
    assert admin.get("/oauth2")["data"] == []
