"""One seed, one run: whole lives of several processes on one store, on a clock that jumps, over a storage that fails.

    python tests/crowd/lives.py [FIRST [LAST]]

Processes open the store, use it, are stopped, killed in the middle of anything or closed, and open it again; others
read and watch. Snapshots, backups, packs and trimming go on beside, within minutes of that clock. In each seed they do
some of what can be done, so each of it more often; and the storage fails as in `simulation`, one part of it worse than
the others. In some of them the log places what depends on nothing; in some several versions of the program migrate the
store, and take that back; in some it is mirrored, and its replica read and promoted, which then is used and mirrored
itself; in some everything is sealed, with keys that are exchanged and forgotten. Whatever a handle shows, and tells who
watches, is compared with what the commits say, as they were written first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from crowd.faulty import DEADLINE, Connection, Faults, Loop, Place, Process, as_it_is_there
from crowd.programs import program_of
from crowd.truth import Documents, History, Truth
from statepath.engine.engine import Engine
from statepath.engine.migrating import rollback
from statepath.engine.mirror import Mirror
from statepath.engine.opening import attach, open_engine
from statepath.engine.primary import DistantPrimary, OpenPrimary, Primary
from statepath.engine.promoting import promote
from statepath.engine.replica import MEMBERS
from statepath.engine.snapshot import SCHEMA_MEMBER
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    CorruptionError,
    DivergedError,
    HistoryTrimmedError,
    InvalidArgumentError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
    ThrottledError,
    UnavailableError,
    UnsupportedError,
)
from statepath.events import Events, MirrorFailed, MirrorRebased
from statepath.settings import Settings
from statepath.store import Store
from statepath.watch import StateChange

T = TypeVar("T")


class World:
    """What came of a seed. `wrong`: a sentence for each promise that was broken."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.truth = Truth()
        self.wrong: list[str] = []
        self.fates: dict[str, str] = {}
        self.faults = Faults(self.draw)
        self._steps = [*self.draw.sample(_SAVES, 3), *self.draw.sample(_OTHERS, 3)]
        self._tokens = count()
        self._counted: defaultdict[str, int] = defaultdict(int)
        self._shipped = 0
        choose = self.draw.choice
        self._mirrored = choose([False, True])
        self._settings = Settings().model_copy(
            update={
                "deadline": DEADLINE,
                "autosave": choose([5.0, 30.0, 100.0]),
                "backups": choose([1, 2, 4]),
                "views": choose([False, True]),
                "history": timedelta(seconds=choose([60, 300, 1800])),
                "history_bytes": choose([None, 2000]),
                "encryption_key": choose([None, None, SecretStr("5a" * 32)]),
                "compression": choose([None, "zstd"]),
            }
        )
        places = choose([False, True]) and not self._settings.encrypted
        self._pauses = [0.0, 0.05, 1, 10, 60]
        if places:  # much of what can be placed, and all at once: so some of it goes behind others
            self._steps += [World._put_little] * 30
            self._pauses = [0.0, 0.05, 1, 10]
        self._migrated = choose([False, False, True])
        self._store, self._replica, self._next = (
            Place(name, self.truth, self._settings, places=places) for name in ("store", "replica", "next")
        )

    @property
    def _promoted(self) -> History:
        return self.truth.at(self._replica.name)

    def untaken(self, context: dict[str, Any]) -> None:
        """Nobody took an error; of a process that was killed, nobody is left who could be told of an outcome."""
        if not isinstance(context.get("exception"), OutcomeUnknownError):
            self.wrong.append(f"nobody took an error: {context}")

    async def go(self) -> None:
        store, replica, last = self._store, self._replica, self._next
        writers = [
            self._lives(f"w{n}", self._use, store, replica)
            for n in range(self.draw.randint(1 + store.places, 3))
        ]
        await self._together(*writers, beside=self._beside(store, replica))
        writers = [self._lives("w", self._use, store, replica)]
        beside = [self._lives("r", self._watch, store)]
        if self._mirrored and self.draw.random() < 0.5:
            writers.append(self._go_on())
        else:
            beside += self._beside(store, replica)
        await self._together(*writers, beside=beside)
        await asyncio.sleep(300)  # what is still on its way may arrive
        self.faults.kind = True
        await self._end(store)
        if self._promoted.place:
            await self._promote(Process("end"), self.draw, replica)
            await self._end(replica)
            await self._refuse(store, replica)
            await self._end_of_mirror(replica, last)
        elif self._mirrored:
            await self._end_of_mirror(store, replica)
        self._compare_fates()

    def _beside(self, store: Place, replica: Place) -> list[Coroutine[Any, Any, None]]:
        """Processes that ship and read, where the store is mirrored."""
        if not self._mirrored:
            return []
        draw = self.draw
        lives = [self._lives("rr", self._watch, replica)] if draw.random() < 0.5 else []
        if draw.random() < 0.5:
            lives.append(self._lives("m", self._mirror, store, draw.choice([replica, self._next])))
        return lives

    async def _go_on(self) -> None:
        """Go on at the replica, though the store's writers may do so, too."""
        await asyncio.sleep(self.draw.choice([0, 10, 300]) * self.draw.random())
        await self._lives("p", self._promote, self._replica)
        if not self._promoted.place:
            return
        writers = [self._lives(f"p{n}", self._use, self._replica, self._next) for n in range(2)]
        await self._together(*writers, beside=[self._lives("pr", self._watch, self._replica)])

    async def _together(
        self, *lives: Coroutine[Any, Any, None], beside: list[Coroutine[Any, Any, None]]
    ) -> None:
        """`beside`: those that end some time after the others have."""
        async with asyncio.timeout(36_000):
            others = [asyncio.ensure_future(life) for life in beside]
            await asyncio.gather(*lives)
            await asyncio.sleep(20)
            for other in others:
                other.cancel()
            for ended in await asyncio.gather(*others, return_exceptions=True):
                if not isinstance(ended, asyncio.CancelledError | None):
                    raise ended

    async def _lives(self, name: str, live: Callable[..., Any], *places: Place) -> None:
        draw = random.Random(self.draw.random())
        for life in range(draw.randint(1, 3)):
            process = Process(f"{name}.{life}")
            living = process.start(live(process, draw, *places))
            if draw.random() < 0.3:
                asyncio.get_running_loop().call_later(
                    draw.uniform(0, 100), process.stop, draw.uniform(1, 150)
                )
            try:
                await asyncio.wait([living], timeout=draw.choice([2, 60, 600, 3000]) * draw.random())
                if living.done() and (error := living.exception()) is not None:
                    if not isinstance(error, StateError):
                        raise error
                    if isinstance(error, CorruptionError):
                        self.wrong.append(f"{process.name} found damage: {error}")
                    self.faults.say(f"{process.name} ended with {type(error).__name__} {error.code}: {error}")
            finally:
                await process.kill()
            await asyncio.sleep(draw.choice([0, 1, 100]))

    def _connect(self, place: Place, process: Process) -> Connection:
        return Connection(place, process, self.faults, self.draw)

    async def _open(
        self,
        process: Process,
        place: Place,
        replica: Place | None = None,
        *,
        readonly: bool = False,
        program: int | None = None,
    ) -> Store:
        """`program`: up to which version it knows the documents, by default as they are; 0: it does not care."""

        async def open() -> Engine:
            known = program_of(self.truth.at(place.name).version if program is None else program)
            connection = self._connect(place, process)
            return await open_engine(connection, self._settings, events, readonly=readonly, migrations=known)

        events = Events()
        engine = await self._insist(open)
        if replica is not None:
            mirror = self._mirror_of(OpenPrimary(engine), process, replica, events)
            engine.attach(mirror)
            mirror.start()
        store = Store(engine, events=events)
        self.faults.say(f"{process.name} opened {place.name} at {store.seq}")
        self.wrong += [f"{process.name} found damage: {damage.reason}" for damage in store.damage]
        self._compare(process.name, store)
        return store

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """What is there soon, again until it is."""
        while True:
            try:
                return await call()
            except (UnavailableError, ThrottledError, ConflictError, NotFoundError, OutcomeUnknownError):
                pass
            except StateError as error:
                if error.code != "unfinished":
                    raise
            await asyncio.sleep(5)

    # What mirrors do

    def _mirror_of(
        self, primary: Primary, process: Process, replica: Place, events: Events, **options: Any
    ) -> Mirror:
        async def connect() -> Connection:
            return self._connect(replica, process)

        def note(told: MirrorRebased) -> None:
            if "damaged" in told.reason:
                self.wrong.append(f"{process.name} found damage: {told.reason}")

        def shipped(what: str) -> None:
            if replica is self._replica and not self._promoted.place:
                self._shipped = max(self._shipped, mirror.lag.seq or 0)

        def failed(told: MirrorFailed) -> None:
            if isinstance(told.error, CorruptionError):
                self.wrong.append(f"{process.name} found damage: {told.error}")
            if isinstance(told.error, DivergedError) and not (
                self._promoted.place or "from here" in str(told.error)
            ):
                self.wrong.append(f"{process.name} ships no more: {told.error}")

        events.on(MirrorFailed, failed)
        events.on(MirrorRebased, note)
        mirror = Mirror(primary, replica.name, connect, self._settings, events, shipped, **options)
        return mirror

    async def _distant(self, process: Process, store: Place) -> DistantPrimary:
        async def connect() -> Connection:
            return self._connect(store, process)

        return await self._insist(lambda: DistantPrimary.open(connect, self._settings))

    async def _mirror(self, process: Process, draw: random.Random, store: Place, replica: Place) -> None:
        primary = await self._distant(process, store)
        with suppress(DivergedError, AlreadyExistsError):
            await self._mirror_of(primary, process, replica, Events()).run()

    async def _promote(self, process: Process, draw: random.Random, replica: Place) -> None:
        async def promote_it() -> None:
            with suppress(InvalidArgumentError):  # it was before
                await promote(await attach(self._connect(replica, process), self._settings), self._settings)
            if not self._promoted.place:
                self.wrong.append(f"{process.name} promoted the replica, and the log does not say so")
            elif self._promoted.begin < self._shipped:
                self.wrong.append(f"seq {self._shipped} was shipped, and lost when the replica was promoted")

        await self._insist(promote_it)

    # What writers do

    async def _use(self, process: Process, draw: random.Random, place: Place, replica: Place) -> None:
        program = draw.randint(1, 3) if self._migrated and draw.random() < 0.5 else None
        shipped = replica if self._mirrored and draw.random() < 0.8 else None
        store = await self._open(process, place, shipped, program=program)
        if draw.random() < 0.3:
            process.start(self._listen(process, store))
        while draw.random() < 0.95 and store._engine.failure is None:
            await asyncio.sleep(draw.choice(self._pauses) * draw.random())
            await asyncio.gather(*(self._step(process, store, draw) for _ in range(draw.choice([1, 1, 3]))))
        with suppress(StateError):
            await store.aclose()
        if self._migrated and draw.random() < 0.5:
            await self._roll_back(process, place)

    async def _roll_back(self, process: Process, place: Place) -> None:
        store = await self._open(process, place, program=0)
        with suppress(InvalidArgumentError, NotFoundError):  # none was made, or it was taken back
            done = await rollback(store._engine)
            self.faults.say(f"{process.name} went back to {done.versions} of seq {done.to} at seq {done.seq}")
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
        except UnsupportedError as error:
            if not error.code.endswith("_schema"):
                raise
            fate = "refused"
        except (UnavailableError, ThrottledError):
            fate = "failed"
        except HistoryTrimmedError:
            fate = "trimmed"
        else:
            fate = "done"
        if what in (*_SAVES, *_AT_ONCE):
            # Where several things are done, or a file is waited for, an error does not say that nothing was committed.
            self.fates[token] = fate if fate == "done" or what in _AT_ONCE else "unknown"
        self.faults.say(f"{process.name} {what.__name__} {token} {fate}")

    async def _put(self, store: Store, draw: random.Random, token: str) -> None:
        text = "é" * draw.choice([0, 0, 1000])
        await store.collection(draw.choice("ab")).put(_made(store, draw.choice("uvwxyz"), token, text=text))

    async def _put_little(self, store: Store, draw: random.Random, token: str) -> None:
        await store.collection(draw.choice("ab")).put(_made(store, draw.choice("uvwxyz"), token))

    async def _create(self, store: Store, draw: random.Random, token: str) -> None:
        await store.collection("a").create(_made(store, f"new {draw.randrange(30)}", token))

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
            tx.put(a, _made(store, "of both", token))
            tx.put_member("last", token)

    async def _under_lease(self, store: Store, draw: random.Random, token: str) -> None:
        async with store.lease("leader", ttl=15, wait=5) as lease:
            await asyncio.sleep(3 * draw.random())
            await store.collection("a").put(_made(store, "leader", token, epoch=lease.epoch))

    async def _write_log(self, store: Store, draw: random.Random, token: str) -> None:
        await store.append_log(draw.choice(["l1", "l2"]), token + "é" * draw.choice([0, 1, 200]) + "\n")

    async def _write_report(self, store: Store, draw: random.Random, token: str) -> None:
        await store.save_report(draw.choice(["r1", "r2"]), {"token": token})

    async def _remove_file(self, store: Store, draw: random.Random, token: str) -> None:
        await draw.choice([store.delete_log, store.delete_report])(draw.choice(["l1", "r1"]))

    async def _snapshot(self, store: Store, draw: random.Random, token: str) -> None:
        await draw.choice([store.snapshot, store.backup, store.flush])()

    async def _merge(self, store: Store, draw: random.Random, token: str) -> None:
        """Each process counts in a member of its own: nobody else's change of the document takes that back."""
        own = token[1:].partition(" ")[0]
        policy = draw.choice(["merge", lambda base, theirs, ours: {**(theirs or ours), own: ours[own]}])
        shared = store.collection("c", on_conflict=policy)
        if (document := await shared.get_document("shared")) is None:
            await shared.create({"id": "shared", own: {"count": 1, "token": token}})
            return
        count = document.value.get(own, {"count": 0})["count"] + 1
        if count <= self._counted[own] and World._restore not in self._steps and not self._migrated:
            self.wrong.append(f"{token} counts {count}, and {self._counted[own]} was acknowledged")
        changed = {**document.value, own: {"count": count, "token": token}}
        await asyncio.sleep(draw.choice([0, 1, 10]) * draw.random())
        await shared.put(changed, if_version=document.version)
        self._counted[own] = max(self._counted[own], count)

    async def _restore(self, store: Store, draw: random.Random, token: str) -> None:
        if not store.seq:
            return
        at = draw.randint(max(1, store.seq - 10), store.seq)
        restored = await store.restore(at=at)
        states = self._history(store).states
        then, now = states[at].documents, states[restored.seq].documents
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

    async def _rotate(self, store: Store, draw: random.Random, token: str) -> None:
        if self._settings.encrypted:
            await draw.choice([store.rotate_key, store.retire_keys])()

    # What must hold

    async def _sync(self, store: Store, draw: random.Random, token: str) -> None:
        head = self.truth.reached[store._engine.backend.url.removeprefix("simulated://")]
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
        for state in self._history(store).states[before:]:
            held = state.reports.get(id) if id == "r1" else (state.logs.get(id) or b"").decode() or None
            if found == held:
                return
        self.wrong.append(f"{token} read {id} as it never was since seq {before}: {str(found)[-100:]}")

    def _history(self, store: Store) -> History:
        engine = store._engine
        return self.truth.of(engine.incarnation, engine.replica.head, engine.replica.commit)

    def _compare(self, who: str, store: Store) -> None:
        replica, history = store._engine.replica, self._history(store)
        if replica.head > history.head:
            self.wrong.append(f"{who} shows seq {replica.head}, and the log ends with {history.head}")
            return
        state = history.states[replica.head]
        held = {(c, id): e.json() for c, entries in replica.collections.items() for id, e in entries.items()}
        if _read(held) != _read(state.documents):
            self.wrong.append(f"{who} shows other documents than those of seq {replica.head}")
        if {
            (c, id): e.version for c, entries in replica.collections.items() for id, e in entries.items()
        } != (state.versions):
            self.wrong.append(f"{who} shows other versions than those of seq {replica.head}")
        if replica.logs != {id: len(text) for id, text in state.logs.items()}:
            self.wrong.append(f"{who} knows other session logs than those of seq {replica.head}")

    async def _watch(self, process: Process, draw: random.Random, place: Place) -> None:
        store = await self._open(process, place, readonly=True)
        async for _ in self._told(process.name, store):
            if draw.random() < 0.3:
                await draw.choice([self._read_files, self._verify, self._sync])(store, draw, process.name)

    async def _listen(self, process: Process, store: Store) -> None:
        """Who writes is told of its own changes, too."""
        with suppress(StateError):
            async for _ in self._told(process.name, store):
                pass

    async def _told(self, who: str, store: Store) -> AsyncIterator[StateChange]:
        """Every change once, in the order of the log, and as it stands there."""
        coming = self._coming(store, store.seq)
        with suppress(HistoryTrimmedError):
            async for change in store.watch():
                state, place = self._history(store).states[change.seq], (change.collection, change.id)
                if (is_next := next(coming, None)) != (change.seq, change.key):
                    self.wrong.append(
                        f"{who} was told of {change.key} at seq {change.seq}, and not of {is_next}"
                    )
                    return
                if change.kind == "put" and json.loads(state.documents[place]) != change.value:
                    self.wrong.append(f"{who} was told of another {change.key} than that of seq {change.seq}")
                yield change

    def _coming(self, store: Store, seq: int) -> Iterator[tuple[int, str]]:
        while (seq := seq + 1) <= (history := self._history(store)).head:
            for key in history.told[seq]:
                yield seq, key

    async def _end(self, place: Place) -> None:
        """Nobody is left, and nothing fails: whoever comes next finds all of it."""
        history = self.truth.at(place.name)
        for readonly in (True, False, True) if history.head else ():
            store = await self._open(Process("end"), place, readonly=readonly)
            await self._compare_all(store, history)
            if not readonly:
                await store.flush()
                await store.snapshot()
                await self._retire(store)
            await self._verify(store, self.draw, "the end")
            await store.aclose()

    async def _end_of_mirror(self, store: Place, replica: Place) -> None:
        """What is mirrored once more has everything; what cannot follow has it when it was made anew."""
        process = Process("end")
        if not self.truth.at(store.name).head:
            return
        primary = await self._distant(process, store)
        head = await primary.head()
        follows = store is self._store
        mirror = self._mirror_of(primary, process, replica, Events(), reseed=not follows)
        await mirror.run(head.seq)
        copy = await self._open(process, replica, readonly=True)
        await self._compare_all(copy, self.truth.at(store.name))
        await self._verify(copy, self.draw, "the end")
        await copy.aclose()

    async def _retire(self, store: Store) -> None:
        """Nothing needs an old key when the history is over, and all is sealed anew."""
        if self._settings.encrypted:
            await store.rotate_key()
            await asyncio.sleep(self._settings.history.total_seconds() + 600)
            if kept := (await store.retire_keys()).kept:
                self.wrong.append(f"old keys are needed still: {kept}")

    async def _refuse(self, store: Place, promoted: Place) -> None:
        """Nothing is shipped to what was promoted."""
        process = Process("end")
        primary, before = await self._distant(process, store), self.truth.reached[promoted.name]
        with suppress(DivergedError):
            await self._mirror_of(primary, process, promoted, Events()).run((await primary.head()).seq)
            self.wrong.append("the promoted replica was taken for one still")
        if self.truth.reached[promoted.name] != before:
            self.wrong.append("the promoted replica was written over")

    async def _compare_all(self, store: Store, history: History) -> None:
        where, last = store._engine.backend.url, history.states[-1]
        if store.seq != history.head:
            self.wrong.append(f"seq {history.head} was committed, and {store.seq} is found at {where}")
        logs = {id: (await store.read_log(id)).encode() for id in await store.logs()}
        reports = {id: await store.read_report(id) for id in await store.reports()}
        if (logs, reports) != (last.logs, last.reports):
            self.wrong.append(f"other session logs or reports are found at {where} than were committed")

    def _compare_fates(self) -> None:
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
    World._merge,
    World._write_log,
    World._write_report,
]
_AT_ONCE = [World._put, World._put_little, World._create, World._append, World._write_log]
_OTHERS = [
    World._delete,
    World._remove_file,
    World._snapshot,
    World._restore,
    World._archive,
    World._rotate,
    World._sync,
    World._verify,
    World._read_files,
]


def _made(store: Store, id: str, token: str, **more: object) -> dict[str, Any]:
    """A document as the program of that handle makes it."""
    known = store._engine.migrations
    return {"id": id, "token": token, "version": known.target("a") if known else 1, **more}


def _read(documents: Documents) -> dict[tuple[str, str], Any]:
    return {place: json.loads(document) for place, document in documents.items()}


def _apart(documents: Documents) -> dict[tuple[str, str], Any]:
    """What a restore brings back: the documents, but not who holds a lease, or of which version they are."""
    return {
        place: document
        for place, document in _read(documents).items()
        if not place[1].startswith("lease/") and place != (MEMBERS, SCHEMA_MEMBER)
    }


def live(seed: int) -> World:
    """The run of a seed."""
    world, loop = World(seed), Loop()
    loop.set_exception_handler(lambda loop, context: world.untaken(context))
    with as_it_is_there(loop, seed):
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(world.go())
        except StateError as error:
            world.wrong.append(f"the end could not be seen: {error!r}")
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    return world


def main() -> bool:
    """Run the seeds that are named; whether all promises were kept."""
    logging.disable(logging.CRITICAL)
    kept, numbers = True, [int(word) for word in sys.argv[1:]] or [0]
    for seed in range(numbers[0], numbers[1] if len(numbers) > 1 else numbers[0] + 1):
        world = live(seed)
        kept = kept and not world.wrong
        told = [*world.fates.values()]
        print(
            f"seed {seed}: {world.truth.at('store').head} seqs,",
            {fate: told.count(fate) for fate in sorted({*told})},
        )
        print(
            *(f"  {sentence}" for sentence in world.wrong),
            sep="\n",
            end="\n" if world.wrong else "",
            flush=True,
        )
    return kept


if __name__ == "__main__":
    sys.exit(not main())
