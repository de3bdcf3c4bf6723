"""Rows in columns. A table of rich's is laid out as a whole, and takes most of a millisecond a row: seconds for the
documents of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

_GAP: Final = "  "


def lined_up(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> Iterator[Text]:
    """The headings, and a line a row. Columns whose names end with `#` hold numbers. What does not fit is cut in the
    last one; a line is longer than the width only where there is no room for that, or a number would be cut."""
    headings = [name.removesuffix("#") for name in columns]
    cells = [headings, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    rights = [name.endswith("#") for name in columns]
    if not rights[-1]:
        room = width - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1)
        widths[-1] = max(min(widths[-1], room), cell_len(headings[-1]))
    for row, line in zip([[], *rows], cells, strict=True):
        fitted = [_fitted(*cell) for cell in zip(line, widths, rights, strict=True)]
        shown = Text(_GAP.join(fitted).rstrip(), style="" if row else "bold")
        for place, cell in enumerate(row):
            if isinstance(cell, Text):
                begin = sum(len(text) + len(_GAP) for text in fitted[:place])
                shown.stylize(cell.style, begin, begin + len(fitted[place]))
        yield shown


def _fitted(text: str, width: int, right: bool) -> str:
    missing = width - cell_len(text)
    if missing < 0:
        return f"{set_cell_size(text, width - 1)}…"
    return " " * missing + text if right else text + " " * missing
