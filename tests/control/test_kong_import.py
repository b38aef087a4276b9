"""What an import from a Kong takes over, what it leaves out and why, and that it does so once."""

import asyncio
import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from control.admin.errors import PlainError
from control.kong import endpoint
from control.kong.endpoint import router
from control.kong.report import ImportReport, Report
from control.oauth2.secrets import verify_hash
from control.store import queries
from tests.control.adminkit import Admin, running_admin
from tests.pki import make

PATH = "/narthex/import/kong"
MADE_AT = 1_600_000_000
# What Kong stored for the secret "secret" with hash_secret.
PHC = (
    "$pbkdf2-sha512$i=10000,l=32$c2FsdHNhbHRzYWx0c2FsdA$f+bBNpDm1dD76HDTg44Z2qO0KWw9xM1beWOT/VyOFns"
)


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with running_admin(tmp_path, router) as made:
        yield made


def id_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def entity(_name: str, /, **fields: Any) -> dict[str, Any]:
    """One of Kong's, with what its Admin API shows of each."""
    return {
        "id": id_of(_name), "created_at": MADE_AT, "updated_at": MADE_AT + 5, "tags": None,
        "ws_id": id_of("default workspace"), **fields,
    }  # fmt: skip


def service(name: str, **fields: Any) -> dict[str, Any]:
    shown = {
        "name": name, "protocol": "ws", "host": "up.example", "port": 80, "path": None,
        "retries": 5, "connect_timeout": 60000, "write_timeout": 60000, "read_timeout": 60000,
        "client_certificate": None, "tls_verify": None, "tls_verify_depth": None,
        "tls_sans": None, "ca_certificates": None, "enabled": True,
    }  # fmt: skip
    return entity(name, **shown | fields)


def route(name: str, of: str | None, **fields: Any) -> dict[str, Any]:
    shown = {
        "name": name, "protocols": ["ws", "wss"], "paths": [f"/{name}"], "methods": None,
        "hosts": None, "headers": None, "snis": None, "sources": None, "destinations": None,
        "https_redirect_status_code": 426, "regex_priority": 0, "strip_path": True,
        "preserve_host": False, "request_buffering": True, "response_buffering": True,
        "path_handling": "v0", "service": of and {"id": id_of(of)},
    }  # fmt: skip
    return entity(name, **shown | fields)


OAUTH2 = {
    "scopes": ["email"], "mandatory_scope": False, "provision_key": "provision-key-of-kong",
    "token_expiration": 7200, "enable_authorization_code": False, "enable_implicit_grant": False,
    "enable_client_credentials": True, "enable_password_grant": False, "hide_credentials": False,
    "accept_http_if_already_terminated": False, "anonymous": None, "global_credentials": False,
    "auth_header_name": "authorization", "refresh_token_ttl": 1209600, "pkce": "lax",
    "reuse_refresh_token": False, "realm": None, "persistent_refresh_token": False,
}  # fmt: skip


def plugin(name: str, kind: str = "oauth2", **fields: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": kind, "instance_name": None, "service": None, "route": None, "consumer": None,
        "consumer_group": None, "enabled": True, "protocols": ["http", "https", "ws", "wss"],
        "config": OAUTH2 if kind == "oauth2" else {"minute": 5},
    }  # fmt: skip
    return entity(name, **shown | fields)


def credential(name: str, consumer: str, **fields: Any) -> dict[str, Any]:
    shown = {
        "name": name, "client_id": f"id-of-{name}", "client_secret": f"secret-of-{name}",
        "hash_secret": False, "redirect_uris": None, "client_type": "confidential",
        "consumer": {"id": id_of(consumer)},
    }  # fmt: skip
    return entity(name, **shown | fields)


def token(name: str, app: str, **fields: Any) -> dict[str, Any]:
    shown = {
        "id": id_of(name), "created_at": int(time.time()) - 10, "expires_in": 7200,
        "token_type": "bearer", "access_token": f"access-{name}", "refresh_token": None,
        "authenticated_userid": None, "scope": None, "credential": {"id": id_of(app)},
        "service": None, "ttl": None, "ws_id": id_of("default workspace"),
    }  # fmt: skip
    return shown | fields


def upstream(name: str, **fields: Any) -> dict[str, Any]:
    shown = {
        "name": name, "algorithm": "round-robin", "hash_on": "none", "hash_fallback": "none",
        "hash_on_cookie_path": "/", "slots": 10000, "host_header": None, "use_srv_name": False,
        "client_certificate": None, "sticky_sessions_cookie": None,
        "sticky_sessions_cookie_path": "/", "healthchecks": {"threshold": 0},
    }  # fmt: skip
    return entity(name, **shown | fields)


def target(name: str, of: str, **fields: Any) -> dict[str, Any]:
    shown = {
        "target": name, "weight": 100, "upstream": {"id": id_of(of)},
        "created_at": MADE_AT + 0.123, "updated_at": MADE_AT + 0.456,
    }  # fmt: skip
    return entity(name, **shown | fields)


def a_kong() -> dict[str, list[dict[str, Any]]]:
    """A Kong all of which can be taken over."""
    pair, authority = make("kong.example"), make("authority", authority=True)
    return {
        "services": [service("chat")],
        "routes": [route("chat-route", "chat")],
        "consumers": [entity("alex", username="alex", custom_id=None)],
        "plugins": [plugin("on-chat", service={"id": id_of("chat")})],
        "certificates": [
            entity("cert", cert=pair.cert, key=pair.key, cert_alt=None, key_alt=None,
                   snis=["kong.example"]),
        ],
        "snis": [entity("sni", name="kong.example", certificate={"id": id_of("cert")})],
        "ca_certificates": [entity("ca", cert=authority.cert, cert_digest="0" * 64)],
        "upstreams": [upstream("pool")],
        "targets": [target("10.0.0.1:8000", "pool"), target("up.example:80", "pool", weight=1)],
        "oauth2_credentials": [
            credential("app", "alex"),
            credential("hashed", "alex", client_secret=PHC, hash_secret=True),
        ],
        "oauth2_tokens": [
            token("one", "app", scope="email", authenticated_userid="user-1",
                  service={"id": id_of("chat")}),
            token("two", "hashed", refresh_token="refresh-two", ttl=1000),
        ],
    }  # fmt: skip


def take(admin: Admin, collections: Any, status: int = 200, **options: bool) -> dict[str, Any]:
    answer = admin.call("POST", PATH, json={"collections": collections, **options})
    assert answer.status_code == status, answer.text
    report: dict[str, Any] = answer.json()
    return report


def counts(report: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {
        row["type"]: (row["created"], row["updated"], row["unchanged"]) for row in report["taken"]
    }


def left_out(report: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    return {(row["type"], row["reason"]): row["examples"] for row in report["left_out"]}


def known(admin: Admin, access_token: str) -> queries.IssuedToken | None:
    with admin.store.reading() as session:
        return queries.token_by_digest(session, hashlib.sha256(access_token.encode()).digest())


# --- taking over ---------------------------------------------------------------------------------


def test_import_keeps_ids_names_and_times(admin: Admin) -> None:
    kong = a_kong()
    report = take(admin, kong)
    assert report["written"] and report["left_out"] == report["conflicts"] == report["notes"] == []
    assert counts(report) == {kind: (len(entities), 0, 0) for kind, entities in kong.items()}
    paths = {"oauth2_credentials": "oauth2", "targets": f"upstreams/{id_of('pool')}/targets"}
    for kind in kong.keys() - {"oauth2_tokens"}:
        for theirs in kong[kind]:
            ours = admin.get(f"/{paths.get(kind, kind)}/{theirs['id']}")
            for name in ours.keys() & theirs.keys() - {"config", "cert_digest", "healthchecks"}:
                assert ours[name] == theirs[name], (kind, name)
    config = admin.get(f"/plugins/{id_of('on-chat')}")["config"]
    assert {name: config[name] for name in OAUTH2} == OAUTH2
    assert config["session_expiry"] == "close"  # ours, which Kong does not know


def test_second_import_changes_nothing(admin: Admin) -> None:
    kong = a_kong()
    take(admin, kong)
    version, told = admin.version(), len(admin.changes)
    report = take(admin, kong)
    assert counts(report) == {kind: (0, 0, len(entities)) for kind, entities in kong.items()}
    assert admin.version() == version
    assert not any(change.tokens for change in admin.changes[told:])


def test_import_is_one_version_and_tells_tokens_to_data_planes(admin: Admin) -> None:
    version = admin.version()
    take(admin, a_kong())
    assert admin.version() == version + 1
    (change,) = admin.changes
    assert len(change.tokens) == 2


def test_dry_run_says_the_same_and_writes_nothing(admin: Admin) -> None:
    kong = a_kong() | {"vaults": [entity("vault", prefix="env")]}
    version = admin.version()
    planned = take(admin, kong, dry_run=True)
    assert admin.version() == version and not admin.changes
    assert admin.get("/services")["data"] == [] and known(admin, "access-one") is None
    done = take(admin, kong)
    assert planned == done | {"written": False}


def test_later_import_changes_what_kong_says_and_keeps_what_is_ours(admin: Admin) -> None:
    kong = a_kong()
    take(admin, kong)
    admin.patch(
        f"/plugins/{id_of('on-chat')}",
        {"config": {"token_carriers": ["header", "subprotocol"], "session_expiry": "ignore"}},
    )
    kong["services"][0]["host"] = "new.example"
    kong["plugins"][0]["config"] = OAUTH2 | {"token_expiration": 60}
    kong["consumers"].append(entity("new", username="new", custom_id="n"))
    report = take(admin, kong)
    assert counts(report)["services"] == (0, 1, 0) and counts(report)["consumers"] == (1, 0, 1)
    assert admin.get("/services/chat")["host"] == "new.example"
    config = admin.get(f"/plugins/{id_of('on-chat')}")["config"]
    assert config["token_expiration"] == 60
    assert config["token_carriers"] == ["header", "subprotocol"]
    assert config["session_expiry"] == "ignore"


def test_hash_that_kong_made_is_kept_and_verifies(admin: Admin) -> None:
    take(admin, a_kong())
    shown = admin.get("/oauth2/id-of-hashed")
    assert shown["client_secret"] == PHC and shown["hash_secret"] is True
    assert verify_hash("secret", shown["client_secret"])
    assert not verify_hash("other", shown["client_secret"])


@pytest.mark.parametrize("kind", ["$argon2id$v=19$m=4096,t=3,p=1$c2FsdA$aGFzaA", "$2b$10$abc"])
def test_hash_of_another_kind_is_left_out_with_its_tokens(admin: Admin, kind: str) -> None:
    kong = a_kong()
    kong["oauth2_credentials"][1]["client_secret"] = kind
    found = left_out(take(admin, kong))
    assert found == {
        ("oauth2_credentials", "its secret is hashed in a way that is not known here: "
         "set a new one in Kong"): ["hashed"],
        ("oauth2_tokens", "its credential is not here"): [id_of("two")],
    }  # fmt: skip


# --- tokens --------------------------------------------------------------------------------------


def test_tokens_keep_expiry_scope_user_and_owner(admin: Admin) -> None:
    kong = a_kong()
    take(admin, kong)
    one = known(admin, "access-one")
    assert one is not None
    made = kong["oauth2_tokens"][0]["created_at"]
    assert (one.credential_id, one.service_id) == (id_of("app"), id_of("chat"))
    assert (one.scope, one.user_id, one.expires_at) == ("email", "user-1", made + 7200)
    row = admin.get(f"/oauth2_tokens/{id_of('one')}")
    assert row["created_at"] == made and row["access_token"] is None
    # Without a refresh token nothing of it is of use later; with one Kong says for how long.
    assert 7180 <= row["ttl"] <= 7190
    assert 995 <= admin.get(f"/oauth2_tokens/{id_of('two')}")["ttl"] <= 1000


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"created_at": 1, "expires_in": 60}, "has expired"),
        ({"refresh_token": "r", "ttl": 0}, "has expired"),
        ({"refresh_token": "r", "ttl": -5}, "has expired"),
        ({"access_token": None}, "has no access_token: a file that hides it cannot be imported"),
        ({"created_at": None}, "has no created_at, so that nobody knows when it expires"),
        ({"expires_in": "60"}, "expires_in: expected an integer"),
        ({"token_type": "mac"}, "token_type: expected one of: bearer"),
        ({"credential": {"id": id_of("nobody")}}, "its credential is not here"),
        ({"credential": None}, "credential: required field missing"),
        ({"service": {"id": id_of("nothing")}}, "its service is not here"),
        ({"scope": "a\nb"}, "scope: must not contain control characters"),
        ({"audience": "x"}, "has a field that is not supported: audience"),
    ],
)
def test_token_that_cannot_be_used_is_left_out(
    admin: Admin, fields: dict[str, Any], reason: str
) -> None:
    kong = a_kong() | {"oauth2_tokens": [token("one", "app"), token("bad", "app", **fields)]}
    report = take(admin, kong)
    assert left_out(report) == {("oauth2_tokens", reason): [id_of("bad")]}
    assert counts(report)["oauth2_tokens"] == (1, 0, 0)
    assert known(admin, "access-one") is not None and known(admin, "access-bad") is None


def test_token_that_lives_for_ever_and_one_that_can_be_refreshed_are_taken(admin: Admin) -> None:
    old = {"created_at": 1000}
    kong = a_kong() | {
        "oauth2_tokens": [
            token("endless", "app", **old, expires_in=0),
            token("refreshable", "app", **old, refresh_token="r"),
        ]
    }
    report = take(admin, kong)
    assert counts(report)["oauth2_tokens"] == (2, 0, 0)
    assert admin.get(f"/oauth2_tokens/{id_of('endless')}")["ttl"] is None
    assert known(admin, "access-endless") is not None and known(admin, "access-refreshable") is None


def test_token_in_a_document_twice_is_taken_once(admin: Admin) -> None:
    kong = a_kong() | {"oauth2_tokens": [token("one", "app"), token("one", "app")]}
    assert counts(take(admin, kong))["oauth2_tokens"] == (1, 0, 1)


def test_token_that_ended_here_does_not_come_back(admin: Admin) -> None:
    kong = a_kong()
    take(admin, kong)
    admin.delete(f"/oauth2_tokens/{id_of('one')}")
    report = take(admin, kong)
    assert left_out(report) == {("oauth2_tokens", "was refreshed or revoked here"): [id_of("one")]}
    assert known(admin, "access-one") is None


def test_tokens_are_left_alone_when_they_are_not_wanted(admin: Admin) -> None:
    report = take(admin, a_kong(), tokens=False)
    assert "oauth2_tokens" not in counts(report) and known(admin, "access-one") is None


def test_no_report_shows_a_token_or_a_secret(admin: Admin) -> None:
    kong = a_kong()
    kong["oauth2_tokens"] = [token("t", "app", token_type="mac"), {"access_token": "access-x"}]
    kong["oauth2_credentials"][0]["redirect_uris"] = ["no uri"]
    text = admin.call("POST", PATH, json={"collections": kong}).text
    assert "no uri" in text
    for secret in ("access-t", "access-x", "secret-of-app", PHC, "provision-key-of-kong"):
        assert secret not in text


# --- what is left out ----------------------------------------------------------------------------


def test_what_is_not_there_is_counted_by_reason(admin: Admin) -> None:
    kong = a_kong()
    kong["plugins"] += [
        plugin(f"limit-{n}", "rate-limiting", service={"id": id_of("chat")}) for n in range(7)
    ]
    kong["keyauth_credentials"] = [entity("key", key="k", consumer={"id": id_of("alex")})]
    kong["vaults"] = [entity("vault", name="env", prefix="e")]
    report = take(admin, kong)
    assert report["written"]
    rows = {(row["type"], row["reason"]): row for row in report["left_out"]}
    assert rows.keys() == {
        ("plugins", "the plugin rate-limiting is not there"),
        ("keyauth_credentials", "keyauth_credentials are not there"),
        ("vaults", "vaults are not there"),
    }
    limits = rows["plugins", "the plugin rate-limiting is not there"]
    assert limits["count"] == 7
    assert limits["examples"] == [f"rate-limiting on service {id_of('chat')}"] * 5
    assert "k" not in rows["keyauth_credentials", "keyauth_credentials are not there"]["examples"]


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        ("routes", {"paths": ["~/a"]}, "paths.1: regular expressions are not supported yet"),
        ("routes", {"snis": ["a.example"]}, "snis: not supported yet"),
        ("routes", {"expression": "true"}, "has a field that is not supported: expression"),
        ("services", {"tls_sans": {"dnsnames": ["a"]}},
         "has a field that is not supported: tls_sans"),
        ("services", {"host": "127.1"},
         "host: invalid address: 127.1; expected four decimal numbers, or a name"),
        ("services", {"host": "{vault://env/host}"},
         "host refers to a vault, which is not supported: set its value in Kong"),
        ("plugins", {"config": OAUTH2 | {"new": 1, "newer": "x", "off": False, "none": None}},
         "has fields that are not supported: config.new, config.newer"),
        ("plugins", {"config": OAUTH2 | {"provision_key": "{vault://env/key}"}},
         "config.provision_key refers to a vault, which is not supported: set its value in Kong"),
    ],
)  # fmt: skip
def test_entity_that_would_be_another_one_is_left_out(
    admin: Admin, kind: str, fields: dict[str, Any], reason: str
) -> None:
    kong = a_kong()
    kong[kind][0] |= fields
    found = left_out(take(admin, kong))
    assert (kind, reason) in found
    shown = admin.get(f"/{kind}")["data"]
    assert shown == []


def test_what_refers_to_what_was_left_out_is_left_out(admin: Admin) -> None:
    kong = a_kong()
    kong["services"][0]["host"] = "a b"
    found = left_out(take(admin, kong))
    assert found == {
        ("services", "host: invalid hostname: a b"): ["chat"],
        ("routes", "its service was left out"): ["chat-route"],
        ("plugins", "its service was left out"): [f"oauth2 on service {id_of('chat')}"],
        ("oauth2_tokens", "its service is not here"): [id_of("one")],
    }


def test_strict_writes_nothing_unless_all_can_be_taken(admin: Admin) -> None:
    kong = a_kong() | {"vaults": [entity("vault")]}
    report = take(admin, kong, 409, strict=True)
    assert not report["written"] and "strict" in report["message"]
    assert left_out(report) and admin.get("/services")["data"] == []
    assert take(admin, a_kong(), strict=True)["written"]


def test_routes_that_carry_nothing_here_are_named(admin: Admin) -> None:
    kong = {
        "services": [service("s", protocol="tcp")],
        "routes": [route("r", "s", protocols=["tcp"], paths=None, sources=[{"ip": "10.0.0.1"}])],
    }
    report = take(admin, kong)
    (note,) = report["notes"]
    assert (note["type"], note["examples"]) == ("routes", ["r"])
    assert note["reason"] == "kept, but only http, https, ws, wss are carried"


def test_upstream_is_taken_without_what_is_not_supported_yet(admin: Admin) -> None:
    checks = {"threshold": 0, "active": {"healthy": {"interval": 5}}}
    kong = {
        "upstreams": [upstream("pool", healthchecks=checks, algorithm="least-connections")],
        "targets": [target("10.0.0.1:8000", "pool")],
    }
    for _ in range(2):
        report = take(admin, kong)
        (note,) = report["notes"]
        assert note["reason"] == "without its algorithm, healthchecks: not supported yet"
        assert report["left_out"] == []
    assert counts(report) == {"upstreams": (0, 0, 1), "targets": (0, 0, 1)}
    assert admin.get("/upstreams/pool")["algorithm"] == "round-robin"


def test_service_of_an_upstream_that_was_left_out_is_named(admin: Admin) -> None:
    kong = {
        "upstreams": [upstream("pool", use_srv_name=True)],
        "targets": [target("10.0.0.1:8000", "pool")],
        "services": [service("s", host="pool")],
    }
    report = take(admin, kong)
    assert left_out(report) == {
        ("upstreams", "use_srv_name: not supported yet"): ["pool"],
        ("targets", "its upstream was left out"): ["10.0.0.1:8000"],
    }
    (note,) = report["notes"]
    assert (note["reason"], note["examples"]) == (
        "its host is an upstream that was left out",
        ["s"],
    )


# --- guards --------------------------------------------------------------------------------------

FOLLOWS = ("plugins", "its route was left out")
GUARDED = "is guarded by key-auth, which is not there"


def guarded(**scope: Any) -> dict[str, list[dict[str, Any]]]:
    """Two services with a route each, and one without; a guard that is not there on `scope`."""
    return {
        "services": [service("a"), service("b")],
        "routes": [route("ra", "a"), route("rb", "b"), route("rc", None)],
        "consumers": [entity("alex", username="alex"), entity("bo", username="bo")],
        "oauth2_credentials": [credential("app", "alex"), credential("other", "bo")],
        "oauth2_tokens": [token("t", "app"), token("u", "other")],
        "plugins": [
            plugin("on-a", service={"id": id_of("a")}),
            plugin("on-ra", route={"id": id_of("ra")}),
            plugin("key", "key-auth", **scope),
        ],
    }


def names(admin: Admin, path: str) -> set[str]:
    return {row.get("name") or row["username"] for row in admin.get(path)["data"]}


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        ({"service": {"id": id_of("a")}}, {"rb", "rc"}),
        ({"route": {"id": id_of("rb")}}, {"ra", "rc"}),
        ({"route": {"id": id_of("rc")}, "service": {"id": id_of("a")}}, {"ra", "rb"}),
        ({}, set()),
        ({"enabled": False}, {"ra", "rb", "rc"}),
    ],
)
def test_route_is_left_out_with_its_guard(
    admin: Admin, scope: dict[str, Any], kept: set[str]
) -> None:
    report = take(admin, guarded(**scope))
    assert names(admin, "/routes") == kept
    assert set(left_out(report).get(("routes", GUARDED), [])) == {"ra", "rb", "rc"} - kept
    assert names(admin, "/services") == {"a", "b"}
    on_ra = f"oauth2 on route {id_of('ra')}"
    assert (on_ra in left_out(report).get(FOLLOWS, [])) is ("ra" not in kept)
    assert ("plugins", "the plugin key-auth is not there") in left_out(report)


def test_guarded_routes_are_taken_when_told_so(admin: Admin) -> None:
    report = take(admin, guarded(), unguarded=True)
    assert names(admin, "/routes") == {"ra", "rb", "rc"}
    assert left_out(report).keys() == {("plugins", "the plugin key-auth is not there")}


def test_consumer_is_left_out_with_its_guard(admin: Admin) -> None:
    report = take(admin, guarded(consumer={"id": id_of("alex")}))
    assert names(admin, "/consumers") == {"bo"}
    assert known(admin, "access-t") is None and known(admin, "access-u") is not None
    assert ("consumers", GUARDED) in left_out(report)
    assert names(admin, "/routes") == {"ra", "rb", "rc"}


def test_oauth2_that_cannot_be_taken_leaves_nothing_open(admin: Admin) -> None:
    kong = guarded(enabled=False)
    kong["plugins"][0]["config"] = OAUTH2 | {"enable_client_credentials": False}
    report = take(admin, kong)
    assert names(admin, "/routes") == {"rb", "rc"}
    reason = ("routes", "is guarded by oauth2, which is not there")
    assert left_out(report)[reason] == ["ra"]


def test_plugin_that_guards_nothing_takes_no_route_with_it(admin: Admin) -> None:
    kong = guarded(enabled=False)
    kong["plugins"].append(plugin("log", "http-log"))
    take(admin, kong)
    assert names(admin, "/routes") == {"ra", "rb", "rc"}


def test_custom_plugin_counts_as_a_guard(admin: Admin) -> None:
    kong = guarded(enabled=False)
    kong["plugins"].append(plugin("own", "our-own-check", route={"id": id_of("rb")}))
    take(admin, kong)
    assert names(admin, "/routes") == {"ra", "rc"}


# --- what is here already ------------------------------------------------------------------------


def test_all_conflicts_are_named_and_nothing_is_written(admin: Admin) -> None:
    admin.service(name="chat")
    admin.consumer(username="alex")
    version = admin.version()
    report = take(admin, a_kong(), 409)
    assert not report["written"] and "in the way" in report["message"]
    assert [(c["type"], c["name"]) for c in report["conflicts"]] == [
        ("services", "chat"),
        ("consumers", "alex"),
    ]
    assert report["conflicts"][0]["reason"] == (
        'another one has {name="chat"} here: delete or rename it, or import into an empty database'
    )
    assert admin.version() == version and len(admin.get("/services")["data"]) == 1


def test_name_in_place_of_an_id_renames_nothing(admin: Admin) -> None:
    mine = admin.service(name="mine")
    report = take(admin, {"services": [{"id": "mine", "name": "chat", "host": "a"}]})
    assert left_out(report) == {("services", "id: expected a valid UUID"): ["chat"]}
    assert admin.get("/services")["data"] == [mine]


def test_what_is_here_and_not_in_kong_stays(admin: Admin) -> None:
    mine = admin.service(name="mine")
    take(admin, a_kong())
    assert admin.get("/services/mine") == mine


# --- files ---------------------------------------------------------------------------------------


def of_deck() -> dict[str, Any]:
    """As decK dumps it: nested, by name, without ids."""
    pair = make("deck.example")
    return {
        "_format_version": "3.0",
        "_info": {"defaults": {}, "select_tags": ["a"]},
        "services": [
            {
                "name": "chat", "url": "ws://up.example/",
                "routes": [{"name": "chat-route", "protocols": ["ws"], "paths": ["/chat"],
                            "plugins": [{"name": "oauth2", "config": OAUTH2}]}],
            }
        ],
        "routes": [{"name": "bare", "paths": ["/bare"]}],
        "consumers": [
            {
                "username": "alex", "groups": [{"name": "gold"}],
                "oauth2_credentials": [
                    {"name": "app", "client_id": "id-of-app", "client_secret": "s"}
                ],
                "keyauth_credentials": [{"key": "hidden"}],
            },
            {"custom_id": "only-this"},
        ],
        "plugins": [{"name": "oauth2", "route": "bare", "config": OAUTH2}],
        "certificates": [
            {"cert": pair.cert, "key": pair.key, "id": id_of("c"), "snis": [{"name": "d.example"}]}
        ],
        "upstreams": [{"name": "pool", "targets": [{"target": "10.0.0.1"}, {"target": "a:80"}]}],
        "ca_certificates": [{"cert": make("deck ca", authority=True).cert}],
    }  # fmt: skip


def test_file_of_deck_is_taken_by_its_names(admin: Admin) -> None:
    document = of_deck()
    report = take(admin, document)
    assert counts(report) == {
        "services": (1, 0, 0), "routes": (2, 0, 0), "consumers": (2, 0, 0), "plugins": (2, 0, 0),
        "oauth2_credentials": (1, 0, 0), "certificates": (1, 0, 0), "snis": (1, 0, 0),
        "ca_certificates": (1, 0, 0), "upstreams": (1, 0, 0), "targets": (2, 0, 0),
    }  # fmt: skip
    reason = ("keyauth_credentials", "keyauth_credentials are not there")
    assert left_out(report) == {reason: ["without a name"]}
    again = take(admin, document)
    assert all(created == updated == 0 for created, updated, _ in counts(again).values())


def test_file_finds_targets_within_their_upstream_and_plugins_by_their_scope(admin: Admin) -> None:
    document: dict[str, Any] = {
        "services": [{"name": "chat", "url": "ws://up.example/"}],
        "upstreams": [
            {"name": name, "targets": [{"target": "a:80", "weight": weight}]}
            for name, weight in (("pool", 1), ("other", 2))
        ],
        "plugins": [
            {"name": "oauth2", "service": "chat", "config": OAUTH2},
            {"name": "oauth2", "config": OAUTH2},
        ],
    }
    assert counts(take(admin, document))["targets"] == (2, 0, 0)
    document["upstreams"][1]["targets"][0]["weight"] = 3
    document["plugins"][0]["config"] = OAUTH2 | {"token_expiration": 60}
    again = counts(take(admin, document))
    assert (again["targets"], again["plugins"]) == ((0, 1, 1), (0, 1, 1))
    weights = [admin.get(f"/upstreams/{name}/targets/a:80")["weight"] for name in ("pool", "other")]
    assert weights == [1, 3]
    (on_chat,) = admin.get("/services/chat/plugins")["data"]
    assert on_chat["config"]["token_expiration"] == 60


def test_reference_to_what_is_nowhere_is_told(admin: Admin) -> None:
    lost = {"plugins": [{"name": "oauth2", "service": "none", "config": OAUTH2}]}
    ((kind, reason),) = left_out(take(admin, lost))
    assert (kind, "none" in reason) == ("plugins", True), reason
    assert admin.get("/plugins")["data"] == []


def test_export_of_kong_refers_by_id(admin: Admin) -> None:
    """`kong config db_export`: flat, each reference the id itself."""
    kong: dict[str, Any] = a_kong() | {"_format_version": "3.0", "_transform": False}
    for kind, entities in kong.items():
        if not kind.startswith("_"):
            for item in entities:
                for name in (
                    "service",
                    "route",
                    "consumer",
                    "credential",
                    "certificate",
                    "upstream",
                ):
                    if item.get(name):
                        item[name] = item[name]["id"]
    report = take(admin, kong, strict=True)
    assert counts(report)["oauth2_tokens"] == (2, 0, 0)
    assert admin.get("/routes/chat-route")["service"] == {"id": id_of("chat")}


def test_entity_without_a_name_is_left_out(admin: Admin) -> None:
    kong = {"services": [{"host": "a"}], "routes": [{"paths": ["/a"]}]}
    text = "has neither id nor name, so that it could not be found again"
    assert left_out(take(admin, kong)).keys() == {("services", text), ("routes", text)}


# --- what is no document -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Cannot parse JSON body"),
        (b"{", "Cannot parse JSON body"),
        (b"[" * 100_000, "Cannot parse JSON body"),
        (b"[]", "Cannot parse JSON body"),
        (b'{"collections": {"services": [{"name": "\\ud800"}]}}', "Cannot parse JSON body"),
        (b'{"collections": {"services": [{"port": NaN}]}}', "Cannot parse JSON body"),
        (b"{}", "collections: an object was expected"),
        (b'{"collections": []}', "collections: an object was expected"),
        (b'{"collections": {"services": {}}}', "services: a list of mappings was expected"),
        (b'{"collections": {"services": [1]}}', "services: a list of mappings was expected"),
        (b'{"collections": {}, "dry": true}', "dry: unknown field"),
        (b'{"collections": {}, "dry_run": 1}', "dry_run: expected a boolean"),
        (
            b'{"collections": {"services": [{"routes": [{}]}]}}',
            "services: one with routes has neither an id nor a name",
        ),
    ],
)
def test_body_that_is_no_document_is_refused(admin: Admin, body: bytes, message: str) -> None:
    assert admin.refused("POST", PATH, content=body) == {"message": message}


def test_body_past_the_bound_is_refused(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.kong.endpoint.BYTES_MAX", 2**20)
    answer = admin.call("POST", PATH, content=b" " * 2**21)
    assert answer.status_code == 413 and answer.json() == {"message": "larger than 1 MiB"}


def test_body_that_is_cut_short_is_no_fault_of_ours(admin: Admin) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(PlainError) as error:
        asyncio.run(endpoint._read(request))
    assert error.value.status == 400


def test_imports_take_place_one_after_another(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their memory and the turns of other writers are not multiplied by who asks at once."""
    running, most, first = 0, 0, threading.Event()

    def count(*_: Any) -> ImportReport:
        nonlocal running, most
        running += 1
        most = max(most, running)
        first.wait(0.2)  # for another one, which must not come
        running -= 1
        return Report().made(written=False)

    monkeypatch.setattr(endpoint, "_take", count)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(admin.call, "POST", PATH, content=b"{}") for _ in range(4)]
        assert {one.result().status_code for one in asked} == {200}
    assert most == 1


def test_values_of_any_type_are_no_fault_of_ours(admin: Admin) -> None:
    odd: list[Any] = [None, 1, "x", [], {}, [None], {"id": 1}, {"id": []}, "\u0000", 1e308, True]
    sound = a_kong()
    for kind, entities in sound.items():
        for name in entities[0]:
            kong = sound | {kind: [{**entities[0], name: value} for value in odd]}
            answer = admin.call("POST", PATH, json={"collections": kong, "dry_run": True})
            assert answer.status_code in (200, 400, 409), (kind, name, answer.text)
