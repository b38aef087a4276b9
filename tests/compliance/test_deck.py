"""What decK relies upon, without decK: its requests as they were recorded, and the recorder."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml

from control import declarative
from control.admin.plugin_types import PLUGIN_TYPES
from control.admin.registry import BY_NAME
from narthex.config_file import fill_in
from tests.compliance import needs
from tests.compliance.deck import program, recordings, run
from tests.compliance.deck.chapters import CHAPTERS, FILES, MADE_ANEW, readme_blocks
from tests.compliance.deck.program import Counts, Done
from tests.compliance.deck.recorder import Recorder, Seen
from tests.compliance.deck.recordings import Exchange, Recording, Step, replay, sender
from tests.compliance.deck.values import Values
from tests.control.adminkit import running_admin
from tests.control.filekit import apply_text

RECORDED = sorted(recordings.FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_admin_api_answers_deck_as_it_did(path: Path, tmp_path: Path) -> None:
    """A difference here is one that decK's users may see: `--record` keeps it if they may."""
    with running_admin(tmp_path) as admin:
        found = replay(recordings.load(path), sender(admin.client), Values.made().names)
    assert found == []


def test_every_chapter_is_recorded_and_no_secret_with_it() -> None:
    assert {path.stem for path in RECORDED} == set(CHAPTERS) - set(MADE_ANEW)
    for path in RECORDED:
        assert "PRIVATE KEY" not in path.read_text()


# decK cannot say these: its format of files has no such field.
NOT_IN_FILES = {
    "certificates": {"cert_alt", "key_alt"},
    "ca_certificates": {"cert_digest"},  # ours to say
    "plugins": {"consumer"},  # no plugin of ours is for single consumers
}
NOT_YET = {"routes": {"snis"}}  # refused, whatever it is
SAY_IT = "say it in files/everything.yaml; python -m tests.compliance.deck.run --record everything"


def entities_of(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entity of a file, children too, with its collection."""
    for name, entries in values.items():
        for entity in entries if name in declarative.ORDER else ():
            yield name, entity
            nested = declarative.NESTED.get(name, {})
            children = {kind: entity[n] for n, (kind, _) in nested.items() if n in entity}
            yield from entities_of(children)


def test_file_with_everything_has_each_field_that_we_know() -> None:
    text = fill_in((FILES / "everything.yaml").read_text(), Values.made().environment)
    values = yaml.safe_load(text)
    said: dict[str, set[str]] = {name: set() for name in declarative.ORDER}
    configs: dict[str, set[str]] = {name: set() for name in PLUGIN_TYPES}
    for name, entity in entities_of(values):
        said[name] |= entity.keys()
        if name == "plugins":
            configs[entity["name"]] |= entity.get("config", {}).keys()
    for name, fields in said.items():
        schema = BY_NAME[name].schema.fields
        wanted = {n for n, f in schema.items() if f.stored and f.type != "foreign"}
        made = {"id", "created_at", "updated_at"}
        wanted -= made | NOT_IN_FILES.get(name, set()) | NOT_YET.get(name, set())
        assert wanted - fields == set(), f"{name}: {SAY_IT}"
    known = {name: set(kind.config) for name, kind in PLUGIN_TYPES.items()}
    assert configs == known, SAY_IT


def test_file_with_everything_is_applied_without_deck_too(tmp_path: Path) -> None:
    text = fill_in((FILES / "everything.yaml").read_text(), Values.made().environment)
    with running_admin(tmp_path) as admin:
        assert apply_text(admin.store, text) != []
        assert apply_text(admin.store, text) == []


def test_readme_has_commands_for_the_judge_to_run() -> None:
    said = re.findall(r"^\(?(?:umask 077; )?deck gateway (\w+)", "\n".join(readme_blocks()), re.M)
    assert set(said) == {"ping", "validate", "apply", "diff", "sync", "dump", "reset"}


# --- what a replay finds -------------------------------------------------------------------------

DEFAULTS = {"fields": [{"retries": {"type": "integer", "default": 5, "between": [0, 9]}}]}
SERVICE = {"id": "1", "name": "a", "retries": 5, "created_at": 1}


def recorded(path: str, answer: Any, status: int = 200) -> Recording:
    plain = recordings.arranged(recordings.plain_answer(path, answer, {}))
    return Recording("r", "x", steps=[Step("c", (Exchange("GET", path, None, status, plain),))])


def differences(recording: Recording, answer: Any, status: int = 200) -> list[str]:
    found = replay(recording, lambda *_: (status, answer), {})
    return [line.removeprefix("r: c: GET ") for line in found]


def test_replay_finds_a_default_that_changed() -> None:
    was = recorded("/schemas/services", DEFAULTS | {"entity_checks": []})
    now = {"fields": [{"retries": {"type": "integer", "default": 6}}], "entity_checks": []}
    assert differences(was, now) == ["/schemas/services: .fields.retries.default: 6, was 5"]


def test_replay_finds_a_field_that_went_and_a_status_that_changed() -> None:
    was = recorded("/services", {"data": [SERVICE]})
    now = {"data": [{"id": "1", "retries": 5}]}
    assert differences(was, now) == ['/services: .data[0].name: nothing, was "a"']
    assert differences(was, {}, 404) == ["/services: status 404, was 200: {}"]


@pytest.mark.parametrize("value", [None, True, 5.0, "5", [5]])
def test_replay_finds_another_type(value: Any) -> None:
    was = recorded("/services/1", SERVICE)
    assert len(differences(was, SERVICE | {"retries": value})) == 1


def test_replay_lets_pass_what_deck_does_not_look_at() -> None:
    was = recorded("/services", {"data": [SERVICE, SERVICE | {"id": "2", "name": "b"}]})
    now = {"data": [SERVICE | {"id": "2", "name": "b"}, SERVICE | {"created_at": 9, "more": 1}]}
    assert differences(was, now) == []
    schema = recorded("/schemas/services", DEFAULTS | {"entity_checks": []})
    more = {"fields": [{"new": {"type": "string"}}, *DEFAULTS["fields"]], "entity_checks": [1]}
    assert differences(schema, more) == []


# --- the recording -------------------------------------------------------------------------------

IDS = ("3d5c2f0a-6a0e-4f2e-9f3f-0d5d5c1d0001", "3d5c2f0a-6a0e-4f2e-9f3f-0d5d5c1d0002")


def run_of(service: str, route: str) -> list[Seen]:
    """decK writes a service and its route, with ids that it made up, threads in any order."""
    one = {"id": service, "name": "a", "created_at": 7}
    other = {"id": route, "name": "r", "service": {"id": service}}
    return [
        Seen("GET", "/services?size=1000", b"", 200, b'{"data":[]}'),
        Seen(
            "PUT", f"/routes/{route}", json.dumps(other).encode(), 200, json.dumps(other).encode()
        ),
        Seen(
            "PUT", f"/services/{service}", json.dumps(one).encode(), 200, json.dumps(one).encode()
        ),
    ]


def test_recording_does_not_depend_on_ids_threads_and_time() -> None:
    first, second = Recording("r", "x"), Recording("r", "x")
    first.add("apply", run_of(*IDS))
    second.add("apply", run_of(*reversed(IDS))[::-1])
    assert first.text() == second.text()
    assert all(own not in first.text() for own in IDS)
    methods = [(one.method, one.path.split("/")[1]) for one in first.steps[0].exchanges]
    assert methods == [("GET", "services?size=1000"), ("PUT", "services"), ("PUT", "routes")]


def test_recording_leaves_out_what_was_answered_the_same_before() -> None:
    recording = Recording("r", "x")
    recording.add("apply", run_of(*IDS)[:1])
    recording.add("apply", run_of(*IDS)[:1])
    changed = Seen("GET", "/services?size=1000", b"", 200, b'{"data":[1]}')
    recording.add("apply", [changed])
    assert [len(step.exchanges) for step in recording.steps] == [1, 0, 1]


def test_recording_refuses_an_id_that_no_request_named() -> None:
    answer = json.dumps({"data": [{"id": IDS[0]}]}).encode()
    with pytest.raises(AssertionError, match="ids that decK did not make"):
        Recording("r", "x").add("dump", [Seen("GET", "/services", b"", 200, answer)])


def test_recording_comes_back_from_its_text(tmp_path: Path) -> None:
    recording = Recording("r", "x 1.0")
    recording.add("apply -", run_of(*IDS))
    path = tmp_path / "r.json"
    path.write_text(recording.text())
    loaded = recordings.load(path)
    assert (loaded.name, loaded.made_by, loaded.steps) == ("r", "x 1.0", recording.steps)


def test_recorder_passes_on_what_it_writes_down(tmp_path: Path) -> None:
    upstream = httpx.MockTransport(
        lambda asked: httpx.Response(
            404 if asked.method == "GET" else 200,
            headers={"Content-Type": "application/json", "Server": "narthex"},
            content=asked.content or b'{"message":"Not found"}',
        )
    )
    with Recorder("http://admin.test") as recorder, httpx.Client(trust_env=False) as client:
        recorder.client = httpx.Client(base_url="http://admin.test", transport=upstream)
        absent = client.get(f"{recorder.url}/vaults?size=1000")
        made = client.put(f"{recorder.url}/services/a", json={"name": "a"})
        seen = recorder.take()
    assert (absent.status_code, absent.headers["server"]) == (404, "narthex")
    assert made.json() == {"name": "a"}
    assert seen == [
        Seen("GET", "/vaults?size=1000", b"", 404, b'{"message":"Not found"}'),
        Seen("PUT", "/services/a", b'{"name":"a"}', 200, b'{"name":"a"}'),
    ]
    assert recorder.take() == []


# --- the program ---------------------------------------------------------------------------------


def test_counts_are_read_from_decks_summary() -> None:
    output = "creating service a\nSummary:\n  Created: 2\n  Updated: 0\n  Deleted: 11\n"
    assert Done(("apply",), 0, output).counts == Counts(2, 0, 11)
    with pytest.raises(AssertionError, match="no summary"):
        _ = Done(("apply",), 1, "Error: no").counts


def test_go_program_is_built_once_for_the_same_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, builds = tmp_path / "command", []
    source.mkdir()
    (source / "main.go").write_text("package main")
    monkeypatch.setattr(needs, "HOME", tmp_path / "home")
    monkeypatch.setattr(needs.shutil, "which", lambda _name: "/usr/bin/go")

    def run(words: list[str], _name: str, cwd: Path) -> None:
        builds.append(words)
        Path(words[words.index("-o") + 1]).write_text((cwd / "main.go").read_text())

    monkeypatch.setattr(needs, "_run", run)
    built = needs.go("deck", source)
    assert needs.go("deck", source) == built and len(builds) == 1
    (source / "main.go").write_text("package other")
    assert needs.go("deck", source).read_text() == "package other"


def test_judge_without_go_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needs.shutil, "which", lambda _name: None)
    monkeypatch.setattr(needs, "GO_USUALLY", tmp_path / "nowhere")
    with pytest.raises(needs.Absent, match=r"Go, as new as command/go\.mod"):
        needs.go("deck", program.HERE / "command")


def no_deck() -> program.Built:
    raise needs.Absent("no Go")


@contextmanager
def admin_alone(folder: Path, _settings: dict[str, str]) -> Iterator[Any]:
    """What the judge needs of a gateway, in process."""
    with running_admin(folder) as admin:
        yield SimpleNamespace(admin=admin.client, start_control=lambda: None)


@pytest.mark.parametrize("same", [True, False])
def test_judge_without_deck_asks_a_gateway_what_was_recorded(
    same: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = (recordings.FOLDER / "refused.json").read_text()
    changed = kept.replace("between 0 and 32767", "between 0 and 1")
    (tmp_path / "refused.json").write_text(kept if same else changed)
    monkeypatch.setattr(recordings, "FOLDER", tmp_path)
    monkeypatch.setattr(run, "build", no_deck)
    monkeypatch.setattr(run, "quiet_gateway", admin_alone)
    monkeypatch.setattr(sys, "argv", ["run"])
    assert run.main() == (needs.NOT_HERE if same else 1)
    said = capsys.readouterr()
    assert "decK NOT RUN: no Go" in said.err
    assert re.search(r"Replayed \d+ requests that github.com/kong/\S+ v\S+", said.out)
    assert ("all answered as they were then" in said.out) is same
