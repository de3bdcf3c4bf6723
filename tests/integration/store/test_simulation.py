"""The commit loop, the log and the leases under 2,000 seeds of delays, lost answers, late requests and stopped writers.

The seeds are split over a few tests, so that they run side by side. A seed that fails replays exactly:
`simulate(seed).trace` tells each request and each outcome, in order.
"""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
from crowd.simulation import simulate
from statepath.backend import ALWAYS, IF_ABSENT
from statepath.commit import slot_key
from statepath.engine.catching_up import CatchingUp
from statepath.errors import AlreadyExistsError, StateError
from statepath.log import PortableCommitLog

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unlogged")]

SEEDS = 2000
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_breaks_a_promise(part):
    outcomes = set()
    for seed in range(part, SEEDS, PARTS):
        run = simulate(seed)
        assert run.wrong == [], f"seed {seed}"
        outcomes |= set(run.fates.values())
    assert outcomes == {"done", "refused", "unknown"}


def test_a_seed_replays_exactly():
    first, again, another = simulate(11), simulate(11), simulate(12)
    assert first.trace == again.trace
    assert first.fates == again.fates
    assert first.trace != another.trace


async def _advance_without_reading(self):
    replica = self._handle.replica
    async with self.advancing:
        async for commit in self._handle.log.read(replica.head):
            replica.head, replica.commit = commit.last, commit.id


async def _overwrite(self, record):
    try:
        await self._backend.write(slot_key(record.first), record.encode(), when=ALWAYS)
    except StateError:
        self._unresolved = record
        raise
    return True


async def _believe_that_it_exists(self, record):
    try:
        await self._backend.write(slot_key(record.first), record.encode(), when=IF_ABSENT)
    except AlreadyExistsError:
        return False
    return True


async def _give_up_at_once(self, call, record):
    try:
        return await call(record)
    finally:
        self._unresolved = None


_NO_FENCES = SimpleNamespace(get=lambda: (), set=lambda fences: None, reset=lambda token: None)

PLANTED = {
    "skip the re-read": patch.object(CatchingUp, "catch_up", _advance_without_reading),
    "reuse a slot": patch.object(PortableCommitLog, "_send", _overwrite),
    "trust a 412": patch.object(PortableCommitLog, "_send", _believe_that_it_exists),
    "take an unknown outcome for a failure": patch.object(PortableCommitLog, "_insist", _give_up_at_once),
    "ignore the epoch": patch("statepath.engine.committer.FENCES", _NO_FENCES),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug):
    with PLANTED[bug]:
        assert any(simulate(seed).wrong for seed in range(SEEDS // 4)), bug
