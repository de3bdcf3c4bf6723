"""A commit that depends on nothing goes behind whatever stands there: one statement finds its place.

Only behind commits that were placed, too: what was appended may matter to it. Since the statement does not say which
place it takes, one that arrives late would find one still. So whoever got no answer bars it first, and looks then; and
behind the time that its sender waits for an answer, by the server's clock, it finds none.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from statepath.backend import Commit, moved_behind

_FAR: Final = 1024
"""How many seqs a commit goes behind at once. Who has missed more reads first."""

NOW: Final = "extract(epoch FROM clock_timestamp())::float8"
# Not for as long as the server's clock is set back.
ASKED: Final = "asked BETWEEN clock_timestamp() AND clock_timestamp() + interval '1 minute' AS asked"
PLACE: Final = f"""
WITH place AS (
    UPDATE statepath.stores SET
        head = head + $3, tip = $5, before = tip, placed = head + $3,
        bound = CASE WHEN placed = head THEN bound ELSE head END,
        made = CASE WHEN head = $2 THEN $4 ELSE greatest($4, made + 1) END
    WHERE id = $1 AND clock_timestamp() < to_timestamp($10) AND CASE
        WHEN head = $2 THEN tip = $6 AND (placed <> head OR bound <= $2)
        ELSE placed = head AND bound <= $2 AND head BETWEEN $2 AND $2 + {_FAR}
            AND EXISTS (SELECT FROM statepath.log WHERE store = $1 AND id = $6 AND last = $2)
    END
    RETURNING id, head - $3 AS behind, head, before, made, {ASKED}
), entry AS (
    INSERT INTO statepath.log (store, first, last, id, prev, made, record)
    SELECT id, behind + 1, head, $5, CASE WHEN behind > $2 THEN before END, CASE WHEN behind > $2 THEN made END, $7
    FROM place
)
SELECT (asked, {NOW}, behind, before, made),
    CASE WHEN $8 <> '' AND NOT pg_try_advisory_xact_lock($9) THEN pg_notify($8, head::text) END
FROM place
"""  # noqa: S608 - a constant
# From then on no statement places anything that knew of nothing behind $2. As any commit, it is answered only once all
# before it are confirmed.
BAR: Final = """
UPDATE statepath.stores
SET bound = greatest(CASE WHEN placed = head THEN bound ELSE head END, $2 + 1), placed = head
WHERE id = $1 RETURNING true
"""
FIND: Final = """
SELECT s.floor, l.first, l.prev, l.made FROM statepath.stores s
LEFT JOIN statepath.log l ON l.store = s.id AND l.id = $2 WHERE s.id = $1
"""
# It need not survive a crash.
ASK: Final = """
UPDATE statepath.stores SET asked = clock_timestamp() + $2 * interval '1 second' WHERE id = $1
RETURNING set_config('synchronous_commit', 'off', true)
"""


class Answer(NamedTuple):
    """What the server says of commits that it took: whether somebody asks to be let go first, its clock, and of one
    that it placed behind which seq and which commit that is, and when it was made."""

    asked: bool
    now: float
    behind: int = 0
    before: str = ""
    made: int = 0

    def placed(self, commit: Commit) -> Commit:
        """The commit as it stands there."""
        if commit.first == self.behind + 1:
            return commit
        return moved_behind(commit, self.behind, self.before, self.made - 1)
