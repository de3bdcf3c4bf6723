"""Durable saves into PostgreSQL, opening a store, and following one, beside other ways to do it on the same server.

    python tests/benchmarks/postgres.py [--quick] [--dir FOLDER] [--json FILE] [--only NAME]

A server is started for it below the folder, with fsync on. The contenders take turns in each
round, and each begins with empty tables. The clock stops when the documents can be found by the database, too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from argparse import ArgumentParser
from collections.abc import Awaitable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any
from uuid import uuid4

import asyncpg
import statepath
from documents import Task, make_task, make_tasks
from measure import Ratio, arguments, describe, report, workplace
from saving import Run, measured, middle

sys.path.append(str(Path(__file__).parents[1]))

from servers.postgres import PostgresServer, running_postgres, session

DOCUMENTS = 20_000
LOADED = 100_000
SIZE = 2048
TABLE = """
DROP TABLE IF EXISTS plain;
CREATE TABLE plain (id text PRIMARY KEY, version bigint NOT NULL, data jsonb NOT NULL)
"""
INDEX = "CREATE INDEX ON plain USING gin (data jsonb_path_ops)"
UPSERT = """
INSERT INTO plain (id, version, data) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET version = excluded.version, data = excluded.data
"""
UNNEST = """
INSERT INTO plain (id, version, data) SELECT * FROM unnest($1::text[], $2::bigint[], $3::jsonb[])
ON CONFLICT (id) DO UPDATE SET version = excluded.version, data = excluded.data
"""
FETCH = """
SELECT id, version, data FROM statepath.documents WHERE store = (SELECT max(id) FROM statepath.stores)
"""


class Contender(ABC):
    """One run on a server, from empty tables. `save` returns when the document is durable."""

    name: str

    @abstractmethod
    async def open(self, server: PostgresServer) -> None: ...

    @abstractmethod
    def save(self, task: Task) -> Awaitable[object]: ...

    async def catch_up(self) -> None:
        """Wait for what is written behind the acknowledgements, too."""

    @abstractmethod
    async def close(self) -> None: ...


class Statepath(Contender):
    """The public API, as a user writes it."""

    name = "statepath"

    async def open(self, server: PostgresServer) -> None:
        self.context = statepath.open(server.url(store=uuid4().hex), autosave=0)
        self.store = await self.context.__aenter__()
        self.tasks = self.store.collection("tasks", Task)

    def save(self, task: Task) -> Awaitable[object]:
        return self.tasks.put(task)

    async def catch_up(self) -> None:
        await self.store.flush()

    async def close(self) -> None:
        await self.store._engine._committer.close()  # type: ignore[union-attr]  # no snapshot at the end
        await self.store._engine.release()


class LogAlone(Statepath):
    """What an acknowledgement waits for, with nothing written behind it."""

    name = "statepath, the log alone"

    async def open(self, server: PostgresServer) -> None:
        await super().open(server)
        await self.store._engine.backend._documents.close()  # type: ignore[attr-defined]

    async def catch_up(self) -> None:
        pass


class Unnest(Contender):
    """Group commit by hand: what arrived while a statement was under way is the next one."""

    name = "unnest upsert"
    index = False

    async def open(self, server: PostgresServer) -> None:
        self.connection: Any = await asyncpg.connect(server.url())
        await self.connection.execute(TABLE)
        if self.index:
            await self.connection.execute(INDEX)
        self.pending: list[tuple[Task, str, asyncio.Future[None]]] = []
        self.wake = asyncio.Event()
        self.task = asyncio.create_task(self.write())

    def save(self, task: Task) -> Awaitable[object]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pending.append((task, task.__pydantic_serializer__.to_json(task).decode(), done))
        self.wake.set()
        return done

    async def write(self) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            # Of two versions in one statement the last one counts.
            group, self.pending = {each[0].id: each for each in self.pending}, []
            ids, versions = list(group), [task.attempt for task, _, _ in group.values()]
            await self.connection.execute(UNNEST, ids, versions, [data for _, data, _ in group.values()])
            for _, _, done in group.values():
                done.set_result(None)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.connection.close()


class UnnestIndexed(Unnest):
    """The same into a table whose documents can be found by what is in them, as ours can."""

    name = "unnest upsert, GIN index"
    index = True


class Each(Contender):
    """A statement a save, through a pool of ten."""

    name = "one upsert a save, pool"

    async def open(self, server: PostgresServer) -> None:
        self.pool: Any = await asyncpg.create_pool(server.url(), min_size=10, max_size=10)
        await self.pool.execute(TABLE)

    def save(self, task: Task) -> Awaitable[object]:
        data = task.__pydantic_serializer__.to_json(task).decode()
        saving: Awaitable[object] = self.pool.execute(UPSERT, task.id, task.attempt, data)
        return saving

    async def close(self) -> None:
        await self.pool.close()


class Langgraph(Contender):
    """A checkpoint a save, as a graph's step would."""

    name = "langgraph-checkpoint-postgres"

    async def open(self, server: PostgresServer) -> None:
        from langgraph.checkpoint.base import empty_checkpoint
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with session(server.url()) as admin:
            for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_migrations"):
                await admin.execute(f"DROP TABLE IF EXISTS {table}")
        self.empty_checkpoint = empty_checkpoint
        self.context = AsyncPostgresSaver.from_conn_string(server.url())
        self.saver = await self.context.__aenter__()
        await self.saver.setup()

    async def save(self, task: Task) -> object:
        checkpoint = self.empty_checkpoint()
        checkpoint["channel_values"] = {"task": task.model_dump(mode="json")}
        checkpoint["channel_versions"] = {"task": task.attempt}
        config: Any = {"configurable": {"thread_id": task.id, "checkpoint_ns": ""}}
        metadata: Any = {"source": "loop", "step": task.attempt}
        return await self.saver.aput(config, checkpoint, metadata, {"task": task.attempt})

    async def close(self) -> None:
        await self.context.__aexit__(None, None, None)


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contender, and how many saves it makes in a round."""

    contender: type[Contender]
    saves: int


MANY = (
    Entrant(Statepath, 60_000),
    Entrant(LogAlone, 60_000),
    Entrant(Unnest, 60_000),
    Entrant(UnnestIndexed, 60_000),
    Entrant(Each, 20_000),
    Entrant(Langgraph, 4_000),
)
ONE = (Entrant(Statepath, 3_000), Entrant(LogAlone, 3_000), Entrant(Each, 3_000), Entrant(Unnest, 3_000))


async def run(entrant: Entrant, server: PostgresServer, tasks: Sequence[Task], in_flight: int) -> Run:
    async with session(server.url()) as admin:
        await admin.execute(TABLE)
        for table in ("log", "documents", "views", "objects", "pieces", "stores"):
            await admin.execute(f"TRUNCATE statepath.{table}")
        await admin.execute("CHECKPOINT")
    contender = entrant.contender()
    await contender.open(server)
    return await measured(contender, tasks, entrant.saves, in_flight)


def pgbench(server: PostgresServer, folder: Path, transactions: int) -> Run:
    """PostgreSQL's own client, with ten connections: the same upsert, prepared."""
    # A colon right before a letter or a digit would be a variable.
    document = re.sub(r":(?=\w)", "-", json.dumps(make_task("task", SIZE).model_dump(mode="json")))
    upsert = UPSERT.strip().replace("$1, $2, $3", f"'task_' || :n, 1, '{document}'")
    script = folder / "upsert.sql"
    script.write_text(
        f"\\set n random(0, {DOCUMENTS - 1})\n{upsert};\n".replace("\nVALUES", " VALUES").replace(
            "\nON", " ON"
        )
    )
    command = [server.binaries / "pgbench", "-n", "-M", "prepared", "-c", "10", "-j", "2", "-t",
               str(transactions // 10), "-f", script, server.url()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = dict(line.partition(" = ")[::2] for line in done.stdout.splitlines() if " = " in line)
    rate = float(next(value.split()[0] for name, value in facts.items() if name.startswith("tps")))
    return Run("pgbench, 10 clients", rate, float("nan"), float("nan"), 0.0)


async def loading(server: PostgresServer, rounds: int, documents: int) -> tuple[float, float]:
    """Seconds to open a store, and to fetch the same rows from a table."""
    path = server.url(store=uuid4().hex)
    async with statepath.open(path, autosave=0) as store:
        tasks = store.collection("tasks", Task)
        made = make_tasks(documents, SIZE)
        for begin in range(0, documents, 1000):
            await asyncio.gather(*(tasks.put(task) for task in made[begin : begin + 1000]))
        await store.flush()
    ours, plain = [], []
    for _ in range(rounds):
        gc.collect()
        start = perf_counter_ns()
        async with statepath.open(path, readonly=True) as store:
            ours.append(perf_counter_ns() - start)
            assert await store.collection("tasks").count() == documents
        gc.collect()
        async with session(server.url()) as connection:
            start = perf_counter_ns()
            rows = await connection.fetch(FETCH)
            plain.append(perf_counter_ns() - start)
            assert len(rows) == documents
            del rows
    return median(ours) / 1e9, median(plain) / 1e9


async def following(server: PostgresServer, times: int) -> list[float]:
    """Milliseconds from the beginning of a save to the follower's hands, sorted."""
    path = server.url(store=uuid4().hex)
    took = []
    async with statepath.open(path, autosave=0) as store, statepath.open(path, readonly=True) as reader:
        tasks = store.collection("tasks", Task)
        task = make_task("task", SIZE)
        async with aclosing(reader.watch()) as changes:
            for _ in range(times):
                task.attempt += 1
                waiting = asyncio.ensure_future(anext(changes))
                await asyncio.sleep(0.005)
                start = perf_counter_ns()
                await tasks.put(task)
                await waiting
                took.append((perf_counter_ns() - start) / 1e6)
    return sorted(took)


def compete(
    server: PostgresServer, folder: Path, entrants: Sequence[Entrant], in_flight: int, rounds: int, share: int
) -> dict[str, Run]:
    tasks = make_tasks(DOCUMENTS // share, SIZE)
    gc.collect()
    gc.freeze()
    runs: dict[str, list[Run]] = {}
    for _ in range(rounds):
        for entrant in entrants:
            each = Entrant(entrant.contender, entrant.saves // share)
            done = asyncio.run(run(each, server, tasks, in_flight))
            runs.setdefault(done.contender, []).append(done)
            gc.collect()
        if in_flight > 1:
            done = pgbench(server, folder, 20_000 // share)
            runs.setdefault(done.contender, []).append(done)
    medians = {name: middle(each) for name, each in runs.items()}
    print(f"2 KB, {in_flight} in flight" + " " * 22 + "saves/s    p50 µs    p99 µs  behind s")
    for one in medians.values():
        print(
            f"  {one.contender:<32}{one.rate:>11,.0f}{one.p50:>10,.0f}{one.p99:>10,.0f}{one.behind:>10.2f}",
            flush=True,
        )
    return medians


def compare(many: dict[str, Run], one: dict[str, Run]) -> list[Ratio]:
    def rates(ours: type[Contender], peer: str, limit: float) -> Ratio:
        what = f"2 KB, 64 in flight: {ours.name} / {peer}"
        return Ratio(what, many[ours.name].rate / many[peer].rate, limit, at_least=True)

    return [
        rates(Statepath, Unnest.name, 0.8),
        rates(Statepath, UnnestIndexed.name, 0.8),
        rates(Statepath, Each.name, 2.5),
        rates(Statepath, Langgraph.name, 8),
        rates(LogAlone, Unnest.name, 1.5),
        rates(LogAlone, "pgbench, 10 clients", 1.5),
        Ratio(
            f"2 KB, 1 in flight: statepath / {Each.name} (p50)",
            one[Statepath.name].p50 / one[Each.name].p50,
            1,
            at_least=False,
        ),
    ]


def main() -> None:
    parser = ArgumentParser(description="Compares durable saves into PostgreSQL.")
    parser.add_argument("--only", metavar="NAME", help="run only contenders whose name contains this")
    options = arguments(parser)
    share = 10 if options.quick else 1

    def chosen(entrants: Sequence[Entrant]) -> list[Entrant]:
        return [each for each in entrants if (options.only or "") in each.contender.name]

    with ExitStack() as stack:
        folder = stack.enter_context(workplace(options.dir.resolve()))
        os.chmod(folder, 0o755)  # noqa: S103 - the server may run as somebody else
        settings = {"shared_buffers": "256MB", "max_wal_size": "4GB"}
        server = stack.enter_context(running_postgres(folder, **settings))
        place = describe(folder)
        asyncio.run(_warm(server))
        many = compete(server, folder, chosen(MANY), 64, options.rounds, share)
        one = compete(server, folder, chosen(ONE), 1, options.rounds, share)
        ratios = [] if options.only else compare(many, one)
        results: dict[str, Any] = {
            "64 in flight": [asdict(each) for each in many.values()],
            "1 in flight": [asdict(each) for each in one.values()],
        }
        if not options.only:
            ours, plain = asyncio.run(loading(server, options.rounds, LOADED // share))
            ratios.append(
                Ratio(
                    f"opening {LOADED // share} documents / a plain fetch", ours / plain, 1.2, at_least=False
                )
            )
            took = asyncio.run(following(server, 1000 // share))
            p50 = took[len(took) // 2]
            ratios.append(Ratio("from a save to the follower's hands, ms (p50)", p50, 5, at_least=False))
            results |= {"opening_s": ours, "fetch_s": plain, "follow_ms": p50}
            print(f"opening {ours:.2f} s, plain fetch {plain:.2f} s; to a follower {p50:.2f} ms p50")
        report(place, results, ratios, options.json)


async def _warm(server: PostgresServer) -> None:
    """Make the schema."""
    async with statepath.open(server.url(store=uuid4().hex)) as store:
        await store.collection("raw").put({"id": json.dumps(None)})


if __name__ == "__main__":
    main()
