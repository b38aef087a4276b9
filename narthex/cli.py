"""The commands of `narthex`.

Each imports what it runs when it runs: the data plane's process must not carry the control plane.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narthex import __version__
from narthex.config_cli import config
from narthex.fault import Fault

if TYPE_CHECKING:
    from control.settings import Settings as ControlSettings
    from dataplane.settings import Settings as DataplaneSettings

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
app.add_typer(config, name="config")
keys = typer.Typer(no_args_is_help=True, help="The keys that sign JWT access tokens.")
app.add_typer(keys, name="keys")
imports = typer.Typer(no_args_is_help=True, help="Taking over what another gateway has.")
app.add_typer(imports, name="import")

Insecure = Annotated[
    bool, typer.Option("--insecure", "-k", help="Take any TLS certificate, also a self-signed one.")
]


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


def _control_settings() -> ControlSettings:
    from control.settings import SettingsError, load

    try:
        return load()
    except SettingsError as error:
        raise Fault(str(error)) from None


def _dataplane_settings() -> DataplaneSettings:
    from dataplane.settings import SettingsError, load

    try:
        return load()
    except SettingsError as error:
        raise Fault(str(error)) from None


def _check_files(settings: DataplaneSettings) -> None:
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
    control, dataplane = _control_settings(), _dataplane_settings()
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


@app.command()
def control() -> None:
    """Run the control plane alone: Admin API, token endpoint, the link's server."""
    settings = _control_settings()
    from control.main import main as run

    raise typer.Exit(run(settings))


@app.command()
def dataplane() -> None:
    """Run a data plane alone. It connects to the control plane at LINK_URL."""
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

    headers = [_parse_header(line) for line in header or []]
    if token:
        headers.append(("Authorization", f"Bearer {token}"))
    with open_websocket(url, headers, subprotocol or [], insecure) as socket:
        if message is not None:
            ask(socket, message)
        else:
            if sys.stdin.isatty():
                print("connected; type a line to send it, Ctrl-D to end", file=sys.stderr)
            talk(socket, sys.stdin)


def _parse_header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"{line!r}; expected `Name: value`")
    return name.strip(), value.strip()


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


@keys.command("list")
def keys_list() -> None:
    """Print one line for each key: its id, algorithm, and what it does until when."""
    from narthex.admin import admin_url
    from narthex.keys import listed

    print("\n".join(listed(admin_url(_control_settings())) or ["no key yet"]))


@keys.command("rotate")
def keys_rotate(
    alg: Annotated[
        str | None, typer.Option(help="ES256, RS256 or EdDSA; without it, each that is there.")
    ] = None,
) -> None:
    """Publish the next key. It signs after KEY_PUBLISH_SECONDS, and the present one ends later."""
    from narthex.admin import admin_url
    from narthex.keys import rotate

    print("\n".join(rotate(admin_url(_control_settings()), alg) or ["no key yet"]))


@keys.command("retire")
def keys_retire(
    kid: Annotated[str, typer.Argument(help="As `narthex keys list` prints it.")],
) -> None:
    """End a key at once, with every token that it signed: for a key that leaked."""
    from narthex.admin import admin_url
    from narthex.keys import retire

    retire(admin_url(_control_settings()), kid)
    print(f"retired {kid}")


@imports.command("kong")
def import_kong(
    admin_url: Annotated[
        str | None, typer.Option("--admin-url", help="A Kong 3.x, as http://kong:8001.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", help="What `kong config db_export` or `deck gateway dump` wrote; - is stdin."
        ),
    ] = None,
    admin_token: Annotated[
        str | None,
        typer.Option(
            envvar="KONG_ADMIN_TOKEN", show_envvar=True, help="Sent to Kong as Kong-Admin-Token."
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", help="`Name: value` for Kong; may be repeated."),
    ] = None,
    insecure: Insecure = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Change nothing unless all of it can be taken over.")
    ] = False,
    unguarded: Annotated[
        bool,
        typer.Option(
            "--unguarded",
            help="Take over routes and consumers too whose guards are not there (key-auth, acl, "
            "…): they are open then.",
        ),
    ] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens/--no-tokens", help="Whether issued tokens come along.")
    ] = True,
) -> None:
    """Take over a Kong's entities, OAuth 2.0 credentials and tokens, in one transaction.

    Clients go on with the ids, secrets and tokens that they have. What cannot be taken over is
    listed with the reason. Run again, it takes over what Kong has changed since, and keeps what was
    set here that Kong does not know. The control plane must be running; Kong is only read.

    Exit code 0: taken over, but for what is listed; 1: nothing was changed.
    """
    from narthex import kong
    from narthex.admin import admin_url as own_url
    from narthex.config_file import read

    if (admin_url is None) == (file is None):
        raise typer.BadParameter("give either --admin-url or --file")
    own = own_url(_control_settings())
    if admin_url is not None:
        headers = kong.parsed_headers([_parse_header(line) for line in header or []], admin_token)
        api = kong.KongApi(admin_url, headers, kong.say, insecure=insecure)
        collections = api.read(tokens=tokens)
    else:
        collections = kong.read_file(read(str(file)), os.environ)
    options = {"dry_run": dry_run, "strict": strict, "unguarded": unguarded, "tokens": tokens}
    report = kong.hand_over(own, collections, options)
    print("\n".join(kong.lines(report) or ["nothing to take over"]))
    if report["message"]:
        raise Fault(f"nothing was changed: {report['message']}")
    if dry_run:
        print("nothing was changed: --dry-run")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="A file that does not exist yet.")],
) -> None:
    """Copy the SQLite database to FILE (0600) while the gateway runs; check the copy.

    KEYRING has to be kept as well: without it the secrets in FILE cannot be read. With PostgreSQL
    use pg_dump.
    """
    from narthex.backup import run_backup

    print("\n".join(run_backup(_control_settings(), file)))


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `narthex backup` wrote.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Move aside the database that is there, and keep it."),
    ] = False,
) -> None:
    """Put a backup into DATA_DIR. The gateway must not run; KEYRING must be there already.

    Data planes notice that it is another database and start over with it, those that were away too.
    """
    from narthex.backup import run_restore

    print("\n".join(run_restore(_control_settings(), file, replace=replace)))


@app.command("admin-token")
def admin_token(
    name: Annotated[str, typer.Argument(help="Whose it is; the log and the audit trail say so.")],
    role: Annotated[
        str,
        typer.Argument(
            help="read-only: everything but secrets. operator: also writes. super: also ends keys."
        ),
    ],
) -> None:
    """Make a token for the Admin API; print it, for it is kept nowhere, only its SHA-256.

    The line that makes it good is added to ADMIN_TOKENS_FILE, which the gateway reads again by
    itself; without that setting it is printed too, in a second line. Delete the line to end the
    token.
    """
    from control.guard.callers import Role
    from narthex.admin_files import new_token

    if role not in list(Role):
        raise typer.BadParameter(f"{role!r}; expected one of {', '.join(Role)}", param_hint="role")
    file = _control_settings().admin_tokens_file
    token, line = new_token(name, Role(role), file)
    print(token)
    if file is None:
        print(line)
        print("ADMIN_TOKENS_FILE is unset: put the second line into the file", file=sys.stderr)
    else:
        print(f"added to {file.absolute()}", file=sys.stderr)


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

    run(_control_settings(), _dataplane_settings(), f"ws://localhost:{echo_port}/")


def main() -> None:
    """Run a command.  Exit codes: 0, 1 for a fault in one line on stderr, 2 for wrong usage."""
    try:
        app(prog_name="narthex")
    except Fault as fault:
        print(f"narthex: {fault}", file=sys.stderr)
        sys.exit(1)
