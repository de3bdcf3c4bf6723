"""What lasts for years costs: verify beside hashing, a way back among many commits, a copy between two object stores,
and the memory of all of them.

    python tests/benchmarks/years.py [--quick] [--dir FOLDER] [--json FILE]

What is compared takes turns. Speeds are by processor time, as the page cache holds what is read; bytes are those that
the process has read, by the kernel's count; requests are those that passed a proxy.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

sys.path.insert(0, str(Path(__file__).parents[1]))

import statepath
from documents import Task, make_tasks
from measure import Ratio, arguments, describe, report, workplace
from servers import gcs, s3
from servers.proxy import Proxy
from servers.services import gcs_service, s3_service
from statepath.discovery import connect

SIZE = 2048
DOCUMENTS = 20_000
COMMITS = 100_000
LIVE = 10_000
ARCHIVED = 1_000_000
SMALL = SIZE // 8
"""The bytes of a document of which there are very many."""

SNAPSHOTS = 10
PIECE = 16 * 1024 * 1024
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Verification:
    """Bytes, and the seconds of processor time to hash and to verify them, a pair a round."""

    bytes: int
    hashing: list[float]
    verifying: list[float]


@dataclass(frozen=True, slots=True)
class Way:
    """What a restore of one version read, and the sizes of the snapshot and of the segments that it needs."""

    read: int
    snapshot: int
    segments: int


@dataclass(frozen=True, slots=True)
class Requests:
    """How many requests a copy took, and how many one by one would."""

    copy: int
    singly: int


async def fill(path: str, tasks: list[Task]) -> None:
    async with statepath.open(path, autosave=0, views=False) as store:
        turns = iter(tasks)

        async def save() -> None:
            for task in turns:
                await store.collection("tasks", Task).put(task)

        async with asyncio.TaskGroup() as group:
            for _ in range(512):
                group.create_task(save())
        await store.backup()


def files(folder: str) -> list[Path]:
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def hash_all(paths: list[Path]) -> int:
    size = 0
    for path in paths:
        digest = sha256()
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                size += len(piece)
    return size


async def verification(folder: str, count: int, rounds: int) -> Verification:
    await fill(folder, make_tasks(count, SIZE))
    hashing, verifying, size = [], [], 0
    async with statepath.open(folder, readonly=True, views=False) as store:
        for _ in range(rounds):
            start = process_time()
            size = hash_all(files(folder))
            hashing.append(process_time() - start)
            start = process_time()
            assert await store.verify() == []
            verifying.append(process_time() - start)
    return Verification(size, hashing, verifying)


async def way_back(folder: str, commits: int) -> Way:
    """Restore a version in the middle of a long history to another place."""
    async with statepath.open(folder, autosave=0, views=False, backups=SNAPSHOTS) as store:
        tasks = store.collection("tasks", Task)
        for n, task in enumerate(make_tasks(commits, SMALL), 1):
            await tasks.put(task.model_copy(update={"id": f"task_{n % 1000:04d}"}))
            if n % (commits // SNAPSHOTS) == 0:
                await store.snapshot()
        at = commits // 2 + commits // SNAPSHOTS // 2
        base = (await store.backups())[SNAPSHOTS // 2 - 1]
    async with statepath.open(folder, readonly=True, views=False) as store:
        before = bytes_read()
        await store.restore(at=at, to="memory://restored")
        read = bytes_read() - before
    firsts = sorted(int(path.stem) for path in Path(folder, "journal").glob("*.jsonl"))
    begins = [first for first in firsts if first <= commits // 2][-1]
    needed = [first for first in firsts if begins <= first <= at]
    sizes = sum(Path(folder, "journal", f"{first:020d}.jsonl").stat().st_size for first in needed)
    return Way(read, Path(folder, base).stat().st_size, sizes)


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


async def requests(tasks: list[Task]) -> Requests:
    """A copy from one object store to another, and some objects one by one the same way."""
    async with AsyncExitStack() as stack:
        source = s3_service("seaweed", stack.enter_context(s3.seaweed()))
        target = gcs_service("gcs", stack.enter_context(gcs.complete()))
        await fill(source.path("from"), tasks)
        proxies = [
            await stack.enter_async_context(Proxy(service.endpoint).running()) for service in (source, target)
        ]
        source, target = source.at(proxies[0].url), target.at(proxies[1].url)
        await statepath.copy(source.path("from"), target.path("to"))
        copied = sum(len(proxy.requests) for proxy in proxies)
        singly = await one_by_one(source.path("single"), target.path("single"), tasks[::100], proxies)
        return Requests(copied, singly * 100)


async def one_by_one(source: str, target: str, tasks: list[Task], proxies: list[Proxy]) -> int:
    there, here = await connect(source), await connect(target)
    try:
        for task in tasks:
            await there.write(f"tasks/{task.id}.json", task.model_dump_json().encode())
        before = sum(len(proxy.requests) for proxy in proxies)
        for task in tasks:
            key = f"tasks/{task.id}.json"
            await here.write(key, (await there.read(key)).data)
        return sum(len(proxy.requests) for proxy in proxies) - before
    finally:
        await there.close()
        await here.close()


async def opening(folder: str, live: int, archived: int, rounds: int) -> list[float]:
    """Processor time to open a store with so many documents archived / that of one where as many were deleted."""
    gone = make_tasks(live, SMALL)
    for path in (folder, f"{folder}-deleted"):
        await fill(path, make_tasks(live, SIZE))
        async with statepath.open(path, autosave=0, views=False) as store:
            collection = store.collection("tasks", Task)
            for turn in range(archived // live):
                done = [
                    task.model_copy(update={"id": f"{turn}_{task.id}", "status": "done"}) for task in gone
                ]
                async with store.transaction() as tx:
                    for task in done:
                        tx.put(collection, task)
                if path == folder:
                    assert (await store.archive("tasks", older_than="0s", status="done")).documents == live
                    continue
                async with store.transaction() as tx:
                    for task in done:
                        tx.delete(collection, task.id)
    ratios = []
    for _ in range(rounds):
        took = []
        for path in (folder, f"{folder}-deleted"):
            gc.collect()
            start = process_time()
            async with statepath.open(path, readonly=True, views=False) as store:
                took.append(process_time() - start)
                assert (await store.stats()).documents == {"tasks": live}
        ratios.append(took[0] / took[1])
    return ratios


async def growth(folder: str, what: str) -> int:
    """By how many bytes the memory of a process grows at most that has opened the store and does this."""
    async with statepath.open(folder, readonly=True, views=False) as store:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak()
        if what == "verify":
            await store.verify()
        elif what == "export":
            await store.export(f"{folder}.zip")
        elif what == "copy":
            await statepath.copy(folder, f"{folder}-copy")
        elif what == "open":
            await (await statepath.open(folder, readonly=True, views=False)).aclose()
        return peak() - before


def peak() -> int:
    """The most memory that the process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def apart(work: Callable[..., Awaitable[object]], *args: object) -> object:
    """The result of a measurement in a process of its own."""
    with (
        timed(getattr(work, "__name__", "")),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(run, work, *args).result()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long it took, as all of it takes minutes."""
    begun = perf_counter()
    yield
    print(f"{what.replace('_', ' ')}: {perf_counter() - begun:.0f} s", flush=True)


def run(work: Callable[..., Awaitable[object]], *args: object) -> object:
    async def working() -> object:
        return await work(*args)

    return asyncio.run(working())


@contextmanager
def only_test_credentials() -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("STATE_", "AWS_"))]:
        del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": s3.KEY,
        "AWS_SECRET_ACCESS_KEY": s3.SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    yield


def main() -> None:
    options = arguments(ArgumentParser(description="Measures verify, restore, copy and their memory."))
    share = 10 if options.quick else 1
    with only_test_credentials(), workplace(options.dir) as folder:
        place = describe(folder)
        verified = apart(verification, str(folder / "verify"), 2 * DOCUMENTS // share, 5 * options.rounds)
        assert isinstance(verified, Verification)
        way = apart(way_back, str(folder / "history"), COMMITS // share)
        assert isinstance(way, Way)
        opened = apart(opening, str(folder / "archive"), LIVE // share, ARCHIVED // share, 5 * options.rounds)
        assert isinstance(opened, list)
        with timed("requests"):
            asked = asyncio.run(requests(make_tasks(DOCUMENTS // share, SIZE)))
        grown = {
            what: int(str(apart(growth, str(folder / "verify"), what)))
            for what in ("verify", "export", "copy", "open")
        }
    ratios = [
        Ratio(
            "verify / hashing the same bytes, speed by processor time",
            median(
                hashing / verifying
                for hashing, verifying in zip(verified.hashing, verified.verifying, strict=True)
            ),
            0.5,
            True,
        ),
        Ratio(
            f"bytes that a restore among {COMMITS // share:,} commits reads / its snapshot and segments",
            way.read / (way.snapshot + way.segments),
            1.1,
            False,
        ),
        Ratio(
            f"opening with {LIVE // share:,} live and {ARCHIVED // share:,} archived / with as many deleted",
            median(opened),
            1.15,
            False,
        ),
        Ratio("requests of a copy / one by one", asked.copy / asked.singly, 1 / 20, False),
        Ratio("memory of verify beside the open store, MB", grown["verify"] / MB, 128, False),
        Ratio("memory of an export beside the open store, MB", grown["export"] / MB, 64, False),
        Ratio(
            "memory of a copy beside opening the store, which it does itself, MB",
            (grown["copy"] - grown["open"]) / MB,
            64,
            False,
        ),
    ]
    print(
        f"verify: {verified.bytes / MB:,.0f} MB; restore read {way.read / MB:,.1f} MB; copy: {asked.copy} requests;"
    )
    print(", ".join(f"{what} took {size / MB:,.0f} MB" for what, size in grown.items()))
    results = {
        "verify": asdict(verified),
        "restore": asdict(way),
        "opening": opened,
        "requests": asdict(asked),
        "memory": grown,
    }
    report(place, results, ratios, options.json)


if __name__ == "__main__":
    main()
