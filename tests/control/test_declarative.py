"""decK files against a real database: what they create, what a second apply changes, refusals."""

import pytest
import yaml

from control.declarative import FileRefused
from control.declarative.items import content
from control.declarative.reading import read
from control.store import queries
from control.store.session import Store
from narthex.config_file import fill_in
from tests.control.adminkit import Admin
from tests.control.filekit import apply_text, versioned
from tests.harness import ROOT
from tests.pki import make

HOW_TO = {
    "A": """
_format_version: "3.0"
services:
  - name: example-websocket-service
    url: ws://echo.example/
routes:
  - name: example-websocket-route
    paths: ["/anything"]
    protocols: ["ws"]
    service: {name: example-websocket-service}
""",
    "B": """
_format_version: "3.0"
routes:
  - name: websocket-token-route
    protocols: [https]
    paths: ["/token-route"]
    methods: [POST]
""",
    "C": """
_format_version: "3.0"
plugins:
  - name: oauth2
    service: example-websocket-service
    config: {scopes: [email, profile], global_credentials: true, enable_client_credentials: true,
             provision_key: 'provision-key-of-the-test'}
  - name: oauth2
    route: websocket-token-route
    config: {scopes: [email, profile], global_credentials: true, enable_client_credentials: true,
             provision_key: 'provision-key-of-the-test'}
""",
    "D": """
_format_version: "3.0"
consumers:
  - username: alex
""",
}


@pytest.fixture
def store(admin: Admin) -> Store:
    return admin.store


def changes(store: Store, text: str) -> list[str]:
    return [f"{c.change} {c.type} {c.name}" for c in apply_text(store, text)]


def config(store: Store) -> queries.ConfigRows:
    with store.reading() as session:
        return queries.config_rows(session)


def test_files_of_the_how_to_create_what_they_name(store: Store) -> None:
    assert changes(store, HOW_TO["A"]) == [
        "created services example-websocket-service",
        "created routes example-websocket-route",
    ]
    assert changes(store, HOW_TO["B"]) == ["created routes websocket-token-route"]
    assert changes(store, HOW_TO["C"]) == [
        "created plugins oauth2 on service example-websocket-service",
        "created plugins oauth2 on route websocket-token-route",
    ]
    assert changes(store, HOW_TO["D"]) == ["created consumers alex"]
    found = config(store)
    service = found.services[0]
    assert (service.protocol, service.host, service.port, service.path) == (
        "ws",
        "echo.example",
        80,
        "/",
    )
    routes = {route.name: route for route in found.routes}
    assert routes["example-websocket-route"].service_id == service.id
    assert routes["websocket-token-route"].service_id is None
    assert {plugin.service_id for plugin in found.plugins} == {service.id, None}


def test_second_apply_changes_nothing_not_even_the_version(store: Store) -> None:
    for text in HOW_TO.values():
        apply_text(store, text)
    version = config(store).version
    for text in HOW_TO.values():
        assert changes(store, text) == []
    assert config(store).version == version


def test_apply_is_one_transaction_and_one_version(store: Store) -> None:
    version = config(store).version
    apply_text(store, HOW_TO["A"])
    assert config(store).version == version + 1


def test_refused_entity_leaves_nothing_of_the_file_behind(store: Store) -> None:
    text = versioned("services: [{name: good, url: 'ws://a/'}, {name: bad, port: 0, host: b}]")
    before = config(store).version
    with pytest.raises(FileRefused) as refused:
        apply_text(store, text.replace("port: 0", "port: 70000"))
    (problem,) = refused.value.problems
    assert (problem.entity, problem.field) == ("services bad", "port")
    assert config(store).services == [] and config(store).version == before


def test_update_sets_what_the_file_says_and_defaults_for_the_rest(store: Store) -> None:
    apply_text(store, versioned("services: [{name: s, url: 'ws://a/', retries: 1}]"))
    first = config(store).services[0]
    assert changes(store, versioned("services: [{name: s, url: 'ws://b/'}]")) == [
        "updated services s"
    ]
    second = config(store).services[0]
    assert (second.id, second.host, second.retries) == (first.id, "b", 5)


def test_nested_children_belong_to_their_parent(store: Store) -> None:
    text = versioned(
        """
services:
  - name: s
    url: ws://a/
    plugins: [{name: oauth2, config: {enable_client_credentials: true}}]
    routes:
      - name: r
        protocols: [ws]
        paths: [/r]
        plugins: [{name: oauth2, config: {enable_client_credentials: true}}]
consumers:
  - username: alex
    oauth2_credentials: [{name: app, client_id: id, redirect_uris: ["http://a/"]}]
"""
    )
    assert changes(store, text) == [
        "created services s",
        "created consumers alex",
        "created routes r",
        "created oauth2_credentials app",
        "created plugins oauth2 on route r",
        "created plugins oauth2 on service s",
    ]
    assert changes(store, text) == []
    found = config(store)
    assert found.routes[0].service_id == found.services[0].id
    assert found.credentials[0].consumer_id == found.consumers[0].id


def test_credential_without_client_id_is_found_again_by_its_name(store: Store) -> None:
    text = versioned(
        "consumers: [{username: alex, oauth2_credentials: [{name: app, redirect_uris: ['http://a/']}]}]"
    )
    assert "created oauth2_credentials app" in changes(store, text)
    made = config(store).credentials
    assert changes(store, text) == []
    assert config(store).credentials == made


def test_consumer_with_custom_id_alone_is_found_by_it(store: Store) -> None:
    text = versioned("consumers: [{custom_id: '7', tags: [a]}]")
    assert changes(store, text) == ["created consumers 7"]
    assert changes(store, text) == []
    assert changes(store, text.replace("[a]", "[b]")) == ["updated consumers 7"]


def test_given_id_is_kept_and_finds_the_entity_under_a_new_name(store: Store) -> None:
    given = "0b5a9c1e-4c3f-4a6e-9a55-0f6a2d8f4c11"
    for name, change in (("one", "created"), ("two", "updated")):
        text = versioned(f"services: [{{id: {given.upper()}, name: {name}, url: 'ws://a/'}}]")
        assert changes(store, text) == [f"{change} services {name}"]
    assert [(s.id, s.name) for s in config(store).services] == [(given, "two")]


def test_reference_may_be_an_id_or_a_name(store: Store) -> None:
    apply_text(store, versioned("services: [{name: s, url: 'ws://a/'}]"))
    service = config(store).services[0].id
    for number, reference in enumerate([service, "s", "{name: s}", f"{{id: {service}}}"]):
        route = f"{{name: r{number}, protocols: [ws], paths: [/r{number}], service: {reference}}}"
        apply_text(store, versioned(f"routes: [{route}]"))
    assert {route.service_id for route in config(store).routes} == {service}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a mapping with _format_version"),
        ("[]", "a mapping with _format_version"),
        ("{}", '_format_version: "3.0" was expected, not None'),
        ('_format_version: "2.1"', "not '2.1'"),
        ("a: [", "not YAML"),
        ("a: !!python/object:os.system {}", "not YAML"),
        ("a: !!int ''", "not YAML: a value that cannot be read"),
        ("a: !!bool x", "not YAML: a value that cannot be read"),
        ("a: !!timestamp x", "not YAML: a value that cannot be read"),
        ("a: 2024-13-45", "not YAML: a value that cannot be read"),
        (versioned("1: 2"), "the key 1 is not text"),
        (versioned("services: [{name: 2024-01-02}]"), "2024-01-02 is no text"),
        (versioned("services: [{retries: .nan}]"), "nan is not a number"),
        (versioned("services: " + "[" * 40 + "]" * 40), "nested deeper"),
        (versioned("a: &a [1]\nb: &b {x: *a}\nc: &c [&d [*c]]"), "nested deeper"),
        (versioned("vaults: []"), "vaults: not supported; expected certificates"),
        (versioned("services: {}"), "services: a list of mappings"),
        (versioned("services: [a]"), "services: a list of mappings"),
        (versioned("services: [{url: 'ws://a/'}]"), "needs name or id"),
        (versioned("services: [{url: 'ws://a/', routes: [{}]}]"), "needs name or id"),
        (versioned("routes: [{name: r, paths: [/], service: missing}]"), "missing"),
        (versioned("services: [{name: s, url: 'ws://a/', nonsense: 1}]"), "nonsense"),
    ],
)
def test_file_is_refused_in_words(store: Store, text: str, said: str) -> None:
    with pytest.raises(FileRefused) as refused:
        apply_text(store, text)
    assert any(said in str(problem) for problem in refused.value.problems)


def test_aliases_that_add_up_are_refused_before_they_are_followed() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for n in range(1, 9):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    with pytest.raises(FileRefused, match="more than"):
        read(versioned("\n".join(lines)))


def test_null_collections_and_comments_are_nothing() -> None:
    text = versioned("services:\n_comment: hello\nconsumers: [{username: a, plugins: null}]")
    assert [item.label for item in content(read(text)).items] == ["consumers a"]


def test_example_of_make_run_applies(store: Store) -> None:
    text = (ROOT / "examples" / "oauth2-websocket.yaml").read_text()
    values = {"DECK_ECHO_URL": "ws://localhost:8009/", "DECK_PROVISION_KEY": "k" * 20}
    filled = fill_in(text, values)
    assert len(apply_text(store, filled)) == 6
    assert apply_text(store, filled) == []


# --- certificates -----------------------------------------------------------------------------


def test_certificates_with_their_names_and_authorities_are_applied_twice(store: Store) -> None:
    """Without ids: the same certificate is the same entity."""
    pair, other, authority = make("a.example"), make("b.example"), make(authority=True)
    document = {
        "_format_version": "3.0",
        "certificates": [
            {"cert": pair.cert, "key": pair.key, "snis": [{"name": "a.example"}, {"name": "*.b"}]},
            {"id": "6f6d2a9e-9d6c-4d1c-8a2f-0d6f8b1d7a11", "cert": other.cert, "key": other.key},
        ],
        "ca_certificates": [{"cert": authority.cert}],
        "snis": [{"name": "c.*", "certificate": "6f6d2a9e-9d6c-4d1c-8a2f-0d6f8b1d7a11"}],
        "services": [
            {
                "name": "s",
                "url": "wss://up.example/",
                "client_certificate": "6f6d2a9e-9d6c-4d1c-8a2f-0d6f8b1d7a11",
            }
        ],
    }
    text = yaml.safe_dump(document)
    made = apply_text(store, text)
    assert [change.type for change in made] == [
        "certificates",
        "certificates",
        "ca_certificates",
        "snis",
        "snis",
        "snis",
        "services",
    ]
    assert apply_text(store, text) == []
    with store.reading() as session:
        rows = queries.config_rows(session)
    assert sorted(row.snis for row in rows.certificates) == [["*.b", "a.example"], ["c.*"]]
    assert rows.services[0].client_certificate_id == "6f6d2a9e-9d6c-4d1c-8a2f-0d6f8b1d7a11"
