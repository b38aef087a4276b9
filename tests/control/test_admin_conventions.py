"""What holds for every path of the Admin API: bodies, headers, methods, paths.  admin-api.md §1."""

import json
import uuid
from typing import Any

import pytest

from control.admin.bodies import BODY_BYTES_MAX, infer, nest
from control.admin.errors import PlainError
from control.admin.routes import SCHEMA as ROUTES
from tests.control.adminkit import Admin

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# --- bodies ----------------------------------------------------------------------------------


def test_json_and_both_forms_make_the_same_entity(admin: Admin) -> None:
    wanted = {
        "protocols": ["ws", "wss"],
        "paths": ["/a", "/b"],
        "hosts": ["one.example"],
        "headers": {"x-kind": ["1", "2"]},
        "strip_path": False,
        "regex_priority": 5,
        "tags": ["t"],
    }
    fields = [
        ("protocols[]", "ws"),
        ("protocols[]", "wss"),
        ("paths[1]", "/a"),
        ("paths[2]", "/b"),
        ("hosts", "one.example"),
        ("headers.x-kind[]", "1"),
        ("headers.x-kind[]", "2"),
        ("strip_path", "false"),
        ("regex_priority", "5"),
        ("tags", "t"),
    ]
    made = [admin.post("/routes", wanted)]
    form = "&".join(f"{name}={value}" for name, value in fields)
    for sent in (
        {"content": form, "headers": FORM},
        {"files": [(name, (None, value)) for name, value in fields]},
    ):
        answer = admin.call("POST", "/routes", **sent)
        assert answer.status_code == 201, answer.text
        made.append(answer.json())
    for route in made:
        assert {name: route[name] for name in wanted} == wanted
        assert isinstance(route["regex_priority"], int)


def test_form_names_a_parent_by_id_or_by_name(admin: Admin) -> None:
    service = admin.service(name="s")
    for form in ({"service.id": service["id"]}, {"service.name": "s"}):
        answer = admin.call("POST", "/routes", data={"paths": "/a", **form})
        assert answer.status_code == 201
        assert answer.json()["service"] == {"id": service["id"]}


def test_form_makes_records_in_lists(admin: Admin) -> None:
    form = {
        "protocols": "tcp",
        "sources[2].ip": "10.0.0.2",
        "sources[1].ip": "10.0.0.1",
        "sources[1].port": "81",
    }
    answer = admin.call("POST", "/routes", data=form)
    assert answer.status_code == 201, answer.text
    first, second = answer.json()["sources"]
    assert (first, second["ip"]) == ({"ip": "10.0.0.1", "port": 81}, "10.0.0.2")


def test_form_with_an_empty_value_sets_null(admin: Admin) -> None:
    service = admin.service(path="/p", tags=["t"])
    answer = admin.call("PATCH", f"/services/{service['id']}", data={"path": "", "tags": ""})
    assert answer.status_code == 200
    assert answer.json()["path"] is None


def test_form_text_that_is_no_number_is_refused_as_such(admin: Admin) -> None:
    body = admin.refused("POST", "/services", data={"host": "h", "port": "x", "enabled": "yes"})
    assert body["fields"] == {"port": "expected an integer", "enabled": "expected a boolean"}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("a", "1")], {"a": "1"}),
        ([("a", "")], {"a": None}),
        ([("a[]", "1")], {"a": ["1"]}),
        ([("a[]", "1"), ("a[]", "2")], {"a": ["1", "2"]}),
        ([("a", "1"), ("a", "2")], {"a": ["1", "2"]}),
        ([("a.b.c", "1"), ("a.b.d", "2")], {"a": {"b": {"c": "1", "d": "2"}}}),
        ([("a", "1"), ("a.b", "2")], {"a": {"b": "2"}}),
        ([("a.b[3]", "1")], {"a": {"b": ["1"]}}),
        ([("a[10]", "3"), ("a[9]", "2"), ("a[1]", "1")], {"a": ["1", "2", "3"]}),
        ([("a[2]", "2"), ("a[2]", "3"), ("a[]", "4"), ("a", "5")], {"a": ["2", "3", "4", "5"]}),
        (
            [("a[1].b", "1"), ("a[2].b", "2"), ("a[1].c", "3")],
            {"a": [{"b": "1", "c": "3"}, {"b": "2"}]},
        ),
        ([("a[].b", "1"), ("a[].c", "2")], {"a": [{"b": "1", "c": "2"}]}),
        ([("a[1].b[]", "1"), ("a[1].b[]", "2")], {"a": [{"b": ["1", "2"]}]}),
        ([("a[1]", "1"), ("a[1].b", "2")], {"a": ["1", {"b": "2"}]}),
        ([("a[1].b", "1"), ("a.b", "2")], {"a": {"b": "2"}}),
        ([("a[1234567890]", "1")], {"a[1234567890]": "1"}),
        ([("a[x]", "1"), ("[]", "2")], {"a[x]": "1", "[]": "2"}),
    ],
)
def test_form_names_nest(pairs: list[tuple[str, str]], expected: dict[str, Any]) -> None:
    assert nest(pairs) == expected


def test_form_name_of_many_levels_is_refused() -> None:
    with pytest.raises(PlainError):
        nest([("a" + ".b" * 50, "1")])


def test_infer_leaves_what_does_not_fit_for_the_validation(admin: Admin) -> None:
    given = {"paths": {"x": "1"}, "service": "id", "unknown": "1", "regex_priority": "1.5"}
    assert infer(ROUTES.fields, given) == {
        "paths": [{"x": "1"}],
        "service": "id",
        "unknown": "1",
        "regex_priority": 1.5,
    }
    assert infer(ROUTES.fields, {"regex_priority": ["1"], "name": None}) == {
        "regex_priority": ["1"],
        "name": None,
    }


def test_no_body_is_an_empty_object(admin: Admin) -> None:
    service = admin.service()
    answer = admin.call("PATCH", f"/services/{service['id']}")
    assert answer.status_code == 200
    assert answer.json() == service


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"host": NaN}',
        b'{"host": "\xff"}',
        b'{"\\ud800": 1}',
        b'{"host": "\\uDFFF"}',
        b'{"a":' * 100_000,
        b"[" * 200_000,
    ],
)
def test_broken_json_is_refused(content: bytes, admin: Admin) -> None:
    body = admin.refused(
        "POST", "/services", content=content, headers={"Content-Type": "application/json"}
    )
    assert body == {"message": "Cannot parse JSON body"}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/x-www-form-urlencoded", b"host=%ff"),
        ("application/x-www-form-urlencoded", b"\xff=1"),
        ("application/x-www-form-urlencoded", b"a=1&" * 20_000),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"--y\r\nnot a part"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="host"; filename="f"\r\n\r\n'
            b"\xff\r\n--x--",
        ),
    ],
)
def test_broken_form_is_refused(kind: str, content: bytes, admin: Admin) -> None:
    body = admin.refused("POST", "/services", content=content, headers={"Content-Type": kind})
    assert body == {"message": "Cannot parse form body"}


def test_multipart_file_is_a_value(admin: Admin) -> None:
    files = [("host", ("host.txt", b"file.example")), ("port", (None, "81"))]
    answer = admin.call("POST", "/services", files=files)
    assert answer.status_code == 201
    assert (answer.json()["host"], answer.json()["port"]) == ("file.example", 81)


@pytest.mark.parametrize("kind", ["text/plain", "application/yaml", "application/jsonx", ""])
@pytest.mark.parametrize(("method", "path"), [("POST", "/services"), ("PUT", "/services/a")])
def test_other_content_type_gets_415(method: str, path: str, kind: str, admin: Admin) -> None:
    admin.refused(method, path, 415, content=b"{}", headers={"Content-Type": kind})


def test_content_type_may_have_parameters_and_any_case(admin: Admin) -> None:
    answer = admin.call(
        "POST",
        "/services",
        content=b'{"host":"h"}',
        headers={"Content-Type": "Application/JSON; charset=utf-8"},
    )
    assert answer.status_code == 201


def test_two_content_types_are_refused(admin: Admin) -> None:
    kinds = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    admin.refused("POST", "/services", 400, content=b'{"host":"h"}', headers=kinds)


def test_body_over_the_limit_gets_413(admin: Admin) -> None:
    content = b'{"host":"' + b"h" * BODY_BYTES_MAX + b'"}'
    body = admin.refused(
        "POST", "/services", 413, content=content, headers={"Content-Type": "application/json"}
    )
    assert body == {"message": "Payload too large"}


def test_surrogate_pair_in_json_is_a_character(admin: Admin) -> None:
    answer = admin.call(
        "POST",
        "/consumers",
        content=b'{"username":"\\ud83d\\ude00"}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.json()["username"] == "\U0001f600"


def test_large_body_under_the_limit_is_read(admin: Admin) -> None:
    tags = [f"tag-{n}" for n in range(20_000)]
    assert admin.service(tags=tags)["tags"] == tags


# --- headers, methods, paths -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/services", 200),
        ("GET", "/services/none", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/services", 405),
        ("POST", "/services", 400),
        ("DELETE", "/services/none", 204),
        ("OPTIONS", "/services", 204),
        ("HEAD", "/services", 200),
    ],
)
def test_every_answer_has_the_headers(method: str, path: str, status: int, admin: Admin) -> None:
    answer = admin.call(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["server"] == "narthex/0.1.0"
    assert int(answer.headers["x-kong-admin-latency"]) >= 0
    assert "ai-gateway" not in answer.headers["server"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/services/a/b/c", "/Services", "/kong", "/services//", "/vaults"]
)
def test_unknown_path_gets_404(path: str, admin: Admin) -> None:
    assert admin.refused("GET", path, 404) == {"message": "Not found"}
    assert admin.refused("OPTIONS", path, 404) == {"message": "Not found"}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/services", "GET, HEAD, OPTIONS, POST"),
        ("PATCH", "/services", "GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/services", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/services/x", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("PUT", "/services/x/routes", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/services/x/routes/y", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("POST", "/routes/x/service", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("TRACE", "/services", "GET, HEAD, OPTIONS, POST"),
        ("HEAD", "/schemas/services/validate", "OPTIONS, POST"),
        ("DELETE", "/plugins/enabled", "GET, HEAD, OPTIONS"),
        ("PUT", "/plugins/enabled", "GET, HEAD, OPTIONS"),
        ("GET", "/schemas/plugins/validate", "OPTIONS, POST"),
    ],
)
def test_method_that_a_path_lacks_gets_405(
    method: str, path: str, allow: str, admin: Admin
) -> None:
    answer = admin.call(method, path)
    assert answer.status_code == 405
    assert method == "HEAD" or answer.json() == {"message": "Method not allowed"}
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/services", "GET, HEAD, OPTIONS, POST"),
        ("/services/x", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/schemas/plugins/validate", "OPTIONS, POST"),
        ("/plugins/enabled", "GET, HEAD, OPTIONS"),
        ("/schemas/services/validate", "OPTIONS, POST"),
    ],
)
def test_options_names_the_methods_and_allows_no_origin(
    path: str, allow: str, admin: Admin
) -> None:
    answer = admin.call("OPTIONS", path)
    assert (answer.status_code, answer.text) == (204, "")
    assert answer.headers["allow"] == answer.headers["access-control-allow-methods"] == allow
    assert answer.headers["access-control-allow-headers"] == "Content-Type"
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/services", "/services/x", "/nowhere"])
def test_head_is_get_without_the_body(path: str, admin: Admin) -> None:
    admin.service(name="x")
    get, head = admin.call("GET", path), admin.call("HEAD", path)
    assert head.status_code == get.status_code
    assert head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]


def test_trailing_slash_is_tolerated(admin: Admin) -> None:
    service = admin.post("/services/", {"host": "h", "name": "s"})
    assert admin.get("/services/s/") == service
    assert admin.get("/services/") == admin.get("/services")


def test_name_in_a_path_is_percent_decoded(admin: Admin) -> None:
    consumer = admin.consumer(username="a b/c%é")
    assert admin.get("/consumers/a%20b%2Fc%25%C3%A9") == consumer
    assert admin.refused("GET", "/consumers/a%20b%2Fc%25", 404) == {"message": "Not found"}


def test_id_in_a_path_may_be_in_upper_case(admin: Admin) -> None:
    service = admin.service()
    assert admin.get(f"/services/{service['id'].upper()}") == service


def test_uuid_in_a_path_never_means_a_name(admin: Admin) -> None:
    name = str(uuid.uuid4())
    admin.service(name=name)
    admin.refused("GET", f"/services/{name}", 404)


def test_answers_are_compact_json(admin: Admin) -> None:
    text = admin.call("GET", "/services").text
    assert text == json.dumps({"data": [], "next": None}, separators=(",", ":"))
