"""No break of openapi.json since the last release goes unsaid, and what counts as one."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import ROOT
from tools.breaking import Break, announced, breaks, hidden, without_texts

Document = dict[str, Any]
TEXT = {"type": "string", "minLength": 1}
NULL = {"type": "null"}
ROOM = {"$ref": "#/components/Room"}
BASE: Document = {
    "paths": {
        "/rooms/{key}": {
            "put": {
                "operationId": "rooms-upsert",
                "parameters": [
                    {"name": "key", "in": "path", "required": True, "schema": TEXT},
                    {"name": "size", "in": "query", "schema": {"type": "integer", "maximum": 10}},
                ],
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/RoomCreate"}}}
                },
                "responses": {
                    "200": {
                        "content": {"application/json": {"schema": {"$ref": "#/components/Room"}}}
                    },
                    "404": {"$ref": "#/components/Missing"},
                },
            },
            "get": {"operationId": "rooms-get", "responses": {"200": {}}},
        }
    },
    "components": {
        "Room": {
            "type": "object",
            "properties": {"name": TEXT, "kind": TEXT, "tags": {"type": "array", "items": TEXT}},
            "required": ["name", "kind"],
        },
        "RoomCreate": {
            "type": "object",
            "properties": {
                "name": {"type": ["string", "null"]},
                "kind": {"anyOf": [{"type": "string", "enum": ["open", "shut"]}, NULL]},
                "lock": {"oneOf": [{"$ref": "#/components/Pin"}, {"$ref": "#/components/Card"}]},
            },
        },
        "Pin": {
            "type": "object",
            "properties": {"by": {"type": "string", "const": "pin"}, "pin": TEXT},
        },
        "Card": {
            "type": "object",
            "properties": {"by": {"type": "string", "const": "card"}, "card": TEXT},
        },
        "Missing": {"content": {"application/json": {"schema": {"type": "object"}}}},
    },
}


def changed(change: Callable[[Document, Any, Any, Any], Any]) -> list[str]:
    """What breaks when `change` is made: it has the PUT, what is sent and what is answered."""
    new = copy.deepcopy(BASE)
    parts = new["components"]
    change(new, new["paths"]["/rooms/{key}"]["put"], parts["RoomCreate"], parts["Room"])
    return [str(each) for each in breaks(BASE, new)]


def rename_path(new: Document, *_: Any) -> None:
    new["paths"]["/rooms/{room}"] = new["paths"].pop("/rooms/{key}")


def rename_model(new: Document, put: Any, *_: Any) -> None:
    new["components"]["Place"] = new["components"].pop("Room")
    put["responses"]["200"]["content"]["application/json"]["schema"]["$ref"] = "#/components/Place"


BREAKING: dict[str, tuple[Callable[..., Any], str]] = {
    "operation": (lambda new, *_: new["paths"]["/rooms/{key}"].pop("get"), "rooms-get: GET"),
    "path": (lambda new, *_: new["paths"].pop("/rooms/{key}"), "PUT /rooms/{} is gone"),
    "operation id": (lambda _n, put, *_: put.update(operationId="x"), "is called x now"),
    "response": (lambda _n, put, *_: put["responses"].pop("404"), "the answer 404 is gone"),
    "content type": (
        lambda new, *_: new["components"]["Missing"].update(content={}),
        "the answer 404 is not application/json any more",
    ),
    "property answered": (
        lambda _n, _p, _s, shown: shown["properties"].pop("tags"),
        "answer 200: the field tags is gone",
    ),
    "property absent": (
        lambda _n, _p, _s, shown: shown.update(required=["name"]),
        "answer 200: the field kind may be absent now",
    ),
    "property null": (
        lambda _n, _p, _s, shown: shown["properties"].update(name={"type": ["string", "null"]}),
        "answer 200.name: may be null or string now, not string",
    ),
    "items of another type": (
        lambda _n, _p, _s, shown: shown["properties"]["tags"].update(items={"type": "integer"}),
        "answer 200.tags[]: may be integer now",
    ),
    "property taken": (
        lambda _n, _p, sent, _a: sent["properties"].pop("kind"),
        "body: the field kind is gone",
    ),
    "property required": (
        lambda _n, _p, sent, _a: sent.update(required=["name"]),
        "body: the field name is required now",
    ),
    "null taken": (
        lambda _n, _p, sent, _a: sent["properties"].update(name=TEXT),
        "body.name: takes string now, not null or string",
    ),
    "enum": (
        lambda _n, _p, sent, _a: sent["properties"]["kind"]["anyOf"][0].update(enum=["open"]),
        "body.kind: takes only ['open'] now",
    ),
    "choice": (
        lambda _n, _p, sent, _a: sent["properties"]["lock"]["oneOf"].pop(),
        "body.lock: by=card is taken no more",
    ),
    "within a choice": (
        lambda new, *_: new["components"]["Card"].update(required=["card"]),
        "body.lock: the field card is required now",
    ),
    "limit": (
        lambda _n, put, *_: put["parameters"][1]["schema"].update(maximum=5),
        "query size: maximum is 5 now, not 10",
    ),
    "parameter": (lambda _n, put, *_: put["parameters"].pop(), "query size is gone"),
    "parameter required": (
        lambda _n, put, *_: put["parameters"][1].update(required=True),
        "the parameter query size is required now",
    ),
    "body required": (
        lambda _n, put, *_: put["requestBody"].update(required=True),
        "a body is required now",
    ),
}
FINE: dict[str, Callable[..., Any]] = {
    "nothing": lambda *_: None,
    "operation": lambda new, *_: new["paths"].update({"/halls": {}}),
    "part of a path called otherwise": rename_path,
    "model called otherwise": rename_model,
    "response": lambda _n, put, *_: put["responses"].update({"429": {}}),
    "property answered": lambda _n, _p, _s, shown: shown["properties"].update(size=TEXT),
    "property taken": lambda _n, _p, sent, _a: sent["properties"].update(size=TEXT),
    "property always there": lambda _n, _p, _s, shown: shown["required"].append("tags"),
    "enum": lambda _n, _p, sent, _a: sent["properties"]["kind"]["anyOf"][0]["enum"].append("x"),
    "limit": lambda _n, put, *_: put["parameters"][1]["schema"].update(maximum=50),
    "choice": lambda _n, _p, sent, _a: sent["properties"]["lock"]["oneOf"].append(TEXT),
}


@pytest.mark.parametrize("name", BREAKING)
def test_clients_break_where_something_goes(name: str) -> None:
    change, said = BREAKING[name]
    found = changed(change)
    assert any(said in each for each in found), found


@pytest.mark.parametrize("name", FINE)
def test_clients_do_not_notice_what_is_added(name: str) -> None:
    assert changed(FINE[name]) == []


CHANGELOG = """# Changelog

## 0.2.0, not released

- Breaking: `rooms-upsert` takes no `kind`;
  `rooms-get` is gone.
- Better.

## 0.1.0

- Breaking: `rooms-list` is gone.
"""


def test_a_break_is_let_pass_when_the_newest_part_names_its_operation() -> None:
    named, older = Break("rooms-get", "is gone"), Break("rooms-list", "is gone")
    assert hidden([named, older], CHANGELOG) == [older]
    assert len(announced(CHANGELOG)) == 1
    assert hidden([Break("rooms", "x")], CHANGELOG), "a part of a name is no name"


def test_texts_are_left_out_of_the_released_document_and_fields_of_such_names_are_not() -> None:
    model = {"description": "x", "properties": {"description": TEXT | {"description": "x"}}}
    assert without_texts({"schemas": {"summary": model}}) == {
        "schemas": {"summary": {"properties": {"description": TEXT}}}
    }


def test_openapi_json_breaks_no_client_of_the_last_release_unsaid() -> None:
    released = json.loads((ROOT / "tests/openapi/released.json").read_text())
    found = breaks(released, json.loads((ROOT / "openapi.json").read_text()))
    unsaid = hidden(found, (ROOT / "CHANGELOG.md").read_text())
    assert not unsaid, "say it in CHANGELOG.md, as `- Breaking: …`, or take it back"


def test_command_tells_breaks_by_its_exit_status() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.breaking"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stdout
