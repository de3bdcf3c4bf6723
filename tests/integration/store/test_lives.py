"""All of a store at once, under seeds: opened, used, killed, recovered, read beside, over a storage that fails.

A seed that fails replays: `python tests/crowd/lives.py SEED` tells what is wrong, and
`live(seed).faults.trace` each request.
"""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from crowd.lives import live
from msgspec.structs import replace
from statepath.engine.catching_up import CatchingUp
from statepath.engine.engine import Engine
from statepath.engine.floor import read_floor, write_floor
from statepath.engine.founding import Founding
from statepath.engine.replica import Stage
from statepath.engine.shipping import Shipping
from statepath.engine.snapshotter import Snapshotter
from statepath.engine.unwritten import Unwritten
from statepath.errors import AlreadyExistsError, ConflictError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unlogged")]

SEEDS = 12
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_breaks_a_promise(part):
    for seed in range(part, SEEDS, PARTS):
        assert live(seed).wrong == [], f"seed {seed}"


def test_a_seed_replays_exactly():
    first, again, another = live(9), live(9), live(12)
    assert first.faults.trace == again.faults.trace
    assert first.fates == again.fates
    assert first.faults.trace != another.faults.trace


def test_a_seed_replays_exactly_in_another_process():
    code = "from crowd.lives import live; print(*live(9).faults.trace, sep='\\n')"
    replays = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": hashes},
            stdout=subprocess.PIPE,
        )
        for hashes in ("0", "1")
    ]
    first, again = (replay.communicate()[0] for replay in replays)
    assert first
    assert first == again


async def _replace_whatever_is_there(self, **changes):
    floor = replace(self.floor, **changes)
    while True:
        try:
            self._floor_etag = await write_floor(self._backend, floor, self._floor_etag)
        except (ConflictError, AlreadyExistsError):
            stored = await read_floor(self._backend)
            self._floor_etag = stored[1] if stored else None
        else:
            break
    self.floor = floor


def _note_nothing(self, changes, seq):
    return None


def _forget_deletions(self, change, seq, time, apply=Stage.apply):
    if type(change).__name__ != "Delete":
        apply(self, change, seq, time)


async def _bring_nothing(self, *_):
    return None


async def _bring_no_bodies(self, transaction, bodies, changes=Shipping._changes):
    return await changes(self, transaction, [])


async def _find_none(log, floor):
    return {}


def _allow(self, replica):
    return None


def _take_ours(base, theirs, ours):
    return ours


async def _leave_out(self, commits, upto):
    self._handle.replica.head = upto


PLANTED = {
    "replace the record of another one": (
        6,
        patch.object(Snapshotter, "save_floor", _replace_whatever_is_there),
    ),
    "read the files alone": (43, patch.object(Unwritten, "note", _note_nothing)),
    "make a replica without its files": (4, patch.object(Founding, "_files", _bring_nothing)),
    "ship no bodies": (1, patch.object(Shipping, "_changes", _bring_no_bodies)),
    "ship no archive": (9, patch.object(Shipping, "_bring", _bring_nothing)),
    "forget the keys of the journal": (2, patch("statepath.encryption.rotation._records", _find_none)),
    "forget deletions": (1, patch.object(Stage, "apply", _forget_deletions)),
    "go on as the program of before": (9, patch.object(Engine, "check_writable", _allow)),
    "merge as if nobody else had changed it": (25, patch("statepath.merging.merge", _take_ours)),
    "leave out what a commit went behind": (8, patch.object(CatchingUp, "come_behind", _leave_out)),
}
"""Bugs, each with a seed that finds it. Where the lives are others, look for another one."""


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug):
    seed, planted = PLANTED[bug]
    with planted:
        assert live(seed).wrong, bug
