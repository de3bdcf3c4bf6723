"""How fast a mirror ships beside the saves of its own process."""

import pytest
from statepath.engine.pacing import BUSY, FLOODED, Pace


class Saves:
    """Seconds, and the bytes saved in them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.saved = 0
        self.pace = Pace(lambda: self.saved, lambda: self.now)

    def go_on(self, seconds: float, rate: float) -> float:
        self.now += seconds
        self.saved += int(seconds * rate)
        return self.pace.limit


@pytest.mark.parametrize("rate", [0, BUSY / 2, BUSY])
def test_what_a_replica_can_keep_up_with_is_shipped_at_full_speed(rate: float) -> None:
    saves = Saves()
    assert [saves.go_on(0.5, rate) for _ in range(8)] == [BUSY] * 8


def test_where_it_cannot_the_saves_come_first() -> None:
    saves = Saves()
    assert saves.go_on(2, 10 * BUSY) == FLOODED
    assert FLOODED < saves.go_on(2, 1.2 * BUSY) < BUSY


def test_after_a_flood_it_goes_on_at_full_speed() -> None:
    saves = Saves()
    saves.go_on(2, 10 * BUSY)
    assert saves.go_on(2, BUSY) == BUSY


def test_a_moment_says_nothing() -> None:
    saves = Saves()
    assert saves.go_on(0.01, 100 * BUSY) == BUSY
    assert saves.go_on(1.99, 0) == BUSY
