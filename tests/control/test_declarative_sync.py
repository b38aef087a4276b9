"""Sync and diff: what goes, what stays as it is, and what neither may touch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control.declarative import How, carry
from tests.control.adminkit import Admin
from tests.control.filekit import diff, opened_secrets, problems, sync, versioned

FILE = versioned("""
services:
- name: a
  url: ws://a.example/
  tags: [one]
  routes:
  - {name: ra, protocols: [ws, wss], paths: [/a]}
  plugins:
  - {name: oauth2, config: {enable_client_credentials: true, provision_key: key-of-a, scopes: [x]}}
- {name: b, url: 'ws://b.example/'}
consumers:
- username: alex
  oauth2_credentials:
  - {name: app, client_id: app-of-alex, client_secret: secret-of-alex}
- username: jo
""")
WITHOUT_B_AND_JO = FILE.replace("- {name: b, url: 'ws://b.example/'}\n", "").replace(
    "- username: jo\n", ""
)
EMPTY = versioned("")


def everything(admin: Admin) -> dict[str, Any]:
    paths = ("services", "routes", "consumers", "plugins", "oauth2", "certificates", "snis")
    return {path: admin.get(f"/{path}?size=1000")["data"] for path in (*paths, "oauth2_tokens")}


def test_sync_deletes_what_the_file_does_not_hold_and_the_rest_keeps_its_ids(admin: Admin) -> None:
    assert len(sync(admin.store, FILE)) == 7
    before, version = everything(admin), admin.version()
    assert sync(admin.store, WITHOUT_B_AND_JO) == ["deleted consumers jo", "deleted services b"]
    after = everything(admin)
    for kept in ("routes", "plugins", "oauth2"):
        assert after[kept] == before[kept]
    assert after["services"] == [row for row in before["services"] if row["name"] == "a"]
    assert admin.version() == version + 1
    assert sync(admin.store, WITHOUT_B_AND_JO) == []
    assert admin.version() == version + 1


def test_changes_are_one_transaction_and_one_version(admin: Admin) -> None:
    sync(admin.store, FILE)
    version, seen = admin.version(), len(admin.changes)
    text = WITHOUT_B_AND_JO.replace("a.example", "new.example").replace("/a]", "/b]")
    assert sync(admin.store, text + "- username: kim\n") == [
        "updated services a",
        "created consumers kim",
        "updated routes ra",
        "deleted consumers jo",
        "deleted services b",
    ]
    assert admin.version() == version + 1
    assert len(admin.changes) == seen + 1


def test_diff_says_what_sync_does_and_changes_nothing(admin: Admin) -> None:
    sync(admin.store, FILE)
    before, version, seen = everything(admin), admin.version(), len(admin.changes)
    said = diff(admin.store, WITHOUT_B_AND_JO)
    assert (everything(admin), admin.version(), len(admin.changes)) == (before, version, seen)
    assert sync(admin.store, WITHOUT_B_AND_JO) == said != []
    assert diff(admin.store, WITHOUT_B_AND_JO) == []


def test_refused_sync_deletes_nothing(admin: Admin) -> None:
    sync(admin.store, FILE)
    before = everything(admin)
    admin.service(name="held", protocol="http")
    wrong = "routes: [{name: w, paths: [/], protocols: [ws], service: held}]\n"
    text = versioned(f"services: [{{name: held, host: up.example}}]\n{wrong}")
    (found,) = problems(admin.store, text, How(delete=True))
    assert found.entity == "routes w"
    after = everything(admin)
    assert {**after, "services": after["services"][:2]}.keys() == before.keys()
    assert len(after["services"]) == 3 and after["plugins"] == before["plugins"]


def test_tokens_of_credentials_that_stay_are_not_touched(admin: Admin) -> None:
    sync(admin.store, FILE)
    credential = admin.get("/oauth2/app-of-alex")
    made = admin.token(credential={"id": credential["id"]})
    text = FILE.replace("{name: app,", "{name: renamed,").replace("scopes: [x]", "scopes: [y]")
    assert len(sync(admin.store, text)) == 2
    assert [row["id"] for row in admin.get("/oauth2_tokens")["data"]] == [made["id"]]
    assert admin.changes[-1].revocations == ()
    without = versioned("consumers: [{username: alex}]")
    assert "deleted oauth2_credentials renamed" in sync(admin.store, without)
    assert admin.get("/oauth2_tokens")["data"] == []
    assert "credential" in {ended.kind for ended in admin.changes[-1].revocations}


def test_empty_file_deletes_everything_in_an_order_that_works(admin: Admin) -> None:
    sync(admin.store, FILE)
    assert len(sync(admin.store, EMPTY)) == 7
    assert not any(everything(admin).values())


def test_what_the_file_refers_to_is_not_deleted_under_it(admin: Admin) -> None:
    admin.service(name="here", protocol="ws")
    text = versioned("routes: [{name: r, paths: [/], protocols: [ws], service: here}]")
    (found,) = problems(admin.store, text, How(delete=True))
    assert str(found) == (
        "routes r: service: services here is not in the file and would be deleted"
    )
    assert carry(admin.store, text, How()).count("created") == 1


def test_fields_that_change_are_told_and_secrets_are_not(admin: Admin) -> None:
    sync(admin.store, FILE)
    text = (
        FILE.replace("provision_key: key-of-a, scopes: [x]", "provision_key: other, scopes: [y]")
        .replace("secret-of-alex", "another-secret")
        .replace("ws://a.example/", "wss://a.example:8443/")
        .replace("tags: [one]", "tags: [two]")
    )
    plan = carry(admin.store, text, How(delete=True, dry_run=True))
    told = {
        change.type: {one.field: (one.old, one.new) for one in change.fields}
        for change in plan.changes
    }
    assert told == {
        "services": {
            "protocol": ("ws", "wss"),
            "port": (80, 8443),
            "tags": (["one"], ["two"]),
        },
        "oauth2_credentials": {"client_secret": ("[redacted]", "[redacted]")},
        "plugins": {
            "config.provision_key": ("[redacted]", "[redacted]"),
            "config.scopes": (["x"], ["y"]),
        },
    }


def test_new_entity_tells_what_is_no_default_and_no_secret(admin: Admin) -> None:
    plan = carry(admin.store, FILE, How(dry_run=True))
    told = {change.type: {one.field: one.new for one in change.fields} for change in plan.changes}
    assert told["routes"].keys() == {"name", "protocols", "paths", "service"}
    assert told["routes"]["service"] == "a", "not the id, which nobody knows"
    assert told["plugins"]["config.provision_key"] == "[redacted]"
    assert told["plugins"]["config.enable_client_credentials"] is True
    assert "config.realm" not in told["plugins"]
    said = json.dumps([[vars(one) for one in change.fields] for change in plan.changes])
    assert "key-of-a" not in said and "secret-of-alex" not in said


def test_secret_that_is_kept_as_a_hash_is_no_change_in_clear(admin: Admin) -> None:
    text = FILE.replace("secret-of-alex}", "secret-of-alex, hash_secret: true}")
    sync(admin.store, text)
    assert admin.get("/oauth2/app-of-alex")["client_secret"].startswith("$pbkdf2")
    assert diff(admin.store, text) == []
    assert diff(admin.store, text.replace("secret-of-alex", "other")) == [
        "updated oauth2_credentials app"
    ]


def test_reference_that_changes_is_told_by_names(admin: Admin) -> None:
    text = "services: [{name: a, url: 'ws://a/'}, {name: b, url: 'ws://b/'}]\n"
    route = "routes: [{name: r, protocols: [ws], paths: [/], service: %s}]"
    sync(admin.store, versioned(text + route % "a"))
    plan = carry(admin.store, versioned(text + route % "b"), How(delete=True))
    (change,) = plan.changes
    assert [vars(one) for one in change.fields] == [{"field": "service", "old": "a", "new": "b"}]


def test_order_of_a_set_is_no_change_and_that_of_an_array_is(admin: Admin) -> None:
    text = versioned("routes: [{name: r, protocols: [ws, wss], paths: [/a, /b], tags: [x, y]}]")
    sync(admin.store, text)
    assert diff(admin.store, text.replace("[ws, wss]", "[wss, ws]").replace("x, y", "y, x")) == []
    assert diff(admin.store, text.replace("/a, /b", "/b, /a")) == ["updated routes r"]


def test_service_and_its_routes_change_their_protocols_at_once(admin: Admin) -> None:
    text = versioned(
        "services: [{name: s, protocol: http, host: up.example, "
        "routes: [{name: r, protocols: [http], paths: [/]}]}]"
    )
    sync(admin.store, text)
    assert sync(admin.store, text.replace("http", "ws")) == [
        "updated services s",
        "updated routes r",
    ]
    (found,) = problems(admin.store, text.replace("protocol: http", "protocol: wss"))
    assert str(found) == "routes r: protocols: must go with the service's protocol (wss)"


def test_writer_who_was_quicker_is_taken_into_account(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the plan and the lock another request deletes one entity and makes another."""
    sync(admin.store, FILE)
    writing = admin.store.writing

    def late() -> Any:
        monkeypatch.undo()
        admin.delete("/services/b")
        admin.consumer(username="quick")
        return writing()

    monkeypatch.setattr(admin.store, "writing", late)
    said = sync(admin.store, WITHOUT_B_AND_JO)
    assert sorted(said) == ["deleted consumers jo", "deleted consumers quick"]
    assert [row["name"] for row in admin.get("/services")["data"]] == ["a"]


def test_dry_run_of_many_changes_keeps_no_writer_waiting(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.declarative.transaction.TRIED_MAX", 6)
    monkeypatch.setattr(admin.store, "writing", None)
    plan = carry(admin.store, FILE, How(delete=True, dry_run=True))
    assert (plan.tried, plan.count("created")) == (False, 7)
    monkeypatch.undo()
    assert carry(admin.store, FILE, How(delete=True, dry_run=True)).tried
    assert carry(admin.store, FILE, How(delete=True)).tried


# --- select tags ---------------------------------------------------------------------------------


def test_tags_bound_what_sync_may_touch(admin: Admin) -> None:
    sync(admin.store, FILE)
    mine = versioned("services: [{name: mine, host: h}]\nconsumers: [{username: me}]")
    assert sync(admin.store, mine, "team", "blue") == [
        "created services mine",
        "created consumers me",
    ]
    assert admin.get("/services/mine")["tags"] == ["team", "blue"]
    assert len(admin.get("/services")["data"]) == 3
    tagged = mine.replace("host: h", "host: h, tags: [blue]").replace("me}", "me, tags: [blue]}")
    assert diff(admin.store, tagged, "team") == []
    assert sync(admin.store, versioned("services: [{name: mine, host: h}]"), "blue", "team") == [
        "deleted consumers me"
    ]
    assert sync(admin.store, EMPTY, "team") == ["deleted services mine"]
    assert len(admin.get("/services")["data"]) == 2


def test_tags_of_the_file_do_the_same_and_must_agree(admin: Admin) -> None:
    text = versioned("_info: {select_tags: [team]}\nconsumers: [{username: me, tags: [x]}]")
    admin.consumer(username="other")
    assert sync(admin.store, text) == ["created consumers me"]
    assert admin.get("/consumers/me")["tags"] == ["x", "team"]
    assert diff(admin.store, text, "team") == []
    as_deck_dumps = text.replace("_info: {", "_info: {defaults: {}, ")
    assert diff(admin.store, as_deck_dumps) == []
    (found,) = problems(admin.store, text, How(delete=True, tags=["blue"]))
    assert "select tags blue were asked for" in found.message
    assert len(admin.get("/consumers")["data"]) == 2


def test_entity_of_others_is_neither_changed_nor_taken(admin: Admin) -> None:
    before = admin.consumer(username="other", tags=["theirs"])
    text = versioned("consumers: [{username: other, custom_id: '7'}]")
    (found,) = problems(admin.store, text, How(delete=True, tags=["team"]))
    assert "is here already without the tags (team)" in found.message
    assert admin.get("/consumers/other") == before


def test_reference_may_leave_the_tags(admin: Admin) -> None:
    admin.service(name="theirs", protocol="ws")
    text = versioned("routes: [{name: mine, protocols: [ws], paths: [/], service: theirs}]")
    assert sync(admin.store, text, "team") == ["created routes mine"]
    assert diff(admin.store, text, "team") == []


def test_what_goes_with_a_tagged_entity_is_told(admin: Admin) -> None:
    """A plugin without the tag belongs to a service with it."""
    service = admin.service(name="mine", tags=["team"], protocol="ws")
    admin.plugin(service={"id": service["id"]})
    assert diff(admin.store, EMPTY, "team") == [
        "deleted plugins oauth2 on service mine",
        "deleted services mine",
    ]
    admin.route(name="theirs", protocols=["ws"], service={"id": service["id"]})
    (found,) = problems(admin.store, EMPTY, How(delete=True, tags=["team"]))
    assert found.entity == "services mine"
    assert found.message == (
        "cannot be deleted: an existing 'routes' entity references this 'services' entity"
    )
    assert len(admin.get("/plugins")["data"]) == 1


def test_secrets_that_the_tags_do_not_pick_stay_sealed(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.credential(tags=["team"], client_secret="of the team")
    admin.credential(client_secret="of others")
    admin.plugin(config={"enable_client_credentials": True, "provision_key": "of others"})
    opened = opened_secrets(monkeypatch)
    assert diff(admin.store, EMPTY, "team") == ["deleted oauth2_credentials app"]
    assert set(opened) == {b"of the team"}
    opened.clear()
    carry(admin.store, versioned("consumers: [{username: me}]"), How())
    assert opened == []
