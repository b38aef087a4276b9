"""Pages, offsets, tags.  admin-api.md §1.2, §1.3."""

import base64
import json
import time
import uuid
from urllib.parse import quote

import pytest
from sqlalchemy import insert

from control.store.tables import Consumer
from tests.control.adminkit import Admin


def fill(admin: Admin, count: int) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(count)]
    with admin.store.writing() as session:
        session.execute(
            insert(Consumer),
            [
                {"id": ident, "username": f"u{n}", "created_at": 1, "updated_at": 1}
                for n, ident in enumerate(ids)
            ],
        )
    return sorted(ids)


def offset(value: object) -> str:
    return quote(base64.b64encode(json.dumps(value).encode()).decode(), safe="")


def test_walk_over_2500_rows_gives_each_once_in_order(admin: Admin) -> None:
    ids, path, sizes, seen = fill(admin, 2500), "/consumers?size=1000", [], []
    while path:
        page = admin.get(path)
        sizes.append(len(page["data"]))
        seen += [row["id"] for row in page["data"]]
        assert ("offset" in page) == (page["next"] is not None)
        path = page["next"]
    assert sizes == [1000, 1000, 500]
    assert seen == ids


def test_page_has_100_rows_when_no_size_is_given(admin: Admin) -> None:
    ids = fill(admin, 101)
    page = admin.get("/consumers")
    assert len(page["data"]) == 100
    decoded = json.loads(base64.b64decode(page["offset"]))
    assert decoded == [ids[99]]
    assert page["next"] == f"/consumers?offset={quote(page['offset'], safe='')}"


def test_full_last_page_has_no_offset(admin: Admin) -> None:
    fill(admin, 4)
    page = admin.get("/consumers?size=2")
    last = admin.get(page["next"])
    assert len(last["data"]) == 2
    assert last["next"] is None
    assert "offset" not in last


def test_next_repeats_tags_and_size(admin: Admin) -> None:
    for _ in range(3):
        admin.consumer(tags=["a b", "c"])
    page = admin.get("/consumers?tags=a%20b,c&size=1")
    assert page["next"].endswith("&tags=a%20b%2Cc&size=1")
    assert len(admin.get(page["next"])["data"]) == 1


def test_next_of_a_nested_list_has_the_offset_alone(admin: Admin) -> None:
    admin.consumer(username="alex")
    for _ in range(2):
        admin.post("/consumers/alex/oauth2", {"name": "app", "tags": ["a"]})
    page = admin.get("/consumers/alex/oauth2?size=1&tags=a")
    assert page["next"] == f"/consumers/alex/oauth2?offset={quote(page['offset'], safe='')}"
    rest = admin.get(page["next"])["data"]
    assert {page["data"][0]["id"], rest[0]["id"]} == {
        row["id"] for row in admin.get("/oauth2")["data"]
    }


@pytest.mark.parametrize("size", ["1", "1000", "7.0"])
def test_size_within_limits_is_taken(size: str, admin: Admin) -> None:
    fill(admin, 2)
    assert len(admin.get(f"/consumers?size={size}")["data"]) == min(int(float(size)), 2)


@pytest.mark.parametrize("size", ["x", "", "1x", "%20", "1_0", "%2010", "%D9%A1", "nan"])
def test_size_that_is_no_number_is_refused(size: str, admin: Admin) -> None:
    assert admin.refused("GET", f"/consumers?size={size}") == {
        "code": 9,
        "name": "invalid size",
        "message": "size must be a number",
    }


@pytest.mark.parametrize("size", ["0", "-1", "1001", "1.5", "1e99"])
def test_size_out_of_range_is_refused(size: str, admin: Admin) -> None:
    refused = admin.refused("GET", f"/consumers?size={size}")
    assert refused["code"] == 9
    assert refused["message"] == "size must be an integer between 1 and 1000"


def test_offset_that_is_not_base64_is_refused(admin: Admin) -> None:
    assert admin.refused("GET", "/consumers?offset=x") == {
        "code": 7,
        "name": "invalid offset",
        "message": "'x' is not a valid offset: bad base64 encoding",
    }


@pytest.mark.parametrize(
    "value", [{}, [], ["a", "b"], [1], ["x"], ["a\0"], "text", ["\ud800"], None]
)
def test_offset_of_another_shape_is_refused(value: object, admin: Admin) -> None:
    for path in ("/consumers", "/tags"):
        assert admin.refused("GET", f"{path}?offset={offset(value)}")["code"] == 7


@pytest.mark.parametrize("text", ["[" * 20_000, "{", "\xff"])
def test_offset_that_is_not_json_is_refused(text: str, admin: Admin) -> None:
    encoded = quote(base64.b64encode(text.encode("latin-1")).decode(), safe="")
    refused = admin.refused("GET", f"/consumers?offset={encoded}")
    assert refused["message"].endswith("is not a valid offset: bad json encoding")


# --- tags ------------------------------------------------------------------------------------


def tagged(admin: Admin, query: str) -> list[str]:
    return sorted(row["username"] for row in admin.get(f"/consumers?tags={query}")["data"])


def test_comma_means_all_and_slash_means_any(admin: Admin) -> None:
    admin.consumer(username="a", tags=["one"])
    admin.consumer(username="b", tags=["two"])
    admin.consumer(username="c", tags=["one", "two"])
    admin.consumer(username="d")
    admin.service(tags=["one"])
    assert tagged(admin, "one") == ["a", "c"]
    assert tagged(admin, "one,two") == ["c"]
    assert tagged(admin, "one/two") == ["a", "b", "c"]
    assert tagged(admin, "one,three") == []
    assert tagged(admin, "three") == []


def test_tag_may_hold_spaces_and_any_script(admin: Admin) -> None:
    for number, tag in enumerate(["two words", "naïve ☃", "a=b&c;d", "~!@#$%^*()"]):
        admin.consumer(username=f"u{number}", tags=[tag])
        assert tagged(admin, quote(tag, safe="")) == [f"u{number}"]


@pytest.mark.parametrize("tag", ["a,b", "a/b", "a\tb", ""])
def test_tag_with_a_forbidden_character_is_refused(tag: str, admin: Admin) -> None:
    fields = admin.fields("/consumers", {"username": "u", "tags": ["good", tag]})
    assert fields["tags"][0] is None
    assert isinstance(fields["tags"][1], str)


def test_same_tag_twice_counts_once(admin: Admin) -> None:
    assert admin.consumer(username="u", tags=["b", "a", "b"])["tags"] == ["b", "a"]


@pytest.mark.parametrize("query", ["a,b/c", "a,,b", ",a", "a/", "/", "a%01"])
def test_mixed_or_broken_filter_is_refused(query: str, admin: Admin) -> None:
    assert admin.refused("GET", f"/consumers?tags={query}") == {
        "code": 11,
        "name": "invalid options",
        "message": "invalid option (tags: invalid filter syntax)",
        "options": {"tags": "invalid filter syntax"},
    }


def test_empty_filter_is_refused(admin: Admin) -> None:
    refused = admin.refused("GET", "/consumers?tags=")
    assert refused["message"] == "invalid option (tags: cannot be null)"


def test_tags_follow_their_entity(admin: Admin) -> None:
    made = admin.consumer(username="u", tags=["old"])
    admin.patch("/consumers/u", {"tags": ["new"]})
    assert (tagged(admin, "old"), tagged(admin, "new")) == ([], ["u"])
    admin.delete(f"/consumers/{made['id']}")
    assert admin.get("/tags") == {"data": [], "next": None}


def test_tags_go_with_what_a_deletion_takes_along(admin: Admin) -> None:
    service = admin.service(tags=["s"])
    admin.plugin(service={"id": service["id"]}, tags=["p"])
    admin.delete(f"/services/{service['id']}")
    assert admin.get("/tags")["data"] == []


def test_tags_endpoint_lists_entities_by_tag(admin: Admin) -> None:
    service = admin.service(tags=["b", "a"])
    credential = admin.credential(tags=["a"])
    rows = [
        {"tag": "a", "entity_name": "oauth2_credentials", "entity_id": credential["id"]},
        {"tag": "a", "entity_name": "services", "entity_id": service["id"]},
        {"tag": "b", "entity_name": "services", "entity_id": service["id"]},
    ]
    assert admin.get("/tags")["data"] == rows
    assert admin.get("/tags/a")["data"] == rows[:2]
    assert admin.get("/tags/none") == {"data": [], "next": None}
    first = admin.get("/tags?size=2")
    assert first["data"] == rows[:2]
    assert admin.get(first["next"]) == {"data": rows[2:], "next": None}


def test_tag_of_forbidden_characters_is_refused(admin: Admin) -> None:
    assert admin.refused("GET", "/tags/a%2Cb")["code"] == 11


# --- filters ---------------------------------------------------------------------------------


def test_consumers_are_found_by_custom_id(admin: Admin) -> None:
    wanted = admin.consumer(custom_id="7")
    admin.consumer(custom_id="8")
    assert admin.get("/consumers?custom_id=7") == {"data": [wanted], "next": None}
    assert admin.get("/consumers?custom_id=none")["data"] == []
    assert admin.refused("GET", "/consumers?custom_id=") == {
        "message": "custom_id must be an unempty string"
    }


def test_credentials_are_found_by_client_id(admin: Admin) -> None:
    wanted = admin.credential(client_id="one")
    admin.credential(client_id="two")
    assert admin.get("/oauth2?client_id=one")["data"] == [wanted]


# --- speed -----------------------------------------------------------------------------------


@pytest.mark.alone
def test_page_in_the_middle_of_many_rows_is_read_by_its_key(admin: Admin) -> None:
    ids = fill(admin, 5000)
    start = time.perf_counter()
    page = admin.get(f"/consumers?size=1000&offset={offset([ids[3000]])}")
    assert [row["id"] for row in page["data"]] == ids[3001:4001]
    assert time.perf_counter() - start < 2
