"""Rows in columns, as the command line shows them."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.text import Text
from statepath.cli.columns import lined_up
from statepath.cli.output import Output

COLUMNS = ("ID", "VERSION#", "DOCUMENT")


def lines(rows, width=80, columns=COLUMNS):
    return [line.plain for line in lined_up(columns, rows, width)]


def test_each_column_is_as_wide_as_its_widest_cell_and_numbers_stand_right():
    assert lines([("task_1", 7, "{}"), ("a", 1234567890, '{"n":1}')]) == [
        "ID         VERSION  DOCUMENT",
        "task_1           7  {}",
        'a       1234567890  {"n":1}',
    ]


def test_what_does_not_fit_is_cut_in_the_last_column():
    heading, line = lines([("task_1", 7, "x" * 100)], width=30)
    assert line == "task_1        7  xxxxxxxxxxxx…"
    assert len(line) == 30
    assert heading == "ID      VERSION  DOCUMENT"


def test_no_other_column_is_cut_and_the_last_keeps_the_width_of_its_heading():
    assert lines([("x" * 40, 7, "y" * 40)], width=30)[1] == "x" * 40 + "        7  yyyyyyy…"


def test_a_number_is_cut_in_no_column():
    assert lines([("x" * 40, "617 B")], width=30, columns=("KEY", "SIZE#"))[1] == "x" * 40 + "  617 B"


def test_a_character_of_two_cells_takes_two():
    _, *found = lines([("中文", 7, "中" * 100), ("abcd", 7, "x" * 100)], width=40)
    assert [line.index("7") for line in found] == [10, 12]
    assert max(map(cell_len, found)) <= 40


def test_a_cell_keeps_its_style():
    heading, line = lined_up(("KILL#", "LOST#"), [(1, Text("0", style="bold red"))], 80)
    assert heading.style == "bold"
    assert [(line.plain[span.start : span.end].strip(), span.style) for span in line.spans] == [
        ("0", "bold red")
    ]


def test_a_long_table_is_told_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []

    class Stream(io.StringIO):
        def flush(self) -> None:
            told.append(self.getvalue())

    monkeypatch.setattr("sys.stdout", Stream())
    Output(as_json=False).table(COLUMNS, [(n, n, "{}") for n in range(2500)])
    assert len(told) > 2
    assert 0 < told[0].count("\n") < told[-1].count("\n") == 2501
