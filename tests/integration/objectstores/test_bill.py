"""What the pages of the object stores say that it costs is what is counted."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import statepath
import statepath.asking
from statepath.engine.health import answers, free_space, look
from statepath.objectstore import probe

DOCS = Path(__file__).parents[3] / "docs"
PAGES = {"s3": "s3.md", "gs": "gcs.md", "az": "azure.md"}
WORDS = {
    "s3": {"PUT": "write", "COPY": "copy", "LIST": "list", "GET": "read", "HEAD": "look", "DELETE": "delete"},
    "gs": {"insert": "write", "rewrite": "copy", "list": "list", "get": "read", "delete": "delete"},
    "az": {
        "Put Blob": "write",
        "Copy Blob": "copy",
        "List Blobs": "list",
        "Get Blob Properties": "look",
        "Get Blob": "read",
        "Delete Blob": "delete",
    },
}


def operation(request):
    """What is billed for a request, whatever the service calls it."""
    head, path = request.head.lower(), urlsplit(request.target).path
    if request.method in ("PUT", "POST"):
        copies = b"-copy-source:" in head or "/rewriteTo/" in path or "/copyTo/" in path
        return "copy" if copies else "write"
    if request.method == "GET":
        listing = "list-type=2" in request.target or "comp=list" in request.target or path.endswith("/o")
        return "list" if listing else "read"
    return {"HEAD": "look", "DELETE": "delete"}[request.method]


@pytest.fixture
def bill(requests):
    """The requests since the last look, of each kind."""

    def since():
        return Counter(map(operation, requests()))

    return since


@pytest.fixture
def told(service):
    """What the page says of something: a row of its table, and how often what it says of each is counted."""
    scheme = service.root.partition(":")[0]
    page, words = (DOCS / PAGES[scheme]).read_text(), WORDS[scheme]
    number = re.compile(rf"(\d+) ({'|'.join(words)})\b")

    def row(begins, each=1):
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {begins}")]
        counted = Counter()
        for cell in line.split(" | ")[1:]:
            once, _, more = cell.partition("for each")
            for part, times in ((once, 1), (more, each)):
                for amount, word in number.findall(part):
                    counted[words[word]] += int(amount) * times
        return +counted

    return row


async def saves(store, count):
    for n in range(count):
        await store.collection("raw").put({"id": "a", "n": n})


async def test_a_commit(counted, bill, told, monkeypatch):
    async with statepath.open(counted, autosave=0) as store:
        await saves(store, 1)
        bill()
        await saves(store, 1)
        assert bill() == told("a commit:")
        monkeypatch.setattr(store._engine.log, "_head_seen", float("-inf"))
        await saves(store, 1)
        assert bill() == told("a commit:") + told("a commit more than 30 s")


async def test_turns(counted, bill, told, monkeypatch):
    monkeypatch.setattr(statepath.asking, "_LOOK", 0.0)
    async with statepath.open(counted, autosave=0) as store:
        await saves(store, 10)
        bill()
        await saves(store, 1)
        assert bill() == told("a commit:") + told("a look whether another writer asks")
        for moment in (0.0, 2.0):
            store._engine.log._asking.lost(moment)
        await saves(store, 1)
        assert bill() == told("a commit:") + told("asking for one")


async def test_a_snapshot(counted, bill, told):
    async with statepath.open(counted, autosave=0, backups=2) as store:
        for _ in range(4):
            await saves(store, 1)
            await store.snapshot()
        await saves(store, 1)
        bill()
        await store.snapshot()
        assert bill() == told("a snapshot")


@pytest.mark.parametrize("commits", [1, 3])
@pytest.mark.parametrize("readonly", [True, False], ids=["readonly", "writing"])
async def test_opening(counted, bill, told, readonly, commits):
    async with statepath.open(counted, autosave=0) as store:
        await saves(store, 2)
        await store.snapshot()
        await saves(store, commits)
        await store._engine.release()
    bill()
    async with statepath.open(counted, autosave=0, readonly=readonly):
        assert bill() == told("opening", each=commits)


async def test_the_first_opening_for_writing(counted, bill, told, monkeypatch):
    async with statepath.open(counted, autosave=0) as store:
        await saves(store, 1)
    monkeypatch.setattr(probe, "_passed", {})
    bill()
    async with statepath.open(counted, autosave=0):
        assert bill() == told("opening") + told("the first opening")


async def test_waiting_for_news(counted, bill, told):
    async with statepath.open(counted, autosave=0) as store:
        await saves(store, 1)
        log = store._engine.log
        bill()
        assert [commit async for commit in log._next(1, "")] == []
        assert [commit async for commit in log._read(1, "")] == []
        assert bill() == told("a reader that waits")


async def test_a_look_for_alerts(counted, bill, told):
    async with statepath.open(counted, autosave=0) as store:
        await saves(store, 1)
        bill()
        await look(store._engine, [answers, free_space])
        assert bill() == told("a look for")


@pytest.mark.parametrize("count", [1, 5])
async def test_documents_of_their_own(counted, bill, told, count):
    async with statepath.open(counted, autosave=0, views=True, view_interval="1h") as store:
        tasks = store.collection("tasks")
        for n in range(2):
            await asyncio.gather(*(tasks.put({"id": str(number), "n": n}) for number in range(count)))
            bill()
            await store.flush()
        assert bill() == told("a document's own object", each=count)


@pytest.mark.parametrize("count", [10, 17])
async def test_packing(counted, bill, told, monkeypatch, count):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    monkeypatch.setattr("statepath.engine.snapshotter._PACK", 8)
    async with statepath.open(counted, autosave=0) as store:
        await saves(store, count)
        await store.snapshot()
        await saves(store, 1)
        await store.snapshot()
        bill()
        await store._engine._snapshotter.pack()
        seen = bill()
        assert seen == told("packing the journal", each=seen["delete"])
