"""`narthex config`: files in decK's format, without decK."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narthex.fault import Fault
from narthex.options import own_url

if TYPE_CHECKING:
    from narthex.config_file import Files

DIFFERENT = 2  # exit code of `diff --non-zero-exit-code` when there is something to do

config = typer.Typer(
    no_args_is_help=True,
    help="""Configuration files in decK's format, without decK.

    `validate` says what is wrong with files, `diff` what `sync` would do, `apply` creates and
    updates, `sync` also deletes what the files do not hold, `dump` writes the file of what is
    there. `${{ env "DECK_X" }}` in a file is replaced by the variable DECK_X.""",
)

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE",
        help="Files in decK's format, folders of them (.yaml, .yml, .json), or - for stdin. "
        "Several are one configuration.",
        show_default=False,
    ),
]
SelectTag = Annotated[
    list[str] | None,
    typer.Option(
        "--select-tag",
        metavar="TAG",
        help="Only entities with this tag, which those of the file are given; may be repeated "
        "(then: with all of them).",
    ),
]


def _read(sources: list[str]) -> Files:
    from narthex.config_file import read_all

    return read_all(sources, os.environ)


def _carry(action: str, files: Files, tags: list[str] | None = None) -> dict[str, Any]:
    from narthex.apply import Refused, carry

    try:
        return carry(own_url(), action, files.text, tags or ())
    except Refused as refused:
        raise _told(refused.errors, files, "nothing was changed") from None


def _told(errors: Any, files: Files, outcome: str) -> Fault:
    """Print every error; what is left to say of them."""
    from narthex.config_plan import error_lines

    print("\n".join(error_lines(errors, files)), file=sys.stderr)
    return Fault(f"{len(errors)} error{'s' if len(errors) > 1 else ''}, {outcome}")


def _show(plan: dict[str, Any], *, done: bool) -> None:
    from narthex.config_plan import plan_lines

    print("\n".join(plan_lines(plan, done=done)))


@config.command("apply")
def config_apply(files: Sources) -> None:
    """Create and update what FILE holds; delete nothing. All of it in one transaction, or none.

    The control plane must be running.
    """
    _show(_carry("apply", _read(files)), done=True)


@config.command("validate")
def config_validate(
    files: Sources,
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            help="Ask the running control plane, which also knows what is configured already.",
        ),
    ] = False,
) -> None:
    """Say everything that is wrong with FILE, with the line of each error. Nothing is changed.

    It needs no gateway: the schemas come along. Whether references to entities outside of the
    file are good, names are free and protocols of routes and services go together, a gateway
    has to say: --online has it try up to 1,000 changes and take them back.
    """
    found = _read(files)
    if online:
        plan = _carry("validate", found)
        count = plan["created"] + plan["updated"] + plan["unchanged"]
        if not plan["tried"]:
            print("so many changes are checked one by one, and not tried together", file=sys.stderr)
    else:
        count = _validate_here(found)
    print(f"{', '.join(found.names)}: valid, {count} entit{'y' if count == 1 else 'ies'}")


def _validate_here(files: Files) -> int:
    """How many entities the files hold, which are valid."""
    from control.declarative.offline import FileRefused, check_text
    from narthex.config_plan import error_lines

    try:
        plan = check_text(files.text)
    except FileRefused as refused:
        errors = [vars(problem) for problem in refused.problems]
        raise _told(errors, files, "nothing was asked of a gateway") from None
    for line in error_lines([vars(problem) for problem in plan.unresolved], files):
        print(f"{line}: --online can tell whether the gateway has it", file=sys.stderr)
    return len(plan.changes)


@config.command("diff")
def config_diff(
    files: Sources,
    select_tag: SelectTag = None,
    non_zero_exit_code: Annotated[
        bool,
        typer.Option("--non-zero-exit-code", help="End with 2 when there is something to do."),
    ] = False,
) -> None:
    """Print what `sync` would create, update and delete. Nothing is changed.

    The control plane tries up to 1,000 changes and takes them back, so that what `sync` would be
    refused for is said here.
    """
    plan = _carry("diff", _read(files), select_tag)
    _show(plan, done=False)
    if plan["changes"] and non_zero_exit_code:
        raise typer.Exit(DIFFERENT)


@config.command("sync")
def config_sync(files: Sources, select_tag: SelectTag = None) -> None:
    """Make the gateway what FILE says: create, update, and delete what FILE does not hold.

    One transaction, or nothing. Entities that stay keep their ids, and issued tokens stay unless
    their credential goes: a file without oauth2_credentials deletes all of them.
    """
    _show(_carry("sync", _read(files), select_tag), done=True)


@config.command("dump")
def config_dump(
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Written with mode 0600; - is stdout."),
    ] = "-",
    select_tag: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TAG",
            help="Only entities with this tag; may be repeated (then: with all of them).",
        ),
    ] = None,
    all_fields: Annotated[
        bool, typer.Option("--all-fields", help="Write out defaults as well.")
    ] = False,
    with_id: Annotated[bool, typer.Option("--with-id", help="Write out ids as well.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Overwrite FILE.")] = False,
) -> None:
    """Write what is configured as a file that `sync`, or decK, brings back.

    It holds client secrets, provision keys and private keys in clear. Issued tokens are no part.
    """
    from narthex.apply import dump
    from narthex.config_output import check_free, write_private

    path = None if output == "-" else Path(output)
    if path is not None:
        check_free(path, yes)
    text = dump(own_url(), select_tag or (), all_fields=all_fields, with_id=with_id)
    if path is None:
        print(text, end="")
    else:
        write_private(path, text, yes)
        print(f"{path}: written, readable by you alone; it holds secrets")
