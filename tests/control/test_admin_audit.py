"""The audit trail: one record for each change, in the change's transaction.  S88."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from httpx import Response
from starlette.testclient import TestClient

from control.admin.audit import VALUE_BYTES_MAX
from control.store import audit
from control.store.audit import Retention
from tests import pki
from tests.control.adminkit import Guarded, guarded_admin


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_admin(tmp_path_factory.mktemp("audit")) as made:
        yield made


@pytest.fixture
def admin(running: Guarded) -> Iterator[Guarded]:
    """The same application for every test, each with nothing in it but what it makes."""
    yield running
    client = running.client("super")
    for path in ("/services/a/routes", "/routes", "/services", "/consumers", "/certificates"):
        for entity in client.get(path).json().get("data", []):
            assert client.delete(f"{path}/{entity['id']}").status_code == 204
    with running.store.writing() as session:
        audit.forget(session, 2**60)


def records(admin: Guarded, query: str = "") -> list[dict[str, Any]]:
    """The oldest first."""
    answer = admin.client("read-only").get(f"/narthex/audit?size=1000{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found[::-1]


def request_id(answer: Response) -> str:
    found: str = answer.headers["x-kong-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", found)
    return found


@pytest.fixture
def operator(admin: Guarded) -> TestClient:
    return admin.client("operator", "192.0.2.9")


def test_s88_each_write_leaves_one_record_with_who_where_what_and_the_request(
    admin: Guarded, operator: TestClient
) -> None:
    made = operator.post("/services", json={"name": "a", "host": "x.example", "tags": ["t"]})
    entity = made.json()
    patched = operator.patch("/services/a", json={"host": "y.example", "tags": None})
    put = operator.put("/services/a", json={"name": "a", "host": "z.example"})
    gone = operator.delete("/services/a")
    found = records(admin)
    assert [one["request_id"] for one in found] == list(map(request_id, (made, patched, put, gone)))
    common = {"who": "operator", "role": "operator", "address": "192.0.2.9", "type": "services",
              "entity_id": entity["id"], "name": "a"}  # fmt: skip
    for one in found:
        assert common.items() <= one.items()
        assert abs(one["at"] - entity["created_at"]) < 60
    assert [one["change"] for one in found] == ["created", "updated", "updated", "deleted"]
    assert (found[0]["before"], found[0]["after"]) == (None, entity)
    assert found[1]["before"] == {"host": "x.example", "tags": ["t"]}
    assert found[1]["after"] == {"host": "y.example", "tags": None}
    assert (found[2]["before"], found[2]["after"]) == ({"host": "y.example"}, {"host": "z.example"})
    assert found[3]["before"] == put.json() and found[3]["after"] is None


def test_s88_the_log_says_the_same(admin: Guarded, operator: TestClient) -> None:
    with structlog.testing.capture_logs() as logged:
        answer = operator.post("/consumers", json={"username": "alex"})
    (line,) = [one for one in logged if one["event"] == "admin.written"]
    (record,) = records(admin)
    assert line["request_id"] == request_id(answer)
    for name in ("who", "role", "address", "change", "type", "entity_id", "name"):
        assert line[name] == record[name]
    assert (line["before"], line["after"]) == (None, answer.json())


def test_s88_no_record_holds_a_secret(admin: Guarded, operator: TestClient) -> None:
    old, new = pki.make("a.example"), pki.make("b.example")
    secrets = ["pr0vision-1", "pr0vision-2", "cl1ent-1", "cl1ent-2", "t0ken-1", "t0ken-2",
               "refr3sh-1", *old.key.splitlines()[1:-1], *new.key.splitlines()[1:-1]]  # fmt: skip

    def send(method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = operator.request(method, path, json=body)
        assert answer.status_code < 300, answer.text
        made: dict[str, Any] = answer.json()
        return made

    with structlog.testing.capture_logs() as logged:
        config = {"enable_client_credentials": True, "provision_key": secrets[0]}
        plugin = send("POST", "/plugins", name="oauth2", config=config)
        send("PATCH", f"/plugins/{plugin['id']}", config={"provision_key": secrets[1]})
        send("POST", "/consumers", username="alex")
        app = send("POST", "/consumers/alex/oauth2", name="app", client_secret=secrets[2])
        path = f"/oauth2/{app['id']}"
        send("PATCH", path, client_secret=secrets[3], hash_secret=True)
        token = send(
            "POST", f"{path}/oauth2_tokens",
            expires_in=60, access_token=secrets[4], refresh_token=secrets[6],
        )  # fmt: skip
        send("PATCH", f"/oauth2_tokens/{token['id']}", access_token=secrets[5])
        pair = send("POST", "/certificates", cert=old.cert, key=old.key)
        send("PATCH", f"/certificates/{pair['id']}", cert=new.cert, key=new.key)
        operator.delete(f"/plugins/{plugin['id']}")
    found = records(admin)
    text = json.dumps(found) + str(logged)
    assert not [secret for secret in secrets if secret in text]
    assert "$pbkdf2" not in text
    # That a secret changed is on record all the same.
    changed = [one["after"] for one in found if one["change"] == "updated"]
    assert changed == [
        {"config": {**plugin["config"], "provision_key": "[redacted]"}},
        {"client_secret": "[redacted]", "hash_secret": True},
        {"access_token": "[redacted]"},
        {"cert": new.cert, "key": "[redacted]"},
    ]
    with admin.store.engine.connect() as connection:
        raw = str(connection.exec_driver_sql("SELECT * FROM audit_records").fetchall())
    assert not [secret for secret in secrets if secret in raw]


def test_what_goes_with_its_parent_is_recorded_with_it(
    admin: Guarded, operator: TestClient
) -> None:
    operator.post("/consumers", json={"username": "alex"})
    operator.post("/consumers/alex/oauth2", json={"name": "app"})
    gone = operator.delete("/consumers/alex")
    found = records(admin, f"&request_id={request_id(gone)}")
    kinds = [(one["change"], one["type"], one["name"]) for one in found]
    assert kinds == [("deleted", "oauth2_credentials", "app"), ("deleted", "consumers", "alex")]


def test_targets_and_their_marks_are_on_record(admin: Guarded, operator: TestClient) -> None:
    operator.post("/upstreams", json={"name": "u"})
    operator.post("/upstreams/u/targets", json={"target": "h.example:80"})
    marks = [operator.put(f"/upstreams/u/targets/h.example:80/{state}")
             for state in ("unhealthy", "unhealthy", "healthy")]  # fmt: skip
    assert [mark.status_code for mark in marks] == [204, 204, 204]
    operator.delete("/upstreams/u")
    found = [(one["change"], one["name"], one["after"]) for one in records(admin, "&type=targets")]
    assert found[1:] == [
        ("updated", "h.example:80", {"down": True}),
        ("updated", "h.example:80", {"down": False}),
        ("deleted", "h.example:80", None),
    ]


def test_file_leaves_a_record_for_each_entity_it_changes(
    admin: Guarded, operator: TestClient
) -> None:
    text = """
_format_version: "3.0"
services: [{name: a, host: h.example, routes: [{name: r, paths: [/a]}]}]
"""
    answers = [operator.post("/narthex/config/apply", content=text) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    found = records(admin)
    assert [(one["type"], one["name"]) for one in found] == [("services", "a"), ("routes", "r")]
    assert {one["request_id"] for one in found} == {request_id(answers[0])}


def test_refused_and_empty_writes_leave_no_record(admin: Guarded, operator: TestClient) -> None:
    body = {"name": "a", "host": "x.example"}
    operator.post("/services", json=body)
    before = records(admin)
    assert operator.put("/services/a", json=body).status_code == 200  # as it is
    assert operator.post("/services", json=body).status_code == 409
    assert operator.post("/services", json={"host": 1}).status_code == 400
    assert operator.delete("/services/none").status_code == 204
    assert admin.client("read-only").delete("/services/a").status_code == 403
    assert admin.client().delete("/services/a").status_code == 401
    # Rolled back whole: the first entity of the file was fine.
    text = '_format_version: "3.0"\nservices: [{name: b, host: h.example}, {name: c, host: 1}]'
    assert operator.post("/narthex/config/apply", content=text).status_code == 400
    assert records(admin) == before


def test_keys_that_are_made_and_ended_are_on_record(admin: Guarded) -> None:
    chief = admin.client("super")
    config = {
        "enable_client_credentials": True,
        "token_format": "jwt",
        "issuer": "https://i.example",
    }
    plugin = chief.post("/plugins", json={"name": "oauth2", "config": config})
    assert plugin.status_code == 201, plugin.text
    (first,) = chief.get("/signing-keys").json()["data"]
    rotated = chief.post("/signing-keys/rotate", json={})
    again = chief.post("/signing-keys/rotate", json={})
    gone = chief.delete(f"/signing-keys/{first['kid']}")
    assert (rotated.status_code, again.status_code, gone.status_code) == (200, 200, 204)
    next_kid = rotated.json()["data"][0]["kid"]
    found = {
        (one["change"], one["entity_id"])
        for one in records(admin, f"&type=signing_keys&request_id={request_id(rotated)}")
    }
    assert found == {("created", next_kid), ("updated", first["kid"])}
    assert records(admin, f"&request_id={request_id(again)}") == []
    ended = records(admin, f"&request_id={request_id(gone)}")
    assert ("deleted", first["kid"]) in {(one["change"], one["entity_id"]) for one in ended}
    assert "private" not in json.dumps(records(admin))
    chief.delete(f"/plugins/{plugin.json()['id']}")


def test_long_values_are_recorded_by_their_digest(admin: Guarded, operator: TestClient) -> None:
    paths = [f"/{number:04}{'x' * 60}" for number in range(200)]
    operator.post("/services", json={"name": "a", "host": "x.example"})
    made = operator.post("/services/a/routes", json={"name": "r", "paths": paths})
    assert made.status_code == 201
    after = records(admin, "&type=routes")[0]["after"]
    assert re.fullmatch(r"\[\d+ bytes, sha256:[0-9a-f]{64}\]", after["paths"])
    assert after["name"] == "r" and len(json.dumps(after)) < VALUE_BYTES_MAX


def test_trail_is_paged_newest_first_and_filtered(admin: Guarded, operator: TestClient) -> None:
    for number in range(5):
        operator.post("/consumers", json={"username": f"c{number}"})
    admin.client("super").post("/services", json={"name": "a", "host": "x.example"})
    reader = admin.client("read-only")
    names: list[str] = []
    path = "/narthex/audit?size=2&type=consumers&who=operator"
    while path:
        page = reader.get(path).json()
        names += [one["name"] for one in page["data"]]
        path = page["next"]
    assert names == ["c4", "c3", "c2", "c1", "c0"]
    assert [one["name"] for one in records(admin, "&who=super")] == ["a"]
    (entity,) = records(admin, "&type=services")
    assert records(admin, f"&entity_id={entity['entity_id']}") == [entity]
    assert records(admin, "&entity_id=none") == []
    for query in (
        "size=0",
        "offset=x",
        "who=",
        "type=%00",
        "offset=WyIxIiwiMiJd",
        "offset=WyJhIl0=",
    ):
        assert reader.get(f"/narthex/audit?{query}").status_code == 400, query


def test_trail_is_only_added_to(admin: Guarded) -> None:
    chief = admin.client("super")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert chief.request(method, "/narthex/audit").status_code == 405


def test_client_does_not_choose_the_id_of_its_request(operator: TestClient) -> None:
    chosen = "0" * 32
    headers = {"X-Kong-Request-Id": chosen, "X-Request-Id": chosen}
    assert request_id(operator.get("/services", headers=headers)) != chosen


def test_store_without_a_writer_keeps_no_record(admin: Guarded) -> None:
    """What no request asked for, such as a key that rotates by itself, is nobody's change."""
    with admin.store.writing() as session:
        session.note_written(audit.Written("created", "x", "1", None, None, {}))
    assert records(admin) == []


def test_retention_is_by_age_and_by_number(admin: Guarded, operator: TestClient) -> None:
    for number in range(6):
        operator.post("/consumers", json={"username": f"c{number}"})
    found = records(admin)
    day = 86400.0

    def overdue(days: float, rows: int, limit: int, now: float) -> int:
        with admin.store.reading() as session:
            return audit.overdue(session, Retention(days, rows), limit, now)

    now = found[-1]["at"] + 1
    ids = [one["id"] for one in found]
    assert overdue(1, 6, 100, now) == 0
    assert overdue(1, 4, 100, now) == ids[1]
    assert overdue(1, 4, 1, now) == ids[0]  # a batch at a time
    assert overdue(1, 6, 100, now + day + 60) == ids[-1]
    with admin.store.writing() as session:
        assert audit.forget(session, ids[1]) == 2
    assert [one["id"] for one in records(admin)] == ids[2:]


def test_s88_sync_leaves_a_record_of_each_change_and_a_dry_run_none(
    admin: Guarded, operator: TestClient
) -> None:
    text = '_format_version: "3.0"\nconsumers: [{username: alex}]'
    for action in ("diff", "validate", "sync?dry_run=true"):
        assert operator.post(f"/narthex/config/{action}", content=text).json()["created"] == 1
    assert records(admin) == []
    made = operator.post("/narthex/config/sync", content=text)
    gone = operator.post("/narthex/config/sync", content='_format_version: "3.0"')
    found = [(one["change"], one["name"], one["request_id"]) for one in records(admin)]
    assert found == [
        ("created", "alex", request_id(made)),
        ("deleted", "alex", request_id(gone)),
    ]


def test_s88_record_and_change_are_one_transaction(
    admin: Guarded, operator: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(audit, "keep", broken)
        assert (
            operator.post("/services", json={"name": "a", "host": "h.example"}).status_code == 500
        )
    assert admin.client("super").get("/services/a").status_code == 404
    assert records(admin) == []
