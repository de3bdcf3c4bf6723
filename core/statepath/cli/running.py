"""Running a command: its event loop, its log, and what becomes of an error."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, ParamSpec

import typer
from typer.core import TyperGroup

from statepath.cli.exits import exit_of
from statepath.cli.interrupts import terminate
from statepath.cli.options import given
from statepath.cli.output import escaped, harmless
from statepath.debug import EVERYTHING, LOGGER, enable_debug
from statepath.encryption import RING_KEY
from statepath.engine.ids import is_id
from statepath.errors import (
    AccessDeniedError,
    BackendNotInstalledError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    DivergedError,
    DuplicateSchemeError,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
    StoreLockedError,
    UnavailableError,
    UnknownSchemeError,
    UnsupportedError,
)
from statepath.naming import is_collection
from statepath.settings import Settings
from statepath.url import StateURL

P = ParamSpec("P")

logger = logging.getLogger("statepath.cli")

OPENING = "statepath.opening"
"""The log of what is found when a store is opened."""

ALERTS = "statepath.alerts"
"""The log of alerts, which are for whoever is not there to see what fails."""


def asynchronous(command: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A command that runs in an event loop of its own."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def awaited() -> None:
            await command(*args, **kwargs)

        try:
            asyncio.run(awaited())
        except asyncio.CancelledError:
            terminate()

    return run


_UsageError: Any = typer.BadParameter.__base__
"""What a command line raises that cannot be understood; typer has no name for it."""


class Commands(TyperGroup):
    """The commands. An error of ours becomes a message on stderr and an exit code, never a traceback; with `--json` so
    does one of the command line itself."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **options: Any) -> Any:
        # Known before the rest is, which may be what cannot be understood.
        as_json = "--json" in list(takewhile(lambda word: word != "--", args))
        try:
            ctx = super().make_context(info_name, args, *more, **options)
        except _UsageError as error:
            if not as_json:
                raise
            raise _misused(error) from None
        if as_json:
            ctx.meta["statepath.as_json"] = True
        return ctx

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            if not given(ctx, "as_json"):
                raise
            raise _misused(error) from None
        except typer.Abort:
            if not given(ctx, "as_json"):
                raise
            why = StateError(
                "nobody confirmed it, and nothing was done; --yes confirms", code="not_confirmed"
            )
            # The question stands on a line that has no end.
            print(f"\n{Failure(why, given(ctx, 'state_path')).json()}", file=sys.stderr)
            raise typer.Exit(exit_of(why)) from None
        except StateError as error:
            logger.debug("the command failed", exc_info=True, extra={"code": error.code})
            told = Failure(error, given(ctx, "state_path"), ctx.invoked_subcommand, given(ctx, "target"))
            print(told.json() if given(ctx, "as_json") else told.text(), file=sys.stderr)
            raise typer.Exit(exit_of(error)) from None


def _misused(error: Any) -> typer.Exit:
    """Tell a usage error as JSON."""
    print(Misuse(error).json(), file=sys.stderr)
    return typer.Exit(error.exit_code)


class Failure:
    """An error as it is told: where, why, and what to do next. `ran` is the command that met it, and `target` the place
    that it was to fill from the store: which of the two failed is not known."""

    def __init__(
        self, error: StateError, path: str | None, ran: str | None = None, target: str | None = None
    ) -> None:
        self.error = error
        self._path = path
        self._ran = ran
        self._target = target
        self.place = _place(path)

    @property
    def next(self) -> str | None:
        """The command to go on with: another one than the one that failed."""
        error, key, ran = self.error, self.error.key or "", self._ran
        match error:
            case BackendNotInstalledError(install=install):
                return install or None
            case UnknownSchemeError() | DuplicateSchemeError() if ran != "doctor":
                return "statepath doctor"
            case ConfigurationError() if ran != "config":
                return "statepath config show"
            case StoreLockedError() | AccessDeniedError() | UnavailableError() if self._target is not None:
                return None  # one command would look into one of the two
            case StoreLockedError():
                return self._command("status")
            case StateError(code="no_file" | "bad_file" | "file_denied" | "file_failed"):
                return None  # it is about a file of the user's own, which the message names
            case InvalidArgumentError() if key == "logs" or (ran == "ls" and key.startswith("logs/")):
                return self._command("logs")
            case InvalidArgumentError() if key == "reports":
                return self._command("ls", "reports")
            case InvalidArgumentError() if ran == "ls" and _is_shown(key):
                return self._command("show", key)
            case NotFoundError() if key in ("", self.place) or key.startswith("/") or "://" in key:
                return self._command("config", "show")
            case NotFoundError() if key.startswith("archive/"):
                return self._command("archive", "list")
            case NotFoundError() if key.startswith("logs/"):
                return self._command("logs")
            case NotFoundError() if key.startswith("leases/"):
                return self._command("lease", "list")
            case NotFoundError() if key.startswith("state.backup."):
                return self._command("backup", "list")
            case NotFoundError() if "/" in key:
                return self._command("ls", key.partition("/")[0])
            case ConflictError() if is_collection(key.partition("/")[0]) and "/" in key:
                return self._command("show", key)
            case HistoryTrimmedError():
                return self._command("backup", "list")
            case CorruptionError() if key == RING_KEY:
                return None  # the message tells: only a copy of it helps
            case CorruptionError() if ran != "verify":
                return self._command("verify")
            case DivergedError(code="split" | "promoted"):
                return None  # the message tells
            case DivergedError() | OutcomeUnknownError():
                return self._command("history", "--limit", "10")
            case AccessDeniedError() | UnavailableError() if ran != "doctor":
                return self._command("doctor")
            case UnsupportedError(code="not_upgraded"):
                return self._command("backup", "create")
            case UnsupportedError(code="newer_format"):
                return "pip install --upgrade statepath"
            case _:
                return None

    def text(self) -> str:
        lines = [f"error: {self.error}"]
        if self._target is not None:
            lines += [f"  from: {self.place}", f"  to: {shown(self._target)}"]
        elif self.place is not None and not _names(lines[0], self.place):
            lines.append(f"  state path: {self.place}")
        if self.next is not None and self.next not in lines[0]:
            lines.append(f"  next: {self.next}")
        return harmless("\n".join(lines))

    def json(self) -> str:
        facts: dict[str, Any] = {
            "code": self.error.code,
            "message": str(self.error),
            "key": self.error.key,
            "state_path": self.place,
            "next": self.next,
            "retryable": self.error.retryable,
            "exit": int(exit_of(self.error)),
        }
        if self._target is not None:
            facts["to"] = shown(self._target)
        return escaped(json.dumps({"error": facts}, ensure_ascii=False, separators=(",", ":")), sys.stderr)

    def _command(self, *words: str) -> str:
        return command_line(self._path, *words)


class Misuse(Failure):
    """A command line that cannot be understood. It is about no store, as far as anyone can tell."""

    def __init__(self, error: Any) -> None:
        super().__init__(InvalidArgumentError(error.format_message(), code="usage"), None)
        self.place = None
        self._help = f"{error.ctx.command_path if error.ctx is not None else 'statepath'} --help"

    @property
    def next(self) -> str | None:
        """The command that tells how it is used."""
        return self._help


def command_line(path: str | None, *words: str) -> str:
    """The command to go on with, for the store that was given. What its state path has of secrets is for people to fill
    in: without it the command would go to another store."""
    return shlex.join(["statepath", *words, *([] if path is None else ["-s", shown(path)])])


def shown(path: str | os.PathLike[str]) -> str:
    """The state path without its secrets."""
    try:
        return StateURL.parse(os.fspath(path)).redacted()
    except StateError:
        return "(not a state path)"


def _names(text: str, place: str) -> bool:
    """Whether the text has the state path, and not only a longer word with it."""
    return re.search(rf"(?<![\w.-]){re.escape(place)}(?![\w-]|\.\w)", text) is not None


def _is_shown(name: str) -> bool:
    """Whether it names what `show` can show."""
    collection, _, id = name.partition("/")
    return is_id(id) and (collection == "reports" or is_collection(collection))


def _place(path: str | None) -> str | None:
    try:
        return shown(path if path is not None else Settings.load().path)
    except StateError:
        return None


@contextmanager
def logging_to_stderr(*, debug: bool) -> Iterator[None]:
    """Warnings for people; and what `--debug` or the variable `DEBUG` asks for."""
    warnings = logging.StreamHandler()
    warnings.setLevel(logging.WARNING)
    warnings.setFormatter(_Remark())
    warnings.addFilter(lambda record: record.name != ALERTS)
    warnings.addFilter(_Damage().is_new)
    root = logging.getLogger(LOGGER)
    disable = enable_debug(EVERYTHING if debug else None)
    if root.level != logging.DEBUG:
        root.addHandler(warnings)
    try:
        yield
    finally:
        root.removeHandler(warnings)
        disable()


class _Damage:
    """What is found damaged, which is told once, however often a command opens the store."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def is_new(self, record: logging.LogRecord) -> bool:
        if record.name != OPENING:
            return True
        text = record.getMessage()
        new = text not in self._told
        self._told.add(text)
        return new


class _Remark(logging.Formatter):
    """What a record says, and of its traceback the last line."""

    def format(self, record: logging.LogRecord) -> str:
        said = f"{record.levelname.lower()}: {record.getMessage()}"
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            said += f": {error if isinstance(error, StateError) else repr(error)}"
        return harmless(said)
