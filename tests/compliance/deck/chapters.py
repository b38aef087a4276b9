"""What decK has to be able to do here, each chapter from an empty gateway.

A chapter fails with an AssertionError that shows what decK said.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.compliance.deck.program import NOTHING, SECONDS, Counts, Deck, Done
from tests.compliance.deck.recorder import Recorder
from tests.compliance.deck.recordings import Recording
from tests.harness import ROOT, Gateway

FILES = Path(__file__).resolve().parent / "files"
HOW_TO = [f"how-to-{letter}.yaml" for letter in "abcd"]
ECHO_URL = "ws://echo.example/"  # in the how-to's first file
COLLECTIONS = (
    "services", "routes", "plugins", "consumers", "oauth2", "certificates", "snis",
    "ca_certificates", "upstreams",
)  # fmt: skip
DIFFERS = 2  # exit status of `diff --non-zero-exit-code`


@dataclass
class Session:
    """decK behind a recorder, before a gateway."""

    gateway: Gateway
    deck: Deck
    recorder: Recorder
    recording: Recording
    upstream_url: str

    def deck_does(
        self,
        *words: str,
        file: str = "",
        text: str | None = None,
        counts: Counts | None = None,
        status: int = 0,
        recorded: bool = True,
    ) -> Done:
        """Run `deck gateway <words>` on a file of ours or on stdin; it must end as given."""
        sources = ["-"] if text is not None else [str(FILES / file)] if file else []
        done = self.deck.run("gateway", *words, *sources, stdin=text)
        seen = self.recorder.take()
        if recorded:
            self.recording.add(" ".join(filter(None, ["gateway", *words, file])), seen)
        assert done.status == status, f"{done}\nexpected exit status {status}"
        if counts is not None:
            assert done.counts == counts, f"{done}\nexpected {counts}"
        return done

    def rows(self, collection: str) -> list[dict[str, Any]]:
        answer = self.gateway.admin.get(f"/{collection}", params={"size": 1000})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    def names(self, collection: str) -> set[str]:
        key = "username" if collection == "consumers" else "name"
        return {str(row[key]) for row in self.rows(collection)}

    def dump(self, name: str, *words: str) -> dict[str, Any]:
        """What `deck gateway dump` writes, as it is in the file."""
        path = self.deck.folder / name
        self.deck_does("dump", *words, "-o", name)
        found: dict[str, Any] = yaml.safe_load(path.read_text())
        return found

    def file(self, name: str) -> str:
        return (FILES / name).read_text()


def how_to(session: Session) -> None:
    """Kong's how-to by decK: files A-D in order, twice, then a token and an echo."""
    texts = [session.file(name) for name in HOW_TO]
    texts[0] = texts[0].replace(ECHO_URL, session.upstream_url)
    session.deck_does("ping")
    session.deck_does("validate", text=_merged(texts))
    for text, created in zip(texts, (2, 1, 2, 1), strict=True):
        session.deck_does("apply", text=text, counts=Counts(created=created))
    for text in texts:
        session.deck_does("apply", text=text, counts=NOTHING)
    session.deck_does("diff", "--non-zero-exit-code", text=_merged(texts), counts=NOTHING)
    credential = _application(session)
    _echo(session, credential)
    # Through a dump and back: the credential that curl made is in it, and stays as it is.
    session.deck_does("dump", "-o", "how-to.yaml", recorded=False)
    dumped = (session.deck.folder / "how-to.yaml").read_text()
    session.deck_does("sync", text=dumped, counts=NOTHING, recorded=False)
    _echo(session, credential)
    # The files alone do not name it, so that sync takes it away: README.md warns of this.
    session.deck_does("sync", text=_merged(texts), counts=Counts(deleted=1), recorded=False)
    assert session.rows("oauth2") == []


def everything(session: Session) -> None:
    """Each entity and field: the second apply does nothing; dump, reset, sync brings all back."""
    session.deck_does("validate", file="everything.yaml")
    done = session.deck_does("apply", file="everything.yaml")
    made = sum(len(session.rows(name)) for name in COLLECTIONS) + _targets(session)
    assert done.counts == Counts(created=made), f"{done}\n{made} entities are there"
    session.deck_does("apply", file="everything.yaml", counts=NOTHING)
    session.deck_does("diff", "--non-zero-exit-code", file="everything.yaml", counts=NOTHING)
    session.deck_does("sync", file="everything.yaml", counts=NOTHING)
    session.dump("everything-dump.yaml")
    dumped = (session.deck.folder / "everything-dump.yaml").read_text()
    session.deck_does("diff", "--non-zero-exit-code", text=dumped, counts=NOTHING)
    session.deck_does("sync", text=dumped, counts=NOTHING)
    session.deck_does("reset", "--force", counts=Counts(deleted=made))
    assert all(session.rows(name) == [] for name in COLLECTIONS)
    session.deck_does("sync", text=dumped, counts=Counts(created=made))
    session.deck_does("diff", "--non-zero-exit-code", file="everything.yaml", counts=NOTHING)


def changes(session: Session) -> None:
    """One entity edited, one new, one gone: diff says so and changes nothing, sync does it."""
    before, after = session.file("team-b.yaml"), yaml.safe_load(session.file("team-b.yaml"))
    session.deck_does("sync", text=before, counts=Counts(created=2))
    after["services"][0]["retries"] = 1
    after["services"][0]["routes"][0]["name"] = "b2"
    text = yaml.safe_dump(after)
    wanted = Counts(created=1, updated=1, deleted=1)
    session.deck_does("diff", text=text, counts=wanted)
    session.deck_does("diff", "--non-zero-exit-code", text=text, status=DIFFERS)
    assert session.names("routes") == {"b"}
    # apply deletes nothing: the old route is still there, and sync has only that to do.
    session.deck_does("apply", text=text, counts=Counts(created=1, updated=1))
    assert session.names("routes") == {"b", "b2"}
    session.deck_does("sync", text=text, counts=Counts(deleted=1))
    assert session.names("routes") == {"b2"}
    assert session.rows("services")[0]["retries"] == 1


def tags(session: Session) -> None:
    """Two teams and one gateway: each syncs, dumps and resets what has its tag."""
    session.deck_does("sync", file="team-a.yaml", counts=Counts(created=4))
    team_b = ("--select-tag", "team-b")
    session.deck_does("sync", *team_b, file="team-b.yaml", counts=Counts(created=2))
    session.deck_does("sync", file="team-a.yaml", counts=NOTHING)
    session.deck_does("diff", "--non-zero-exit-code", *team_b, file="team-b.yaml", counts=NOTHING)
    assert session.names("services") == {"a", "b"}
    dumped = session.dump("team-b-dump.yaml", *team_b)
    assert [service["name"] for service in dumped["services"]] == ["b"]
    assert dumped["_info"]["select_tags"] == ["team-b"] and "consumers" not in dumped
    session.deck_does("reset", "--force", *team_b, counts=Counts(deleted=2))
    assert session.names("services") == {"a"}
    assert session.names("consumers") == {"anna"}


def generated(session: Session) -> None:
    """What decK takes for a change for ever, because the file leaves out what is made here, stays
    what it was."""
    text = session.file("generated.yaml")  # not recorded: what is made differs in each run
    session.deck_does("apply", text=text, counts=Counts(created=5), recorded=False)
    before = [session.rows(name) for name in ("plugins", "oauth2")]
    assert before[0][0]["config"]["provision_key"]
    session.deck_does("apply", text=text, counts=Counts(updated=3), recorded=False)
    assert [session.rows(name) for name in ("plugins", "oauth2")] == before


def refused(session: Session) -> None:
    """What the gateway refuses comes out of decK with our words, and nothing is written."""
    for command in ("validate", "apply"):
        done = session.deck_does(command, file="refused.yaml", status=1)
        assert "retries: value should be between 0 and 32767" in done.output, str(done)
    assert session.rows("services") == []


def login(session: Session) -> None:
    """With ADMIN_TOKENS_FILE decK needs a token, and an operator's to write."""
    gateway = session.gateway
    gateway.settings["ADMIN_TOKENS_FILE"] = str(gateway.folder / "tokens")
    tokens = {role: _admin_token(gateway, role) for role in ("read-only", "operator")}
    gateway.processes[-1].stop()
    gateway.admin.headers["Kong-Admin-Token"] = tokens["operator"]
    gateway.start_control()
    done = session.deck_does("ping", status=1, recorded=False)
    assert "a token of the Admin API is needed" in done.output, str(done)
    text = session.file("team-b.yaml")
    shown = {role: ("--headers", f"Kong-Admin-Token:{token}") for role, token in tokens.items()}
    done = session.deck_does("apply", *shown["read-only"], text=text, status=1, recorded=False)
    assert "HTTP status 403" in done.output and session.rows("services") == [], str(done)
    for counts in (Counts(created=2), NOTHING):
        session.deck_does("sync", *shown["operator"], text=text, counts=counts, recorded=False)
    session.deck_does("diff", *shown["read-only"], text=text, counts=NOTHING, recorded=False)


def without_deck(session: Session) -> None:
    """`narthex config` and decK write files that the other finds nothing to do for."""
    gateway, environment = session.gateway, session.deck.env
    session.deck_does("apply", file="everything.yaml", recorded=False)
    same = gateway.run("config", "diff", str(FILES / "everything.yaml"), **environment)
    assert same.stdout == "nothing to change\n", same.stdout + same.stderr
    dumped = gateway.run("config", "dump")
    assert dumped.returncode == 0, dumped.stderr
    difference = ("diff", "--non-zero-exit-code")
    session.deck_does(*difference, text=dumped.stdout, counts=NOTHING, recorded=False)
    session.deck_does("dump", "-o", "everything.yaml", recorded=False)
    same = gateway.run("config", "diff", str(session.deck.folder / "everything.yaml"))
    assert same.stdout == "nothing to change\n", same.stdout + same.stderr


def readme(session: Session) -> None:
    """The commands of README.md, in one shell and a folder that has only what they name."""
    folder = session.deck.folder / "readme"
    programs = folder / "bin"
    programs.mkdir(parents=True)
    (programs / "deck").symlink_to(session.deck.program)
    (folder / "examples").symlink_to(ROOT / "examples")
    environment = session.deck.environment
    path = f"{programs}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(readme_blocks())],
        cwd=folder, env={**environment, "PATH": path}, capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    # The last command took away what the one before had dumped, and nothing else.
    assert "team-a-chat" in (folder / "team-a-now.yaml").read_text()
    assert session.names("services") == {"example-websocket-service"}
    assert stat.S_IMODE((folder / "kong.yaml").stat().st_mode) == 0o600


def readme_blocks() -> list[str]:
    """The shell blocks of the chapter on decK."""
    chapter = (ROOT / "README.md").read_text().partition("\n## decK\n")[2].partition("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL)


CHAPTERS: dict[str, Callable[[Session], None]] = {
    "how-to": how_to,
    "everything": everything,
    "changes": changes,
    "tags": tags,
    "generated": generated,
    "refused": refused,
    "login": login,
    "without-deck": without_deck,
    "readme": readme,
}
# In each run, so that they are not recorded.
MADE_ANEW = ("generated", "login", "without-deck", "readme")
WITH_TRAFFIC = ("how-to",)  # a data plane too


def _merged(texts: list[str]) -> str:
    """Several files as one: decK would merge them, but stdin is one file."""
    merged: dict[str, Any] = {}
    for text in texts:
        for name, entries in yaml.safe_load(text).items():
            merged[name] = (
                [*merged.get(name, []), *entries] if name != "_format_version" else entries
            )
    return yaml.safe_dump(merged)


def _targets(session: Session) -> int:
    return sum(
        len(session.rows(f"upstreams/{row['id']}/targets")) for row in session.rows("upstreams")
    )


def _application(session: Session) -> dict[str, str]:
    """Step 5 of the how-to."""
    body = {"name": "TestApp", "redirect_uris": ["http://localhost:8000/anything"]}
    url = f"http://127.0.0.1:{session.gateway.ports.admin}/consumers/alex/oauth2"
    made: dict[str, str] = _curl(url, body)
    return made


def _admin_token(gateway: Gateway, role: str) -> str:
    made = gateway.run("admin-token", role, role)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def _echo(session: Session, credential: dict[str, str]) -> None:
    """Steps 6 and 7: a token, and a message there and back."""
    session.gateway.wait_carried()
    body = {name: credential[name] for name in ("client_id", "client_secret")}
    url = f"https://localhost:{session.gateway.ports.tls}/token-route/oauth2/token"
    answer = _curl(url, body | {"grant_type": "client_credentials"})
    with session.gateway.websocket("/anything", answer["access_token"]) as socket:
        socket.send("hello")
        assert socket.recv(10) == "hello"


def _curl(url: str, body: dict[str, Any]) -> Any:
    """What `curl -k -X POST URL --json BODY` prints; older ones know only the long way."""
    headers = ["-H", "Content-Type: application/json", "-H", "Accept: application/json"]
    words = ["curl", "-sk", "--noproxy", "*", "-X", "POST", url, *headers, "-d", json.dumps(body)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{url}: {done.stderr}"
    return json.loads(done.stdout)
