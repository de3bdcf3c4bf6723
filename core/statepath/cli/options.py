"""The options that commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from statepath.errors import InvalidArgumentError


def inherited(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Let an option stand before the command or behind it: the last one counts, for the whole command line."""
    if value in (None, False):
        return ctx.meta.get(f"statepath.{param.name}", value)
    ctx.meta[f"statepath.{param.name}"] = value
    return value


def about(ctx: typer.Context, path: str) -> None:
    """Errors from here on are about this store."""
    ctx.meta["statepath.state_path"] = path


def made_at(ctx: typer.Context, target: str) -> None:
    """Errors from here on may be about this place, too, where the command makes a store of the other one."""
    ctx.meta["statepath.target"] = target


def named(ctx: typer.Context, path: str, target: str | None = None) -> None:
    """Errors from here on are about this store, which is an argument of the command, or about the target of it.

    Raises:
        InvalidArgumentError: another one was given, which would be left alone in silence.
    """
    if given(ctx, "state_path") is not None:
        raise InvalidArgumentError(
            f"{ctx.command_path} takes its stores as arguments; leave out --state-path"
        )
    about(ctx, path)
    if target is not None:
        made_at(ctx, target)


def given(ctx: typer.Context, name: str) -> Any:
    """What was given for the option, wherever it stood; `None` if nothing was."""
    return ctx.meta.get(f"statepath.{name}")


StatePath = Annotated[
    str | None,
    typer.Option(
        "--state-path",
        "-s",
        metavar="PATH|URL",
        help="Which store. Default: STATE_PATH, else ./coding-agent-state.",
        callback=inherited,
        show_default=False,
    ),
]
Json = Annotated[
    bool,
    # Eager: whatever else ends the command line, such as --version, is told that way.
    typer.Option("--json", help="Write JSON: one object, or one a line.", callback=inherited, is_eager=True),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would happen; change nothing.")]
History = Annotated[bool, typer.Option("--history", help="The commits and the backups, too.")]
Reference = Annotated[
    str,
    typer.Argument(metavar="COLLECTION/ID", help="The document, such as tasks/task_1.", show_default=False),
]


def of_a_group(state_path: StatePath = None, as_json: Json = False) -> None:
    """The options that a group of commands takes for them."""
