"""Who has had the log for a while lets somebody else go first, if others want it."""

from __future__ import annotations

import pytest
from statepath.turns import Turns


@pytest.fixture
def turns() -> Turns:
    return Turns()


def win(turns: Turns, begun: float, until: float, took: float = 0.01) -> float:
    """Commit without a pause; when that ends, or a rest is due."""
    now = begun
    while now < until and not turns.rest(now):
        turns.won(now, now + took)
        now += took
    return now


def test_who_never_lost_never_rests(turns: Turns) -> None:
    assert win(turns, 0.0, 60.0) >= 60.0


def test_who_lost_lately_rests_behind_its_turn_for_a_few_commits(turns: Turns) -> None:
    turns.lost(1.0)
    now = win(turns, 1.0, 60.0)
    assert 1.25 < now < 1.27
    assert turns.rest(now) == pytest.approx(0.05)
    assert turns.rest(now + 0.05) == 0


def test_a_turn_begins_anew_behind_a_rest(turns: Turns) -> None:
    turns.lost(1.0)
    now = win(turns, 1.0, 60.0)
    now += turns.rest(now)
    assert win(turns, now, 60.0) == pytest.approx(now + 0.26, abs=0.011)


def test_a_turn_begins_behind_what_somebody_else_had(turns: Turns) -> None:
    turns.lost(1.0)
    win(turns, 1.0, 1.2)
    turns.lost(1.2)
    assert win(turns, 1.2, 60.0) == pytest.approx(1.46, abs=0.011)


def test_nobody_waits_for_others_that_have_long_been_silent(turns: Turns) -> None:
    turns.lost(1.0)
    now = 1.0
    rests = 0
    while (now := win(turns, now, 60.0)) < 60.0:
        now += turns.rest(now)
        rests += 1
    assert 20 < rests < 40


def test_a_rest_is_bounded_where_a_commit_takes_long(turns: Turns) -> None:
    turns.lost(0.0)
    turns.won(0.0, 30.0)
    turns.lost(30.0)
    turns.won(30.0, 31.0)
    assert turns.rest(31.0) == 0.5


def test_who_is_asked_rests_for_so_long_and_three_seconds_at_most(turns: Turns) -> None:
    turns.asked(1.0, 0.7)
    assert turns.rest(1.0) == pytest.approx(0.7)
    turns.asked(2.0, 60.0)
    assert turns.rest(2.0) == pytest.approx(3.0)


def test_a_commit_that_takes_long_shortens_no_rest_that_was_asked_for(turns: Turns) -> None:
    turns.asked(1.0, 2.0)
    turns.won(0.7, 1.0)
    assert turns.rest(1.0) == pytest.approx(2.0)


def test_who_was_asked_knows_of_others_from_then_on(turns: Turns) -> None:
    turns.asked(1.0, 0.0)
    assert win(turns, 1.0, 60.0) < 1.27
