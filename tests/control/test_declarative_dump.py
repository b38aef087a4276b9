"""A dump is a file: synced, here or elsewhere, it gives what was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from control.declarative import BYTES_MAX, FileRefused, What, dump_text
from tests.control.adminkit import Admin, running_admin
from tests.control.filekit import diff, dumped, opened_secrets, sync, versioned
from tests.pki import make

TOKEN = "T" * 32
LOOPBACK = "0000:0000:0000:0000:0000:0000:0000:0001"


def fill(admin: Admin) -> dict[str, Any]:
    """Every kind of entity, with fields that are not defaults, and some that are awkward."""
    pair, authority = make("a.example"), make(authority=True)
    certificate = admin.post("/certificates", {"cert": pair.cert, "key": pair.key})
    admin.post("/snis", {"name": "a.example", "certificate": {"id": certificate["id"]}})
    ca = admin.post("/ca_certificates", {"cert": authority.cert})
    service = admin.service(
        name="s",
        protocol="wss",
        path="/x",
        retries=0,
        client_certificate={"id": certificate["id"]},
        ca_certificates=[ca["id"]],
        tls_verify=False,
        tags=["team", "1e3"],
    )
    inside = {"service": {"id": service["id"]}, "protocols": ["wss"]}
    route = admin.route(name="r", headers={"X-On": ["on", "0o17"]}, strip_path=False, **inside)
    admin.route(name=None, paths=["/without-a-name", "/ü"], **inside)
    admin.route(name="alone", regex_priority=7, tags=["team"])
    alex = admin.consumer(username="alex", custom_id="007", tags=["team"])
    tcp = {"protocols": ["tcp"], "paths": None, "sources": [{"port": 9}, {"ip": "10.0.0.0/8"}]}
    admin.route(name="tcp", **tcp)
    admin.consumer(username=None, custom_id='${{ env "DECK_X" }}')
    admin.plugin(service={"id": service["id"]}, tags=["team"])
    admin.plugin(route={"id": route["id"]}, instance_name="mine", enabled=False)
    admin.plugin(
        name="websocket-size-limit",
        config={"client_max_payload": 1024},
    )
    admin.plugin(
        name="websocket-session",
        config={"allowed_origins": ["https://a.example"], "ping_interval": 0},
        service={"id": service["id"]},
    )
    pool = {"name": "pool", "slots": 100, "client_certificate": {"id": certificate["id"]}}
    upstream = admin.post("/upstreams", pool | {"tags": ["team"]})
    for target, weight in (("10.0.0.1:80", 100), ("up.example:8000", 0), ("[::1]:9000", 7)):
        admin.post(f"/upstreams/{upstream['id']}/targets", {"target": target, "weight": weight})
    plain = admin.credential(
        consumer={"id": alex["id"]}, redirect_uris=["https://a/b"], tags=["team"]
    )
    admin.credential(consumer={"id": alex["id"]}, hash_secret=True, client_type="public")
    admin.token(credential={"id": plain["id"]}, access_token=TOKEN)
    return plain


@pytest.mark.parametrize("options", [{}, {"all_fields": True}, {"with_id": True}])
def test_dump_synced_back_changes_nothing(admin: Admin, options: dict[str, bool]) -> None:
    fill(admin)
    text = dump_text(admin.store, What(**options))
    assert diff(admin.store, text) == []
    assert dump_text(admin.store, What(**options)) == text


def test_dump_gives_the_same_elsewhere(admin: Admin, tmp_path: Path) -> None:
    fill(admin)
    text = dump_text(admin.store, What())
    (tmp_path / "other").mkdir()
    with running_admin(tmp_path / "other") as other:
        sync(other.store, text)
        assert dump_text(other.store, What()) == text
        assert diff(other.store, dump_text(admin.store, What(all_fields=True))) == []
        with_ids = dump_text(admin.store, What(with_id=True))
        sync(other.store, versioned(""))
        sync(other.store, with_ids)
        assert dump_text(other.store, What(with_id=True)) == with_ids


def test_dump_reads_as_a_person_would_write_it(admin: Admin) -> None:
    fill(admin)
    found = dumped(admin.store)
    (service,) = found["services"]
    assert next(iter(found)) == "_format_version" and found["_format_version"] == "3.0"
    assert next(iter(service)) == "name"
    assert "port" not in service and "id" not in service and "created_at" not in service
    assert [route.get("name") for route in service["routes"]] == [None, "r"]
    assert "id" in service["routes"][0], "nothing else would find it again"
    assert service["routes"][1] == {
        "name": "r",
        "protocols": ["wss"],
        "strip_path": False,
        "paths": ["/a"],
        "headers": {"X-On": ["on", "0o17"]},
        "plugins": service["routes"][1]["plugins"],
    }
    assert [route["name"] for route in found["routes"]] == ["alone", "tcp"]
    assert found["routes"][1]["sources"] == [{"port": 9}, {"ip": "10.0.0.0/8"}]
    assert [plugin["name"] for plugin in service["plugins"]] == ["oauth2", "websocket-session"]
    assert service["plugins"][1]["config"] == {
        "ping_interval": 0,
        "allowed_origins": ["https://a.example"],
    }
    (certificate,) = found["certificates"]
    (upstream,) = found["upstreams"]
    assert upstream == {
        "name": "pool",
        "slots": 100,
        "tags": ["team"],
        "targets": [
            {"target": "10.0.0.1:80"},
            {"target": f"[{LOOPBACK}]:9000", "weight": 7},
            {"target": "up.example:8000", "weight": 0},
        ],
        "client_certificate": {"id": certificate["id"]},
    }
    assert certificate["snis"] == [{"name": "a.example"}]
    assert service["client_certificate"] == certificate["id"]
    credentials = [one for c in found["consumers"] for one in c.get("oauth2_credentials", ())]
    assert [(one["client_type"], one["hash_secret"]) for one in credentials].count(
        ("confidential", False)
    ) == 1, "decK knows no defaults of these"


def test_dump_holds_secrets_and_no_token(admin: Admin) -> None:
    plain = fill(admin)
    text = dump_text(admin.store, What())
    assert plain["client_secret"] in text and "PRIVATE KEY" in text
    assert "$pbkdf2" in text, "a secret that is kept as a hash is dumped as it"
    assert TOKEN not in text and "oauth2_tokens" not in text


def test_plugin_of_several_scopes_stands_by_itself_with_their_names(admin: Admin) -> None:
    service = admin.service(name="s", protocol="ws")
    route = admin.route(name="r", protocols=["ws"], service={"id": service["id"]})
    scopes = {"service": {"id": service["id"]}, "route": {"id": route["id"]}}
    admin.plugin(name="websocket-session", config={}, **scopes)
    (plugin,) = dumped(admin.store)["plugins"]
    assert (plugin["service"], plugin["route"]) == ("s", "r")
    assert diff(admin.store, dump_text(admin.store, What())) == []


def test_text_that_reads_as_something_else_is_quoted(admin: Admin) -> None:
    names = ["1e3", "on", "0o17", "null", "~", "1_000", "12:30:45", "0x1F", ".5", "=", "-", "y"]
    for name in names:
        admin.consumer(username=name)
    text = dump_text(admin.store, What())
    for name in names:
        assert f'- username: "{name}"\n' in text
    assert diff(admin.store, text) == []


def test_what_looks_like_a_variable_is_not_filled_in(admin: Admin) -> None:
    name = '${{ env "DECK_X" }}'
    admin.consumer(username=name)
    text = dump_text(admin.store, What())
    assert "${{" not in text
    assert yaml.safe_load(text)["consumers"] == [{"username": name}]


def test_tags_pick_what_is_dumped_and_what_is_decrypted(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(admin)
    opened = opened_secrets(monkeypatch)
    text = dump_text(admin.store, What(["team"]))
    found = yaml.safe_load(text)
    assert found["_info"] == {"select_tags": ["team"]}
    kinds = {"services", "consumers", "routes", "upstreams"}
    assert found.keys() == {"_format_version", "_info", *kinds}
    assert "targets" not in found["upstreams"][0], "they have no such tag"
    assert found["services"][0]["tags"] == ["1e3"], "the tags that pick are said once"
    assert [plugin["name"] for plugin in found["services"][0]["plugins"]] == ["oauth2"]
    assert len(found["consumers"][0]["oauth2_credentials"]) == 1
    assert len(opened) == 2, "a client secret and a provision key"
    monkeypatch.undo()
    assert diff(admin.store, text) == []
    assert dumped(admin.store, "team", "none").keys() == {"_format_version", "_info"}


def test_dump_that_nothing_would_take_back_is_refused(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.consumer()
    monkeypatch.setattr("control.declarative.dump.BYTES_MAX", 10)
    with pytest.raises(FileRefused, match="dump it in parts, by tags"):
        dump_text(admin.store, What())
    assert BYTES_MAX == 10 * 1024 * 1024


def test_empty_gateway_dumps_an_empty_file(admin: Admin) -> None:
    assert dump_text(admin.store, What()) == '_format_version: "3.0"\n'
    assert diff(admin.store, dump_text(admin.store, What())) == []


def test_reference_out_of_what_is_dumped_is_written_as_deck_reads_it(admin: Admin) -> None:
    """A text in plugins and services, a record elsewhere."""
    service = admin.service(name="theirs", protocol="ws")
    admin.route(name="mine", protocols=["ws"], service={"id": service["id"]}, tags=["team"])
    admin.plugin(service={"id": service["id"]}, tags=["team"])
    admin.credential(consumer={"id": admin.consumer(username="alex")["id"]}, tags=["team"])
    found = dumped(admin.store, "team")
    assert found["routes"][0]["service"] == {"name": "theirs"}
    assert found["plugins"][0]["service"] == "theirs"
    assert found["oauth2_credentials"][0]["consumer"] == {"username": "alex"}
    assert diff(admin.store, dump_text(admin.store, What(["team"]))) == []
