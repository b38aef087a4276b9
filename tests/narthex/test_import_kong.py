"""`narthex import kong`: what is read of a Kong, page by page, and what is said of it."""

import http.server
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex import kong
from narthex.cli import main
from tests.kong import FakeKong

Run = Callable[..., int]
REPORT: dict[str, Any] = {
    "written": True,
    "message": None,
    "taken": [{"type": "services", "created": 2, "updated": 0, "unchanged": 1}],
    "left_out": [],
    "notes": [],
    "conflicts": [],
}


class Control:
    """A stand-in for our Admin API: gives one answer, keeps what it was sent."""

    def __init__(self) -> None:
        self.status, self.report = 200, REPORT
        self.sent: list[dict[str, Any]] = []


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    made = Control()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/narthex/import/kong"
            made.sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(made.status)
            self.end_headers()
            self.wfile.write(json.dumps(made.report).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("NARTHEX_ADMIN_LISTEN", f"127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        server.shutdown()
        thread.join(10)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def narthex(*words: str, stdin: str = "") -> int:
        monkeypatch.setattr(sys, "argv", ["narthex", "import", "kong", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return narthex


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": f"{number:05}", "name": f"n{number}", "tags": None} for number in range(count)]


def some_kong() -> dict[str, list[dict[str, Any]]]:
    return {
        "services": rows(2500),
        "upstreams": rows(2),
        "targets": [{"id": f"t{n}", "upstream": {"id": f"{n // 4:05}"}} for n in range(7)],
        "oauth2_credentials": rows(3),
        "oauth2_tokens": rows(4),
        "keyauth_credentials": rows(1),
    }


def test_every_page_of_every_collection_is_read(
    run: Run, control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeKong(some_kong(), page=50) as few, FakeKong(some_kong()) as many:
        assert run("--admin-url", many.url) == 0
        assert run("--admin-url", f"{few.url}/") == 0
    first, second = (sent["collections"] for sent in control.sent)
    assert first == second
    assert {name: found for name, found in first.items() if found} == some_kong()
    # Each 1,000 at a time, and where one was absent it was not asked again.
    assert len([path for path in many.paths if path.startswith("/services?")]) == 3
    assert len([path for path in few.paths if path.startswith("/services?")]) == 50
    assert all("size=1000" in path for path in many.paths[1:-1])
    said = capsys.readouterr()
    assert f"Kong 3.9.1 at {many.url}\n  services: 2000 …" in said.err
    assert "  services: 2500\n" in said.err and "  oauth2_tokens: 4\n" in said.err
    assert said.out.startswith(f"{'':20}   created   updated unchanged\n")
    assert f"{'services':20}         2         0         1\n" in said.out


def test_options_are_handed_over(run: Run, control: Control) -> None:
    with FakeKong(some_kong()) as found:
        url = ("--admin-url", found.url)
        assert run(*url, "--dry-run", "--strict", "--unguarded", "--no-tokens") == 0
        assert not [path for path in found.paths if "tokens" in path]
        assert run(*url) == 0
    first, second = control.sent
    names = ("dry_run", "strict", "unguarded", "tokens")
    assert [first[name] for name in names] == [True, True, True, False]
    assert [second[name] for name in names] == [False, False, False, True]


def test_token_and_headers_reach_kong(
    run: Run,
    control: Control,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeKong({}, token="letmein") as found:
        url = ("--admin-url", found.url)
        assert run(*url) == 1
        said = capsys.readouterr().err
        assert f"{found.url}/: refused (401): --admin-token or --header may be missing" in said
        assert run(*url, "--admin-token", "wrong-one") == 1
        assert "wrong-one" not in capsys.readouterr().err
        assert run(*url, "--admin-token", "letmein") == 0
        assert run(*url, "-H", "kong-admin-token: letmein") == 0
        monkeypatch.setenv("KONG_ADMIN_TOKEN", "letmein")
        assert run(*url) == 0
        monkeypatch.delenv("KONG_ADMIN_TOKEN")
        assert run(*url, "-H", "X: a\nb") == 1
        assert "control characters" in capsys.readouterr().err
    assert len(control.sent) == 3


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("2.8.1", "is Kong 2.8.1; only 3.x can be read: upgrade it first"),
        (None, "answers, but not as an Admin API of Kong does"),
        ("dev", "answers, but not as an Admin API of Kong does"),
    ],
)
def test_what_is_no_kong_of_version_3_is_left_alone(
    run: Run, control: Control, capsys: pytest.CaptureFixture[str], version: Any, said: str
) -> None:
    with FakeKong({}, version=version) as found:
        assert run("--admin-url", found.url) == 1
    assert said in capsys.readouterr().err
    assert not control.sent


def test_kong_that_ends_halfway_is_said(
    run: Run, control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeKong({}, absent=frozenset({"routes"})) as found:
        assert run("--admin-url", found.url) == 1
        assert f"{found.url}/routes: 404 Not found" in capsys.readouterr().err
    assert run("--admin-url", found.url) == 1
    assert "no answer: Connection refused" in capsys.readouterr().err
    assert run("--admin-url", "kong:8001") == 1
    assert "expected http:// or https://" in capsys.readouterr().err
    assert not control.sent


def test_pages_without_an_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kong, "PAGES_MAX", 3)
    with FakeKong({"services": rows(9)}, page=2) as found:
        api = kong.KongApi(found.url, {}, lambda _: None)
        with pytest.raises(kong.Fault, match="services: its pages do not come to an end"):
            api.read(tokens=True)
    with FakeKong({}) as found:
        monkeypatch.setattr(found, "_page", lambda *_: {"data": [], "offset": "same"})
        api = kong.KongApi(found.url, {}, lambda _: None)
        with pytest.raises(kong.Fault, match="do not come to an end"):
            api.read(tokens=True)
        assert len(found.paths) == 3


@pytest.mark.parametrize("page", [{}, {"data": None}, {"data": {}}, {"data": [1]}])
def test_page_that_is_none_is_no_empty_one(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeKong({}) as found:
        monkeypatch.setattr(found, "_page", lambda *_: page)
        with pytest.raises(kong.Fault, match="services: a list of entities was expected"):
            kong.KongApi(found.url, {}, lambda _: None).read(tokens=True)


def test_workspaces_beside_the_one_that_is_read_are_said(
    run: Run, control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    spaces = [{"id": "1", "name": "default"}, {"id": "2", "name": "team"}]
    with FakeKong({"workspaces": spaces}, absent=frozenset()) as found:
        monkey = found.answer
        found.answer = lambda target, token: (  # type: ignore[method-assign]
            (200, {"data": spaces}) if target == "/workspaces" else monkey(target, token)
        )
        assert run("--admin-url", found.url) == 0
    assert "This Kong has workspaces (default, team)" in capsys.readouterr().err


# --- files -----------------------------------------------------------------------------------


FILE = """
_format_version: "3.0"
services:
- name: ${{ env "DECK_NAME" }}
  host: up.example
"""


def test_file_is_handed_over_as_it_is(
    run: Run, control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECK_NAME", "chat")
    path = tmp_path / "kong.yaml"
    path.write_text(FILE)
    assert run("--file", str(path)) == 0
    assert run("--file", "-", stdin=FILE) == 0
    expected = {"_format_version": "3.0", "services": [{"name": "chat", "host": "up.example"}]}
    assert [sent["collections"] for sent in control.sent] == [expected, expected]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "the file is not YAML"),
        ("[]", "a mapping with _format_version was expected"),
        ("services: []", '_format_version: "3.0" was expected, not None'),
        ('_format_version: "1.1"', "`deck file convert` makes a file of an older Kong one of 3.0"),
        ('_format_version: "3.0"\nservices: [{name: 2020-01-01}]', "put it in quotes"),
        ('_format_version: "3.0"\nservices: [{port: .inf}]', "put it in quotes"),
        ('_format_version: "3.0"\nservices: [{host: "${{ env "X" }}"}]', "only variables that"),
    ],
)
def test_file_that_cannot_be_read_is_refused(
    run: Run, control: Control, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert run("--file", "-", stdin=text) == 1
    assert said in capsys.readouterr().err
    assert not control.sent


def test_too_much_at_once_is_refused(
    run: Run,
    control: Control,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kong, "REQUEST_BYTES_MAX", 2**20)
    text = f'_format_version: "3.0"\n_comment: {"a" * 2**20}'
    assert run("--file", "-", stdin=text) == 1
    assert "more than 1 MiB together; --no-tokens" in capsys.readouterr().err
    assert not control.sent


@pytest.mark.parametrize("words", [[], ["--file", "a", "--admin-url", "http://b"]])
def test_one_source_is_asked_for(
    run: Run, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(*words) == 2
    assert "give either --admin-url or --file" in capsys.readouterr().err


# --- what is said ----------------------------------------------------------------------------


def test_report_says_what_was_left_out_and_why(
    run: Run, control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    left = {"type": "plugins", "reason": "the plugin acl is not there", "count": 7,
            "examples": ["acl on service a", "acl on service \x1b[2Jb"]}  # fmt: skip
    note = {"type": "routes", "reason": "kept", "count": 1, "examples": ["r"]}
    control.report = REPORT | {"left_out": [left], "notes": [note]}
    assert run("--file", "-", "--dry-run", stdin='_format_version: "3.0"') == 0
    said = capsys.readouterr().out
    assert (
        "left out:\n  plugins: the plugin acl is not there: 7 (acl on service a, acl on service "
        "\ufffd[2Jb, …)\ntaken over, but:\n  routes: kept: 1 (r)\n"
        "nothing was changed: --dry-run\n"
    ) in said


def test_refusal_says_what_is_in_the_way_and_ends_with_1(
    run: Run, control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    conflict = {"type": "services", "name": "chat", "reason": "another one has that name"}
    refused = {"written": False, "message": "stands in the way", "taken": []}
    control.status, control.report = 409, REPORT | refused | {"conflicts": [conflict]}
    assert run("--file", "-", stdin='_format_version: "3.0"') == 1
    said = capsys.readouterr()
    assert "in the way:\n  services chat: another one has that name" in said.out
    assert "nothing was changed: stands in the way" in said.err
    control.report = {"message": "services: a list of mappings was expected"}
    assert run("--file", "-", stdin='_format_version: "3.0"') == 1
    assert "nothing was changed: services: a list" in capsys.readouterr().err


def test_nothing_to_take_over_is_said(
    run: Run, control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    control.report = REPORT | {"taken": []}
    assert run("--file", "-", stdin='_format_version: "3.0"') == 0
    assert capsys.readouterr().out == "nothing to take over\n"
