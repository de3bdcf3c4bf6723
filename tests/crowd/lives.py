"""One seed, one run: whole lives of several processes on one store, on a clock that jumps, over a storage that fails.

    python tests/crowd/lives.py [FIRST [LAST]]

Processes open the store, use it, are stopped, killed in the middle of anything or closed, and open it again; others
read and watch. Snapshots, backups, packs and trimming go on beside, within minutes of that clock. In each seed they do
some of what can be done, so each of it more often; and the storage fails as in `simulation`, one part of it worse than
the others. Whatever a handle shows is compared with what the commits say, as they were written first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import sys
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar, copy_context
from datetime import datetime, timedelta, tzinfo
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from crowd.simulation import VirtualLoop
from crowd.truth import Documents, Truth
from statepath.backend import ALWAYS, IF_ABSENT, Always, Blob, Capabilities, Entry, ETag, When
from statepath.commit import FLOOR_KEY, slot_key
from statepath.engine.opening import open_engine
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    HistoryTrimmedError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
    ThrottledError,
    UnavailableError,
)
from statepath.events import Events
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.settings import Settings
from statepath.store import Store

T = TypeVar("T")

_EPOCH = 1_790_000_000.0
_PAGE = 5
_DEADLINE = 8.0
_LATE = 0.5
"""Mean seconds after which a request arrives whose client has given up."""

_PLACES = ("", "journal/floor", "journal/0", "state.", "logs/", "reports/", "leases/", "archive/")
"""Of which keys the requests fail more often, one of these in each seed; of all alike."""

_process: ContextVar[Process | None] = ContextVar("process", default=None)


class _Loop(VirtualLoop):
    """What is given to a thread is done at once."""

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to who waits
            done.set_exception(error)
        return done


class Process:
    """Whatever a process does is done in its tasks; when it is killed, they and its requests end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: set[asyncio.Task[Any]] = set()
        self.dead = False
        self.stopped_until = 0.0

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        context = copy_context()
        context.run(_process.set, self)
        return context.run(asyncio.get_running_loop().create_task, work)

    async def kill(self) -> None:
        self.dead = True
        while self.tasks:
            for task in tuple(self.tasks):
                task.cancel()
            await asyncio.sleep(0.01)


class Connection:
    """The storage as one process reaches it."""

    capabilities = Capabilities(durable=True, shared=True, remote=True, overlapping=True)
    url = "simulated://store"

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._draw = random.Random(world.draw.random())

    async def read(self, key: str, **options: Any) -> Blob:
        return await self._carry("read", key, lambda: self._world.memory.read(key, **options))

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        async def write() -> ETag:
            etag = await self._world.memory.write(key, data, when=when)
            if key == FLOOR_KEY:
                self._world.truth.note_record(data)
            if when is IF_ABSENT and re.fullmatch(slot_key(0).replace("0", r"\d"), key):
                await self._world.truth.note(data)
            return etag

        return await self._carry("write", key, write, late=not isinstance(when, Always))

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        return await self._carry("delete", key, lambda: self._world.memory.delete(key, when=when))

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        async def page() -> list[Entry]:
            return [entry async for entry in self._world.memory.list_keys(prefix, after=after)][:_PAGE]

        while entries := await self._carry("list", prefix, page):
            for entry in entries:
                yield entry
            after = entries[-1].key

    async def close(self) -> None:
        return None

    async def _carry(self, what: str, key: str, call: Callable[[], Awaitable[T]], *, late: bool = False) -> T:
        """The request meets its fate; `late`: it may take effect when nobody waits for it any more."""
        self._end_with_the_process()
        fate = self._world.fate(key)
        try:
            await self._pass(self._draw.expovariate(50))
        except asyncio.CancelledError:
            if late and self._process.stopped_until <= asyncio.get_running_loop().time():
                self._arrive_late(call)
            raise
        self._end_with_the_process()
        if fate == "refused":
            raise ThrottledError(f"slow down: {what} {key}", key=key)
        if fate == "lost":
            if late:
                self._arrive_late(call)
            await self._pass(self._draw.expovariate(5))
            raise UnavailableError(f"nobody knows where it is: {what} {key}", key=key)
        self._world.say(f"{self._process.name} {what} {key}")
        result = await call()
        if fate == "unheard":
            raise UnavailableError(f"the answer was lost: {what} {key}", key=key)
        await self._pass(self._draw.expovariate(50))
        self._end_with_the_process()
        return result

    def _end_with_the_process(self) -> None:
        if self._process.dead:
            raise asyncio.CancelledError

    def _arrive_late(self, call: Callable[[], Awaitable[object]]) -> None:
        async def arrive() -> None:
            with suppress(StateError):
                await call()

        context = copy_context()
        context.run(_process.set, None)
        asyncio.get_running_loop().call_later(
            self._draw.expovariate(1 / _LATE), lambda: asyncio.ensure_future(arrive()), context=context
        )

    async def _pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        loop = asyncio.get_running_loop()
        while (left := self._process.stopped_until - loop.time()) > 0:  # noqa: ASYNC110 - it may be stopped again
            await asyncio.sleep(left)


class World:
    """What came of a seed. `wrong`: a sentence for each promise that was broken; `trace`: what happened, in order."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.memory = MemoryBackend(MemoryConfig())
        self.truth = Truth(self.memory)
        self.wrong: list[str] = []
        self.trace: list[str] = []
        self.fates: dict[str, str] = {}
        self._steps = [*self.draw.sample(_SAVES, 3), *self.draw.sample(_OTHERS, 3)]
        self._worse = self.draw.choice(_PLACES)
        self._fates = random.Random(self.draw.random())
        self._tokens = count()
        self._kind = False
        choose = self.draw.choice
        self._settings: dict[str, Any] = {
            "deadline": _DEADLINE,
            "autosave": choose([5.0, 30.0, 100.0]),
            "backups": choose([1, 2, 4]),
            "views": choose([False, True]),
            "history": timedelta(seconds=choose([60, 300, 1800])),
            "history_bytes": choose([None, 2000]),
        }

    def say(self, what: str) -> None:
        self.trace.append(f"{asyncio.get_running_loop().time():.4f} {what}")

    def untaken(self, context: dict[str, Any]) -> None:
        """Nobody took an error; of a process that was killed, nobody is left who could be told of an outcome."""
        if not isinstance(context.get("exception"), OutcomeUnknownError):
            self.wrong.append(f"nobody took an error: {context}")

    def fate(self, key: str) -> str:
        drawn = self._fates.random() / (6 if self._worse and key.startswith(self._worse) else 1)
        if self._kind or drawn > 0.06:
            return "served"
        return "refused" if drawn < 0.02 else "lost" if drawn < 0.04 else "unheard"

    async def go(self) -> None:
        writers = self.draw.choice([1, 2, 3])
        async with asyncio.timeout(36_000):
            await asyncio.gather(*(self._lives(f"w{n}", self._use) for n in range(writers)))
        async with asyncio.timeout(36_000):
            await asyncio.gather(self._lives("w", self._use), self._lives("r", self._watch))
        await asyncio.sleep(300)  # what is still on its way may arrive
        self._kind = True
        await self._end()

    async def _lives(self, name: str, live: Callable[[Process, random.Random], Any]) -> None:
        draw = random.Random(self.draw.random())
        for life in range(draw.randint(1, 3)):
            process = Process(f"{name}.{life}")
            living = process.start(live(process, draw))
            if draw.random() < 0.3:
                asyncio.get_running_loop().call_later(
                    draw.uniform(0, 100), self._stop, process, draw.uniform(1, 150)
                )
            await asyncio.wait([living], timeout=draw.choice([2, 60, 600, 3000]) * draw.random())
            if living.done() and not isinstance(error := living.exception(), StateError | None):
                raise error
            await process.kill()
            await asyncio.sleep(draw.choice([0, 1, 100]))

    def _stop(self, process: Process, seconds: float) -> None:
        process.stopped_until = asyncio.get_running_loop().time() + seconds

    async def _open(self, process: Process, *, readonly: bool = False) -> Store:
        used = Settings().model_copy(update=self._settings)
        while True:
            try:
                engine = await open_engine(
                    Connection(self, process), used, events := Events(), readonly=readonly
                )
                break
            except (UnavailableError, ThrottledError, ConflictError, NotFoundError):
                await asyncio.sleep(5)
        store = Store(engine, events=events)
        self.say(f"{process.name} opened it at {store.seq}")
        self.wrong += [f"{process.name} found damage: {damage.reason}" for damage in store.damage]
        self._compare(process.name, store)
        return store

    # What writers do

    async def _use(self, process: Process, draw: random.Random) -> None:
        store = await self._open(process)
        while draw.random() < 0.95 and store._engine.failure is None:
            await asyncio.sleep(draw.choice([0, 0.05, 1, 10, 60]) * draw.random())
            await asyncio.gather(*(self._step(process, store, draw) for _ in range(draw.choice([1, 1, 3]))))
        with suppress(StateError):
            await store.aclose()

    async def _step(self, process: Process, store: Store, draw: random.Random) -> None:
        token, what = f"<{process.name} {next(self._tokens)}>", draw.choice(self._steps)
        try:
            await what(self, store, draw, token)
        except OutcomeUnknownError:
            fate = "unknown"
        except (
            ConflictError,
            AlreadyExistsError,
            NotFoundError,
            LeaseHeldError,
            LeaseLostError,
            ClosedError,
        ):
            fate = "refused"
        except (UnavailableError, ThrottledError):
            fate = "failed"
        except HistoryTrimmedError:
            fate = "trimmed"
        else:
            fate = "done"
        if what in _SAVES:
            # Where several things are done, or a file is waited for, an error does not say that nothing was committed.
            self.fates[token] = fate if fate == "done" or what in _AT_ONCE else "unknown"
        self.say(f"{process.name} {what.__name__} {token} {fate}")

    async def _put(self, store: Store, draw: random.Random, token: str) -> None:
        await store.collection(draw.choice("ab")).put({"id": draw.choice("uvwxyz"), "token": token})

    async def _create(self, store: Store, draw: random.Random, token: str) -> None:
        await store.collection("a").create({"id": f"new {draw.randrange(30)}", "token": token})

    async def _append(self, store: Store, draw: random.Random, token: str) -> None:
        await store.collection(draw.choice("ab")).append(draw.choice("uvwxyz"), "list", token)

    async def _update(self, store: Store, draw: random.Random, token: str) -> None:
        await store.collection("a").update(
            draw.choice("uvwxyz"), lambda document: {**document, "token": token}
        )

    async def _delete(self, store: Store, draw: random.Random, token: str) -> None:
        await store.collection("a").delete(draw.choice("uvwxyz"))

    async def _transact(self, store: Store, draw: random.Random, token: str) -> None:
        a, b = store.collection("a"), store.collection("b")
        async with store.transaction() as tx:
            read = await tx.get(a, draw.choice("uvwxyz"))
            tx.put(b, {"id": "of both", "read": read and read["token"]})
            tx.put(a, {"id": "of both", "token": token})
            tx.put_member("last", token)

    async def _under_lease(self, store: Store, draw: random.Random, token: str) -> None:
        async with store.lease("leader", ttl=15, wait=5) as lease:
            await asyncio.sleep(3 * draw.random())
            await store.collection("a").put({"id": "leader", "token": token, "epoch": lease.epoch})

    async def _write_log(self, store: Store, draw: random.Random, token: str) -> None:
        await store.append_log(draw.choice(["l1", "l2"]), token + "é" * draw.choice([0, 1, 200]) + "\n")

    async def _write_report(self, store: Store, draw: random.Random, token: str) -> None:
        await store.save_report(draw.choice(["r1", "r2"]), {"token": token})

    async def _remove_file(self, store: Store, draw: random.Random, token: str) -> None:
        await draw.choice([store.delete_log, store.delete_report])(draw.choice(["l1", "r1"]))

    async def _snapshot(self, store: Store, draw: random.Random, token: str) -> None:
        await draw.choice([store.snapshot, store.backup, store.flush])()

    async def _restore(self, store: Store, draw: random.Random, token: str) -> None:
        if not store.seq:
            return
        at = draw.randint(max(1, store.seq - 10), store.seq)
        restored = await store.restore(at=at)
        then, now = self.truth.states[at].documents, self.truth.states[restored.seq].documents
        if _apart(then) != _apart(now):
            self.wrong.append(f"seq {restored.seq} is not seq {at}, to which {token} went back")

    async def _archive(self, store: Store, draw: random.Random, token: str) -> None:
        if draw.random() < 0.5:
            await store.archive(draw.choice("ab"), older_than=draw.choice(["0s", "60s"]))
            return
        async for document in store.archived():
            if draw.random() < 0.5:
                await store.unarchive(document.collection, document.id)
                return

    # What must hold

    async def _sync(self, store: Store, draw: random.Random, token: str) -> None:
        head = self.truth.head
        if await store.sync() < head:
            self.wrong.append(f"{token} looked for the end, and did not see seq {head}")
        self._compare(token, store)

    async def _verify(self, store: Store, draw: random.Random, token: str) -> None:
        found = await store.verify()
        self.wrong += [f"{token} found damage: {one.reason}" for one in found if one.severity == "damage"]

    async def _read_files(self, store: Store, draw: random.Random, token: str) -> None:
        before, found = store.seq, None
        read, id = draw.choice([(store.read_log, "l1"), (store.read_report, "r1")])
        with suppress(NotFoundError):
            found = await read(id)
        for state in self.truth.states[before:]:
            held = state.reports.get(id) if id == "r1" else (state.logs.get(id) or b"").decode() or None
            if found == held:
                return
        self.wrong.append(f"{token} read {id} as it never was since seq {before}: {str(found)[-100:]}")

    def _compare(self, who: str, store: Store) -> None:
        replica = store._engine.replica
        if replica.head > self.truth.head:
            self.wrong.append(f"{who} shows seq {replica.head}, and the log ends with {self.truth.head}")
            return
        state = self.truth.states[replica.head]
        held = {(c, id): e.json() for c, entries in replica.collections.items() for id, e in entries.items()}
        if _read(held) != _read(state.documents):
            self.wrong.append(f"{who} shows other documents than those of seq {replica.head}")
        if replica.logs != {id: len(text) for id, text in state.logs.items()}:
            self.wrong.append(f"{who} knows other session logs than those of seq {replica.head}")

    async def _watch(self, process: Process, draw: random.Random) -> None:
        store = await self._open(process, readonly=True)
        last = store.seq
        with suppress(HistoryTrimmedError):
            async for change in store.watch(since=last):
                if change.seq < last:
                    self.wrong.append(f"{process.name} was told of seq {change.seq} after {last}")
                last = change.seq
                if draw.random() < 0.3:
                    await draw.choice([self._read_files, self._verify, self._sync])(store, draw, process.name)

    async def _end(self) -> None:
        """Nobody is left, and nothing fails: whoever comes next finds all of it."""
        last = self.truth.states[-1]
        for readonly in (True, False, True) if self.truth.head else ():
            process = Process("end")
            store = await self._open(process, readonly=readonly)
            if store.seq != self.truth.head:
                self.wrong.append(f"seq {self.truth.head} was committed, and {store.seq} is found")
            logs = {id: (await store.read_log(id)).encode() for id in await store.logs()}
            reports = {id: await store.read_report(id) for id in await store.reports()}
            if (logs, reports) != (last.logs, last.reports):
                self.wrong.append(
                    "the session logs or reports that are found are not those that were committed"
                )
            if not readonly:
                await store.flush()
                await store.snapshot()
            await self._verify(store, self.draw, "the end")
            await store.aclose()
        self.wrong += self.truth.wrong
        for token, fate in self.fates.items():
            if fate == "done" and token not in self.truth.committed:
                self.wrong.append(f"{token} was acknowledged, and is not in the log")
            if fate in ("refused", "failed") and token in self.truth.committed:
                self.wrong.append(f"{token} was refused, and is in the log")


_SAVES = [
    World._put,
    World._create,
    World._append,
    World._update,
    World._transact,
    World._under_lease,
    World._write_log,
    World._write_report,
]
_AT_ONCE = [World._put, World._create, World._append, World._write_log]
_OTHERS = [
    World._delete,
    World._remove_file,
    World._snapshot,
    World._restore,
    World._archive,
    World._sync,
    World._verify,
    World._read_files,
]


def _read(documents: Documents) -> dict[tuple[str, str], Any]:
    return {place: json.loads(document) for place, document in documents.items()}


def _apart(documents: Documents) -> dict[tuple[str, str], Any]:
    """What a restore brings back: the documents, but not who holds a lease."""
    return {
        place: document for place, document in _read(documents).items() if not place[1].startswith("lease/")
    }


def live(seed: int) -> World:
    """The run of a seed."""
    world, loop = World(seed), _Loop()
    loop.set_task_factory(_of_its_process)
    loop.set_exception_handler(lambda loop, context: world.untaken(context))
    with _as_it_is_there(loop, seed):
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(world.go())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    return world


def _of_its_process(loop: Any, work: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
    task, process = asyncio.Task(work, loop=loop, **options), _process.get()
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task


@contextmanager
def _as_it_is_there(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Clocks and chance as they are in the simulated world; and what is done with much is done with little."""

    class Like(type):
        def __getattr__(cls, name: str) -> Any:
            return getattr(datetime, name)

        def __instancecheck__(cls, one: object) -> bool:
            return isinstance(one, datetime)

    class There(metaclass=Like):
        @staticmethod
        def now(tz: tzinfo | None = None) -> datetime:
            return datetime.fromtimestamp(_EPOCH + loop.now, tz)

    clocks = types.SimpleNamespace(
        monotonic=loop.time,
        perf_counter=loop.time,
        time=lambda: _EPOCH + loop.now,
        time_ns=lambda: int((_EPOCH + loop.now) * 1e9),
        clock_gettime=lambda clock: loop.now,
    )
    state = random.getstate()
    random.seed(seed)
    try:
        with ExitStack() as there:
            for name, module in tuple(sys.modules.items()):
                if not name.startswith("statepath.") or module is None:
                    continue
                for found, instead in (
                    (time, clocks),
                    (datetime, There),
                    (time.monotonic, loop.time),
                ):
                    for attribute in [key for key, value in vars(module).items() if value is found]:
                        there.enter_context(patch.object(module, attribute, instead))
            there.enter_context(patch("statepath.engine.aging._BEGAN", (_EPOCH, 0.0)))
            there.enter_context(patch("statepath.engine.snapshotter._PACK", 3))
            yield
    finally:
        random.setstate(state)


def main() -> bool:
    """Run the seeds that are named; whether all promises were kept."""
    logging.disable(logging.CRITICAL)
    kept, numbers = True, [int(word) for word in sys.argv[1:]] or [0]
    for seed in range(numbers[0], numbers[1] if len(numbers) > 1 else numbers[0] + 1):
        world = live(seed)
        kept = kept and not world.wrong
        told = [*world.fates.values()]
        print(f"seed {seed}: {world.truth.head} seqs,", {fate: told.count(fate) for fate in sorted({*told})})
        print(
            *(f"  {sentence}" for sentence in world.wrong),
            sep="\n",
            end="\n" if world.wrong else "",
            flush=True,
        )
    return kept


if __name__ == "__main__":
    sys.exit(not main())
