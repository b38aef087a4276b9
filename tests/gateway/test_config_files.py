"""`narthex config` against a running control plane; the README's chapter as it is written."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from narthex.cli import main
from tests.gateway.test_readme import Shell
from tests.harness import ROOT, Gateway, running_gateway

FILE = """_format_version: "3.0"
services:
- name: s
  url: ws://up.example/
  routes:
  - {name: r, protocols: [ws], paths: [/a]}
consumers:
- username: alex
  oauth2_credentials:
  - {name: app, client_id: app, client_secret: hush-hush}
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Narthex = Callable[..., Done]


def narthex(gateway: Gateway, *words: str, stdin: str = "") -> Done:
    """`narthex <words>` under the gateway's settings, in this process: that is faster."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, gateway.env, clear=True),
        mock.patch.object(sys, "argv", ["narthex", *words]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A control plane for all tests of this file; each begins with `sync` of its own file."""
    with running_gateway(tmp_path_factory.mktemp("control")) as made:
        made.start_control()
        yield made


@pytest.fixture
def config(control: Gateway) -> Narthex:
    """`narthex config <words>`, with `FILE` synced before."""
    assert narthex(control, "config", "sync", "-", stdin=FILE).returncode == 0
    return lambda *words, **options: narthex(control, "config", *words, **options)


def test_diff_shows_fields_and_sync_does_it(config: Narthex) -> None:
    text = FILE.replace("up.example/", "new.example/x").replace("hush-hush", "another")
    text = text.replace("- username: alex", "- username: jo") + "  - {name: b, client_id: b}\n"
    plan = [
        "{} services s",
        '  host: "up.example" → "new.example"',
        '  path: "/" → "/x"',
        "{} consumers jo",
        '  username: "jo"',
    ]
    done = config("diff", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == [line.format("updating") for line in plan[:3]]
    assert "deleting consumers alex" in lines
    assert '  client_secret: "[redacted]" → "[redacted]"' in lines
    assert "hush" not in done.stdout + done.stderr and "another" not in done.stdout
    assert lines[-1] == "created 2, updated 2, deleted 1; nothing was written"
    assert config("diff", "-", "--non-zero-exit-code", stdin=text).returncode == 2
    done = config("sync", "-", stdin=text)
    assert done.stdout.splitlines()[-1] == "created 2, updated 2, deleted 1"
    done = config("diff", "-", "--non-zero-exit-code", stdin=text)
    assert (done.returncode, done.stdout) == (0, "nothing to change\n")


def test_errors_are_told_with_the_file_that_each_is_in(config: Narthex, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.yaml").write_text(FILE.removesuffix("\n"))
    (tmp_path / "sub" / "b.json").write_text(
        '{"_format_version": "3.0",\n "routes": [{"name": "x", "paths": ["a"], "service": "s"}]}'
    )
    (tmp_path / "sub" / "c.yml").write_text(
        FILE.replace("url: ws", "hots: ws").replace("s\n", "t\n")
    )
    (tmp_path / "notes.txt").write_text("not read")
    for words in (["validate"], ["validate", "--online"], ["sync"]):
        done = config(*words, str(tmp_path))
        assert (done.returncode, done.stdout) == (1, "")
        lines = done.stderr.splitlines()
        assert lines[0].startswith(f"{tmp_path}/sub/b.json:2:37: routes x: paths.1: should start")
        assert f"{tmp_path}/sub/c.yml:4:3: services t: hots: unknown field" in lines
        assert f"narthex: {len(lines) - 1} errors, nothing was" in lines[-1]
    assert config("diff", "-", stdin=FILE).stdout == "nothing to change\n"


def test_validate_needs_no_gateway(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as nowhere:
        text = FILE + "plugins: [{name: websocket-session, route: elsewhere}]\n"
        done = narthex(nowhere, "config", "validate", "-", stdin=text)
        assert (done.returncode, done.stdout) == (0, "stdin: valid, 5 entities\n")
        assert done.stderr == (
            "stdin:11:37: plugins websocket-session on route elsewhere: route: routes elsewhere is "
            "not in the file: --online can tell whether the gateway has it\n"
        )
        done = narthex(nowhere, "config", "validate", "--online", "-", stdin=text)
        assert done.returncode == 1 and "no answer" in done.stderr
        done = narthex(nowhere, "config", "validate", "-", stdin='a: ${{ env "DECK_NOT_SET" }}')
        assert "narthex: stdin: ${{ env" in done.stderr and "DECK_NOT_SET is not" in done.stderr


def test_dump_is_private_and_overwrites_only_when_told(config: Narthex, tmp_path: Path) -> None:
    path = tmp_path / "kong.yaml"
    done = config("dump", "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "hush-hush" in path.read_text()
    assert config("dump").stdout == path.read_text()
    assert config("diff", str(path), "--non-zero-exit-code").returncode == 0
    path.chmod(0o644)
    path.write_text("mine")
    done = config("dump", "-o", str(path))
    assert done.returncode == 1 and "--yes overwrites it" in done.stderr
    assert path.read_text() == "mine"
    assert config("dump", "-o", str(path), "--yes", "--with-id", "--all-fields").returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "port: 80\n" in path.read_text()
    assert re.search(r"^ +id: [0-9a-f\"-]{36,38}$", path.read_text(), re.MULTILINE)
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"
    done = config("dump", "-o", str(tmp_path / "none" / "x"))
    assert done.returncode == 1 and "cannot be written: No such file" in done.stderr


def test_tags_bound_what_is_dumped_and_synced(config: Narthex) -> None:
    mine = '_format_version: "3.0"\nconsumers: [{username: mine}]\n'
    tags = ["--select-tag", "team", "--select-tag", "blue"]
    assert config("sync", *tags, "-", stdin=mine).stdout.splitlines()[-1] == (
        "created 1, updated 0, deleted 0"
    )
    text = config("dump", *tags).stdout
    assert "alex" not in text and "select_tags" in text
    assert config("diff", "-", stdin=text).stdout == "nothing to change\n"
    done = config("diff", "--select-tag", "a/b", "-", stdin=mine)
    assert done.returncode == 1 and "tags" in done.stderr


def test_chapter_of_the_readme_works_as_written(
    new_gateway: Callable[..., Gateway],
    tmp_path: Path,
) -> None:
    gateway = new_gateway()
    gateway.start_control()
    assert narthex(gateway, "config", "apply", "-", stdin=FILE).returncode == 0
    part = (ROOT / "README.md").read_text().partition("## Configuration as files")[2]
    blocks = re.findall(r"```sh\n(.*?)```", part.partition("\n## ")[0], re.DOTALL)
    dump, edit, pipeline = (
        block.replace("kong.yaml", str(tmp_path / "kong.yaml")) for block in blocks
    )
    shell = Shell(gateway, tmp_path, 0)
    (said,) = shell.run(dump)
    assert "it holds secrets" in said
    assert shell.run(edit) == [
        f"{tmp_path}/kong.yaml: valid, 4 entities",
        "updating services s",
        '  path: "/" → "/chat"',
        "created 0, updated 1, deleted 0; nothing was written",
        "updated services s",
        '  path: "/" → "/chat"',
        "created 0, updated 1, deleted 0",
    ]
    assert shell.run(pipeline) == ["nothing to change"]
