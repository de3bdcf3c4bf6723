"""`migrate sql`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]


def test_migrate_sql_prints_the_schema_and_connects_to_nothing(cli: Run) -> None:
    answer = cli("migrate", "sql", "--state-path", "postgresql://nobody@nowhere.invalid/db")
    assert answer.code == 0
    assert answer.out.startswith("-- statepath")
    assert answer.out.endswith("COMMIT;\n")
    assert "CREATE TABLE statepath.log" in answer.out


def test_migrate_sql_as_json(cli: Run) -> None:
    answer = cli("migrate", "sql", "--json", "--state-path", "postgresql://nobody@nowhere.invalid/db")
    assert answer.json["sql"].startswith("-- statepath")


def test_migrate_sql_of_a_storage_without_a_schema_says_so(cli: Run, path: str) -> None:
    answer = cli("migrate", "sql", "-s", path)
    assert answer.code == 1
    assert "needs no schema" in answer.err
