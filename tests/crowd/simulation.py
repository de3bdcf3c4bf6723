"""One seed, one run: several writers on one store, on a clock that jumps, over a storage that fails.

The engine, the committer, the log and the leases are the real ones. Everything that they wait for is drawn from the
seed: how long a request takes, whether it fails before or after it took effect, whether it takes effect long after its
client gave up, and when a writer sleeps. Nothing else decides what comes next: a seed gives the same run each time.
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

from statepath.backend import ALWAYS, Blob, Entry, ETag, When
from statepath.collection import Collection
from statepath.commit import Commit, Put, decode_commit
from statepath.engine.engine import Engine
from statepath.engine.floor import Floor
from statepath.engine.replica import Replica
from statepath.engine.snapshotter import Written
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    LeaseHeldError,
    LeaseLostError,
    OutcomeUnknownError,
    StateError,
    ThrottledError,
    UnavailableError,
)
from statepath.events import Events
from statepath.lease import Lease
from statepath.log import PortableCommitLog
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
_WRITERS = 3
_STEPS = 5
_TTL = 3.0


class _Never(selectors.SelectSelector):
    """Waits for nothing real: where a loop would sleep, its clock jumps."""

    def __init__(self, loop_time: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = loop_time

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will come")
        if timeout > 0:
            self._jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when everything waits."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Never(self._jump))

    def _jump(self, seconds: float) -> None:
        # One step further than asked: what is due then must not be missed by a rounding error.
        self.now += seconds + 1e-9

    def time(self) -> float:
        return self.now


def in_no_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run the test on a loop of that kind: whatever it waits for is there at once."""

    @wraps(test)
    def run(*args: P.args, **options: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **options))

    return run


@dataclass
class Network:
    """What the requests of one writer meet."""

    draw: random.Random
    trace: list[str]
    asleep_until: float = 0.0

    async def carry(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        fate = self.draw.random()
        try:
            await self._pass(self.draw.expovariate(50))
        except asyncio.CancelledError:
            # The client gives up while the request is under way; a process that was stopped had not sent it.
            late = self.draw.expovariate(2)
            if self.asleep_until <= loop.time():
                loop.call_later(late, lambda: asyncio.ensure_future(_late(call)))
            raise
        if fate < 0.03:
            raise UnavailableError("the connection was reset before the server saw anything")
        if fate < 0.05:
            raise ThrottledError("slow down")
        if fate < 0.08:
            loop.call_later(self.draw.expovariate(2), lambda: asyncio.ensure_future(_late(call)))
            await self._pass(self.draw.expovariate(5))
            raise UnavailableError("nobody knows where the request is")
        self.trace.append(f"{loop.time():.6f} {what}")
        result = await call()
        if fate < 0.12:
            raise UnavailableError("the connection was reset after the server had done it")
        await self._pass(self.draw.expovariate(50))
        return result

    async def _pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        loop = asyncio.get_running_loop()
        while (left := self.asleep_until - loop.time()) > 0:  # noqa: ASYNC110 - it may be sent to sleep again
            await asyncio.sleep(left)


async def _late(call: Callable[[], Awaitable[object]]) -> None:
    with suppress(StateError):
        await call()


class SimulatedBackend:
    """The objects of one writer's connection, over its network."""

    def __init__(self, memory: MemoryBackend, network: Network, name: str) -> None:
        self.capabilities = memory.capabilities
        self.url = f"simulated://{name}"
        self._memory = memory
        self._network = network
        self._name = name

    async def read(self, key: str, **options: Any) -> Blob:
        return await self._network.carry(
            f"{self._name} read {key}", lambda: self._memory.read(key, **options)
        )

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await self._network.carry(
            f"{self._name} write {key}", lambda: self._memory.write(key, data, when=when)
        )

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        return await self._network.carry(
            f"{self._name} delete {key}", lambda: self._memory.delete(key, when=when)
        )

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        async for entry in self._memory.list_keys(prefix, after=after):
            yield entry

    async def close(self) -> None:
        return None


@dataclass
class Run:
    """What came of a seed. `wrong`: a sentence for each promise that was broken; `trace`: every request, in order."""

    seed: int
    wrong: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    commits: int = 0
    fates: dict[str, str] = field(default_factory=dict)

    def said(self, token: str, fate: str) -> None:
        self.fates[token] = fate
        self.trace.append(f"{token} {fate}")


def simulate(seed: int) -> Run:
    """The run of a seed."""
    run = Run(seed)
    loop = VirtualLoop()
    loop.set_exception_handler(lambda loop, context: run.wrong.append(f"nobody took an error: {context}"))
    with _as_it_is_there(loop, seed):
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(_World(run).go())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    return run


@contextmanager
def _as_it_is_there(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Clocks and chance as they are in the simulated world."""
    state = random.getstate()
    random.seed(seed)
    clock = types.SimpleNamespace(
        monotonic=loop.time,
        perf_counter=loop.time,
        time=loop.time,
        time_ns=lambda: int(loop.time() * 1e9) + 10**15,
    )
    try:
        with (
            patch("statepath.log.clock", loop.time),
            patch("statepath.engine.leases.clock", loop.time),
            patch("statepath.lease.clock", loop.time),
            patch("statepath.engine.catching_up.clock", loop.time),
            patch("statepath.engine.committer.clock", loop.time),
            patch("statepath.engine.committer.time", clock),
            patch("statepath.engine.engine.time", clock),
        ):
            yield
    finally:
        random.setstate(state)


class _World:
    def __init__(self, run: Run) -> None:
        self.run = run
        self.draw = random.Random(run.seed)
        self.memory = MemoryBackend(MemoryConfig())
        self.engines: list[Engine] = []
        self.networks: list[Network] = []

    async def go(self) -> None:
        for number in range(_WRITERS):
            network = Network(random.Random(self.draw.random()), self.run.trace)
            self.networks.append(network)
            self.engines.append(self._writer(number, network))
        async with asyncio.timeout(3600):
            await asyncio.gather(
                *(self._work(n, engine) for n, engine in enumerate(self.engines)),
                *(self._sleep(network) for network in self.networks),
            )
        # What is still on its way may arrive, and changes nothing any more.
        await asyncio.sleep(60)
        for engine in self.engines:
            await engine.release()
        await _Check(self.run, self.memory).go()

    def _writer(self, number: int, network: Network) -> Engine:
        backend = SimulatedBackend(self.memory, network, f"w{number}")
        log = PortableCommitLog(backend, deadline=4.0, window=60.0)
        settings = Settings.model_construct(autosave=0.0, deadline=4.0, max_document=1 << 20)
        engine = Engine(backend, log, settings, Events(), readonly=False)
        engine.show(Replica(), "store", "incarnation", None)
        floor = Floor(store="store", incarnation="incarnation")

        async def aside(key: str, why: str) -> str:
            return key

        engine.start(Written(floor, None, None, None, 0, 0, 0), aside, document_views=False)
        return engine

    async def _sleep(self, network: Network) -> None:
        """Once in a while the process is stopped, for longer than a lease lives."""
        draw = random.Random(self.draw.random())
        for _ in range(2):
            await asyncio.sleep(draw.expovariate(1))
            if draw.random() < 0.4:
                network.asleep_until = asyncio.get_running_loop().time() + draw.uniform(0, 3 * _TTL)

    async def _work(self, number: int, engine: Engine) -> None:
        draw = random.Random(self.draw.random())
        counters: Collection[Any] = Collection(engine, "counters", None, "id")
        fenced: Collection[Any] = Collection(engine, "fenced", None, "id")
        for step in range(_STEPS):
            token = f"w{number}.{step}"
            kind = draw.random()
            if kind < 0.25:
                call = self._under_lease(number, engine, fenced, token, draw)
            elif kind < 0.4:
                call = counters.put({"id": f"mine {number}", "token": token})
            elif kind < 0.5:
                call = counters.create({"id": f"new {step}", "token": token})
            else:
                call = self._count(counters, token)
            await self._try(token, call)
            if engine.failure is not None:
                return

    async def _try(self, token: str, call: Awaitable[object]) -> None:
        try:
            await call
        except (ConflictError, AlreadyExistsError, LeaseHeldError, LeaseLostError):
            self.run.said(token, "refused")
        except OutcomeUnknownError:
            self.run.said(token, "unknown")
        except (UnavailableError, ThrottledError):
            # Reading what others did failed, or the storage took nothing: it did not become a commit.
            self.run.said(token, "refused")
        except StateError as error:
            self.run.wrong.append(f"{token} ended with {error!r}")
        else:
            self.run.said(token, "done")

    async def _count(self, counters: Collection[Any], token: str) -> None:
        """Read, add one, and write it if that is still the version."""
        for _ in range(50):
            found = await counters.get_document("n")
            n, version = (0, 0) if found is None else (found.value["n"], found.version)
            try:
                await counters.put({"id": "n", "n": n + 1, "token": token}, if_version=version)
            except ConflictError:
                continue
            return
        raise ConflictError("it was never the turn of this one")

    async def _under_lease(
        self, number: int, engine: Engine, fenced: Collection[Any], token: str, draw: random.Random
    ) -> None:
        async with Lease(engine, "leader", _TTL, 2 * _TTL) as lease:
            await asyncio.sleep(draw.expovariate(1))
            if draw.random() < 0.5:
                # The process is stopped in the middle of its work, and goes on as if nothing had been.
                wakes = asyncio.get_running_loop().time() + draw.uniform(_TTL, 3 * _TTL)
                self.networks[number].asleep_until = wakes
                await asyncio.sleep(wakes - asyncio.get_running_loop().time())
            await fenced.put({"id": "f", "epoch": lease.epoch, "token": token})


class _Check:
    """What the storage holds in the end, against what the writers were told."""

    def __init__(self, run: Run, memory: MemoryBackend) -> None:
        self.run = run
        self.memory = memory

    async def go(self) -> None:
        wrong = self.run.wrong
        keys = [entry.key async for entry in self.memory.list_keys("journal/0")]
        commits: list[Commit] = [decode_commit((await self.memory.read(key)).data) for key in sorted(keys)]
        self.run.commits = len(commits)
        last, previous = 0, ""
        for commit in commits:
            if commit.first != last + 1 or commit.prev != previous:
                wrong.append(f"commit {commit.first} does not follow the one before it")
            last, previous = commit.last, commit.id
        self._tokens(commits)

    def _tokens(self, commits: list[Commit]) -> None:
        wrong, fates = self.run.wrong, self.run.fates
        seen: dict[str, int] = {}
        counted, epoch = 0, 0
        for commit in commits:
            for seq, changes in enumerate(commit.transactions, commit.first):
                for change in changes:
                    if not isinstance(change, Put):
                        continue
                    document = json.loads(bytes(change.document))
                    if change.id == "lease/leader":
                        epoch = seq
                    token = document.get("token", "")
                    if change.collection in ("counters", "fenced"):
                        if token in seen:
                            wrong.append(f"{token} was committed twice, as {seen[token]} and {seq}")
                        seen[token] = seq
                    if change.id == "n":
                        if document["n"] != counted + 1:
                            wrong.append(f"seq {seq} counts to {document['n']} after {counted}")
                        counted = document["n"]
                    if change.collection == "fenced" and document["epoch"] != epoch:
                        wrong.append(f"seq {seq} is of epoch {document['epoch']}, and {epoch} had begun")
        for token, fate in fates.items():
            if fate == "done" and token not in seen:
                wrong.append(f"{token} was acknowledged and is not in the log")
            if fate == "refused" and token in seen:
                wrong.append(f"{token} was refused and is in the log")
