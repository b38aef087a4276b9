"""Commands for whoever keeps a gateway: backups, its tokens and keys, what another gateway has."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from narthex.fault import Fault
from narthex.options import Insecure, control_settings, own_url, parse_header

operating = typer.Typer()
keys = typer.Typer(no_args_is_help=True, help="The keys that sign JWT access tokens.")
imports = typer.Typer(no_args_is_help=True, help="Taking over what another gateway has.")


@operating.command()
def backup(
    file: Annotated[Path, typer.Argument(help="A file that does not exist yet.")],
) -> None:
    """Copy the SQLite database to FILE (0600) while the gateway runs; check the copy.

    KEYRING has to be kept as well: without it the secrets in FILE cannot be read. With PostgreSQL
    use pg_dump.
    """
    from narthex.backup import run_backup

    print("\n".join(run_backup(control_settings(), file)))


@operating.command()
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

    print("\n".join(run_restore(control_settings(), file, replace=replace)))


@operating.command("admin-token")
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
    file = control_settings().admin_tokens_file
    token, line = new_token(name, Role(role), file)
    print(token)
    if file is None:
        print(line)
        print("ADMIN_TOKENS_FILE is unset: put the second line into the file", file=sys.stderr)
    else:
        print(f"added to {file.absolute()}", file=sys.stderr)


@keys.command("list")
def keys_list() -> None:
    """Print one line for each key: its id, algorithm, and what it does until when."""
    from narthex.keys import listed

    print("\n".join(listed(own_url()) or ["no key yet"]))


@keys.command("rotate")
def keys_rotate(
    alg: Annotated[
        str | None, typer.Option(help="ES256, RS256 or EdDSA; without it, each that is there.")
    ] = None,
) -> None:
    """Publish the next key. It signs after KEY_PUBLISH_SECONDS, and the present one ends later."""
    from narthex.keys import rotate

    print("\n".join(rotate(own_url(), alg) or ["no key yet"]))


@keys.command("retire")
def keys_retire(
    kid: Annotated[str, typer.Argument(help="As `narthex keys list` prints it.")],
) -> None:
    """End a key at once, with every token that it signed: for a key that leaked."""
    from narthex.keys import retire

    retire(own_url(), kid)
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
    from narthex.config_file import read

    if (admin_url is None) == (file is None):
        raise typer.BadParameter("give either --admin-url or --file")
    own = own_url()
    if admin_url is not None:
        headers = kong.parsed_headers([parse_header(line) for line in header or []], admin_token)
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
