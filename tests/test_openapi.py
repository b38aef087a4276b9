"""openapi.json is what the control plane's app generates; and says all that a reader needs.

Rules: ids are `tag-function`; every operation explains itself and shows an example of what it takes
and answers; errors have models; nothing is FastAPI's own 422.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from tests.harness import ROOT

DOCUMENT: dict[str, Any] = json.loads((ROOT / "openapi.json").read_text())
COMPONENTS = DOCUMENT["components"]
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
each_operation = pytest.mark.parametrize("called", OPERATIONS)


def generated() -> str:
    """What `make openapi` writes."""
    done = subprocess.run(
        [sys.executable, "-m", "control.openapi"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` leads to."""
    found: Any = value
    while "$ref" in found:
        found = DOCUMENT
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        value = found
    return dict(found)


def answers(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for status, answer in operation["responses"].items():
        yield status, resolved(answer)


def contents(called: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each body that an operation takes or answers, and a name for it."""
    operation = OPERATIONS[called]
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        yield f"{called} takes {kind}", media
    for status, answer in answers(operation):
        for kind, media in answer.get("content", {}).items():
            yield f"{called} answers {status} {kind}", media


def test_openapi_json_is_what_the_app_generates() -> None:
    assert (ROOT / "openapi.json").read_text() == generated(), "run `make openapi`"


def test_openapi_describes_admin_api_and_token_endpoint() -> None:
    assert DOCUMENT["info"]["title"] == "Narthex"
    for path in ("/services", "/routes", "/consumers", "/plugins", "/narthex/config/apply"):
        assert path in DOCUMENT["paths"]
    assert any(path.endswith("/oauth2/token") for path in DOCUMENT["paths"])


def test_operation_ids_are_unique_and_begin_with_a_tag_that_is_explained() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(ids) == len(set(ids)) > 100
    explained = {tag["name"] for tag in DOCUMENT["tags"] if tag["description"]}
    for operation in OPERATIONS.values():
        (tag,) = operation["tags"]
        assert operation["operationId"].startswith(f"{tag}-")
        assert tag in explained


@each_operation
def test_operation_explains_itself(called: str) -> None:
    operation = OPERATIONS[called]
    assert operation["summary"]
    assert len(operation["description"]) > 10
    for parameter in operation.get("parameters", []):
        assert parameter["description"], (called, parameter["name"])
    for status, answer in answers(operation):
        assert answer["description"], (called, status)


@each_operation
def test_operation_shows_what_it_takes_and_answers(called: str) -> None:
    for what, media in contents(called):
        shown = [resolved(example)["value"] for example in media["examples"].values()]
        assert shown, what
        fits = {"$ref": media["schema"]["$ref"]} if "$ref" in media["schema"] else media["schema"]
        schema = jsonschema_rs.validator_for({**fits, "components": COMPONENTS})
        for example in shown:
            assert not [str(error) for error in schema.iter_errors(example)], what


@each_operation
def test_operation_declares_its_errors_as_models(called: str) -> None:
    found = dict(answers(OPERATIONS[called]))
    assert "422" not in found
    assert "503" in found
    if "requestBody" in OPERATIONS[called]:
        assert {"400", "413"} <= found.keys()
    errors = {status: answer for status, answer in found.items() if status >= "400"}
    for status, answer in errors.items():
        schema = answer["content"]["application/json"]["schema"]
        assert "$ref" in schema or all("$ref" in one for one in schema["anyOf"]), status


def test_objects_say_what_they_hold() -> None:
    """A bare object becomes a class without members, or a `dict` of anything, in a client."""
    bare = [
        name
        for name, model in COMPONENTS["schemas"].items()
        for place in objects(model)
        if not place.keys() & {"properties", "additionalProperties", "oneOf", "anyOf"}
        or place.get("additionalProperties") is True
    ]
    # `Revoked` is empty by RFC 7009.
    assert set(bare) <= {"Revoked"}


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every schema of an object below."""
    if isinstance(value, dict):
        kinds = value.get("type")
        if kinds == "object" or (isinstance(kinds, list) and "object" in kinds):
            yield value
        for item in value.values():
            yield from objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from objects(item)


def test_every_model_is_used() -> None:
    text = json.dumps(DOCUMENT)
    used = {name for name in COMPONENTS["schemas"] if f'"#/components/schemas/{name}"' in text}
    assert used == COMPONENTS["schemas"].keys()
