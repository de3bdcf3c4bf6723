"""What a command says: data on stdout, everything else on stderr."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, TextIO

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.highlighter import JSONHighlighter
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from statepath.cli.columns import lined_up
from statepath.cli.interrupts import interruptible, unread
from statepath.engine.documents import pretty
from statepath.errors import StateError

_WIDE: Final = 1_000_000
"""Columns of what is not a terminal: nothing is cut or wrapped there."""

_PART: Final = 1000
"""How many lines of a table are shown at once."""

PREVIEW: Final = 100
EPOCH: Final = datetime.fromtimestamp(0, UTC)

_COMMANDS: Final = "\x7f-\x9f\u2028-\u202e\u2066-\u2069"
"""What a terminal obeys, of the characters that JSON leaves as they are: controls, line breaks, and what turns the text
around them to the left or right, so that a person reads something else than what is there."""


class Output:
    """Where one command writes. With `as_json` all data is JSON, an object a line."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._data = _console(sys.stdout)
        self._notes = _console(sys.stderr)

    def json(self, value: Any) -> None:
        """One JSON object, on a line of its own."""
        try:
            text = msgspec.json.encode(value).decode()
        except UnicodeEncodeError:  # it holds a path that is not UTF-8
            text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        self.text(escaped(text, sys.stdout) + "\n")

    def result(self, facts: Any, text: str) -> None:
        """What was done: the facts as JSON, or the text."""
        if self.as_json:
            self.json(facts)
        else:
            self.line(text)

    def line(self, text: str) -> None:
        """A line for people, or more."""
        self.text(f"{harmless(text)}\n")

    def document(self, value: Any) -> None:
        """A JSON value, for people; still JSON."""
        text = escaped(pretty(msgspec.json.encode(value)).decode(), sys.stdout)
        if self._data.is_terminal:
            self.show(JSONHighlighter()(text.rstrip()), whole_lines=True)
        else:
            self.text(text)

    def text(self, text: str) -> None:
        """The text as it is, at once, to whoever reads on."""
        with _telling():
            sys.stdout.write(text)
            sys.stdout.flush()

    def show(self, what: RenderableType, *, whole_lines: bool = False) -> None:
        """Something for people; with `whole_lines` it has its lines already."""
        with _telling():
            self._data.print(what, soft_wrap=whole_lines)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table; columns whose names end with `#` hold numbers. What does not fit a terminal is cut in the last."""
        lines = lined_up(columns, rows, self._data.width)
        while part := list(islice(lines, _PART)):
            self.show(Text("\n").join(part), whole_lines=True)

    def facts(self, facts: Sequence[tuple[str, Any]]) -> None:
        """Names and values, a line each."""
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in facts:
            table.add_row(name, value if isinstance(value, Text) else harmless(str(value)))
        self.show(table)

    def note(self, text: str) -> None:
        """A remark, on stderr."""
        self._notes.print(harmless(text), soft_wrap=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show on a terminal that something takes its time. What is told meanwhile is shown instead."""
        if self._notes.is_terminal and not self.as_json:
            with self._notes.status(escape(what)) as status:
                yield lambda now: status.update(escape(now))
        else:
            yield lambda now: None


@contextmanager
def _telling() -> Iterator[None]:
    try:
        with unread():
            yield
    except BrokenPipeError:
        raise  # nobody reads on, which is no failure of ours
    except OSError as error:
        raise StateError(
            f"what there is to tell cannot be written: {error.strerror}; what was done is done: look before you "
            "repeat it",
            code="output",
        ) from error


def escaped(text: str, stream: TextIO) -> str:
    """The JSON text, with escapes for what the stream cannot hold, and for what a terminal would obey: it stays JSON,
    and the same value."""
    whole = codecs.lookup(stream.encoding or "utf-8").name == "utf-8"  # a StringIO names none
    return re.sub(f"[{_COMMANDS}\ud800-\udfff]" if whole else r"[^\x00-\x7e]", _escape, text)


def printable(text: str) -> str:
    """Stored text that is no JSON, on one line, with escapes for what a terminal would obey."""
    return re.sub(f"[\x00-\x1f{_COMMANDS}]", _escape, text)


def harmless(text: str) -> str:
    """What is told to people, a line or more: what it quotes of what is stored commands no terminal."""
    return "\n".join(map(printable, text.split("\n")))


def _escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; goes on only after a yes.

    Raises:
        typer.Abort: the answer is no, or nobody is there to answer.
    """
    if yes:
        return
    with interruptible():
        print(f"{harmless(question)} Go on? [y/N]: ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise typer.Abort


def preview(value: Any) -> str:
    """The beginning of the value's JSON, on one line."""
    text = escaped(msgspec.json.encode(value).decode(), sys.stdout)
    return text if len(text) <= PREVIEW else f"{text[: PREVIEW - 1]}…"


def moment(at: datetime | None) -> str:
    """A time for people: UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z" if at is not None and at > EPOCH else "unknown"


def counted(number: int, noun: str) -> str:
    """So many of them, for people: `1 change`, `2 changes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def amount(size: int | None) -> str:
    """A number of bytes for people."""
    if size is None:
        return "unknown"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _console(file: TextIO) -> Console:
    # Stored text is shown as it is: it may hold what looks like markup.
    terminal = file.isatty()
    return Console(file=file, markup=False, highlight=False, emoji=False, width=None if terminal else _WIDE)
