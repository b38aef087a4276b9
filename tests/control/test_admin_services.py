"""Services.  routing-and-proxy.md §5."""

import uuid
from typing import Any

import pytest

from control.admin.schema import Field
from control.admin.services import SCHEMA
from tests.control.adminkit import Admin


def test_service_has_kongs_defaults(admin: Admin) -> None:
    made = admin.post("/services", {"host": "h"})
    defaults = {
        "name": None,
        "retries": 5,
        "protocol": "http",
        "host": "h",
        "port": 80,
        "path": None,
        "connect_timeout": 60000,
        "write_timeout": 60000,
        "read_timeout": 60000,
        "client_certificate": None,
        "tls_verify": None,
        "tls_verify_depth": None,
        "ca_certificates": None,
        "enabled": True,
        "tags": None,
    }
    assert {name: made[name] for name in defaults} == defaults
    assert made.keys() == defaults.keys() | {"id", "created_at", "updated_at"}


def test_schema_tells_the_defaults_that_are_filled_in(admin: Admin) -> None:
    made = admin.post("/services", {"host": "h"})
    for entry in admin.get("/schemas/services")["fields"]:
        ((name, told),) = entry.items()
        if "default" in told:
            assert made[name] == told["default"]
        elif not told.get("auto") and name != "host":
            assert made[name] is None
    assert "url" not in {next(iter(entry)) for entry in admin.get("/schemas/services")["fields"]}
    assert isinstance(SCHEMA.fields["url"], Field)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", ("http", "h", 80, None)),
        ("http://h/", ("http", "h", 80, "/")),
        ("https://h:8443/p/q", ("https", "h", 8443, "/p/q")),
        ("https://h", ("https", "h", 443, None)),
        ("ws://echo.example/", ("ws", "echo.example", 80, "/")),
        ("wss://h/x", ("wss", "h", 443, "/x")),
        ("//h:443", ("https", "h", 443, None)),
        ("//h:8080", ("http", "h", 8080, None)),
        ("http://[::1]:81", ("http", "::1", 81, None)),
        ("http://[FE80::A]/", ("http", "FE80::A", 80, "/")),
        ("HTTP://Up.Example/", ("http", "Up.Example", 80, "/")),
    ],
)
def test_url_sets_protocol_host_port_and_path(
    url: str, expected: tuple[Any, ...], admin: Admin
) -> None:
    made = admin.post("/services", {"url": url})
    assert (made["protocol"], made["host"], made["port"], made["path"]) == expected
    assert "url" not in made


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("no url", {"host": "required field missing", "path": "should start with: /"}),
        ("http://", {"host": "required field missing"}),
        ("http://[::1", {"host": "required field missing"}),
        ("http://h:x", {"host": "required field missing"}),
        ("http://h:99999/", {"host": "required field missing"}),
        ("http://a b/", {"host": "invalid hostname: a b"}),
    ],
)
def test_broken_url_is_refused(url: str, fields: dict[str, str], admin: Admin) -> None:
    assert admin.fields("/services", {"url": url}) == fields


def test_url_of_an_unknown_scheme_is_refused(admin: Admin) -> None:
    assert admin.fields("/services", {"url": "ftp://h"}).keys() == {"protocol"}


def test_patch_url_resets_the_path(admin: Admin) -> None:
    made = admin.service(path="/old", port=81)
    patched = admin.patch(f"/services/{made['id']}", {"url": "https://new"})
    assert (patched["protocol"], patched["host"]) == ("https", "new")
    assert (patched["port"], patched["path"]) == (443, None)


def test_null_url_says_nothing(admin: Admin) -> None:
    assert admin.service(url=None)["host"] == "up.example"


@pytest.mark.parametrize(
    "host",
    ["h", "a.b-c.example", "under_score", "h.", "127.0.0.1", "::1", "[::1]", "fe80::1", "x" * 63],
)
def test_host_may_be_a_name_or_an_address(host: str, admin: Admin) -> None:
    assert admin.service(host=host)["host"] == host


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("a b", "invalid hostname: a b"),
        ("-a", "invalid hostname: -a"),
        ("a..b", "invalid hostname: a..b"),
        ("*.a", "invalid hostname: *.a"),
        ("a/b", "invalid hostname: a/b"),
        ("a:80", "must not have a port"),
        ("[::1]:80", "must not have a port"),
        ("[::1", "invalid hostname: [::1"),
        ("::1]", "invalid hostname: ::1]"),
        ("fe80::1%eth0", "invalid hostname: fe80::1%eth0"),
        ("x" * 64, f"invalid hostname: {'x' * 64}"),
        ("a." * 130, f"invalid hostname: {'a.' * 130}"),
    ],
)
def test_broken_host_is_refused(host: str, text: str, admin: Admin) -> None:
    assert admin.fields("/services", {"host": host}) == {"host": text}


USERINFO = "must not have a user or password"
CONTROL = "must not contain control characters"
TRICKS = {
    # What inet_aton and with it resolvers take for 127.0.0.1, or for some other address.
    "address": [
        "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.1", "127.0.1", "017700000001",
        "127.0.0.01", "0X7F.0.0.1", "127.0.0.0x1", "127.0.0.1.", "2130706433.", "0", "1", "0x",
        "1.2.3.4.5", "256.1.1.1", "9999999999", "host.127", "host.0x7f", "a.1.",
    ],
    "hostname": [
        "a b", " a", "a ", "a\u00a0b", "a\u2028b", "http://a", "//a", "a/", "a?b", "a#b", "a\\b",
        "fe80::1%eth0", "[fe80::1%25eth0]", "::1%lo", "[v1.a]", "[127.0.0.1", "a%00b", "a%2eb",
        # Dots, digits and letters that IDNA or a resolver may turn into plain ones.
        "127\u30020\u30020\u30021", "\uff11\uff12\uff17.0.0.1", "\u24d4xample.com", "ex\u00adample",
        "loc\u0430lhost", "\u2488127.1", "a\u200b",
    ],
    USERINFO: ["user@a", "user:pw@a", "@a", "a@", "user%40x@a", "127.0.0.1@a"],
    CONTROL: ["a\tb", "a\nb", "a\rb", "\x00a", "a\x7f", "a\x1b[2J"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "host"), [(kind, host) for kind, hosts in TRICKS.items() for host in hosts]
)
def test_s79_host_that_is_read_in_two_ways_is_refused(kind: str, host: str, admin: Admin) -> None:
    (said,) = admin.fields("/services", {"host": host}).values()
    expected = {
        "address": f"invalid address: {host}; expected four decimal numbers, or a name",
        "hostname": f"invalid hostname: {host}",
    }
    assert said == expected.get(kind, kind)
    made = admin.service()
    assert admin.fields(f"/services/{made['id']}", {"host": host}, "PATCH") == {"host": said}


@pytest.mark.parametrize(
    "host", ["0x7f.example", "1.com", "127.0.0.1.nip.example", "3com.x1", "1e1", "a0x", "xn--e1a.x"]
)
def test_s79_names_with_digits_are_names(host: str, admin: Admin) -> None:
    assert admin.service(host=host)["host"] == host


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("http://user@h/", {"host": USERINFO}),
        ("http://user:hidden@h:82/", {"host": USERINFO}),
        ("http://127.0.0.1@h/", {"host": USERINFO}),
        ("http://h\\@evil/", {"host": USERINFO}),
        ("http://h\t/", {"host": CONTROL}),
        ("http://h\n.evil/", {"host": CONTROL}),
        ("http://h/\x00", {"host": CONTROL}),
        ("http://0x7f.1/", {"host": "invalid address: 0x7f.1; expected four decimal numbers, "
                                     "or a name"}),
        ("http://[fe80::1%25eth0]/", {"host": "invalid hostname: fe80::1%25eth0"}),
    ],
)  # fmt: skip
def test_s79_url_with_such_a_host_is_refused(
    url: str, fields: dict[str, str], admin: Admin
) -> None:
    assert admin.fields("/services", {"url": url}) == fields


@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher", "javascript", "unix", "dict", "data"])
def test_s79_odd_schemes_are_refused(scheme: str, admin: Admin) -> None:
    found = admin.fields("/services", {"url": f"{scheme}://h"})
    assert found["protocol"].startswith("expected one of: grpc, grpcs, http")
    assert admin.fields("/services", {"host": "h", "protocol": scheme}) == found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("p", "should start with: /"),
        ("/a//b", "must not have empty segments"),
        ("/a%zz", "invalid url-encoded value: '%zz'"),
        ("/" + "\u00e9" * 683, "length must be at most 4096"),  # 6 bytes each, escaped
    ],
)
def test_broken_path_is_refused(path: str, text: str, admin: Admin) -> None:
    assert admin.fields("/services", {"host": "h", "path": path}) == {"path": text}


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("retries", 0, 32767),
        ("port", 0, 65535),
        ("connect_timeout", 1, 2147483646),
        ("write_timeout", 1, 2147483646),
        ("read_timeout", 1, 2147483646),
    ],
)
def test_numbers_have_bounds(field: str, low: int, high: int, admin: Admin) -> None:
    for value in (low, high):
        assert admin.service(**{field: value})[field] == value
    for value in (low - 1, high + 1):
        fields = admin.fields("/services", {"host": "h", field: value})
        assert fields == {field: f"value should be between {low} and {high}"}


@pytest.mark.parametrize("field", ["retries", "connect_timeout", "write_timeout", "read_timeout"])
def test_null_of_a_number_means_its_default(field: str, admin: Admin) -> None:
    made = admin.service(**{field: 7})
    default = SCHEMA.fields[field].default
    assert admin.patch(f"/services/{made['id']}", {field: None})[field] == default


@pytest.mark.parametrize("protocol", ["https", "tls", "wss"])
def test_tls_fields_are_taken_with_tls(protocol: str, admin: Admin) -> None:
    ident = str(uuid.uuid4())
    made = admin.service(
        protocol=protocol, tls_verify=True, tls_verify_depth=3, ca_certificates=[ident]
    )
    assert (made["tls_verify"], made["tls_verify_depth"]) == (True, 3)
    assert made["ca_certificates"] == [ident]


@pytest.mark.parametrize("protocol", ["http", "ws", "tcp"])
def test_tls_fields_must_be_null_without_tls(protocol: str, admin: Admin) -> None:
    body = {"host": "h", "protocol": protocol, "tls_verify": False, "ca_certificates": []}
    assert admin.fields("/services", body) == {
        "tls_verify": "value must be null",
        "ca_certificates": "value must be null",
    }


def test_path_must_be_null_where_there_is_none(admin: Admin) -> None:
    body = {"host": "h", "protocol": "tcp", "path": "/p"}
    assert admin.fields("/services", body) == {"path": "value must be null"}


@pytest.mark.parametrize("name", ["a", "A-b_c.d~1", "näme", "名"])
def test_name_of_allowed_characters(name: str, admin: Admin) -> None:
    made = admin.service(name=name)
    assert admin.get(f"/services/{name}") == made


@pytest.mark.parametrize("name", ["a b", "a/b", "a:b", "é!"])
def test_name_of_other_characters_is_refused(name: str, admin: Admin) -> None:
    assert admin.fields("/services", {"host": "h", "name": name}) == {
        "name": f"invalid value '{name}': the only accepted ascii characters are "
        "alphanumerics or ., -, _, and ~"
    }


def test_protocol_may_change_within_its_family(admin: Admin) -> None:
    service = admin.service(protocol="ws")
    admin.route(protocols=["ws", "wss"], service={"id": service["id"]})
    assert admin.patch(f"/services/{service['id']}", {"protocol": "wss"})["protocol"] == "wss"
    fields = admin.fields(f"/services/{service['id']}", {"protocol": "http"}, "PATCH")
    assert fields == {"protocol": "must go with the protocols of its routes (ws, wss)"}


def test_protocol_may_change_freely_without_routes(admin: Admin) -> None:
    service = admin.service(protocol="ws")
    assert admin.patch(f"/services/{service['id']}", {"protocol": "https"})["protocol"] == "https"
