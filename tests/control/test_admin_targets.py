"""Targets: below their upstream, one address once; their health, and marks by hand."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from control.admin import targets
from control.admin.targets import split_target
from control.declarative import FileRefused
from dataplane import wire
from tests.control.adminkit import Admin
from tests.control.filekit import apply_text

PATH = "/upstreams/u/targets"


@pytest.fixture(autouse=True)
def upstream(admin: Admin) -> dict[str, Any]:
    return admin.post("/upstreams", {"name": "u"})


def test_target_has_every_field_with_its_default(admin: Admin, upstream: dict[str, Any]) -> None:
    made = admin.post(PATH, {"target": "up.example"})
    assert made.pop("id")
    assert made["created_at"] == made.pop("updated_at")
    assert made.pop("created_at") % 1 or admin.post(PATH, {"target": "b"})["created_at"] % 1
    assert made == {
        "upstream": {"id": upstream["id"]},
        "target": "up.example:8000",
        "weight": 100,
        "tags": None,
    }


def test_schema_has_the_defaults_that_are_stored(admin: Admin) -> None:
    fields = admin.get("/schemas/targets")["fields"]
    shown = {name: field for entry in fields for name, field in entry.items()}
    assert {name: f["default"] for name, f in shown.items() if "default" in f} == {"weight": 100}
    assert (shown["upstream"]["reference"], shown["upstream"]["on_delete"]) == (
        "upstreams",
        "cascade",
    )


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("up.example", "up.example:8000"),
        ("up.example:1", "up.example:1"),
        ("up.example:65535", "up.example:65535"),
        ("127.0.0.1", "127.0.0.1:8000"),
        ("127.0.0.1:080", "127.0.0.1:80"),
        ("2001:DB8::1", "[2001:0db8:0000:0000:0000:0000:0000:0001]:8000"),
        ("[0:0:0:0:0:0:0:1]:9000", "[0000:0000:0000:0000:0000:0000:0000:0001]:9000"),
        ("3com.example:80", "3com.example:80"),
    ],
)
def test_target_is_kept_as_host_and_port(sent: str, kept: str, admin: Admin) -> None:
    assert admin.post(PATH, {"target": sent})["target"] == kept
    assert admin.get(f"{PATH}/{sent}")["target"] == kept
    host, port = split_target(kept)
    assert kept in (f"{host}:{port}", f"[{host}]:{port}")


@pytest.mark.parametrize(
    "target",
    [
        "user@up.example",
        "user:secret@up.example:80",
        "http://up.example",
        "//up.example",
        "up.example/x",
        "up example",
        " up.example",
        "up.example ",
        "up.example:80 ",
        "up.example:+80",
        "up.example:",
        "up.example:\uff18\uff10",  # digits of another script
        "üp.example",
        "up。example",  # a full stop that IDNA maps to `.`
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0x7f.1:80",
        "127.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "1.2.3.256",
        "fe80::1%eth0",
        "[fe80::1%25eth0]:80",
        "[127.0.0.1]x",
        "[up.example]:80",
        "*.example",
        "up..example",
    ],
)
def test_s79_host_of_a_target_is_a_plain_name_or_address(target: str, admin: Admin) -> None:
    said = admin.fields(PATH, {"target": target})
    assert said == {"target": f"Invalid target ('{target}'); not a valid hostname or ip address"}
    assert admin.fields("/schemas/targets/validate", {"target": target})["target"] == said["target"]


@pytest.mark.parametrize("target", ["up\0.example", "up.example\r\n", "\tup", "up\x7f"])
def test_s79_host_of_a_target_has_no_control_bytes(target: str, admin: Admin) -> None:
    said = admin.fields(PATH, {"target": target})
    assert said == {"target": "must not contain control characters"}


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        ({}, {"target": "required field missing"}),
        ({"target": 5}, {"target": "expected a string"}),
        ({"target": "a", "weight": -1}, {"weight": "value should be between 0 and 65535"}),
        ({"target": "a", "weight": 65536}, {"weight": "value should be between 0 and 65535"}),
        ({"target": "a", "weight": "5"}, {"weight": "expected an integer"}),
        ({"target": "a", "port": 5}, {"port": "unknown field"}),
        (
            {"target": "a:0"},
            {"target": "Invalid target ('a:0'); the port must be between 1 and 65535"},
        ),
        (
            {"target": "0:0:0:0:0:0:0:1:80"},
            {
                "target": "Invalid target ('0:0:0:0:0:0:0:1:80'); "
                "an IPv6 address with a port needs brackets: [::1]:8000"
            },
        ),
    ],
)
def test_wrong_target_is_refused(
    sent: dict[str, Any], fields: dict[str, Any], admin: Admin
) -> None:
    assert admin.fields(PATH, sent) == fields
    assert admin.get(PATH)["data"] == []


@pytest.mark.parametrize("again", ["up.example", "up.example:8000", "up.example:08000"])
def test_address_is_once_in_an_upstream(again: str, admin: Admin, upstream: dict[str, Any]) -> None:
    made = admin.post(PATH, {"target": "up.example"})
    said = admin.refused("POST", PATH, 409, json={"target": again})
    assert (said["code"], said["fields"]) == (
        5,
        {"target": "up.example:8000", "upstream": {"id": upstream["id"]}},
    )
    other = admin.post(PATH, {"target": "other"})
    admin.refused("PATCH", f"{PATH}/{other['id']}", 409, json={"target": again})
    assert admin.get(f"{PATH}/{made['id']}") == made


def test_two_upstreams_may_share_an_address(admin: Admin) -> None:
    first = admin.post(PATH, {"target": "up.example", "weight": 1})
    admin.post("/upstreams", {"name": "v"})
    second = admin.put("/upstreams/v/targets/up.example:8000", {"weight": 2})
    assert first["id"] != second["id"]
    assert admin.get(f"{PATH}/up.example") == first
    admin.refused("GET", f"/upstreams/v/targets/{first['id']}", 404)
    admin.refused("PUT", f"/upstreams/v/targets/{first['id']}", 404, json={"target": "x"})
    admin.refused("DELETE", f"/upstreams/v/targets/{first['id']}", 404)
    admin.delete("/upstreams/v/targets/up.example")
    assert admin.get(PATH)["data"] == [first]


@pytest.mark.parametrize("by", ["id", "target"])
def test_target_is_put_twice_and_changed_once(by: str, admin: Admin) -> None:
    key = str(uuid.uuid4()) if by == "id" else "up.example:80"
    made = admin.put(f"{PATH}/{key}", {"target": "up.example:80", "weight": 5})
    version = admin.version()
    assert admin.put(f"{PATH}/{key}", {"target": "up.example:80", "weight": 5}) == made
    assert admin.version() == version
    changed = admin.patch(f"{PATH}/{key}", {"weight": 0})
    assert (changed["weight"], changed["id"]) == (0, made["id"])
    assert changed["created_at"] == made["created_at"] < changed["updated_at"]


def test_targets_have_no_paths_of_their_own(admin: Admin) -> None:
    made = admin.post(PATH, {"target": "a"})
    for path in ("/targets", f"/targets/{made['id']}", f"/targets/{made['id']}/upstream"):
        admin.refused("GET", path, 404)
    admin.refused("POST", "/targets", 404, json={"target": "b"})
    admin.refused("GET", "/upstreams/none/targets", 404)


def test_all_lists_targets_of_no_weight_too(admin: Admin) -> None:
    made = [admin.post(PATH, {"target": f"t{n}", "weight": n}) for n in range(3)]
    made.sort(key=lambda target: str(target["id"]))
    assert admin.get(f"{PATH}/all")["data"] == admin.get(PATH)["data"] == made
    page = admin.get(f"{PATH}/all?size=2")
    assert page["data"] == made[:2]
    assert page["next"].startswith(f"{PATH}/all?offset=")
    assert admin.get(f"{page['next']}")["data"] == made[2:]


def test_tags_find_targets_of_one_upstream(admin: Admin) -> None:
    made = admin.post(PATH, {"target": "a", "tags": ["blue"]})
    admin.post(PATH, {"target": "b"})
    assert admin.get(f"{PATH}?tags=blue")["data"] == [made]
    (row,) = admin.get("/tags/blue")["data"]
    assert row == {"tag": "blue", "entity_name": "targets", "entity_id": made["id"]}


def test_targets_go_with_their_upstream(admin: Admin) -> None:
    admin.post(PATH, {"target": "a", "tags": ["blue"]})
    admin.delete("/upstreams/u")
    assert admin.get("/tags/blue")["data"] == []
    admin.post("/upstreams", {"name": "u"})
    assert admin.get(PATH)["data"] == []


# --- health ---------------------------------------------------------------------------------------


def health(admin: Admin) -> dict[str, str]:
    return {t["target"]: t["health"] for t in admin.get("/upstreams/u/health")["data"]}


@pytest.mark.parametrize("path", ["a:80", "a:80/a", "a:80/a:80"])
def test_mark_takes_a_target_out_until_it_is_taken_back(path: str, admin: Admin) -> None:
    admin.post(PATH, {"target": "a:80", "weight": 3})
    admin.post(PATH, {"target": "b:80"})
    assert health(admin) == {"a:80": "HEALTHCHECKS_OFF", "b:80": "HEALTHCHECKS_OFF"}
    version = admin.version()
    assert admin.call("PUT", f"{PATH}/{path}/unhealthy").status_code == 204
    assert admin.call("PUT", f"{PATH}/{path}/unhealthy").status_code == 204
    assert admin.version() == version + 1
    assert health(admin) == {"a:80": "UNHEALTHY", "b:80": "HEALTHCHECKS_OFF"}
    (marked,) = [t for t in admin.get("/upstreams/u/health")["data"] if t["target"] == "a:80"]
    assert marked["data"]["weight"] == {"total": 3, "available": 0, "unavailable": 3}
    admin.patch(f"{PATH}/a:80", {"weight": 4})  # an edit is no opinion on its health
    assert health(admin)["a:80"] == "UNHEALTHY"
    assert "down" not in admin.get(f"{PATH}/a:80")
    assert admin.call("PUT", f"{PATH}/{path}/healthy").status_code == 204
    assert health(admin) == {"a:80": "HEALTHCHECKS_OFF", "b:80": "HEALTHCHECKS_OFF"}


def test_upstream_is_unhealthy_when_no_target_is_left(
    admin: Admin, upstream: dict[str, Any]
) -> None:
    def whole() -> str:
        said = admin.get("/upstreams/u/health?balancer_health=1")["data"]
        assert said["id"] == upstream["id"]
        return str(said["health"])

    assert whole() == "UNHEALTHY"
    admin.post(PATH, {"target": "a:80"})
    admin.post(PATH, {"target": "b:80", "weight": 0})
    assert whole() == "HEALTHCHECKS_OFF"
    admin.call("PUT", f"{PATH}/a:80/unhealthy")
    assert whole() == "UNHEALTHY"


def test_mark_needs_a_target_that_is_there(admin: Admin) -> None:
    admin.post(PATH, {"target": "a:80"})
    admin.refused("PUT", f"{PATH}/b:80/unhealthy", 404)
    admin.refused("PUT", "/upstreams/v/targets/a:80/unhealthy", 404)
    said = admin.refused("PUT", f"{PATH}/a:80/10.0.0.1:80/unhealthy")
    assert said["message"] == "one address of a target's name is not supported yet"
    assert health(admin) == {"a:80": "HEALTHCHECKS_OFF"}


# --- files ----------------------------------------------------------------------------------------

FILE = """
_format_version: "3.0"
upstreams:
- name: u
  targets:
  - target: up.example:80
    weight: 5
  - target: 127.0.0.1
- name: v
  targets:
  - target: up.example:80
"""


def test_file_nests_targets_and_changes_nothing_twice(admin: Admin) -> None:
    made = apply_text(admin.store, FILE)
    assert [(c.type, c.name) for c in made] == [
        ("upstreams", "v"),
        ("targets", "up.example:80 on upstream u"),
        ("targets", "127.0.0.1 on upstream u"),
        ("targets", "up.example:80 on upstream v"),
    ]
    assert apply_text(admin.store, FILE) == []
    (changed,) = apply_text(admin.store, FILE.replace("weight: 5", "weight: 6"))
    assert (changed.change, changed.name) == ("updated", "up.example:80 on upstream u")
    assert admin.get(f"{PATH}/up.example:80")["weight"] == 6
    assert admin.get("/upstreams/v/targets/up.example:80")["weight"] == 100


def test_file_names_the_target_at_fault(admin: Admin) -> None:
    text = FILE.replace("127.0.0.1", "127.1")
    with pytest.raises(FileRefused) as refused:
        apply_text(admin.store, text)
    (problem,) = refused.value.problems
    assert (problem.entity, problem.field) == ("targets 127.1 on upstream u", "target")
    assert admin.get(PATH)["data"] == []


def test_target_of_an_upstream_that_is_not_there_is_refused(admin: Admin) -> None:
    text = '_format_version: "3.0"\ntargets: [{target: a, upstream: none}]'
    with pytest.raises(FileRefused) as refused:
        apply_text(admin.store, text)
    assert "upstreams none is not in the file, nor here" in refused.value.message


def test_upstream_has_a_bounded_number_of_targets(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert targets.TARGETS_MAX == wire.TARGETS_MAX  # what a data plane takes
    monkeypatch.setattr(targets, "TARGETS_MAX", 2)
    made = [admin.post(PATH, {"target": f"t{n}"}) for n in range(2)]
    said = admin.fields(PATH, {"target": "t2"})
    assert said == {"upstream": "has 2 targets already, which is the most there can be"}
    admin.patch(f"{PATH}/{made[0]['id']}", {"weight": 0})
    admin.post("/upstreams", {"name": "v"})
    admin.post("/upstreams/v/targets", {"target": "t0"})
    moved = {"target": "t3", "upstream": {"name": "u"}}
    assert "upstream" in admin.fields("/upstreams/v/targets/t0", moved, "PATCH")
