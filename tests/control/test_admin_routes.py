"""Routes.  routing-and-proxy.md §1."""

from typing import Any

import pytest

from control.admin.names import normalize_path
from tests.control.adminkit import Admin

LONG_NAME = "a." * 126 + "a"  # 253 characters
NOT_YET = "regular expressions are not supported yet"


def test_route_has_kongs_defaults(admin: Admin) -> None:
    made = admin.post("/routes", {"paths": ["/a"]})
    defaults = {
        "name": None,
        "protocols": ["http", "https"],
        "methods": None,
        "hosts": None,
        "paths": ["/a"],
        "headers": None,
        "snis": None,
        "sources": None,
        "destinations": None,
        "https_redirect_status_code": 426,
        "regex_priority": 0,
        "strip_path": True,
        "preserve_host": False,
        "request_buffering": True,
        "response_buffering": True,
        "path_handling": "v0",
        "service": None,
        "tags": None,
    }
    assert {name: made[name] for name in defaults} == defaults
    assert made.keys() == defaults.keys() | {"id", "created_at", "updated_at"}
    for entry in admin.get("/schemas/routes")["fields"]:
        ((name, told),) = entry.items()
        if "default" in told:
            assert made[name] == told["default"]


# --- protocols -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "protocols",
    [["http"], ["https"], ["http", "https"], ["ws"], ["wss"], ["ws", "wss"], ["grpc", "grpcs"]],
)
def test_protocols_of_one_family(protocols: list[str], admin: Admin) -> None:
    assert admin.route(protocols=protocols)["protocols"] == protocols


@pytest.mark.parametrize(
    ("protocols", "text"),
    [
        (["http", "ws"], "('http', 'https'), ('ws', 'wss')"),
        (["wss", "https"], "('http', 'https'), ('ws', 'wss')"),
        (["http", "grpc", "tcp"], "('http', 'https'), ('grpc', 'grpcs'), ('tcp', 'tls', 'udp')"),
        (["tls", "tls_passthrough"], "('tcp', 'tls', 'udp'), ('tls_passthrough')"),
    ],
)
def test_protocols_of_two_families_are_refused(
    protocols: list[str], text: str, admin: Admin
) -> None:
    fields = admin.fields("/routes", {"protocols": protocols, "paths": ["/"]})
    assert fields["protocols"] == f"these sets are mutually exclusive: {text}"


@pytest.mark.parametrize(
    ("protocols", "text"),
    [([], "length must be at least 1"), (None, "required field missing"), ("ws", "expected a set")],
)
def test_protocols_must_be_some_whatever_else_is_set(
    protocols: Any, text: str, admin: Admin
) -> None:
    body = {"protocols": protocols, "sources": [{"ip": "::1"}], "methods": ["GET"]}
    assert admin.fields("/routes", body) == {"protocols": text}


@pytest.mark.parametrize(
    ("protocols", "text"),
    [([], "length must be at least 1"), (None, "required field missing"), ("ws", "expected a set")],
)
def test_protocols_must_be_some(protocols: Any, text: str, admin: Admin) -> None:
    fields = admin.fields("/routes", {"protocols": protocols, "paths": ["/"]})
    assert fields == {"protocols": text}


@pytest.mark.parametrize(
    ("service", "route", "good"),
    [
        ("http", ["http", "https"], True),
        ("https", ["http"], True),
        ("ws", ["wss"], True),
        ("wss", ["ws", "wss"], True),
        ("ws", ["http"], False),
        ("http", ["ws"], False),
        ("grpc", ["http"], False),
    ],
)
def test_route_goes_with_its_services_protocol(
    service: str, route: list[str], good: bool, admin: Admin
) -> None:
    parent = {"id": admin.service(protocol=service)["id"]}
    body = {"protocols": route, "paths": ["/a"], "service": parent}
    if good:
        assert admin.post("/routes", body)["service"] == parent
    else:
        assert admin.fields("/routes", body) == {
            "protocols": f"must go with the service's protocol ({service})"
        }
        made = admin.post("/routes", body | {"service": None})
        path = f"/routes/{made['id']}"
        assert admin.fields(path, {"service": parent}, "PATCH").keys() == {"protocols"}


# --- what a route must set -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocols", "names"),
    [
        (["http", "https"], "'methods', 'hosts', 'headers', 'paths', 'snis'"),
        (["https"], "'methods', 'hosts', 'headers', 'paths', 'snis'"),
        (["http"], "'methods', 'hosts', 'headers', 'paths'"),
        (["ws"], "'hosts', 'headers', 'paths'"),
        (["wss"], "'hosts', 'headers', 'paths', 'snis'"),
        (["grpc"], "'hosts', 'headers', 'paths'"),
        (["grpcs"], "'hosts', 'headers', 'paths', 'snis'"),
        (["tcp"], "'sources', 'destinations'"),
        (["udp"], "'sources', 'destinations'"),
        (["tls"], "'sources', 'destinations', 'snis'"),
        (["tls_passthrough"], "'snis'"),
    ],
)
def test_route_must_set_a_matcher(protocols: list[str], names: str, admin: Admin) -> None:
    for empty in ({}, {"paths": []}, {"paths": None}):
        fields = admin.fields("/routes", {"protocols": protocols} | empty)
        decisive = "https" if "https" in protocols else protocols[0]
        text = f"must set one of {names} when 'protocols' is '{decisive}'"
        assert fields["@entity"] == [text]


@pytest.mark.parametrize(
    "matcher",
    [{"methods": ["GET"]}, {"hosts": ["h"]}, {"paths": ["/"]}, {"headers": {"x": ["1"]}}],
)
def test_one_matcher_is_enough(matcher: dict[str, Any], admin: Admin) -> None:
    made = admin.post("/routes", matcher)
    assert matcher.items() <= made.items()


def test_clearing_the_last_matcher_is_refused(admin: Admin) -> None:
    made = admin.route()
    assert "@entity" in admin.fields(f"/routes/{made['id']}", {"paths": None}, "PATCH")


def test_stream_routes_take_addresses(admin: Admin) -> None:
    ends = [{"ip": "10.0.0.0/8", "port": None}, {"ip": None, "port": 9000}]
    made = admin.post("/routes", {"protocols": ["tcp"], "sources": ends})
    assert made["sources"] == ends
    for wrong in ("10.0.0.0/x", "h", "10.0.0.0/999"):
        fields = admin.fields("/routes", {"protocols": ["tcp"], "sources": [{"ip": wrong}]})
        assert fields["sources"] == [{"ip": f"invalid ip or cidr range: '{wrong}'"}]
    fields = admin.fields("/routes", {"paths": ["/"], "sources": ends})
    assert fields == {"sources": "cannot set 'sources' when 'protocols' is 'http'"}


# --- methods, headers, snis ------------------------------------------------------------------


def test_methods_are_upper_case(admin: Admin) -> None:
    assert admin.route(methods=["GET", "PURGE", "GET"])["methods"] == ["GET", "PURGE"]
    fields = admin.fields("/routes", {"methods": ["GET", "get"]})
    assert fields == {"methods": [None, "invalid value: get"]}


@pytest.mark.parametrize(("first", "second"), [("ws", "wss"), ("grpc", "grpcs")])
def test_methods_mean_nothing_to_some_families(first: str, second: str, admin: Admin) -> None:
    for protocol in (first, second):
        body = {"protocols": [protocol], "paths": ["/"], "methods": ["GET"]}
        assert admin.fields("/routes", body) == {
            "methods": f"cannot set 'methods' when 'protocols' is '{first}' or '{second}'"
        }


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        (
            {"Host": ["h"]},
            {
                "Host": "cannot contain 'host' header, "
                "which must be specified in the 'hosts' attribute"
            },
        ),
        (
            {"a b": ["h"]},
            {"a b": "bad header name 'a b', allowed characters are A-Z, a-z, 0-9, '_', and '-'"},
        ),
        ({"x": "1"}, {"x": "expected an array"}),
        ({"x": None}, {"x": "expected an array"}),
        ({"x": [1]}, {"x": ["expected a string"]}),
        ({"x": ["~*v.*"]}, {"x": NOT_YET}),
    ],
)
def test_broken_headers_are_refused(headers: Any, error: Any, admin: Admin) -> None:
    assert admin.fields("/routes", {"paths": ["/"], "headers": headers}) == {"headers": error}


def test_header_value_may_hold_a_tilde_elsewhere(admin: Admin) -> None:
    assert admin.route(headers={"x": ["a~*b", "~"]})["headers"] == {"x": ["a~*b", "~"]}


def test_snis_are_not_supported_yet(admin: Admin) -> None:
    body = {"paths": ["/"], "snis": ["a.example"]}
    assert admin.fields("/routes", body) == {"snis": "not supported yet"}
    assert admin.fields("/routes", body | {"snis": ["a b"]}) == {"snis": ["invalid hostname: a b"]}


def test_snis_need_tls(admin: Admin) -> None:
    body = {"protocols": ["ws"], "paths": ["/"], "snis": ["a.example"]}
    assert admin.fields("/routes", body).keys() == {"snis"}


# --- hosts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["a.example", "a.example:8000", "*.a.example", "a.*", "*.a:80", "127.0.0.1", "localhost"],
)
def test_host_of_a_route(host: str, admin: Admin) -> None:
    assert admin.route(hosts=[host])["hosts"] == [host]


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("*.a.*", "invalid wildcard: must have at most one wildcard"),
        ("a.*.b", "invalid wildcard: must be placed at leftmost or rightmost label"),
        ("*", "invalid wildcard: must be placed at leftmost or rightmost label"),
        ("*a.b", "invalid wildcard: must be placed at leftmost or rightmost label"),
        ("*.", "invalid hostname: *."),
        ("a:", "invalid hostname: a:"),
        ("a:0", "invalid hostname: a:0"),
        ("a:99999", "invalid hostname: a:99999"),
        ("a:000080", "invalid hostname: a:000080"),
        ("a:\u0663", "invalid hostname: a:\u0663"),
        (f"*.{LONG_NAME}", f"invalid hostname: *.{LONG_NAME}"),
        ("a:b", "invalid hostname: a:b"),
        ("a/b", "invalid hostname: a/b"),
    ],
)
def test_broken_host_is_refused(host: str, text: str, admin: Admin) -> None:
    assert admin.fields("/routes", {"hosts": ["good", host]}) == {"hosts": [None, text]}


# --- paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/a", "/a/", "/a b", "/%2F", "/é", "/a%3Fb", "/a.b/..c"])
def test_path_that_is_normal(path: str, admin: Admin) -> None:
    assert admin.route(paths=[path])["paths"] == [path]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a", "should start with: / (fixed path) or ~/ (regex path)"),
        ("//a", "must not have empty segments"),
        ("/a//b", "must not have empty segments"),
        ("/a%2", "invalid url-encoded value: '%2'"),
        ("/a%g0", "invalid url-encoded value: '%g0'"),
        ("/a/../b", "non-normalized path, consider use '/b' instead"),
        ("/a/.", "non-normalized path, consider use '/a/' instead"),
        ("/a/..", "non-normalized path, consider use '/' instead"),
        ("/%61", "non-normalized path, consider use '/a' instead"),
        ("/%2f", "non-normalized path, consider use '/%2F' instead"),
        ("/%C3%A9", "non-normalized path, consider use '/é' instead"),
        ("~/a.*", NOT_YET),
        ("~a", NOT_YET),
    ],
)
def test_broken_path_is_refused(path: str, text: str, admin: Admin) -> None:
    assert admin.fields("/routes", {"paths": ["/good", path]}) == {"paths": [None, text]}


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/a/./b", "/a/b"),
        ("/a/b/../c", "/a/c"),
        ("/../../a", "/a"),
        ("/%7Ea%2Fb%20c", "/~a%2Fb c"),
        ("/%ff%00", "/%FF%00"),
        ("/%0a%7f", "/%0A%7F"),
        ("/%25%3f%e2%98%83", "/%25%3F☃"),
    ],
)
def test_normalize_path(path: str, normal: str) -> None:
    assert normalize_path(path) == normal
    assert normalize_path(normal) == normal


@pytest.mark.parametrize("status", [426, 301, 302, 307, 308])
def test_redirect_status_of_the_list(status: int, admin: Admin) -> None:
    assert admin.route(https_redirect_status_code=status)["https_redirect_status_code"] == status


def test_redirect_status_and_path_handling_beyond_the_list_are_refused(admin: Admin) -> None:
    body = {"paths": ["/"], "https_redirect_status_code": 303, "path_handling": "v2"}
    assert admin.fields("/routes", body) == {
        "https_redirect_status_code": "expected one of: 426, 301, 302, 307, 308",
        "path_handling": "expected one of: v0, v1",
    }
