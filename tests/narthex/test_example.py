"""The example of `make run` against a stand-in for the control plane."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from control.settings import load as load_control
from dataplane.settings import Listener
from dataplane.settings import load as load_dataplane
from narthex import example
from narthex.fault import Fault
from narthex.requests import Reply

ECHO = "ws://localhost:8009/"
CARRIED = {"data": [{"connected": True, "sync_status": "normal"}]}


class ControlPlane:
    """Answers by path, and keeps what was posted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Any] = {"/status": {}, "/dataplanes": CARRIED}
        self.posted: list[tuple[str, str]] = []
        self.refusals = 0
        monkeypatch.setattr(example, "ask", self.send)
        monkeypatch.setattr("narthex.apply.ask", self.send)

    def send(self, method: str, url: str, body: str | None = None, *_: Any, **__: Any) -> Reply:
        path = url.removeprefix("http://127.0.0.1:8001").partition("?")[0]
        if path == "/status" and self.refusals:
            self.refusals -= 1
            raise Fault("no answer")
        if method == "POST":
            self.posted.append((path, body or ""))
        answer = self.answers.get(path, {"data": []})
        status = answer.pop("status", 200) if isinstance(answer, dict) else 200
        return Reply(status, json.dumps(answer))


@pytest.fixture
def control_plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    monkeypatch.setattr(example, "POLL_SECONDS", 0.0)
    made = ControlPlane(monkeypatch)
    made.answers["/narthex/config/apply"] = {"changes": []}
    made.answers["/consumers/alex/oauth2"] = {"client_id": "I" * 8, "client_secret": "S" * 8}
    yield made


def run() -> None:
    example.run(load_control(), load_dataplane(), ECHO)


def test_example_is_loaded_into_an_empty_database(
    control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    control_plane.refusals = 2  # it is still starting
    run()
    (path, text), (credential, _) = control_plane.posted
    assert (path, credential) == ("/narthex/config/apply", "/consumers/alex/oauth2")
    assert f"url: {ECHO}" in text and "${{" not in text.partition("_format_version")[2]
    said = capsys.readouterr().out
    assert said.count("S" * 8) == 1
    assert "The secret is gone?" not in said
    assert 'https://localhost:8443/token-route/oauth2/token --json \'{"client_id":"IIII' in said
    assert "narthex connect ws://localhost:8000/anything --token" in said


def test_configuration_that_is_there_is_left_alone_and_no_secret_shown(
    control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    control_plane.answers["/consumers"] = {"data": [{"username": "alex"}]}
    control_plane.answers["/consumers/alex/oauth2"] = {
        "data": [{"client_id": "I" * 8, "client_secret": "S" * 8}]
    }
    run()
    assert control_plane.posted == []
    said = capsys.readouterr().out
    assert "I" * 8 in said and "S" * 8 not in said
    assert f"curl http://127.0.0.1:8001/consumers/alex/oauth2/{'I' * 8}\n" in said
    control_plane.answers["/consumers/alex/oauth2"] = {"message": "Not found"}
    run()
    assert "token" not in capsys.readouterr().out


def test_example_says_so_when_no_data_plane_carries_it(
    control_plane: ControlPlane,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(example, "DATAPLANE_SECONDS", 0.0)
    pending = {"data": [{"connected": True, "sync_status": "pending"}]}
    for rows in ({"data": []}, pending):
        control_plane.answers["/dataplanes"] = rows
        run()
        assert "No data plane carries this configuration yet" in capsys.readouterr().out


def test_example_gives_up_when_the_control_plane_does_not_answer(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "ADMIN_SECONDS", 0.0)
    control_plane.refusals = 5
    with pytest.raises(Fault, match="the control plane does not answer"):
        run()
    control_plane.refusals = 0
    control_plane.answers["/status"] = {"status": 503}
    with pytest.raises(Fault, match="the control plane does not answer"):
        run()


def test_example_says_why_it_was_refused(control_plane: ControlPlane) -> None:
    control_plane.answers["/consumers/alex/oauth2"] = {"status": 409, "message": "no"}
    with pytest.raises(Fault, match="credential was refused: no"):
        run()
    control_plane.answers["/narthex/config/apply"] = {"status": 400, "message": "bad"}
    with pytest.raises(Fault, match="nothing was changed: bad"):
        run()


def test_commands_use_what_listens() -> None:
    settings = load_dataplane(proxy_listen=[Listener("127.0.0.1", 9443, True)])
    said = example.instructions(example.Credential("id", None), settings)
    assert "connect --insecure wss://localhost:9443/anything" in said
    assert "<the secret shown when it was made>" in said


def test_control_plane_that_wants_a_token_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NARTHEX_ADMIN_TOKEN", raising=False)
    monkeypatch.setattr("narthex.admin.send", lambda *_, **__: Reply(401, "{}"))
    with pytest.raises(Fault, match="put one into NARTHEX_ADMIN_TOKEN"):
        run()
