"""The commits that the rows of the log hold, and what is wrong with these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from statepath.backend import Commit, decode_commit, moved_behind, slot_key
from statepath.errors import CorruptionError

from statepath_postgres.config import SCHEME


def standing(row: Any, commit: Commit) -> Commit:
    """The commit of a record as it stands in a row of the log."""
    prev = row["prev"]
    return commit if prev is None else moved_behind(commit, row["first"] - 1, prev, row["made"] - 1)


def commits_of(rows: Sequence[Any], last: int, previous: str) -> tuple[list[Commit], CorruptionError | None]:
    """The commits of the rows behind the seq `last`, and what is wrong behind these."""
    commits: list[Commit] = []
    for row in rows:
        try:
            commits.append(_checked(row, last, previous, begins=not commits and not previous))
        except CorruptionError as error:
            return commits, error
        last, previous = commits[-1].last, commits[-1].id
    return commits, None


def _checked(row: Any, last: int, previous: str, *, begins: bool) -> Commit:
    """The commit of a row, which has to continue what was read before it.

    Raises:
        CorruptionError: it does not, or is damaged.
    """
    first = row["first"]
    missing = slot_key(last + 1)
    if first is None or (first > last + 1 if begins else first != last + 1):
        raise CorruptionError(
            f"{missing} is missing, and the log says that it was durable", key=missing, backend=SCHEME
        )
    key = slot_key(first)
    try:
        commit = standing(row, decode_commit(row["record"]))
    except CorruptionError as error:
        raise CorruptionError(f"{key}: {error}", key=key, backend=SCHEME) from error
    if (commit.first, commit.last) != (first, row["last"]):
        raise CorruptionError(
            f"{key} holds the commit that begins at {commit.first}", key=key, backend=SCHEME
        )
    if previous and commit.prev != previous:
        raise CorruptionError(f"{key} does not continue the commit before it", key=key, backend=SCHEME)
    return commit
