"""Where lives are simulated: processes that are stopped and killed, storages that fail, and a clock that jumps."""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar, copy_context
from datetime import datetime, tzinfo
from typing import Any, TypeVar
from unittest.mock import patch

from crowd.placing import PlacingLog
from crowd.simulation import VirtualLoop
from crowd.truth import Truth
from statepath.backend import (
    ALWAYS,
    IF_ABSENT,
    Always,
    Backend,
    Blob,
    Capabilities,
    CommitLog,
    Entry,
    ETag,
    When,
)
from statepath.commit import FLOOR_KEY, slot_key
from statepath.engine.opening import attach
from statepath.engine.snapshotter import KEEP_SECONDS
from statepath.errors import StateError, ThrottledError, UnavailableError
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.retry import retrying
from statepath.settings import Settings

T = TypeVar("T")

DEADLINE = 8.0

_EPOCH = 1_790_000_000.0
_PAGE = 5
_LATE = 0.5
"""Mean seconds after which a request arrives whose client has given up."""

_WORSE = ("", "journal/floor", "journal/0", "state.", "logs/", "reports/", "leases/", "archive/")
"""Of which keys the requests fail more often, one of these in each seed; of all alike."""

_process: ContextVar[Process | None] = ContextVar("process", default=None)


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

    def stop(self, seconds: float) -> None:
        self.stopped_until = asyncio.get_running_loop().time() + seconds

    async def kill(self) -> None:
        self.dead = True
        while self.tasks:
            for task in tuple(self.tasks):
                task.cancel()
            await asyncio.sleep(0.01)


class Place:
    """A storage, where a store or its replica is. What is written there is noted; sealed, if the store is to be.
    `places`: its log finds the place of what depends on nothing."""

    def __init__(self, name: str, truth: Truth, settings: Settings, *, places: bool) -> None:
        self.name = name
        self.places = places
        self.placed: set[str] = set()
        self.memory = MemoryBackend(MemoryConfig())
        self._truth = truth
        self._settings = settings
        self._opened: Backend | None = None

    async def write(self, key: str, data: bytes, when: When) -> ETag:
        etag = await self.memory.write(key, data, when=when)
        if self._settings.encrypted and re.search(rb"<\w+\.\d \d+>", data):
            self._truth.wrong.append(f"{key} was written in the clear at {self.name}")
        if key == FLOOR_KEY:
            self._truth.note_record(self.name, (await (await self._open()).read(key)).data)
        if when is IF_ABSENT and re.fullmatch(slot_key(0).replace("0", r"\d"), key):
            await self._truth.note(self.name, await self._open(), data)
        return etag

    async def _open(self) -> Backend:
        """The storage as who has the keys sees it."""
        if self._opened is None:
            self._opened = await attach(self.memory, self._settings, readonly=True)
        return self._opened


class Faults:
    """What becomes of requests. `trace`: what happened, in order; `kind`: nothing fails any more."""

    def __init__(self, draw: random.Random) -> None:
        self.kind = False
        self.trace: list[str] = []
        self._worse = draw.choice(_WORSE)
        self._draw = random.Random(draw.random())

    def say(self, what: str) -> None:
        self.trace.append(f"{asyncio.get_running_loop().time():.4f} {what}")

    def fate(self, key: str) -> str:
        drawn = self._draw.random() / (6 if self._worse and key.startswith(self._worse) else 1)
        if self.kind or drawn > 0.06:
            return "served"
        return "refused" if drawn < 0.02 else "lost" if drawn < 0.04 else "unheard"


class Connection:
    """A storage as one process reaches it."""

    def __init__(self, place: Place, process: Process, faults: Faults, draw: random.Random) -> None:
        self.url = f"simulated://{place.name}"
        self.capabilities = Capabilities(
            durable=True, shared=True, remote=True, overlapping=True, commit_log=place.places
        )
        self._place = place
        self._process = process
        self._faults = faults
        self._draw = random.Random(draw.random())
        self._log: PlacingLog | None = None

    async def read(self, key: str, **options: Any) -> Blob:
        return await self._carry("read", key, lambda: self._place.memory.read(key, **options))

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        late = not isinstance(when, Always)
        return await self._carry("write", key, lambda: self._place.write(key, data, when), late=late)

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        return await self._carry("delete", key, lambda: self._place.memory.delete(key, when=when))

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        async def page() -> list[Entry]:
            return [entry async for entry in self._place.memory.list_keys(prefix, after=after)][:_PAGE]

        while entries := await self._carry("list", prefix, page):
            for entry in entries:
                yield entry
            after = entries[-1].key

    def commit_log(self) -> CommitLog:
        if self._log is None:
            self._log = PlacingLog(
                retrying(self, deadline=DEADLINE),
                self._place.placed,
                self._draw,
                deadline=DEADLINE,
                window=KEEP_SECONDS,
                once=self,
            )
        return self._log

    async def close(self) -> None:
        return None

    async def _carry(self, what: str, key: str, call: Callable[[], Awaitable[T]], *, late: bool = False) -> T:
        """The request meets its fate; `late`: it may take effect when nobody waits for it any more."""
        self._end_with_the_process()
        fate = self._faults.fate(key)
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
        self._faults.say(f"{self._process.name} {what} {key} at {self._place.name}")
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


class Loop(VirtualLoop):
    """Knows whose each task is. What is given to a thread is done at once."""

    def __init__(self) -> None:
        super().__init__()
        self.set_task_factory(_of_its_process)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to who waits
            done.set_exception(error)
        return done


def _of_its_process(loop: Any, work: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
    task, process = asyncio.Task(work, loop=loop, **options), _process.get()
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task


@contextmanager
def as_it_is_there(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Clocks, chance and names as they are in the simulated world, whoever looks at it; and what is done with much is
    done with little."""

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
    chance = random.Random(seed).randbytes
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
            for what, instead in (
                ("os.urandom", chance),
                ("random._urandom", chance),  # of `secrets`
                ("os.getpid", lambda: 1),
                ("socket.gethostname", lambda: "there"),
                ("sys.argv", ["lives"]),
            ):
                there.enter_context(patch(what, instead))
            there.enter_context(patch("statepath.engine.aging._BEGAN", (_EPOCH, 0.0)))
            there.enter_context(patch("statepath.engine.snapshotter._PACK", 3))
            there.enter_context(patch("statepath.engine.committer.MAX_COMMIT_BYTES", 1500))
            for module in ("committer", "snapshotter"):
                there.enter_context(patch(f"statepath.engine.{module}.KEEP_BODIES", 200.0))
            for module in ("keyring", "rotation"):
                there.enter_context(patch(f"statepath.encryption.{module}.REFRESH", 20.0))
            yield
    finally:
        random.setstate(state)
