"""Whatever is done to a store, in whatever order: it is the dict that it should be."""

from __future__ import annotations

import asyncio
import copy
from uuid import uuid4

import pytest
import statepath
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    UnavailableError,
)

COLLECTIONS = st.sampled_from(["raw", "tasks"])
IDS = st.sampled_from(["a", "b", "A/ü", "..", "x" * 200])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "append", "get"]), COLLECTIONS, IDS, VALUES), max_size=5
)


class StoreMachine(RuleBasedStateMachine):
    """A store beside a model of it: the documents with their versions, and the state at each seq."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.url = f"memory://{uuid4().hex}"
        self.store = self.run(statepath.open(self.url, autosave=0))
        self.documents: dict[tuple[str, str], dict] = {}
        self.versions: dict[tuple[str, str], int] = {}
        self.past: list[dict] = [{}]
        self.happened: list[tuple[int, str, str]] = []
        self.replayed: dict[tuple[str, str], dict] = {}
        self.cursor: int | str = 0

    def run(self, awaitable):
        async def wait():
            return await awaitable

        return self.loop.run_until_complete(asyncio.wait_for(wait(), 60))

    def teardown(self) -> None:
        self.run(self.store.aclose())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    # What the model does

    def committed(self, seq: int, *changes: tuple[str, str, str, object]) -> None:
        """One transaction has become durable."""
        assert seq == len(self.past), "seqs are 1, 2, 3, …"
        for kind, collection, id, value in changes:
            place = (collection, id)
            if kind == "put":
                self.documents[place] = value
            elif kind == "append":
                document = copy.deepcopy(self.documents[place])
                document["list"] = [*(document.get("list") or []), value]
                self.documents[place] = document
            elif self.documents.pop(place, None) is None:
                continue
            self.happened.append((seq, kind, f"{collection}/{id}"))
            self.versions[place] = seq
            if kind == "delete":
                del self.versions[place]
        self.past.append(dict(self.documents))

    # What can be done

    @rule(collection=COLLECTIONS, id=IDS, value=VALUES)
    def put(self, collection, id, value):
        self.put_document(collection, id, value)

    def put_document(self, collection, id, value):
        document = {"id": id, "value": value}
        self.committed(
            self.run(self.store.collection(collection).put(document)), ("put", collection, id, document)
        )

    @rule(collection=COLLECTIONS, id=IDS, value=VALUES, version=st.integers(0, 20))
    def put_if_version(self, collection, id, value, version):
        document = {"id": id, "value": value, "checked": True}
        current = self.versions.get((collection, id), 0)
        try:
            seq = self.run(self.store.collection(collection).put(document, if_version=version))
        except ConflictError as error:
            told = (error.current, error.theirs)
            assert told == (current, self.documents.get((collection, id)))
            assert current != version
        else:
            assert current == version
            self.committed(seq, ("put", collection, id, document))

    @rule(collection=COLLECTIONS, id=IDS)
    def create(self, collection, id):
        document = {"id": id, "list": []}
        try:
            seq = self.run(self.store.collection(collection).create(document))
        except AlreadyExistsError:
            assert (collection, id) in self.documents
        else:
            assert (collection, id) not in self.documents
            self.committed(seq, ("put", collection, id, document))

    @rule(collection=COLLECTIONS, id=IDS)
    def delete(self, collection, id):
        existed = (collection, id) in self.documents
        assert self.run(self.store.collection(collection).delete(id)) == existed
        if existed:
            self.committed(self.store.seq, ("delete", collection, id, None))

    @rule(collection=COLLECTIONS, id=IDS, value=VALUES)
    def append(self, collection, id, value):
        try:
            seq = self.run(self.store.collection(collection).append(id, "list", value))
        except NotFoundError:
            assert (collection, id) not in self.documents
        else:
            self.committed(seq, ("append", collection, id, value))

    @rule(collection=COLLECTIONS, id=IDS, value=VALUES)
    def update(self, collection, id, value):
        try:
            updated = self.run(
                self.store.collection(collection).update(id, lambda document: document | {"new": value})
            )
        except NotFoundError:
            assert (collection, id) not in self.documents
        else:
            assert updated == self.documents[collection, id] | {"new": value}
            self.committed(self.store.seq, ("put", collection, id, updated))

    @rule(changes=CHANGES, fails=st.booleans())
    def transaction(self, changes, fails):
        made, held = [], dict(self.documents)

        async def commit():
            async with self.store.transaction() as tx:
                for kind, name, id, value in changes:
                    collection = self.store.collection(name)
                    if kind == "put":
                        tx.put(collection, {"id": id, "value": value})
                        held[name, id] = {"id": id, "value": value}
                        made.append((kind, name, id, {"id": id, "value": value}))
                    elif kind == "delete":
                        tx.delete(collection, id)
                        held.pop((name, id), None)
                        made.append((kind, name, id, None))
                    elif kind == "append" and (name, id) in held:
                        tx.append(collection, id, "list", value)
                        document = held[name, id]
                        held[name, id] = document | {"list": [*(document.get("list") or []), value]}
                        made.append((kind, name, id, value))
                    assert await tx.get(collection, id) == held.get((name, id))
                if fails:
                    raise ZeroDivisionError
            return tx.seq

        try:
            seq = self.run(commit())
        except ZeroDivisionError:
            return
        if seq:
            self.committed(seq, *made)
        else:
            assert held == self.documents

    @rule(changes=st.lists(st.tuples(COLLECTIONS, IDS, VALUES), min_size=2, max_size=6))
    def put_at_once(self, changes):
        async def put_all():
            return await asyncio.gather(
                *(self.store.collection(name).put({"id": id, "value": value}) for name, id, value in changes)
            )

        for seq, (name, id, value) in zip(self.run(put_all()), changes, strict=True):
            self.committed(seq, ("put", name, id, {"id": id, "value": value}))

    @rule(data=st.data())
    def restore(self, data):
        at = data.draw(st.integers(0, len(self.past) - 1))
        before = len(self.past) - 1
        restored = self.run(self.store.restore(at=at))
        assert restored.to == at
        then = self.past[at]
        changes = [
            ("put", *place, document)
            for place, document in then.items()
            if self.documents.get(place) != document
        ]
        changes += [("delete", *place, None) for place in self.documents if place not in then]
        if changes:
            self.committed(restored.seq, *changes)
        else:
            assert restored.seq == before

    @rule(collection=COLLECTIONS, id=IDS, applied=st.booleans())
    def put_while_the_answer_is_lost(self, collection, id, applied):
        self.fail_next_commit(UnavailableError("the connection was reset"), applied=applied)
        self.put_document(collection, id, "once")

    @rule(collection=COLLECTIONS, id=IDS)
    def put_while_the_disk_is_full(self, collection, id):
        self.fail_next_commit(UnavailableError("there is no space left", code="disk_full"))
        with pytest.raises(UnavailableError):
            self.run(self.store.collection(collection).put({"id": id, "value": "never"}))

    @rule(collection=COLLECTIONS, id=IDS, value=VALUES, checked=st.booleans())
    def put_behind_a_rival(self, collection, id, value, checked):
        """Another handle commits first; ours reads that and goes on, unless it conflicts."""
        rival = self.run(statepath.open(self.url, autosave=0))
        version = self.versions.get((collection, id), 0)
        theirs = {"id": id, "rival": True}
        seq = self.run(rival.collection(collection).put(theirs))
        rival._engine._snapshotter.saved = seq
        self.run(rival.aclose())
        self.committed(seq, ("put", collection, id, theirs))
        if checked:
            with pytest.raises(ConflictError) as caught:
                self.run(self.store.collection(collection).put({"id": id}, if_version=version))
            assert (caught.value.current, caught.value.theirs) == (seq, theirs)
        else:
            self.put_document(collection, id, value)

    def fail_next_commit(self, error, *, applied=False):
        backend = self.store._engine.backend
        write = backend.write

        async def failing(key, data, **options):
            backend.write = write
            if applied:
                await write(key, data, **options)
            raise error

        backend.write = failing

    @rule()
    def snapshot(self):
        assert self.run(self.store.snapshot()) == len(self.past) - 1

    @rule()
    def reopen(self):
        self.run(self.store.aclose())
        self.store = self.run(statepath.open(self.url, autosave=0))

    @rule()
    def crash(self):
        """Another process opens the store, and this one was never closed."""
        left_behind = self.store
        self.store = self.run(statepath.open(self.url, autosave=0))
        left_behind._engine._snapshotter.saved = left_behind.seq
        self.run(left_behind.aclose())

    @rule()
    def replay(self):
        """The change feed, from where it was left, leads to the same state."""

        async def follow():
            told = []
            if self.store.seq > self.seq_of(self.cursor):
                changes = self.store.watch(since=self.cursor)
                async for change in changes:
                    told.append(change)
                    if len(told) == len([one for one in self.happened if one[0] > self.seq_of(self.cursor)]):
                        break
                await changes.aclose()
            return told

        for change in self.run(follow()):
            place = (change.collection, change.id)
            if change.kind == "put":
                self.replayed[place] = change.value
            elif change.kind == "delete":
                del self.replayed[place]
            else:
                document = self.replayed[place]
                self.replayed[place] = document | {"list": [*(document.get("list") or []), change.value]}
            self.cursor = change.cursor
        assert self.replayed == self.documents

    @staticmethod
    def seq_of(cursor):
        return int(str(cursor).rpartition(":")[2])

    # What must hold

    @invariant()
    def it_holds_what_it_should(self):
        assert self.store.seq == len(self.past) - 1
        for name in ("raw", "tasks"):
            expected = {
                id: document for (collection, id), document in self.documents.items() if collection == name
            }
            found = self.run(self.store.collection(name).find().all())
            assert {document["id"]: document for document in found} == expected
            assert self.run(self.store.collection(name).count()) == len(expected)

    @invariant()
    def its_versions_are_the_seqs_of_the_last_changes(self):
        for (collection, id), version in self.versions.items():
            document = self.run(self.store.collection(collection).get_document(id))
            assert (document.version, document.value) == (version, self.documents[collection, id])

    @rule()
    def tell_history(self):
        told = [(change.seq, change.kind, change.key) for change in self.run(self.store.history())]
        assert sorted(told) == sorted(self.happened)
        assert [seq for seq, _, _ in told] == sorted(seq for seq, _, _ in told)

    @rule()
    def verify(self):
        assert self.run(self.store.verify()) == []


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
