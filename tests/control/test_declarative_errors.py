"""Every error of a file is told at once, with its entity, its field and its place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies

from control.declarative import How, What, dump_text
from control.declarative.layout import PROBLEMS_MAX
from control.declarative.offline import FileRefused, check_text
from control.declarative.problems import Problem
from tests.control.adminkit import Admin
from tests.control.filekit import diff, dumped, problems, sync, versioned

WRONG = """_format_version: "3.0"
services:
  - name: good
    url: ws://a/
    routes:
      - name: "no spaces"
        paths: [/a, b]
        protocols: [ws]
    plugins:
      - name: oauth2
        config:
          enable_client_credentials: true
          scopes: [email, 7]
      - name: nonsense
  - name: bad
    port: 70000
    hots: a
routes:
  - {name: r, paths: [/], service: missing}
consumers:
  - tags: [a]
"""


def shown(found: list[Problem]) -> list[str]:
    return [f"{one.line}:{one.column} {one}" for one in found]


def test_all_errors_of_a_file_are_told_with_their_places(admin: Admin) -> None:
    found = shown(problems(admin.store, WRONG))
    assert found == [
        "6:9 routes no spaces: name: " + found[0].partition("name: ")[2],
        "7:21 routes no spaces: paths.2: should start with: / (fixed path) or ~/ (regex path)",
        "13:27 plugins oauth2 on service good: config.scopes.2: expected a string",
        "14:9 plugins nonsense on service good: name: plugin 'nonsense' not enabled; "
        "add it to the 'plugins' configuration property",
        "15:5 services bad: host: required field missing",
        "16:5 services bad: port: value should be between 0 and 65535",
        "17:5 services bad: hots: unknown field",
        "19:27 routes r: service: services missing is not in the file, nor here",
        "21:5 consumers without a name: at least one of these fields must be non-empty: "
        "'custom_id', 'username'",
    ]
    assert admin.changes == []


def test_file_by_itself_has_the_same_errors_but_for_what_only_a_gateway_knows() -> None:
    with pytest.raises(FileRefused) as refused:
        check_text(WRONG)
    assert len(refused.value.problems) == 8
    plan = check_text(versioned("routes: [{name: r, paths: [/], service: elsewhere}]"))
    assert shown(list(plan.unresolved)) == [
        "2:32 routes r: service: services elsewhere is not in the file"
    ]


def test_errors_among_entities_are_told_together_and_not_for_what_rests_on_them(
    admin: Admin,
) -> None:
    """Each passes its schema; what is wrong shows when it is written."""
    admin.service(name="held", protocol="http")
    text = versioned(
        "services: [{name: new, url: 'http://a/'}]\n"
        "routes:\n"
        "- {name: r, paths: [/], service: held, protocols: [ws], "
        "plugins: [{name: websocket-session}]}\n"
        "- {name: q, paths: [/], service: new, protocols: [wss]}\n"
    )
    assert shown(problems(admin.store, text)) == [
        "4:40 routes r: protocols: must go with the service's protocol (http)",
        "5:39 routes q: protocols: must go with the service's protocol (http)",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("services: [\n", ["3:1 not YAML: did not find expected node content"]),
        ("a:\n  b: 1\n c: 2", ["4:2 not YAML: did not find expected key"]),
        (
            "services:\n- name: s\n  host: a\n  host: b\n  name: t\n",
            [
                "5:3 host is there twice, first in line 4",
                "6:3 name is there twice, first in line 3",
            ],
        ),
        (
            "services: [{name: .inf}]\nroutes:\n- name: 2024-01-02\n",
            [
                "2:13 services.1.name: inf is not a number that JSON knows",
                "4:3 routes.1.name: 2024-01-02 is no text, number or boolean: put it in quotes",
            ],
        ),
        (
            "nonsense: []\nservices: {}\nroutes: [a]",
            [
                "2:1 nonsense: not supported; expected certificates, ",
                "3:11 services: a list of mappings was expected",
                "4:10 routes: a list of mappings was expected",
            ],
        ),
        (
            "consumers: [{username: a}, {username: a}, {custom_id: b}, {custom_id: b}]",
            [
                "2:28 consumers a: is there twice, first in line 2",
                "2:59 consumers b: is there twice, first in line 2",
            ],
        ),
        ("_info: [a]", ["2:1 _info: a mapping with select_tags, a list of tags, was expected"]),
        ("_info: {select_tags: a}", ["2:1 _info: a mapping with select_tags"]),
        (
            "_info: {select_tags: [], defaults: {service: {retries: 1}}}",
            ["2:26 _info: defaults: not supported; write it into the entities"],
        ),
        ("_info: {select_tags: [a/b]}", ["2:23 _info: select_tags.1: invalid tag 'a/b'"]),
    ],
)
def test_place_of_what_is_wrong_with_the_form(admin: Admin, text: str, expected: list[str]) -> None:
    found = shown(problems(admin.store, versioned(text)))
    assert len(found) == len(expected), found
    for one, said in zip(found, expected, strict=True):
        assert one.startswith(said), found


def test_line_of_what_an_alias_or_a_merge_brings_in_is_where_it_is_written(admin: Admin) -> None:
    text = versioned(
        "_comment: &common {port: 70000, host: h}\nservices:\n- {<<: *common, name: a}\n"
        "- {<<: *common, name: b, port: 1}\n"
    )
    assert shown(problems(admin.store, text)) == [
        "2:20 services a: port: value should be between 0 and 65535"
    ]


def test_several_documents_are_one_configuration(admin: Admin) -> None:
    first = versioned("services: [{name: s, url: 'ws://a/'}]")
    second = versioned("routes: [{name: r, paths: [/], protocols: [ws], service: s}]")
    assert sync(admin.store, f"{first}\n---\n{second}\n---\n") == [
        "created services s",
        "created routes r",
    ]
    assert sync(admin.store, f"---\n{second}\n---\n---\n{first}\n") == []
    assert shown(problems(admin.store, f"{first}\n---\nroutes: []")) == [
        '4:1 _format_version: _format_version: "3.0" was expected, not None'
    ]


def test_entity_that_is_here_under_another_id_is_refused(admin: Admin) -> None:
    here = admin.service(name="s")["id"]
    other = "0b5a9c1e-4c3f-4a6e-9a55-0f6a2d8f4c11"
    text = versioned(f"services:\n- name: s\n  host: a\n  id: {other}\n")
    assert shown(problems(admin.store, text)) == [
        f"5:3 services s: id: is here already with the id {here}: give that id, or none"
    ]
    text = versioned(f"services: [{{name: s, host: a}}, {{id: {here}, name: t, host: a}}]")
    assert shown(problems(admin.store, text)) == [
        "2:32 services t: is the same entity as the one in line 2"
    ]


def test_errors_told_are_bounded_and_counted(admin: Admin) -> None:
    many = ", ".join("{nonsense: 1}" for _ in range(PROBLEMS_MAX))
    with pytest.raises(FileRefused) as refused:
        check_text(versioned(f"services: [{many}]"))
    assert len(refused.value.problems) == PROBLEMS_MAX
    assert refused.value.count > PROBLEMS_MAX
    assert refused.value.message == f"{refused.value.count} errors"


def test_what_all_entities_together_must_not_be_is_told_by_a_diff_too(admin: Admin) -> None:
    methods = [f"M{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(60)]
    text = versioned(f"routes: [{{name: r, methods: [{', '.join(methods)}]}}]")
    for how in (How(), How(delete=True, dry_run=True)):
        (found,) = problems(admin.store, text, how)
        assert "all routes together may name" in found.message
    assert admin.changes == []


def test_more_values_than_fit_are_refused_before_they_are_composed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("control.declarative.reading.NODES_MAX", 100)
    monkeypatch.setattr("control.declarative.reading._repeated", None)  # looks at what is composed
    with pytest.raises(FileRefused, match="more than 100 values"):
        check_text(versioned(f"services: [{'1, ' * 100}]"))


def test_more_entities_than_are_read_at_once_are_refused(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.declarative.state.ENTITIES_MAX", 2)
    text = versioned("consumers: [{username: a}, {username: b}, {username: c, tags: [few]}]")
    sync(admin.store, text)
    for how in (How(delete=True), How(delete=True, dry_run=True)):
        (found,) = problems(admin.store, text, how)
        assert found.message == "more than 2 entities: take them in parts, by tags"
    with pytest.raises(FileRefused, match="take them in parts, by tags"):
        dump_text(admin.store, What())
    assert len(dumped(admin.store, "few")["consumers"]) == 1
    assert diff(admin.store, versioned("consumers: [{username: c}]"), "few") == []
    assert problems(admin.store, versioned("services: [{}]"), How())[0].field == "host"


def test_text_that_aliases_multiply_is_bounded_and_cut() -> None:
    """One long text, which every error would quote."""
    long = "/" * 1_000_000
    with pytest.raises(FileRefused) as refused:
        check_text(versioned(f"services: [{{name: &a {long}, host: h, tags: [*a, *a]}}]"))
    assert refused.value.count == 3
    assert len(str(refused.value)) < 5000
    many = ", ".join(["*a"] * 50)
    with pytest.raises(FileRefused, match="characters, aliases counted where they stand"):
        check_text(versioned(f"_comment: &a {long}\nservices: [{{name: s, tags: [{many}]}}]"))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("{name: a}", "consumer.name: unknown field"),
        ("{username: alex, x: b}", "consumer.x: unknown field"),
        ("{}", "consumer: missing primary key"),
        ("[alex]", "consumer: expected a record"),
        ("{id: alex}", "consumer.id: expected a valid UUID"),
        ('{username: "\\0"}', "consumer: consumers \0 is not in the file, nor here"),
        (
            "0B5A9C1E-4C3F-4A6E-9A55-0F6A2D8F4C11",
            "consumer: consumers 0b5a9c1e-4c3f-4a6e-9a55-0f6a2d8f4c11 is not in the file, nor here",
        ),
    ],
)
def test_reference_that_is_none_is_told(admin: Admin, reference: str, said: str) -> None:
    admin.consumer(username="alex")
    text = versioned(f"oauth2_credentials: [{{name: app, consumer: {reference}}}]")
    (found,) = problems(admin.store, text)
    assert str(found) == f"oauth2_credentials app: {said}"


def test_merges_of_merges_are_bounded_before_they_are_made() -> None:
    lines = ["_comment:", "- &m0 {a: 1, b: 2}"]
    for level in range(1, 13):  # ten to the twelfth pairs, in a kilobyte
        lines.append(f"- &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 10)}]}}")
    with pytest.raises(FileRefused, match="more than 1000000 values"):
        check_text('_format_version: "3.0"\n' + "\n".join(lines))


@pytest.mark.parametrize(
    "text",
    [
        "_format_version: HUGE",
        '_format_version: "3.0"\nservices: [{name: HUGE, host: up.example}]',
        '_format_version: "3.0"\nroutes: [{name: a, paths: [/a], service: HUGE}]',
    ],
)
def test_number_too_long_to_be_printed_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(FileRefused, match="an integer of more than 64 bits") as refused:
        check_text(text.replace("HUGE", "0x" + "f" * 5000))
    assert refused.value.problems[0].line == text.count("\n") + 1


def test_binary_value_is_refused_and_not_shown() -> None:
    with pytest.raises(FileRefused, match="a bytes is no text") as refused:
        check_text(versioned("consumers: [{username: !!binary c2VjcmV0}]"))
    assert "secret" not in str(refused.value)


def test_numbers_with_colons_are_texts(admin: Admin) -> None:
    """To the base of 60, as YAML 1.1 has it, a long one would take minutes."""
    assert sync(admin.store, versioned("consumers: [{username: 12:30:45}, {username: 1:2.5}]")) == [
        "created consumers 12:30:45",
        "created consumers 1:2.5",
    ]
    with pytest.raises(FileRefused, match="length must be at most"):
        check_text(versioned(f"consumers: [{{username: {'1:' * 400_000}1}}]"))


PIECES = [
    *"[]{}:,-?&*!|>'\"%@`#\n \t",
    *("a", "<<", "*a", "&a ", "!!binary ", "!!set ", "!!int ", "---\n", "1e400", "0o7", "~", "="),
    *("services", "routes: ", "plugins: ", "name: ", "config: ", "service: ", "id: ", "\x85", "é"),
    *("_info: ", "select_tags: ", "certificates: ", "cert: ", "oauth2", "consumer: ", "snis: "),
]


@given(noise=strategies.lists(strategies.sampled_from(PIECES), max_size=40).map("".join))
@settings(max_examples=300, deadline=None)
def test_noise_is_read_or_refused(noise: str) -> None:
    """Never anything but an answer in words; the places of errors lie within the file."""
    text = versioned(f"{noise}\n")
    try:
        check_text(text)
    except FileRefused as refused:
        lines = text.count("\n") + noise.count("\x85") + 2
        assert all(one.line is None or 0 < one.line <= lines for one in refused.problems)
        assert refused.problems
