"""Several processes write to one store: nothing is lost, nothing happens twice, and all see the same order."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import statepath
from crowd import work
from crowd.checkers import linearizable
from crowd.processes import Client, together
from crowd.run import APPEND, CUTS, FAULTS, of_the_log
from crowd.verdict import operations as operations_of
from crowd.verdict import paired, swaps_and_looks, violations
from servers.postgres_proxy import postgres_proxy
from servers.proxy import Proxy
from servers.services import path_at

FEW = {"seaweed": 8}
"""SeaweedFS stalls where many contend for one object."""

QUICK = ("local", "postgresql")
COUNTS = {"local": (8, 500), "postgresql": (8, 500)}


@pytest.mark.slow
async def test_of_many_processes_that_create_one_document_one_wins(path, kind):
    number = FEW.get(kind, 50 if kind in QUICK else 16)
    won = await together(number, work.create, path)
    assert sum(won) == 1
    async with statepath.open(path, readonly=True) as store:
        assert (await store.collection("raw").get("one"))["by"] == won.index(True)
        assert len(await store.history("raw/one")) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_processes_that_increment_one_counter_lose_nothing(path, kind):
    processes, times = COUNTS.get(kind, (4, 25))
    async with statepath.open(path, autosave=0) as store:
        await store.collection("counters").put({"id": "n", "n": 0})
    made = await together(processes, work.count, path, times)
    assert sorted(n for each in made for n in each) == list(range(1, processes * times + 1))
    async with statepath.open(path, readonly=True) as store:
        assert (await store.collection("counters").get("n"))["n"] == processes * times
        assert await store.verify() == []


@pytest.mark.slow
async def test_logs_reports_and_backups_of_several_processes_are_whole_and_a_watcher_is_told_all(path):
    processes, times = 3, 10
    changes = processes * times * 3
    watcher = Client(work.watch, path, changes)
    troubles = await together(processes, work.write_everything, path, times)
    assert troubles == [[]] * processes
    async with asyncio.timeout(60):
        told = await watcher.result()
    assert [seq for seq, _ in told] == list(range(1, changes + 1))
    async with statepath.open(path, readonly=True) as store:
        assert told == [(change.seq, change.key) for change in await store.history()]
        lines = (await store.read_log("shared")).split()
        assert sorted(lines) == sorted(f"{p}:{n}" for p in range(processes) for n in range(times))
        for number in range(processes):
            mine = [line for line in lines if line.startswith(f"{number}:")]
            assert mine == [f"{number}:{n}" for n in range(times)]
        assert await store.read_report("shared") == (await store.history("reports/shared"))[-1].value
        assert await store.verify() == []
        assert (await store.health()).damage == ()
        assert await store.leases() == []


async def disturbed(clients: list[Any], draw: random.Random, again: Any) -> None:
    """Kill and stop clients at random; one that was killed is replaced."""
    for _ in range(4):
        await asyncio.sleep(draw.uniform(0.1, 0.4))
        place = draw.randrange(len(clients))
        if draw.random() < 0.5:
            clients[place].send(signal.SIGKILL)
            await clients[place].ended()
            clients[place] = again(place)
        else:
            clients[place].send(signal.SIGSTOP)
            await asyncio.sleep(draw.uniform(0.1, 0.5))
            clients[place].send(signal.SIGCONT)


async def sound(path: str, folder: Path) -> int:
    """Whether what the clients noted agrees with what the store holds; how many swaps were acknowledged."""
    assert await violations(path, folder) == []
    swaps, _ = swaps_and_looks(paired(folder))
    return sum(bool(swap.done) for swap in swaps)


@pytest.mark.slow
async def test_compare_and_swap_makes_one_chain_while_processes_are_killed_and_stopped(path, tmp_path, kind):
    draw, seeds = random.Random(kind), iter(range(1000))
    times = 200 if kind in QUICK else 40
    async with statepath.open(path, autosave=0):
        pass

    def client(number: int) -> Client:
        seed = next(seeds)
        return Client(work.swap, path, number, 5, times, str(tmp_path / f"{number}.{seed}"), seed)

    clients = [client(number) for number in range(4)]
    await disturbed(clients, draw, client)
    await asyncio.gather(*(each.result() for each in clients))
    assert await sound(path, tmp_path) > times / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["seaweed", "gcs", "azurite"], indirect=True)
async def test_compare_and_swap_makes_one_chain_over_a_network_that_fails(endpoint, kind, tmp_path):
    draw, times, name = random.Random(kind), 30, uuid4().hex
    path = path_at(kind, endpoint, name)
    async with statepath.open(path, autosave=0):
        pass
    async with Proxy(endpoint).running() as proxy:
        faults = [
            proxy.fault(does, lambda request: of_the_log(request) and draw.random() < 0.03, times=10**6)
            for does in FAULTS
        ]
        by_proxy = path_at(kind, proxy.url, name)
        clients = [
            Client(work.swap, by_proxy, number, 3, times, str(tmp_path / str(number)), number)
            for number in range(3)
        ]
        await asyncio.gather(*(client.result() for client in clients))
        assert sum(fault.met.is_set() for fault in faults) > len(FAULTS) / 2
    assert await sound(path, tmp_path) > times


@pytest.mark.slow
async def test_reads_writes_and_deletes_of_one_document_are_linearizable(path, tmp_path, kind):
    draw, seeds = random.Random(kind), iter(range(1000))
    times = 150 if kind in QUICK else 20

    def client(number: int) -> Client:
        seed = next(seeds)
        return Client(work.register, path, number, times, str(tmp_path / f"{number}.{seed}"), seed)

    clients = [client(number) for number in range(3)]
    await disturbed(clients, draw, client)
    await asyncio.gather(*(each.result() for each in clients))
    (operations,) = operations_of(paired(tmp_path)).values()
    assert len(operations) > times
    assert linearizable(operations)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_compare_and_swap_makes_one_chain_although_connections_are_lost_around_commits(
    postgres, path, kind, tmp_path
):
    draw, times, name = random.Random(kind), 40, uuid4().hex
    straight = postgres.url(store=name)
    async with statepath.open(straight, autosave=0):
        pass
    async with postgres_proxy(postgres) as proxy:
        cuts = [proxy.arm(APPEND, cut, times=10**6, chance=lambda: draw.random() < 0.03) for cut in CUTS]
        clients = [
            Client(
                work.swap, proxy.url(name, timeout=3), number, 3, times, str(tmp_path / str(number)), number
            )
            for number in range(3)
        ]
        working = asyncio.gather(*(client.result() for client in clients))
        noted = 0
        while not working.done():
            await asyncio.wait([working], timeout=0.2)
            await proxy.release()
            if (now := len(paired(tmp_path))) > noted + 30:
                noted = now
                proxy.cut_all()
        await working
        assert sum(cut.happened.is_set() for cut in cuts) > len(CUTS) / 2
    assert await sound(straight, tmp_path) > times / 2


@pytest.mark.slow
async def test_a_holder_that_was_stopped_past_its_lease_cannot_commit_when_it_comes_back(path):
    async with statepath.open(path, autosave=0) as store:
        former = Client(work.stop_leading, path, 1.0)
        async with asyncio.timeout(120):
            while not former.stopped:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
        async with store.lease("leader", ttl=60) as lease:
            await store.collection("terms").put({"id": "leader", "epoch": lease.epoch, "by": "second"})
            former.send(signal.SIGCONT)
            assert await former.result() == "refused"
        history = await store.history("terms/leader")
        assert [change.value["by"] for change in history] == ["first", "second"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "postgresql"], indirect=True)
async def test_a_leader_that_is_stopped_past_its_lease_changes_nothing_any_more(path):
    async with statepath.open(path, autosave=0) as store, aclosing(store.watch()) as changes:
        leaders = [Client(work.lead, path, number, 1.0) for number in range(2)]
        for number, leader in enumerate(leaders):
            while (change := await anext(changes)).key != "terms/leader" or change.value["by"] != number:
                pass
            leader.send(signal.SIGSTOP)
            await asyncio.sleep(1.6)  # longer than its lease lives
            leader.send(signal.SIGCONT)
        await store.collection("terms").put({"id": "end"})
    for leader in leaders:
        await leader.result()
    async with statepath.open(path, readonly=True) as store:
        terms = [
            (change.value["epoch"], change.value["by"]) for change in await store.history("terms/leader")
        ]
    epochs = [epoch for epoch, _ in terms]
    assert epochs == sorted(epochs)
    assert len({by for _, by in terms}) == 2
    assert len(set(terms)) == len(set(epochs))
