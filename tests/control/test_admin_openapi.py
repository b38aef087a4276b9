"""What the Admin API puts into openapi.json."""

from typing import Any

import pytest
from fastapi import FastAPI

from control.admin.router import documented_models, install
from tests.control.adminkit import Admin


@pytest.fixture
def document(admin: Admin) -> dict[str, Any]:
    app = FastAPI()
    install(app, admin.store)
    made = app.openapi()
    made.setdefault("components", {}).setdefault("schemas", {}).update(documented_models())
    return made


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if "$ref" in value else set()
        return own.union(*(references(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(references(item) for item in value))
    return set()


def test_operation_ids_are_tag_and_function_and_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert {"services-create", "routes-list_of_service", "schemas-get_entity"} <= set(ids)
    for _, _, operation in operations(document):
        (tag,) = operation["tags"]
        assert operation["operationId"].startswith(f"{tag}-")


def test_every_reference_leads_to_a_model(document: dict[str, Any]) -> None:
    models = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    found = references(document)
    assert found <= models
    assert "#/components/schemas/OAuth2PluginConfig" in found


def test_no_operation_documents_fastapis_own_validation(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert "422" not in operation["responses"], (path, method)
        assert operation["summary"]


def test_every_path_parameter_is_documented(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_writes_have_bodies_and_answers_of_named_models(document: dict[str, Any]) -> None:
    create = document["paths"]["/services"]["post"]
    assert create["requestBody"]["content"] == {
        "application/json": {"schema": {"$ref": "#/components/schemas/ServiceCreate"}}
    }
    good = create["responses"]["201"]["content"]["application/json"]["schema"]
    assert good == {"$ref": "#/components/schemas/Service"}
    bad = create["responses"]["409"]["content"]["application/json"]["schema"]
    assert bad == {"$ref": "#/components/schemas/AdminError"}
    assert "content" not in document["paths"]["/services/{key}"]["delete"]["responses"]["204"]
    listed = {p["name"] for p in document["paths"]["/consumers"]["get"]["parameters"]}
    assert listed == {"size", "offset", "tags", "custom_id"}


def test_models_say_what_the_schemas_say(document: dict[str, Any]) -> None:
    models = document["components"]["schemas"]
    service = models["ServiceCreate"]
    assert "required" not in service  # host or url
    assert service["properties"]["port"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 65535,
        "default": 80,
    }
    assert service["properties"]["name"]["type"] == ["string", "null"]
    assert "url" not in models["Service"]["properties"]
    assert "default" not in models["ServiceUpdate"]["properties"]["port"]
    assert models["RouteCreate"]["properties"]["protocols"]["minItems"] == 1
    kinds = ("OAuth2Plugin", "WebSocketSizeLimitPlugin", "WebSocketSessionPlugin")
    assert models["Plugin"]["oneOf"] == [{"$ref": f"#/components/schemas/{k}"} for k in kinds]
    assert models["OAuth2Plugin"]["properties"]["name"]["const"] == "oauth2"
    pkce = models["OAuth2PluginConfig"]["properties"]["pkce"]
    assert pkce["anyOf"] == [
        {"type": "string", "enum": ["none", "lax", "strict"]},
        {"type": "null"},
    ]
    for suffix, config in (("", "Config"), ("Create", "Config"), ("Update", "ConfigUpdate")):
        assert models[f"OAuth2Plugin{suffix}"]["properties"]["config"] == {
            "$ref": f"#/components/schemas/OAuth2Plugin{config}"
        }
    assert "default" not in models["OAuth2PluginConfigUpdate"]["properties"]["pkce"]


def test_bodies_name_parents_by_id_or_key_and_answers_by_id(document: dict[str, Any]) -> None:
    models = document["components"]["schemas"]

    def service_of(model: str) -> Any:
        return models[model]["properties"]["service"]["anyOf"][0]["$ref"].rpartition("/")[2]

    assert service_of("RouteCreate") == service_of("RouteUpdate") == "ServiceReference"
    assert service_of("Route") == "Reference"
    assert models["ServiceReference"]["properties"].keys() == {"id", "name"}
    assert models["Reference"]["properties"].keys() == {"id"}
    assert models["OAuth2Plugin"]["properties"]["consumer"] == {"type": "null"}


def test_created_entity_links_to_what_can_be_done_with_it(
    admin: Admin, document: dict[str, Any]
) -> None:
    ids = {operation["operationId"] for _, _, operation in operations(document)}
    found = document["paths"]["/services"]["post"]["responses"]["201"]["links"]
    assert found["GetService"] == {
        "operationId": "services-get",
        "parameters": {"key": "$response.body#/id"},
    }
    assert found["CreateRoute"] == {
        "operationId": "routes-create_of_service",
        "parameters": {"parent": "$response.body#/id"},
    }
    for _, _, operation in operations(document):
        for answer in operation["responses"].values():
            assert {link["operationId"] for link in answer.get("links", {}).values()} <= ids


def test_answers_fit_their_models(admin: Admin, document: dict[str, Any]) -> None:
    models = document["components"]["schemas"]
    made = {
        "Service": admin.service(),
        "Route": admin.route(),
        "Consumer": admin.consumer(),
        "OAuth2Plugin": admin.plugin(),
        "WebSocketSizeLimitPlugin": admin.plugin(
            name="websocket-size-limit", config={"client_max_payload": 1}
        ),
        "WebSocketSessionPlugin": admin.plugin(name="websocket-session", config={}),
        "OAuth2Credential": admin.credential(),
        "OAuth2Token": admin.token(),
    }
    for title, entity in made.items():
        assert entity.keys() == models[title]["properties"].keys()
        assert set(models[title]["required"]) == entity.keys()


def test_tokens_may_be_null_in_an_answer(admin: Admin, document: dict[str, Any]) -> None:
    token = admin.get(f"/oauth2_tokens/{admin.token()['id']}")
    properties = document["components"]["schemas"]["OAuth2Token"]["properties"]
    for name in ("access_token", "refresh_token"):
        assert token[name] is None
        assert properties[name]["type"] == ["string", "null"]


@pytest.mark.parametrize(
    ("path", "model", "required"),
    [
        ("/oauth2", "OAuth2CredentialCreate", ["consumer", "name"]),
        ("/consumers/{parent}/oauth2", "OAuth2CredentialOfConsumerCreate", ["name"]),
        ("/oauth2_tokens", "OAuth2TokenCreate", ["credential", "expires_in"]),
        ("/oauth2/{parent}/oauth2_tokens", "OAuth2TokenOfOAuth2CredentialCreate", ["expires_in"]),
        ("/services/{parent}/oauth2_tokens", "OAuth2TokenCreate", ["credential", "expires_in"]),
    ],
)
def test_body_below_a_parent_need_not_name_it(
    path: str, model: str, required: list[str], document: dict[str, Any]
) -> None:
    for where, method in ((path, "post"), (path + "/{key}", "put")):
        body = document["paths"][where][method]["requestBody"]
        assert body["required"] is True
        schema = body["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{model}"}
    assert document["components"]["schemas"][model]["required"] == required


def test_body_that_may_be_left_out_is_not_required(document: dict[str, Any]) -> None:
    for path, method in (("/consumers/{key}", "put"), ("/services/{key}", "patch")):
        assert document["paths"][path][method]["requestBody"]["required"] is False
