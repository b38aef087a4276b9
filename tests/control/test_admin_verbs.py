"""What each verb does on each kind of path.  admin-api.md §1.1, §7."""

import time
import uuid
from typing import Any

import pytest

from tests.control.adminkit import Admin, unique

# A body that makes each entity, given what it refers to.
COLLECTIONS = ("services", "routes", "consumers", "plugins", "oauth2", "oauth2_tokens")


def body_of(admin: Admin, collection: str) -> dict[str, Any]:
    if collection == "services":
        return {"name": unique("s"), "host": "h", "tags": ["a"], "path": "/p"}
    if collection == "routes":
        return {"name": unique("r"), "paths": ["/p"], "service": {"id": admin.service()["id"]}}
    if collection == "consumers":
        return {"username": unique("c"), "custom_id": unique("i")}
    if collection == "plugins":
        config = {"enable_password_grant": True, "scopes": ["a"]}
        return {"name": "oauth2", "config": config, "instance_name": unique("p")}
    if collection == "oauth2":
        consumer = {"id": admin.consumer()["id"]}
        return {"name": "app", "consumer": consumer, "redirect_uris": ["https://h/cb"]}
    return {"expires_in": 50, "credential": {"id": admin.credential()["id"]}, "scope": "a b"}


def without_time(entity: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entity.items() if name != "updated_at"}


def hide_token(entity: dict[str, Any]) -> dict[str, Any]:
    """A token is readable once."""
    return entity | {"access_token": None} if "access_token" in entity else entity


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_entity_is_made_read_changed_and_deleted(collection: str, admin: Admin) -> None:
    body = body_of(admin, collection)
    before = int(time.time())
    made = admin.post(f"/{collection}", body)
    assert str(uuid.UUID(made["id"])) == made["id"] and uuid.UUID(made["id"]).version == 4
    assert before <= made["created_at"] <= time.time()
    one = f"/{collection}/{made['id']}"
    assert admin.get(one) == hide_token(made)
    assert admin.get(f"/{collection}")["data"] == [hide_token(made)]
    admin.delete(one)
    assert admin.refused("GET", one, 404) == {"message": "Not found"}
    assert admin.get(f"/{collection}") == {"data": [], "next": None}
    admin.delete(one)


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_put_by_id_makes_and_again_changes_nothing(collection: str, admin: Admin) -> None:
    body, ident = body_of(admin, collection), str(uuid.uuid4())
    first = admin.put(f"/{collection}/{ident}", body)
    assert first["id"] == ident
    second = admin.put(f"/{collection}/{ident}", body)
    assert without_time(second) == without_time(hide_token(first))
    assert admin.get(f"/{collection}/{ident}") == second


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_patch_of_an_unknown_entity_gets_404(collection: str, admin: Admin) -> None:
    for key in (uuid.uuid4(), "no-such"):
        admin.refused("PATCH", f"/{collection}/{key}", 404, json={})
        admin.refused("GET", f"/{collection}/{key}", 404)


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_second_post_with_an_id_gets_409(collection: str, admin: Admin) -> None:
    made = admin.post(f"/{collection}", body_of(admin, collection))
    again = body_of(admin, collection) | {"id": made["id"]}
    if collection == "plugins":
        again["service"] = {"id": admin.service()["id"]}
    refused = admin.refused("POST", f"/{collection}", 409, json=again)
    assert refused == {
        "code": 5,
        "name": "unique constraint violation",
        "message": f"UNIQUE violation detected on '{{id=\"{made['id']}\"}}'",
        "fields": {"id": made["id"]},
    }


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_id_that_is_no_uuid_is_refused(collection: str, admin: Admin) -> None:
    body = body_of(admin, collection) | {"id": "x"}
    assert admin.fields(f"/{collection}", body) == {"id": "expected a valid UUID"}


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_unknown_field_is_refused_by_every_verb(collection: str, admin: Admin) -> None:
    body = body_of(admin, collection)
    made = admin.post(f"/{collection}", body)
    wrong = {"colour": "red"}
    if collection == "plugins":
        body["name"] = "oauth2"
    for method, path in (
        ("POST", f"/{collection}"),
        ("PUT", f"/{collection}/{made['id']}"),
        ("PATCH", f"/{collection}/{made['id']}"),
    ):
        sent = wrong if method == "PATCH" else body | wrong
        assert admin.fields(path, sent, method) == {"colour": "unknown field"}


@pytest.mark.parametrize(
    ("collection", "key", "body"),
    [
        ("services", "name", {"host": "h"}),
        ("routes", "name", {"paths": ["/"]}),
        ("consumers", "username", {}),
        ("plugins", "instance_name", {"name": "oauth2", "config": {"enable_password_grant": True}}),
    ],
)
def test_put_by_name_sets_the_name_and_keeps_the_id(
    collection: str, key: str, body: dict[str, Any], admin: Admin
) -> None:
    first = admin.put(f"/{collection}/a-name", body | {key: "ignored"})
    assert first[key] == "a-name"
    second = admin.put(f"/{collection}/a-name", body | {"id": str(uuid.uuid4()), "tags": ["t"]})
    assert second["id"] == first["id"]
    assert second["tags"] == ["t"]
    assert len(admin.get(f"/{collection}")["data"]) == 1


def test_put_takes_the_id_of_its_body_when_it_makes_by_name(admin: Admin) -> None:
    ident = str(uuid.uuid4())
    assert admin.put("/services/s", {"host": "h", "id": ident})["id"] == ident


def test_put_resets_what_was_not_sent_and_patch_does_not(admin: Admin) -> None:
    made = admin.service(name="s", port=81, tags=["t"], retries=1, path="/p")
    patched = admin.patch("/services/s", {"port": 82})
    assert without_time(patched) == without_time(made | {"port": 82})
    put = admin.put(f"/services/{made['id']}", {"host": "h", "name": "s"})
    assert (put["port"], put["tags"], put["retries"], put["path"]) == (80, None, 5, None)
    assert put["created_at"] == made["created_at"]


def test_put_whose_name_belongs_to_another_gets_409(admin: Admin) -> None:
    admin.service(name="s")
    other = admin.service(name="t")
    refused = admin.refused("PUT", f"/services/{other['id']}", 409, json={"host": "h", "name": "s"})
    assert (refused["code"], refused["fields"]) == (5, {"name": "s"})
    assert admin.get(f"/services/{other['id']}")["name"] == "t"


def test_patch_may_repeat_the_id_and_not_change_it(admin: Admin) -> None:
    made = admin.service()
    path = f"/services/{made['id']}"
    assert admin.patch(path, {"id": made["id"]}) == made
    changed = admin.fields(path, {"id": str(uuid.uuid4())}, "PATCH")
    assert changed == {"id": "immutable field cannot be updated"}


def test_patch_null_clears(admin: Admin) -> None:
    made = admin.service(path="/p", tags=["t"], tls_verify=None)
    patched = admin.patch(f"/services/{made['id']}", {"path": None, "tags": None, "name": None})
    assert (patched["path"], patched["tags"], patched["name"]) == (None, None, None)
    assert admin.get(f"/services/{made['id']}") == patched
    assert admin.get("/services?tags=t")["data"] == []


def test_null_of_a_required_field_is_refused(admin: Admin) -> None:
    made = admin.service()
    for field in ("host", "protocol", "port", "enabled"):
        wrong = admin.fields(f"/services/{made['id']}", {field: None}, "PATCH")
        assert wrong == {field: "required field missing"}


def test_patch_merges_records_and_replaces_arrays_and_maps(admin: Admin) -> None:
    plugin = admin.plugin(config={"enable_password_grant": True, "scopes": ["a", "b"]})
    patched = admin.patch(f"/plugins/{plugin['id']}", {"config": {"scopes": ["c"], "realm": "r"}})
    assert patched["config"] == plugin["config"] | {"scopes": ["c"], "realm": "r"}
    route = admin.route(headers={"a": ["1"], "b": ["2"]}, hosts=["h", "i"])
    changed = admin.patch(f"/routes/{route['id']}", {"headers": {"c": ["3"]}, "hosts": ["j"]})
    assert (changed["headers"], changed["hosts"]) == ({"c": ["3"]}, ["j"])


def test_updated_at_moves_and_created_at_stays(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = admin.service()
    later = time.time() + 100
    monkeypatch.setattr("time.time", lambda: later)
    patched = admin.patch(f"/services/{made['id']}", {"port": 81})
    assert patched["created_at"] == made["created_at"]
    assert patched["updated_at"] == int(later)


def test_created_at_may_be_given(admin: Admin) -> None:
    assert admin.service(created_at=1_600_000_000)["created_at"] == 1_600_000_000


# --- nested paths ----------------------------------------------------------------------------


def test_nested_collection_has_the_parents_own(admin: Admin) -> None:
    service, other = admin.service(name="s"), admin.service()
    body = {"paths": ["/a"], "name": "r", "service": {"id": other["id"]}}
    made = admin.post("/services/s/routes", body)
    assert made["service"] == {"id": service["id"]}
    admin.route(service={"id": other["id"]})
    assert admin.get("/services/s/routes") == {"data": [made], "next": None}
    assert admin.get(f"/services/{service['id']}/routes/r") == made
    assert admin.patch("/services/s/routes/r", {"paths": ["/b"]})["paths"] == ["/b"]
    put = admin.put("/services/s/routes/r", {"paths": ["/c"]})
    assert (put["id"], put["service"]) == (made["id"], made["service"])
    admin.delete("/services/s/routes/r")
    admin.delete("/services/s/routes/r", 404)


def test_nested_put_makes_with_the_parent(admin: Admin) -> None:
    service = admin.service(name="s")
    made = admin.put("/services/s/routes/new", {"paths": ["/c"]})
    assert (made["name"], made["service"]) == ("new", {"id": service["id"]})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/services/none/routes"),
        ("POST", "/services/none/routes"),
        ("GET", "/services/none/routes/r"),
        ("PUT", "/services/none/routes/r"),
        ("PATCH", "/services/none/routes/r"),
        ("DELETE", "/services/none/routes/r"),
        ("GET", "/services/other/routes/r"),
        ("PUT", "/services/other/routes/r"),
        ("PATCH", "/services/other/routes/r"),
        ("DELETE", "/services/other/routes/r"),
        ("GET", "/services/s/routes/none"),
        ("PATCH", "/services/s/routes/none"),
        ("DELETE", "/services/s/routes/none"),
    ],
)
def test_nested_path_without_parent_or_of_another_gets_404(
    method: str, path: str, admin: Admin
) -> None:
    admin.service(name="s")
    admin.service(name="other")
    made = admin.post("/services/s/routes", {"paths": ["/a"], "name": "r"})
    body = {} if method == "GET" else {"json": {"paths": ["/b"]}}
    assert admin.refused(method, path, 404, **body) == {"message": "Not found"}
    assert admin.get("/routes/r") == made


@pytest.mark.parametrize(
    ("parent", "child", "field"),
    [
        ("services", "routes", "service"),
        ("services", "plugins", "service"),
        ("routes", "plugins", "route"),
        ("services", "oauth2_tokens", "service"),
        ("consumers", "oauth2", "consumer"),
        ("oauth2", "oauth2_tokens", "credential"),
    ],
)
def test_every_reference_has_a_nested_collection(
    parent: str, child: str, field: str, admin: Admin
) -> None:
    body = body_of(admin, child)
    made_parent = admin.post(f"/{parent}", body_of(admin, parent))
    made = admin.post(f"/{parent}/{made_parent['id']}/{child}", body)
    assert made[field] == {"id": made_parent["id"]}
    listed = admin.get(f"/{parent}/{made_parent['id']}/{child}")["data"]
    assert [entity["id"] for entity in listed] == [made["id"]]
    up = admin.get(f"/{child}/{made['id']}/{field}")
    assert up["id"] == made_parent["id"]


# --- the entity that another refers to -----------------------------------------------------------


def test_parent_is_read_and_changed_from_its_child(admin: Admin) -> None:
    service = admin.service()
    admin.route(name="r", service={"id": service["id"]})
    assert admin.get("/routes/r/service") == service
    assert admin.patch("/routes/r/service", {"port": 81})["port"] == 81
    put = admin.put("/routes/r/service", {"host": "new"})
    assert (put["id"], put["host"], put["port"]) == (service["id"], "new", 80)
    assert admin.refused("DELETE", "/routes/r/service", 405) == {"message": "Method not allowed"}


def test_parent_that_is_null_is_made_by_put_alone(admin: Admin) -> None:
    admin.route(name="r")
    for method in ("GET", "PATCH", "DELETE"):
        body = {"json": {}} if method == "PATCH" else {}
        admin.refused(method, "/routes/r/service", 404, **body)
    made = admin.put("/routes/r/service", {"host": "h"})
    assert admin.get("/routes/r")["service"] == {"id": made["id"]}
    assert admin.get("/routes/r/service") == made
    admin.refused("GET", "/routes/none/service", 404)


# --- the config version -----------------------------------------------------------------------


def test_version_goes_up_with_each_change_of_config_alone(admin: Admin) -> None:
    credential = admin.credential()
    version = admin.version()
    made = admin.service()
    assert admin.version() == version + 1
    admin.patch(f"/services/{made['id']}", {"port": 81})
    assert admin.version() == version + 2
    admin.delete(f"/services/{made['id']}")
    assert admin.version() == version + 3
    admin.token(credential={"id": credential["id"]})
    admin.refused("POST", "/services", json={})
    admin.delete("/services/none")
    admin.get("/services")
    assert admin.version() == version + 3


def test_version_stays_when_a_write_changes_nothing(admin: Admin) -> None:
    made = admin.service(name="s", tags=["a"])
    version = admin.version()
    assert admin.patch("/services/s", {"port": 80, "tags": ["a"]}) == made
    assert admin.put("/services/s", {"host": "up.example", "tags": ["a"]}) == made
    assert admin.version() == version
