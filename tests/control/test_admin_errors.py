"""Error bodies and references.  admin-api.md §1.4, §1.5."""

import uuid

import pytest

from control.admin.errors import SchemaViolation, key_text
from tests.control.adminkit import Admin

NOWHERE = "00000000-0000-4000-8000-000000000000"


def test_one_violation_is_told_with_its_field(admin: Admin) -> None:
    assert admin.refused("POST", "/services", json={}) == {
        "code": 2,
        "name": "schema violation",
        "message": "schema violation (host: required field missing)",
        "fields": {"host": "required field missing"},
    }


def test_several_violations_are_counted_and_sorted(admin: Admin) -> None:
    refused = admin.refused("POST", "/services", json={"protocol": "x", "retries": -1})
    assert refused["message"] == (
        "3 schema violations (host: required field missing; protocol: expected one of: grpc, "
        "grpcs, http, https, tcp, tls, tls_passthrough, udp, ws, wss; "
        "retries: value should be between 0 and 32767)"
    )


def test_violations_of_the_entity_come_first_and_items_count_from_1(admin: Admin) -> None:
    refused = admin.refused("POST", "/routes", json={"protocols": ["http", "x"], "name": "a b"})
    assert refused["message"].startswith(
        "3 schema violations (must set one of 'methods', 'hosts', 'headers', 'paths' "
        "when 'protocols' is 'http'; name: invalid value 'a b'"
    )
    assert "; protocols.2: expected one of: grpc," in refused["message"]
    assert refused["fields"]["protocols"][0] is None
    assert refused["fields"]["@entity"] == [
        "must set one of 'methods', 'hosts', 'headers', 'paths' when 'protocols' is 'http'"
    ]


def test_nested_violations_have_a_dotted_path(admin: Admin) -> None:
    body = {"name": "oauth2", "config": {"scopes": ["a", 1], "pkce": "x", "unknown": 1}}
    refused = admin.refused("POST", "/plugins", json=body)
    assert refused["message"] == (
        "3 schema violations (config.pkce: expected one of: none, lax, strict; "
        "config.scopes.2: expected a string; config.unknown: unknown field)"
    )
    assert refused["fields"] == {
        "config": {
            "pkce": "expected one of: none, lax, strict",
            "scopes": [None, "expected a string"],
            "unknown": "unknown field",
        }
    }


def test_violation_inside_an_entity_level_list_is_counted_each() -> None:
    error = SchemaViolation({"@entity": ["one", "two"], "a": {"b": ["x", None, "y"]}})
    assert error.body["message"] == "4 schema violations (one; two; a.b.1: x; a.b.3: y)"


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("name", 1, "expected a string"),
        ("name", "", "length must be at least 1"),
        ("name", "a\nb", "must not contain control characters"),
        ("port", "80", "expected an integer"),
        ("port", 80.5, "expected an integer"),
        ("port", True, "expected an integer"),
        ("port", 1e300, "expected an integer"),
        ("port", 65536, "value should be between 0 and 65535"),
        ("enabled", 1, "expected a boolean"),
        ("tags", "a", "expected a set"),
        ("tags", [None], ["expected a string"]),
        ("ca_certificates", {}, "expected an array"),
        ("ca_certificates", ["x"], ["expected a valid UUID"]),
        ("client_certificate", "x", "expected a record"),
        ("client_certificate", {}, "missing primary key"),
        ("client_certificate", {"id": "x"}, {"id": "expected a valid UUID"}),
        ("client_certificate", {"name": 1}, {"name": "expected a string"}),
        ("url", 1, "expected a string"),
    ],
)
def test_value_of_another_type_is_refused(
    field: str, value: object, text: object, admin: Admin
) -> None:
    body = {"host": "h", "protocol": "https", field: value}
    assert admin.fields("/services", body)[field] == text


@pytest.mark.parametrize("value", [80.0, 80])
def test_whole_number_is_an_integer(value: float, admin: Admin) -> None:
    port = admin.service(port=value)["port"]
    assert port == 80 and isinstance(port, int)


def test_text_of_types_that_only_plugins_have(admin: Admin) -> None:
    config = {"enable_password_grant": True, "token_expiration": "x"}
    assert admin.fields("/plugins", {"name": "oauth2", "config": config}) == {
        "config": {"token_expiration": "expected a number"}
    }
    assert admin.fields("/plugins", {"name": "oauth2", "config": []}) == {
        "config": "expected a record"
    }
    assert admin.fields("/routes", {"paths": ["/"], "headers": []}) == {"headers": "expected a map"}


def test_unique_violation_names_the_key(admin: Admin) -> None:
    admin.service(name="svc")
    refused = admin.refused("POST", "/services", 409, json={"name": "svc", "host": "h"})
    assert refused == {
        "code": 5,
        "name": "unique constraint violation",
        "message": "UNIQUE violation detected on '{name=\"svc\"}'",
        "fields": {"name": "svc"},
    }


def test_patch_to_a_name_in_use_gets_409(admin: Admin) -> None:
    admin.consumer(username="a", custom_id="1")
    admin.consumer(username="b")
    assert admin.refused("PATCH", "/consumers/b", 409, json={"custom_id": "1"})["fields"] == {
        "custom_id": "1"
    }


def test_key_text_writes_nulls_and_nested_keys() -> None:
    key = {"route": None, "name": "n", "service": {"id": "i"}}
    assert key_text(key) == '{name="n",route=null,service={id="i"}}'


# --- references ------------------------------------------------------------------------------


def test_reference_by_id_or_name_is_shown_by_id(admin: Admin) -> None:
    service = admin.service(name="s")
    for reference in ({"id": service["id"].upper()}, {"name": "s"}, {"id": None, "name": "s"}):
        assert admin.route(service=reference)["service"] == {"id": service["id"]}


def test_reference_to_a_missing_id_is_refused(admin: Admin) -> None:
    body = {"paths": ["/"], "service": {"id": NOWHERE}}
    assert admin.refused("POST", "/routes", json=body) == {
        "code": 4,
        "name": "foreign key violation",
        "message": f"the foreign key '{{id=\"{NOWHERE}\"}}' does not reference "
        "an existing 'services' entity.",
        "fields": {"service": {"id": NOWHERE}},
    }


def test_reference_to_a_missing_name_is_refused(admin: Admin) -> None:
    refused = admin.refused("POST", "/routes", json={"paths": ["/"], "service": {"name": "x"}})
    reason = (
        "the foreign key cannot be resolved with '{name=\"x\"}' for an existing 'services' entity"
    )
    assert refused == {
        "code": 13,
        "name": "foreign keys unresolved",
        "message": f"foreign key unresolved (service.name: {reason})",
        "fields": {"service": {"name": reason}},
    }


def test_reference_by_another_field_is_refused(admin: Admin) -> None:
    fields = admin.fields("/routes", {"paths": ["/"], "service": {"host": "x", "name": "y"}})
    assert fields == {"service": {"host": "unknown field"}}


def test_reference_may_be_detached(admin: Admin) -> None:
    route = admin.route(service={"id": admin.service()["id"]})
    assert admin.patch(f"/routes/{route['id']}", {"service": None})["service"] is None


def test_service_with_routes_is_not_deleted(admin: Admin) -> None:
    service = admin.service()
    route = admin.route(service={"id": service["id"]})
    assert admin.refused("DELETE", f"/services/{service['id']}") == {
        "code": 4,
        "name": "foreign key violation",
        "message": "an existing 'routes' entity references this 'services' entity",
        "fields": {"@referenced_by": "routes"},
    }
    admin.delete(f"/routes/{route['id']}")
    admin.delete(f"/services/{service['id']}")


@pytest.mark.parametrize(("parent", "field"), [("services", "service"), ("routes", "route")])
def test_plugins_go_with_what_they_are_attached_to(parent: str, field: str, admin: Admin) -> None:
    owner = admin.service() if parent == "services" else admin.route()
    plugin = admin.plugin(**{field: {"id": owner["id"]}})
    kept = admin.plugin()
    admin.delete(f"/{parent}/{owner['id']}")
    admin.refused("GET", f"/plugins/{plugin['id']}", 404)
    assert admin.get(f"/plugins/{kept['id']}") == kept


def test_failed_write_leaves_nothing_behind(admin: Admin) -> None:
    route = admin.route(name="r")
    admin.service(name="taken")
    version = admin.version()
    admin.refused("PUT", "/routes/r/service", 409, json={"host": "h", "name": "taken"})
    assert admin.get("/routes/r") == route
    assert admin.version() == version
    assert str(uuid.UUID(route["id"])) == route["id"]
