"""The commands that need no gateway, run as a user runs them: argv in, output and exit code out."""

import http.server
import io
import json
import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from control import settings as control_settings
from control.guard.tokens import TokensFile
from dataplane import settings as dataplane_settings
from narthex import __version__
from narthex.admin import admin_url
from narthex.cli import main
from tests.harness import Gateway, alive, children, eventually

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`narthex <words>` in this process; the exit code."""

    def narthex(*words: str, stdin: str = "") -> int:
        monkeypatch.setattr(sys, "argv", ["narthex", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return narthex


# --- what a user sees first --------------------------------------------------------------------


def test_version_is_that_of_the_package(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"narthex {__version__}\n"


def test_help_names_commands_and_a_first_session(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--help") == 0
    said = capsys.readouterr().out
    for word in ("start", "control", "dataplane", "connect", "token", "config", "--example"):
        assert word in said


@pytest.mark.parametrize("words", [["nonsense"], ["start", "--nonsense"], ["connect"]])
def test_wrong_usage_ends_with_2(run: Run, words: list[str]) -> None:
    assert run(*words) == 2


def test_help_of_start_names_every_setting(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("start", "--help") == 0
    said = set(re.findall(r"[A-Z_]+", capsys.readouterr().out))
    fields = {*control_settings.Settings.model_fields, *dataplane_settings.Settings.model_fields}
    assert {name.upper() for name in fields} <= said


def test_start_check_says_that_settings_are_right(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("NARTHEX_DATA_DIR", str(tmp_path / "data"))
    assert run("start", "--check") == 0
    assert str(tmp_path / "data") in capsys.readouterr().out
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ADMIN_LISTEN", "8001"), ("WORKERS", "none"), ("PROXY_LISTEN", "nowhere")],
)
def test_start_names_the_wrong_setting_and_its_value(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(f"NARTHEX_{name}", value)
    assert run("start", "--check") == 1
    said = capsys.readouterr().err
    assert f"NARTHEX_{name}" in said and value in said
    assert said.count("\n") == 1


def test_start_check_finds_a_certificate_that_cannot_be_read(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("NARTHEX_TLS_CERT", str(tmp_path / "no.crt"))
    monkeypatch.setenv("NARTHEX_TLS_KEY", str(tmp_path / "no.key"))
    assert run("start", "--check") == 1
    said = capsys.readouterr().err
    assert "TLS_CERT" in said and "no.crt" in said and said.count("\n") == 1


# --- DATA_DIR ----------------------------------------------------------------------------------


def test_second_gateway_is_kept_out_of_data_dir(new_gateway: Callable[..., Gateway]) -> None:
    import fcntl

    gateway = new_gateway()
    gateway.data_dir.mkdir(mode=0o700)
    with (gateway.data_dir / "gateway.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = gateway.run("start")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"DATA_DIR {gateway.data_dir}: another gateway uses it" in done.stderr


def test_start_says_so_when_data_dir_cannot_be_made(
    new_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = new_gateway(DATA_DIR=str(tmp_path / "file" / "below")).run("start")
    assert done.returncode == 1
    assert "DATA_DIR" in done.stderr and done.stderr.count("\n") == 1


# --- echo and connect --------------------------------------------------------------------------


@dataclass
class Upstream:
    url: str
    requests: list[Request] = field(default_factory=list)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """Echoes; `close CODE` closes; keeps the handshakes it saw; 401 without /open."""
    kept: list[Request] = []

    def process(_: ServerConnection, request: Request) -> Response | None:
        kept.append(request)
        if request.path.startswith("/open"):
            return None
        body = b'{"error":"invalid_token"}'
        return Response(401, "Unauthorized", request.headers.__class__(), body)

    def handler(connection: ServerConnection) -> None:
        for message in connection:
            if isinstance(message, str) and message.startswith("close "):
                connection.close(int(message.split()[1]), "as you wish")
            elif message != "silence":
                connection.send(message)

    with serve(handler, "127.0.0.1", 0, process_request=process) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Upstream(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", kept)
        server.shutdown()
        thread.join(10)


def test_connect_sends_one_message_and_prints_the_answer(
    run: Run, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(
        "connect", f"{upstream.url}/open", "-m", "hello", "--token", "abc", "-H", "X-A: b: c"
    )
    assert code == 0
    assert capsys.readouterr().out == "hello\n"
    headers = upstream.requests[0].headers
    assert (headers["Authorization"], headers["X-A"]) == ("Bearer abc", "b: c")


def test_connect_sends_lines_of_a_pipe_and_prints_answers_until_it_is_quiet(
    run: Run, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("connect", f"{upstream.url}/open", stdin="one\ntwo\n") == 0
    assert capsys.readouterr().out == "one\ntwo\n"


def test_connect_says_which_code_the_server_closed_with(
    run: Run, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("connect", f"{upstream.url}/open", stdin="close 4401\n") == 1
    assert "closed by the server: 4401 as you wish" in capsys.readouterr().err
    assert run("connect", f"{upstream.url}/open", stdin="close 1000\n") == 0
    assert run("connect", f"{upstream.url}/open", "-m", "close 4403") == 1
    assert "4403" in capsys.readouterr().err


def test_connect_gives_up_when_no_answer_comes(
    run: Run,
    upstream: Upstream,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("narthex.chat.REPLY_SECONDS", 0.05)
    assert run("connect", f"{upstream.url}/open", "-m", "silence") == 1
    assert "no message came back" in capsys.readouterr().err


def test_connect_shows_status_and_body_when_refused_and_never_the_token(
    run: Run, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("connect", f"{upstream.url}/?access_token=secret-1", "--token", "secret-2") == 1
    said = capsys.readouterr().err
    assert '401 Unauthorized: {"error":"invalid_token"}' in said
    assert "secret" not in said


def test_connect_says_what_to_do_about_a_certificate_it_cannot_trust(
    run: Run, capsys: pytest.CaptureFixture[str], self_signed: tuple[Path, Path]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed)

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"wss://127.0.0.1:{server.socket.getsockname()[1]}/"
        try:
            assert run("connect", url, "-m", "x") == 1
            said = capsys.readouterr().err
            assert "cannot be trusted" in said and "--insecure" in said and said.count("\n") == 1
            assert run("connect", url, "-m", "x", "-k") == 0
        finally:
            server.shutdown()
            thread.join(10)
    assert capsys.readouterr().out == "x\n"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://localhost/", "not a WebSocket URL"),
        ("ws://127.0.0.1:1/?a=secret", "cannot connect"),
    ],
)
def test_connect_says_what_is_wrong_with_the_address(
    run: Run, capsys: pytest.CaptureFixture[str], url: str, said: str
) -> None:
    assert run("connect", url, "-m", "x") == 1
    err = capsys.readouterr().err
    assert said in err and "secret" not in err


def test_connect_refuses_header_without_colon(run: Run) -> None:
    assert run("connect", "ws://127.0.0.1:1/", "-H", "nonsense") == 2


def test_echo_says_its_port_and_sends_back_what_connect_sends(
    run: Run, new_gateway: Callable[..., Gateway], capsys: pytest.CaptureFixture[str]
) -> None:
    process = new_gateway().narthex("echo", "--port", "0", "--host", "127.0.0.1")
    said = eventually(lambda: process.output() if "ws://" in process.output() else "")
    url = said.split()[-1]
    assert run("connect", url, "-m", "ping") == 0
    assert capsys.readouterr().out == "ping\n"
    assert process.stop() == 0


def test_echo_says_so_when_its_port_is_in_use(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("echo", "--host", "127.0.0.1", "--port", str(port)) == 1
    assert f"port {port}" in capsys.readouterr().err


# --- token and config apply --------------------------------------------------------------------


@dataclass
class Web:
    url: str
    status: int = 200
    answer: bytes = b"{}"
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """An HTTP server that gives one answer and keeps (path, content type, body) of requests."""
    made = Web("")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            made.seen.append((self.path, self.headers.get("Content-Type", ""), body))
            made.tokens.append(self.headers.get("Kong-Admin-Token"))
            self.send_response(made.status)
            self.send_header("Content-Length", str(len(made.answer)))
            self.end_headers()
            self.wfile.write(made.answer)

        do_GET = do_DELETE = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        made.url = f"http{'s' if tls else ''}://localhost:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as made:
        yield made


@pytest.fixture
def secure_web(self_signed: tuple[Path, Path]) -> Iterator[Web]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*self_signed)
    with serving(tls) as made:
        yield made


@pytest.mark.parametrize("path", ["/t", "/t/", "/t/oauth2/token"])
def test_token_prints_the_token_alone(
    run: Run, web: Web, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    web.answer = json.dumps({"access_token": "T" * 32, "expires_in": 7200}).encode()
    words = ["token", web.url + path, "--client-id", "a b", "--client-secret", "&"]
    assert run(*words, "--scope", "email profile") == 0
    assert capsys.readouterr().out == "T" * 32 + "\n"
    path, kind, body = web.seen[0]
    assert (path, kind) == ("/t/oauth2/token", "application/x-www-form-urlencoded")
    assert parse_qs(body.decode()) == {
        "grant_type": ["client_credentials"],
        "client_id": ["a b"],
        "client_secret": ["&"],
        "scope": ["email profile"],
    }
    assert run(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["expires_in"] == 7200


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (
            400,
            b'{"error":"invalid_client","error_description":"Invalid client authentication"}',
            "no token: 400 invalid_client: Invalid client authentication",
        ),
        (404, b'{"message":"no Route matched with those values"}', "no Route matched"),
        (200, b"<html>", "no token: 200 <html>"),
        (200, b"[1]", "no token: 200 [1]"),
    ],
)
def test_token_says_why_there_is_none_and_not_the_secret(
    run: Run, web: Web, capsys: pytest.CaptureFixture[str], status: int, answer: bytes, said: str
) -> None:
    web.status, web.answer = status, answer
    assert run("token", web.url, "--client-id", "a", "--client-secret", "hushhush") == 1
    err = capsys.readouterr().err
    assert said in err and "hushhush" not in err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8443", "is not a URL"),
        ("ftp://localhost/", "is not a URL"),
        ("http://localhost:port/", "is not a URL"),
        ("http://127.0.0.1:1/", "no answer: Connection refused"),
    ],
)
def test_token_says_what_is_wrong_with_the_address(
    run: Run, capsys: pytest.CaptureFixture[str], url: str, said: str
) -> None:
    assert run("token", url, "--client-id", "a", "--client-secret", "b") == 1
    assert said in capsys.readouterr().err


def test_token_takes_self_signed_certificate_only_when_told(
    run: Run, capsys: pytest.CaptureFixture[str], secure_web: Web
) -> None:
    secure_web.answer = b'{"access_token":"over TLS"}'
    words = ["token", secure_web.url, "--client-id", "a", "--client-secret", "b"]
    assert run(*words) == 1
    assert "--insecure takes it all the same" in capsys.readouterr().err
    assert run(*words, "--insecure") == 0
    assert capsys.readouterr().out == "over TLS\n"


@pytest.fixture
def admin(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """A stand-in for the Admin API, where the settings say it is."""
    monkeypatch.setenv("NARTHEX_ADMIN_LISTEN", web.url.removeprefix("http://"))
    return web


def test_config_apply_sends_the_filled_in_file_and_prints_what_changed(
    run: Run,
    admin: Web,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DECK_NAME", "alex")
    change: dict[str, Any] = {"change": "created", "type": "consumers", "name": "alex"}
    fields = [{"field": "username", "old": None, "new": "alex"}]
    counts = {"created": 1, "updated": 0, "deleted": 0, "tried": True}
    admin.answer = json.dumps({"changes": [change | {"fields": fields}]} | counts).encode()
    text = 'consumers: [{username: ${{ env "DECK_NAME" }}}]'
    assert run("config", "apply", "-", stdin=text) == 0
    assert capsys.readouterr().out == (
        'created consumers alex\n  username: "alex"\ncreated 1, updated 0, deleted 0\n'
    )
    assert admin.seen == [
        ("/narthex/config/apply", "application/yaml", b"consumers: [{username: alex}]")
    ]
    admin.answer = b'{"changes": []}'
    assert run("config", "apply", "-", stdin=text.replace("DECK_NAME", "DECK_NAME")) == 0
    assert capsys.readouterr().out == "nothing to change\n"


def test_config_apply_says_which_entity_was_refused_and_why(
    run: Run, admin: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.status = 400
    where = {"entity": "services example", "field": "host", "line": 3, "column": 5}
    admin.answer = json.dumps({"errors": [where | {"message": "is missing"}]}).encode()
    assert run("config", "apply", "-", stdin="{}") == 1
    assert capsys.readouterr().err == (
        "stdin:3:5: services example: host: is missing\nnarthex: 1 error, nothing was changed\n"
    )
    admin.answer = b'{"message": "no more than this"}'
    assert run("config", "apply", "-", stdin="{}") == 1
    assert "refused, nothing was changed: no more than this" in capsys.readouterr().err


# --- the token of the Admin API ---------------------------------------------------------------


@pytest.mark.parametrize("words", [("keys", "list"), ("config", "apply", "-")])
def test_token_of_the_environment_is_sent_and_a_missing_one_asked_for(
    run: Run,
    admin: Web,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    admin.status, admin.answer = 401, b'{"message":"no"}'
    assert run(*words, stdin="{}") == 1
    assert "wants a token; put one into NARTHEX_ADMIN_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("NARTHEX_ADMIN_TOKEN", "nxa_x")
    assert run(*words, stdin="{}") == 1
    said = capsys.readouterr().err
    assert "does not know the token in NARTHEX_ADMIN_TOKEN" in said and "nxa_x" not in said
    assert admin.tokens == [None, "nxa_x"]


def test_token_of_the_admin_api_is_sent_to_no_token_endpoint(
    run: Run, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARTHEX_ADMIN_TOKEN", "nxa_x")
    web.answer = b'{"access_token":"t"}'
    assert run("token", web.url, "--client-id", "a", "--client-secret", "b") == 0
    assert web.tokens == [None]


def test_admin_url_of_the_environment_comes_first(
    run: Run, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARTHEX_ADMIN_URL", f"{web.url}/behind/a/proxy/")
    web.answer = b'{"data":[]}'
    assert run("keys", "list") == 0
    assert web.seen[0][0] == "/behind/a/proxy/signing-keys"


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:1", "http://127.0.0.1:1"),
        ("0.0.0.0:2 ssl, 127.0.0.1:1", "http://127.0.0.1:1"),
        ("0.0.0.0:2, [::1]:1", "http://[::1]:1"),
        ("0.0.0.0:2 ssl", "https://127.0.0.1:2"),
        ("[::]:2 ssl", "https://[::1]:2"),
    ],
)
def test_admin_api_is_asked_where_it_listens_by_plain_loopback_first(
    monkeypatch: pytest.MonkeyPatch, listen: str, url: str
) -> None:
    monkeypatch.setenv("NARTHEX_ADMIN_LISTEN", listen)
    for name in ("TOKENS_FILE", "TLS_CERT", "TLS_KEY"):
        monkeypatch.setenv(f"NARTHEX_ADMIN_{name}", "/x")
    assert admin_url(control_settings.load()) == url


def test_admin_api_over_tls_is_trusted_by_the_file_named(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    self_signed: tuple[Path, Path],
    secure_web: Web,
) -> None:
    secure_web.answer = b'{"data":[]}'
    monkeypatch.setenv("NARTHEX_ADMIN_URL", secure_web.url)
    assert run("keys", "list") == 1
    said = capsys.readouterr().err
    assert "NARTHEX_ADMIN_CA names a PEM file" in said and "insecure" not in said
    monkeypatch.setenv("NARTHEX_ADMIN_CA", str(self_signed[0]))
    assert run("keys", "list") == 0
    monkeypatch.setenv("NARTHEX_ADMIN_CA", "/nowhere.pem")
    assert run("keys", "list") == 1
    assert "NARTHEX_ADMIN_CA /nowhere.pem: cannot be used" in capsys.readouterr().err


def test_admin_token_is_printed_once_and_its_line_added_to_the_file(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    monkeypatch.setenv("NARTHEX_ADMIN_TOKENS_FILE", str(file))
    assert run("admin-token", "ci", "operator") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"nxa_\w{40}\n", out) and str(file) in err and out.strip() not in err
    known = TokensFile(file).find(out.strip())
    assert known is not None and (known.name, known.role) == ("ci", "operator")
    assert out.strip() not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_admin_token_prints_its_line_when_there_is_no_file(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("admin-token", "ci", "read-only") == 0
    token, line = capsys.readouterr().out.splitlines()
    file = tmp_path / "tokens"
    file.write_text(line)
    file.chmod(0o600)
    assert TokensFile(file).find(token) is not None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("ci", "root"), 2, "read-only, operator, super"),
        (("a b", "super"), 1, "no name for a token"),
        (("ci",), 2, "role"),
    ],
)
def test_admin_token_says_what_it_expected(
    run: Run, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    assert run("admin-token", *words) == code
    out, err = capsys.readouterr()
    assert said in err and out == ""


def test_start_check_looks_into_the_files_of_the_admin_api(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    self_signed: tuple[Path, Path],
) -> None:  # fmt: skip
    file = tmp_path / "tokens"
    file.write_text("alice root\n")
    file.chmod(0o600)
    monkeypatch.setenv("NARTHEX_ADMIN_LISTEN", "127.0.0.1:0 ssl")
    monkeypatch.setenv("NARTHEX_ADMIN_TOKENS_FILE", str(file))
    for name, path in zip(("CERT", "KEY"), self_signed, strict=True):
        monkeypatch.setenv(f"NARTHEX_ADMIN_TLS_{name}", str(path))
    assert run("start", "--check") == 1
    assert f"ADMIN_TOKENS_FILE {file} line 1: expected" in capsys.readouterr().err
    file.write_text("# none yet\n")
    assert run("start", "--check") == 0
    monkeypatch.setenv("NARTHEX_ADMIN_TLS_KEY", "/nowhere")
    assert run("start", "--check") == 1
    assert "ADMIN_TLS_KEY /nowhere: cannot be read" in capsys.readouterr().err


# --- keys -----------------------------------------------------------------------------------------


def signing_key(kid: str, status: str, **times: float) -> dict[str, Any]:
    none = dict.fromkeys(("created_at", "active_at", "retired_at", "gone_at"))
    return {"kid": kid, "alg": "ES256", "status": status, "public_jwk": {}} | none | times


def test_keys_list_says_what_each_key_does_until_when(
    run: Run, admin: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.answer = json.dumps(
        {
            "data": [
                signing_key("k1", "retired", gone_at=0.0),
                signing_key("k2", "signing", active_at=86400.0),
                signing_key("k3", "next", active_at=2 * 86400.0),
            ]
        }
    ).encode()
    assert run("keys", "list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "k1 ES256 retired, verifies until 1970-01-01 00:00:00 UTC",
        "k2 ES256 signing, since 1970-01-02 00:00:00 UTC",
        "k3 ES256 next, signs from 1970-01-03 00:00:00 UTC",
    ]
    admin.answer = b'{"data": []}'
    assert run("keys", "list") == 0
    assert capsys.readouterr().out == "no key yet\n"


def test_keys_rotate_asks_for_the_algorithm_it_is_told(
    run: Run, admin: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.answer = json.dumps({"data": [signing_key("k3", "next", active_at=0.0)]}).encode()
    assert run("keys", "rotate", "--alg", "ES256") == 0
    assert run("keys", "rotate") == 0
    assert (
        capsys.readouterr().out.splitlines()
        == ["k3 ES256 next, signs from 1970-01-01 00:00:00 UTC"] * 2
    )
    path, kind = "/signing-keys/rotate", "application/json"
    assert admin.seen == [(path, kind, b'{"alg": "ES256"}'), (path, kind, b"{}")]
    admin.status, admin.answer = 400, b'{"message": "schema violation (alg: no)"}'
    assert run("keys", "rotate", "--alg", "x") == 1
    assert "refused: schema violation (alg: no)" in capsys.readouterr().err


def test_keys_retire_ends_a_key_that_is_there(
    run: Run, admin: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.answer = json.dumps({"data": [signing_key("k/1", "signing", active_at=0.0)]}).encode()
    assert run("keys", "retire", "k/1") == 0
    assert capsys.readouterr().out == "retired k/1\n"
    assert [path for path, _, _ in admin.seen] == ["/signing-keys", "/signing-keys/k%2F1"]
    assert run("keys", "retire", "k2") == 1
    assert "there is no key k2" in capsys.readouterr().err
    assert len(admin.seen) == 3


# --- a whole gateway that cannot start -----------------------------------------------------------


def test_start_ends_with_one_line_when_the_admin_port_is_in_use(
    new_gateway: Callable[..., Gateway],
) -> None:
    gateway = new_gateway()
    with socket.create_server(("127.0.0.1", gateway.ports.admin)):
        process = gateway.narthex("start")
        assert process.wait(60) == 1
    said = [line for line in process.output().splitlines() if not line.startswith("{")]
    assert said[0] == f"narthex: data in {gateway.data_dir}"
    assert [line for line in said if str(gateway.ports.admin) in line and "in use" in line]
    assert "Traceback" not in process.output()
    assert not [pid for pid in children(process.pid) if alive(pid)]
