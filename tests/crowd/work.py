"""What clients do to a store, each in a process of its own."""

from __future__ import annotations

import asyncio
import random
import time
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


async def swap(path: str, number: int, keys: int, times: int, file: str, seed: int) -> None:
    """Compare-and-swap and read, noting each beginning and end."""
    draw, journal = random.Random(seed), Journal(file)
    run = f"{number}.{seed}"
    async with statepath.open(path, autosave=0.5, deadline=10) as store:
        raw = store.collection("raw")
        for n in range(times):
            key = f"k{draw.randrange(keys)}"
            if draw.random() < 0.3:
                journal.note(op="look", key=key, state="begun", n=n, run=run)
                found = await raw.get(key, fresh=True)
                token = "" if found is None else found["token"]
                journal.note(op="look", key=key, state="ended", n=n, run=run, token=token)
                continue
            document = await raw.get_document(key)
            parent, version = ("", 0) if document is None else (document.value["token"], document.version)
            token = f"{run}.{n}"
            journal.note(op="swap", key=key, state="begun", n=n, run=run, token=token, parent=parent)
            try:
                await raw.put({"id": key, "token": token, "parent": parent}, if_version=version)
            except ConflictError:
                done: bool | None = False
            except OutcomeUnknownError:
                journal.note(op="swap", key=key, state="ended", n=n, run=run, done=None)
                return
            except StateError as error:
                if not error.retryable:
                    raise
                done = False
            else:
                done = True
            journal.note(op="swap", key=key, state="ended", n=n, run=run, done=done)
            await asyncio.sleep(draw.random() * 0.005)


async def register(path: str, number: int, times: int, file: str, seed: int) -> None:
    """Write, delete and read one key, unchecked, noting each beginning and end."""
    draw, journal = random.Random(seed), Journal(file)
    run = f"{number}.{seed}"
    async with statepath.open(path, autosave=0, deadline=10) as store:
        raw = store.collection("registers")
        for n in range(times):
            kind = draw.choice(("write", "read", "read", "delete"))
            value = f"{run}.{n}" if kind == "write" else None
            journal.note(kind=kind, state="begun", n=n, run=run, value=value)
            if kind == "write":
                await raw.put({"id": "r", "value": value})
            elif kind == "delete":
                await raw.delete("r")
            else:
                found = await raw.get("r", fresh=True)
                value = None if found is None else str(found["value"])
            journal.note(kind=kind, state="ended", n=n, run=run, value=value)


async def lead(path: str, number: int, seconds: float, ttl: float) -> None:
    """Take the lease again and again, and write under it."""
    until = time.monotonic() + seconds
    async with statepath.open(path, autosave=0) as store:
        terms = store.collection("terms")
        while time.monotonic() < until:
            try:
                async with store.lease("leader", ttl=ttl, wait=ttl) as lease:
                    for n in range(20):
                        await terms.put({"id": "leader", "epoch": lease.epoch, "by": number, "n": n})
                        await asyncio.sleep(0.01)
            except (LeaseHeldError, LeaseLostError):
                continue
