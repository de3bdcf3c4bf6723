"""The checkers find what is planted, and nothing else: a checker that finds nothing proves nothing."""

import random
from math import inf

import pytest
from crowd.checkers import Look, Operation, Swap, check_chain, linearizable


def swap(token, parent, begun, ended, done=True):
    return Swap("k", token, parent, begun, ended, done)


SOUND = [
    swap("a", "", 0, 1),
    swap("b", "a", 2, 3),
    swap("c", "b", 4, inf, None),
    swap("x", "a", 2, 3, False),
    swap("y", "b", 4, inf, None),
]
LOOKS = [Look("k", "", 0, 0.5), Look("k", "a", 2, 2.5), Look("k", "b", 3.5, 4), Look("k", "c", 5, 6)]


def test_a_sound_run_is_found_sound():
    assert check_chain(SOUND, LOOKS, {"k": "c"}) == []


@pytest.mark.parametrize(
    ("swaps", "looks", "final", "message"),
    [
        ([*SOUND, swap("fork", "a", 2, 3)], [], "c", "fork was acknowledged and is not in the chain"),
        ([*SOUND, swap("orphan", "nowhere", 2, 3)], [], "c", "orphan was acknowledged"),
        (SOUND, [], "b2", "nobody wrote b2"),
        ([swap("a", "", 0, 1), swap("b", "a", 2, 3)], [], "a", "b was acknowledged"),
        ([swap("a", "", 0, 1), swap("b", "a", 2, 3, False)], [], "b", "b was refused and is in the chain"),
        (SOUND, [Look("k", "a", 3.5, 4)], "c", "a was read when it had been replaced"),
        (SOUND, [Look("k", "", 1.5, 4)], "c", "nothing was read when it had been replaced"),
        (SOUND, [Look("k", "x", 5, 6)], "c", "x was read and is not in the chain"),
        (SOUND, [Look("k", "b", 1, 1.5)], "c", "b was read before it was written"),
        ([swap("a", "b", 0, 1), swap("b", "a", 0, 1)], [], "a", "the chain is a ring"),
    ],
)
def test_a_chain_with_a_planted_fault_is_found_out(swaps, looks, final, message):
    assert any(message in wrong for wrong in check_chain(swaps, looks, {"k": final}))


W, R, D = "write", "read", "delete"


@pytest.mark.parametrize(
    ("operations", "sound"),
    [
        ([(W, "a", 0, 1), (R, "a", 2, 3)], True),
        ([(W, "a", 0, 1), (R, None, 2, 3)], False),
        ([(W, "a", 0, 5), (R, None, 1, 2), (R, "a", 3, 4)], True),
        ([(W, "a", 0, 5), (R, "a", 1, 2), (R, None, 3, 4)], False),
        ([(W, "a", 0, inf), (R, None, 1, 2), (R, "a", 8, 9)], True),
        ([(W, "a", 0, inf), (R, "a", 1, 2), (R, None, 8, 9)], False),
        ([(W, "a", 0, 1), (D, None, 2, 3), (R, None, 4, 5)], True),
        ([(W, "a", 0, 1), (D, None, 2, 3), (R, "a", 4, 5)], False),
        ([(W, "a", 0, 3), (W, "b", 0, 3), (R, "a", 4, 5), (R, "b", 4, 5)], False),
        ([(W, "a", 0, 3), (W, "b", 0, 3), (R, "b", 1, 2), (R, "a", 4, 5)], True),
    ],
)
def test_what_no_order_explains_is_found_out(operations, sound):
    assert linearizable([Operation(*one) for one in operations]) is sound


def run(seed, stale=False):
    """What clients of one register see that takes effect somewhere between begin and end."""
    draw = random.Random(seed)
    moments = sorted((draw.random() * 100, n) for n in range(200))
    value, seen = None, []
    for moment, n in moments:
        kind = draw.choice((W, R, R, D))
        if kind == W:
            value = str(n)
        elif kind == D:
            value = None
        told = "long ago" if stale and kind == R and n == 100 else value
        seen.append(Operation(kind, told, moment - draw.random() * 2, moment + draw.random() * 2))
    return seen


@pytest.mark.parametrize("seed", range(10))
def test_a_long_run_is_judged_in_time(seed):
    assert linearizable(run(seed))
    assert linearizable(run(seed, stale=True)) is not any(
        one.value == "long ago" for one in run(seed, stale=True)
    )
