"""What clients do to a store, each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import statepath
from crowd.processes import Journal, begin
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    LeaseHeldError,
    LeaseLostError,
    OutcomeUnknownError,
    StateError,
)

LEASE = 1.0
"""The time to live of the lease that clients take, in seconds."""


async def create(start: float, number: int, path: str) -> bool:
    """Create the one document; whether this client did."""
    async with statepath.open(path, autosave=0) as store:
        await begin(start)
        try:
            await store.collection("raw").create({"id": "one", "by": number})
        except AlreadyExistsError:
            return False
        return True


async def count(start: float, number: int, path: str, times: int) -> list[int]:
    """Increment the counter so often; which numbers this client made of it."""
    made: list[int] = []

    def increment(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "n": document["n"] + 1}

    async with statepath.open(path, autosave=1) as store:
        counters = store.collection("counters")
        await begin(start)
        while len(made) < times:
            try:
                made.append(int(str((await counters.update("n", increment))["n"])))
            except ConflictError:
                continue
    return made


async def write_everything(start: float, number: int, path: str, times: int) -> list[str]:
    """Documents, session logs, reports, all at once with others; what was told to be wrong."""
    troubles: list[str] = []
    events = statepath.Events()
    for name in ("state:save-error", "edit:conflict", "corruption:detected", "backup:error"):
        events.on(name, lambda event: troubles.append(repr(event)))
    async with statepath.open(path, autosave=0.2, events=events) as store:
        await begin(start)
        for n in range(times):
            await store.collection("docs").put({"id": f"{number}-{n % 5}", "n": n})
            await store.append_log("shared", f"{number}:{n}\n")
            await store.save_report("shared", {"by": number, "n": n})
            if n == times // 2:
                await store.backup()
    return troubles


async def watch(path: str, until: int) -> list[tuple[int, str]]:
    """Every change as it is told, up to the seq."""
    told: list[tuple[int, str]] = []
    async with statepath.open(path, autosave=0) as store:
        async for change in store.watch(since=0):
            told.append((change.seq, change.key))
            if change.seq >= until:
                break
    return told


async def save_in_lanes(path: str, first: int, file: str) -> None:
    """Save two documents in a transaction, again and again in eight lanes from that step on, noting each step that was
    acknowledged."""
    journal = Journal(file)

    async def save(lane: int) -> None:
        n = first
        while True:
            async with store.transaction() as tx:
                tx.put(store.collection("raw"), {"id": str(lane), "n": n})
                tx.put(store.collection("other"), {"id": str(lane), "n": n})
            journal.note(lane=str(lane), n=n)
            n += 1

    async with statepath.open(path, autosave=0.2) as store:
        await asyncio.gather(*(save(lane) for lane in range(8)))


async def swap(path: str, number: int, keys: int, times: int, file: str, seed: int) -> None:
    """Compare-and-swap and read, noting each beginning and end."""
    async with statepath.open(path, autosave=0.5, deadline=10) as store:
        noted = _Noted(store, file, f"{number}.{seed}", random.Random(seed))
        for n in range(times):
            key = f"k{noted.draw.randrange(keys)}"
            if noted.draw.random() < 0.3:
                await noted.look(n, key)
            elif not await noted.swap(n, key):
                return
            await asyncio.sleep(noted.draw.random() * 0.005)


async def register(path: str, number: int, times: int, file: str, seed: int) -> None:
    """Write, delete and read one key, unchecked, noting each beginning and end."""
    async with statepath.open(path, autosave=0, deadline=10) as store:
        noted = _Noted(store, file, f"{number}.{seed}", random.Random(seed))
        for n in range(times):
            if not await noted.register(n, "r"):
                return


async def everything(
    path: str, number: int, keys: int, begin_at: int, times: int, file: str, seed: int
) -> None:
    """Compare-and-swap, unchecked changes, and changes under a lease, of a process whose clock is wrong, and which
    stops itself now and then while it holds the lease. It ends early where it cannot know what became of a change."""
    draw = random.Random(seed)
    _set_clock_wrong(draw)
    # A service that is silent for so long may be so at the beginning, and at the end.
    with _retryable():
        async with statepath.open(path, autosave=0.5, deadline=10) as store:
            await _do_everything(_Noted(store, file, f"{number}.{seed}", draw), keys, begin_at, times)


async def _do_everything(noted: _Noted, keys: int, begin_at: int, times: int) -> None:
    draw = noted.draw
    for n in range(begin_at, begin_at + times):
        key, kind = f"k{draw.randrange(keys)}", draw.random()
        if kind < 0.15:
            known = await noted.look(n, key)
        elif kind < 0.55:
            known = await noted.swap(n, key)
        elif kind < 0.97:
            known = await noted.register(n, key)
        else:
            known = await noted.lead(n)
        if not known:
            return


class _Noted:
    """What one client does, each beginning and end of it noted. An operation gives `False` where nobody knows what
    became of it: then the handle takes no more."""

    def __init__(self, store: statepath.Store, file: str, run: str, draw: random.Random) -> None:
        self.store = store
        self.draw = draw
        self._journal = Journal(file)
        self._run = run

    def _note(self, n: int, state: str, **facts: Any) -> None:
        self._journal.note(n=n, run=self._run, state=state, **facts)

    async def look(self, n: int, key: str) -> bool:
        self._note(n, "begun", op="look", key=key)
        with _retryable():
            found = await self.store.collection("raw").get(key, fresh=True)
            self._note(n, "ended", token="" if found is None else found["token"])
        return True

    async def swap(self, n: int, key: str) -> bool:
        raw = self.store.collection("raw")
        document = await raw.get_document(key)
        parent, version = ("", 0) if document is None else (document.value["token"], document.version)
        token = f"{self._run}.{n}"
        self._note(n, "begun", op="swap", key=key, token=token, parent=parent)
        done: bool | None = False
        try:
            with _retryable():
                await raw.put({"id": key, "token": token, "parent": parent}, if_version=version)
                done = True
        except ConflictError:
            pass
        except OutcomeUnknownError:
            done = None
        self._note(n, "ended", done=done)
        return done is not None

    async def register(self, n: int, key: str) -> bool:
        registers = self.store.collection("registers")
        op = self.draw.choice(("write", "read", "read", "delete"))
        value = f"{self._run}.{n}" if op == "write" else None
        self._note(n, "begun", op=op, key=key, value=value)
        refused = True
        try:
            with _retryable():
                if op == "write":
                    await registers.put({"id": key, "value": value})
                elif op == "delete":
                    await registers.delete(key)
                else:
                    found = await registers.get(key, fresh=True)
                    value = None if found is None else str(found["value"])
                refused = False
        except OutcomeUnknownError:
            return False
        self._note(n, "ended", value=value, refused=refused)
        return True

    async def lead(self, n: int) -> bool:
        """Change something under the lease; once in a while stop for longer than it lives, and try to go on."""
        terms = self.store.collection("terms")
        try:
            with _retryable():
                async with self.store.lease("leader", ttl=LEASE, wait=0) as lease:
                    for part in range(3):
                        if part == 1 and self.draw.random() < 0.5:
                            os.kill(os.getpid(), signal.SIGSTOP)
                        await terms.put({"id": "leader", "epoch": lease.epoch, "by": self._run, "n": n})
        except (LeaseHeldError, LeaseLostError, ConflictError):
            return True
        except OutcomeUnknownError:
            return False
        return True


@contextmanager
def _retryable() -> Iterator[None]:
    """Take that the storage did nothing: that is no violation."""
    try:
        yield
    except OutcomeUnknownError:
        raise
    except StateError as error:
        if isinstance(error, ConflictError) or not error.retryable:
            raise


def _set_clock_wrong(draw: random.Random) -> None:
    """Have the clock of this process be hours or days off, and jump."""
    real, real_ns = time.time, time.time_ns
    offsets = (0.0, -7200.0, 30.0, 86400.0 * 2)
    off = draw.choice(offsets)

    def offset() -> float:
        nonlocal off
        if draw.random() < 0.001:
            off = draw.choice(offsets)
        return off

    time.time = lambda: real() + offset()
    time.time_ns = lambda: real_ns() + int(offset() * 1e9)


async def stop_leading(path: str, ttl: float) -> str:
    """Take the lease, be stopped, and try to go on when it is another one's; what came of it."""
    async with statepath.open(path, autosave=0) as store:
        terms = store.collection("terms")
        async with store.lease("leader", ttl=ttl) as lease:
            await terms.put({"id": "leader", "epoch": lease.epoch, "by": "first"})
            # Not while a thread still holds a file's lock: a process that is stopped there keeps the others waiting.
            await store.flush()
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGSTOP)
            try:
                await terms.put({"id": "leader", "epoch": lease.epoch, "by": "late"})
            except LeaseLostError:
                return "refused"
            return "committed"


async def lead(path: str, number: int, ttl: float) -> None:
    """Take the lease and write under it, again and again until there is an end."""
    async with statepath.open(path, autosave=0) as store:
        terms = store.collection("terms")
        while await terms.get("end") is None:
            with suppress(LeaseLostError):
                async with store.lease("leader", ttl=ttl) as lease:
                    for n in range(20):
                        await terms.put({"id": "leader", "epoch": lease.epoch, "by": number, "n": n})
                        await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)  # the other one's turn
