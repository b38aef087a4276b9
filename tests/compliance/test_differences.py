"""The table of differences from node-oidc-provider, and what a judge installs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from tests.compliance import needs
from tests.compliance.oidc_provider.asked import CASES
from tests.compliance.oidc_provider.differences import (
    PAGE,
    Difference,
    Table,
    compare,
    observe,
)

HERE = Path(__file__).resolve().parent


def answer(status: int, body: object = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body, headers=named)


def table(tmp_path: Path, text: str) -> Table:
    path = tmp_path / "differences.toml"
    path.write_text(text)
    return Table.read(path)


ROW = """
[[difference]]
case = "a code"
field = "status"
theirs = "400"
kong = "401"
strict = "400"
why = "ours"
"""


def test_every_difference_has_a_reason_and_its_place_on_the_page() -> None:
    assert len(CASES) >= 50
    committed = Table.read()
    assert {one.case for one in committed.known} <= CASES.keys()
    assert PAGE.read_text() == committed.page(len(CASES))


def test_table_reads_what_it_wrote(tmp_path: Path) -> None:
    committed = Table.read()
    assert table(tmp_path, committed.text()) == committed


@pytest.mark.parametrize("reasons", ["", '[reasons]\nours = ""', '[reasons]\nother = "x"'])
def test_table_refuses_a_difference_without_a_reason(tmp_path: Path, reasons: str) -> None:
    with pytest.raises(ValueError, match="no reason is called 'ours'"):
        table(tmp_path, reasons + ROW)


def test_table_refuses_a_reason_of_no_difference(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reasons of no difference: idle"):
        table(tmp_path, '[reasons]\nours = "x"\nidle = "y"' + ROW)


def test_difference_that_is_new_and_one_that_is_gone_are_faults(tmp_path: Path) -> None:
    known = table(tmp_path, '[reasons]\nours = "x"' + ROW)
    explained = Difference("a code", "status", "400", "401", "400")
    other = Difference("a code", "status", "400", "401", "401")
    assert known.faults([explained]) == []
    assert known.faults([explained, other]) == [
        "not explained: a code, status: theirs 400, kong 401, strict 401"
    ]
    assert known.faults([]) == [
        "not found any more: a code, status: theirs 400, kong 401, strict 400"
    ]


def test_answers_are_compared_by_what_matters() -> None:
    body = {"error": "invalid_client", "error_description": "words"}
    challenge = 'Basic realm="a", error="invalid_client", charset="UTF-8"'
    seen = observe("x", answer(401, body, cache_control="no-store", www_authenticate=challenge))
    assert seen == {
        "status": "401",
        "error": "invalid_client",
        "active": "-",
        "members": "-",
        "challenge": "Basic invalid_client",
        "cache": "no-store",
        "type": "application/json",
    }
    seen = observe("x", answer(200, {"active": False, "b": 1}))
    assert (seen["active"], seen["members"], seen["error"]) == ("false", "active b", "-")
    assert observe("metadata", answer(200, {"issuer": "x"}))["members"] == "-"
    assert observe("x", httpx.Response(404, text="Not Found"))["error"] == "-"


def test_compare_finds_each_field_that_is_not_the_same_thrice() -> None:
    theirs, ours = observe("x", answer(400, {})), observe("x", answer(401, {}))
    assert compare("x", theirs, theirs, theirs) == []
    assert compare("x", theirs, theirs, ours) == [Difference("x", "status", "400", "400", "401")]
    assert compare("x", theirs, ours, ours) == [Difference("x", "status", "400", "401", "401")]


@pytest.mark.parametrize("path", sorted(HERE.glob("*/package.json")), ids=lambda p: p.parent.name)
def test_npm_packages_are_pinned_and_name_no_registry(path: Path) -> None:
    wanted = json.loads(path.read_text())["dependencies"]
    lock = json.loads(path.with_name("package-lock.json").read_text())
    assert lock["packages"][""]["dependencies"] == wanted
    for name, package in lock["packages"].items():
        assert "resolved" not in package
        assert not name or (package["integrity"] and re.fullmatch(r"[\d.]+", package["version"]))
    for name, version in wanted.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version


@pytest.mark.parametrize(
    "path", sorted(HERE.glob("*/requirements.txt")), ids=lambda p: p.parent.name
)
def test_python_packages_are_pinned_by_hash(path: Path) -> None:
    text = path.read_text()
    pinned = re.findall(
        r"^[\w.-]+==[\w.]+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.M
    )
    assert pinned and "".join(pinned) == text


def test_what_cannot_be_installed_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "HOME", tmp_path)
    with pytest.raises(needs.Absent, match="failed, see"):
        needs._run(["false"], "nothing")
    with pytest.raises(needs.Absent, match="no-such-program"):
        needs._run(["no-such-program"], "nothing")


def test_installed_once_and_again_when_the_pins_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = tmp_path / "judges" / "requirements.txt"
    pins.parent.mkdir()
    monkeypatch.setattr(needs, "HERE", tmp_path)
    monkeypatch.setattr(needs, "HOME", tmp_path / "home")
    ran: list[list[str]] = []
    monkeypatch.setattr(needs, "_run", lambda words, *_: ran.append(words))
    for text, runs in (("a==1", 2), ("a==1", 2), ("a==2", 4)):
        pins.write_text(text)
        assert needs.venv("judges") == tmp_path / "home" / "judges" / "venv" / "bin" / "python"
        assert len(ran) == runs
