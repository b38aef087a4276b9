"""The commands of `narthex`.

Each imports what it runs when it runs: the data plane's process must not carry the control plane.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from narthex import __version__
from narthex.config_cli import config
from narthex.fault import Fault
from narthex.operator_cli import imports, keys, operating
from narthex.options import Insecure, control_settings, parse_header

if TYPE_CHECKING:
    from dataplane.settings import Settings

ECHO_PORT = 8009
SETTINGS_HELP = """Settings are environment variables with NARTHEX_ before the name, as in
NARTHEX_PROXY_LISTEN="0.0.0.0:8000, [::]:8443 ssl", or lines of the TOML file that NARTHEX_CONFIG
names; --check says what is wrong with one.

Where to listen: PROXY_LISTEN, ADMIN_LISTEN, STATUS_LISTEN, LINK_LISTEN, ISSUER_LISTEN.

What is kept, and its keys: DATA_DIR, DATABASE_URL, KEYRING, TLS_CERT, TLS_KEY.

Who is believed: TRUSTED_IPS, ADMIN_HOSTS, ADMIN_ORIGINS, ADMIN_TOKENS_FILE, ADMIN_FAILURES,
ADMIN_TLS_CERT, ADMIN_TLS_KEY.

Between the planes: LINK_URL, LINK_SECRET, LINK_CERT, LINK_KEY, LINK_CA, LINK_CRL, LINK_NAMES.

How much, how long: WORKERS, TOKEN_CACHE, MAX_SESSIONS, MAX_CONNECTIONS, MAX_SESSIONS_PER_CONSUMER,
MAX_CONNECTIONS_PER_ADDRESS, HANDSHAKE_RATE_PER_ADDRESS, CLIENT_FAILURES, ADDRESS_FAILURES,
HEAD_BYTES, DRAIN_SECONDS, KEY_ROTATION_DAYS, KEY_PUBLISH_SECONDS, AUDIT_DAYS, AUDIT_ROWS.

Logs: LOG_LEVEL, LOG_FORMAT.
"""

app = typer.Typer(
    name="narthex",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""OAuth 2.0 in front of WebSocket services.

    `narthex start` runs the gateway: a control plane (Admin API on :8001) and a data plane
    (ws:// on :8000, wss:// and the token endpoint on :8443). Settings are environment variables
    that start with NARTHEX_, or one TOML file that NARTHEX_CONFIG names; README.md lists them.

    A first session: `narthex start --example` loads an example into an empty database and prints
    a command that gets a token and one that talks through the gateway with it.

    Commands that ask the Admin API find it by ADMIN_LISTEN or NARTHEX_ADMIN_URL, and send the token
    in NARTHEX_ADMIN_TOKEN. https is trusted by the system's authorities, or by the certificates in
    the file NARTHEX_ADMIN_CA.""",
)
app.add_typer(operating)
app.add_typer(config, name="config")
app.add_typer(keys, name="keys")
app.add_typer(imports, name="import")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"narthex {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version."),
    ] = False,
) -> None:
    pass


def _dataplane_settings() -> Settings:
    from dataplane.settings import SettingsError, load

    try:
        return load()
    except SettingsError as error:
        raise Fault(str(error)) from None


def _check_files(settings: Settings) -> None:
    from dataplane.startup import StartError, check_files

    try:
        check_files(settings)
    except StartError as error:
        raise Fault(str(error)) from None


@app.command(epilog=SETTINGS_HELP)
def start(
    check: Annotated[
        bool,
        typer.Option("--check", help="Only look whether settings, and files they name, are right."),
    ] = False,
    example: Annotated[
        bool,
        typer.Option(
            "--example",
            help="Start an echo upstream too, load the example if the database is empty, and "
            "print the commands to try it.",
        ),
    ] = False,
    echo_port: Annotated[
        int,
        typer.Option(
            min=1,
            max=65535,
            envvar="NARTHEX_ECHO_PORT",
            show_envvar=True,
            help="Where --example's echo upstream listens.",
        ),
    ] = ECHO_PORT,
) -> None:
    """Run both planes; restart one that dies; end both on SIGTERM or Ctrl-C.

    The first signal drains: sessions get a Close over DRAIN_SECONDS. A second one ends at once.
    """
    control, dataplane = control_settings(), _dataplane_settings()
    if check:
        from narthex.admin_files import check_files

        _check_files(dataplane)
        check_files(control)
        print(f"narthex: the settings are right; data in {control.data_dir.absolute()}")
        return
    from narthex.folder import held_data_dir
    from narthex.logs import make_log
    from narthex.supervisor import Child, Supervisor, narthex_command

    children = [
        Child("control", narthex_command("control"), stage=1),
        Child("dataplane", narthex_command("dataplane")),
    ]
    if example:
        port = str(echo_port)
        children += [
            Child("echo", narthex_command("echo", "--port", port), stage=1),
            Child("example", narthex_command("example", "--echo-port", port), once=True),
        ]
    with held_data_dir(control) as folder:
        print(f"narthex: data in {folder}", flush=True)
        log = make_log(control.log_level, control.log_format)
        code = Supervisor(children, dataplane.drain_seconds, log).run()
    raise typer.Exit(code)


def _collect_seldom() -> None:
    """Have Python's collector look for cycles after 10,000 new objects instead of 700.

    Nearly all that a plane makes goes with its last name, or stays: what is imported, and what is
    known of tokens. Looking through that was a fifth of a start, and of each token a tenth of what
    it costs a data plane.
    """
    gc.set_threshold(10_000, 10, 10)


@app.command()
def control() -> None:
    """Run the control plane alone: Admin API, token endpoint, the link's server."""
    _collect_seldom()
    settings = control_settings()
    from control.main import main as run

    raise typer.Exit(run(settings))


@app.command()
def dataplane() -> None:
    """Run a data plane alone. It connects to the control plane at LINK_URL."""
    _collect_seldom()
    settings = _dataplane_settings()
    from dataplane.main import main as run

    raise typer.Exit(run(settings))


@app.command()
def connect(
    url: Annotated[str, typer.Argument(help="ws:// or wss:// URL.")],
    token: Annotated[
        str | None,
        typer.Option(
            envvar="NARTHEX_TOKEN", show_envvar=True, help="Sent as `Authorization: Bearer TOKEN`."
        ),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="`Name: value`; may be repeated.")
    ] = None,
    subprotocol: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    message: Annotated[
        str | None,
        typer.Option("--message", "-m", help="Send this, print the message that answers, end."),
    ] = None,
    insecure: Insecure = False,
) -> None:
    """Talk to a WebSocket: lines you type go out, messages are printed as they come.

    Ctrl-D ends. With a pipe as input, its lines are sent and answers printed until it is quiet.
    """
    from narthex.chat import ask, open_websocket, talk

    headers = [parse_header(line) for line in header or []]
    if token:
        headers.append(("Authorization", f"Bearer {token}"))
    with open_websocket(url, headers, subprotocol or [], insecure) as socket:
        if message is not None:
            ask(socket, message)
        else:
            if sys.stdin.isatty():
                print("connected; type a line to send it, Ctrl-D to end", file=sys.stderr)
            talk(socket, sys.stdin)


@app.command()
def token(
    url: Annotated[
        str, typer.Argument(help="The token endpoint, or its route: https://host:8443/token-route.")
    ],
    client_id: Annotated[str, typer.Option()],
    client_secret: Annotated[
        str,
        typer.Option(
            envvar="NARTHEX_CLIENT_SECRET",
            show_envvar=True,
            help="The variable keeps it out of the process list.",
        ),
    ],
    scope: Annotated[str | None, typer.Option(help="Space-separated scopes.")] = None,
    whole: Annotated[
        bool, typer.Option("--json", help="Print the whole answer, not the token alone.")
    ] = False,
    insecure: Insecure = False,
) -> None:
    """Get an access token (client_credentials) and print it."""
    from narthex.token import fetch

    answer = fetch(url, client_id, client_secret, scope, insecure=insecure)
    print(json.dumps(answer) if whole else answer["access_token"])


@app.command()
def echo(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "localhost",
    port: Annotated[int, typer.Option(min=0, max=65535)] = ECHO_PORT,
) -> None:
    """Run a WebSocket upstream that sends every message back."""
    from narthex.echo import run

    run(host, port)


@app.command(hidden=True)
def example(echo_port: Annotated[int, typer.Option(min=1, max=65535)] = ECHO_PORT) -> None:
    """Load the example into an empty database; print the commands to try it."""
    from narthex.example import run

    run(control_settings(), _dataplane_settings(), f"ws://localhost:{echo_port}/")


def main() -> None:
    """Run a command.  Exit codes: 0, 1 for a fault in one line on stderr, 2 for wrong usage."""
    try:
        app(prog_name="narthex")
    except Fault as fault:
        print(f"narthex: {fault}", file=sys.stderr)
        sys.exit(1)
