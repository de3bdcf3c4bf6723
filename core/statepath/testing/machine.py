"""Any sequence of operations, compared with a dictionary."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from statepath.backend import ALWAYS, IF_ABSENT, Backend, ETag, IfMatch, Span
from statepath.errors import AlreadyExistsError, ConflictError, NotFoundError
from statepath.testing.subject import Subject

T = TypeVar("T")

_KEYS = st.sampled_from(
    (
        "a",
        "a.b",
        "A",
        "b/a",
        "b/a.json",
        "b/A",
        "b-/a",
        "b/c/d",
        "b_/%2F",
        "journal/00000000000000000001.jsonl",
    )
)
_PREFIXES = st.sampled_from(("", "a", "A", "b", "b/", "b/a", "b_", "j", "%"))
_DATA = st.one_of(st.binary(max_size=20), st.sampled_from((b"A", b"B", b"x" * 100_000)))
_PLACES = st.integers(0, 30)


class MachineChecks(Subject):
    machine_settings: ClassVar[settings] = settings(
        max_examples=25,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )
    """How Hypothesis runs the state machine."""

    async def test_any_sequence_of_operations_agrees_with_a_dictionary(self) -> None:
        subject = self

        class Machine(BackendMachine):
            def __init__(self) -> None:
                super().__init__(subject)

        await asyncio.to_thread(run_state_machine_as_test, Machine, settings=self.machine_settings)


class BackendMachine(RuleBasedStateMachine):
    """Changes a new store through one connection, and looks at it through another."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject
        self.runner = asyncio.Runner()
        self.path = subject.new_store()
        self.model: dict[str, tuple[bytes, ETag]] = {}
        self.stale: dict[str, set[ETag]] = {}
        self.connect()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def connect(self) -> None:
        self.stack = AsyncExitStack()
        self.backend: Backend = self.run(self.stack.enter_async_context(self.subject.connection(self.path)))
        reader = self.subject.connection(self.path, readonly=True)
        self.reader: Backend = self.run(self.stack.enter_async_context(reader))

    @rule()
    def open_again(self) -> None:
        self.run(self.stack.aclose())
        self.connect()

    @rule(key=_KEYS, data=_DATA)
    def write(self, key: str, data: bytes) -> None:
        self.stored(key, data, self.run(self.backend.write(key, data, when=ALWAYS)))

    @rule(key=_KEYS, data=_DATA)
    def create(self, key: str, data: bytes) -> None:
        if key in self.model:
            with pytest.raises(AlreadyExistsError):
                self.run(self.backend.write(key, data, when=IF_ABSENT))
        else:
            self.stored(key, data, self.run(self.backend.write(key, data, when=IF_ABSENT)))

    @rule(key=_KEYS, data=_DATA)
    def replace(self, key: str, data: bytes) -> None:
        if key in self.model:
            when = IfMatch(self.model[key][1])
            self.stored(key, data, self.run(self.backend.write(key, data, when=when)))

    @precondition(lambda self: self.stale)
    @rule(choice=st.data(), data=_DATA)
    def replace_another_version(self, choice: st.DataObject, data: bytes) -> None:
        key, etag = self.draw_stale(choice)
        with pytest.raises(ConflictError):
            self.run(self.backend.write(key, data, when=IfMatch(etag)))

    @rule(key=_KEYS)
    def delete(self, key: str) -> None:
        assert self.run(self.backend.delete(key)) is (key in self.model)
        self.forget(key)

    @rule(key=_KEYS)
    def delete_version(self, key: str) -> None:
        if key in self.model:
            assert self.run(self.backend.delete(key, when=IfMatch(self.model[key][1]))) is True
            self.forget(key)

    @precondition(lambda self: self.stale)
    @rule(choice=st.data())
    def delete_another_version(self, choice: st.DataObject) -> None:
        key, etag = self.draw_stale(choice)
        if key in self.model:
            with pytest.raises(ConflictError):
                self.run(self.backend.delete(key, when=IfMatch(etag)))
        else:
            assert self.run(self.backend.delete(key, when=IfMatch(etag))) is False

    @rule(key=_KEYS, start=_PLACES, length=st.one_of(st.none(), _PLACES))
    def read(self, key: str, start: int, length: int | None) -> None:
        for backend in (self.backend, self.reader):
            if key in self.model:
                data, etag = self.model[key]
                blob = self.run(backend.read(key))
                assert (blob.data, blob.etag) == (data, etag)
                stop = None if length is None else start + length
                blob = self.run(backend.read(key, span=Span(start, stop)))
                assert (blob.data, blob.etag) == (data[start:stop], etag)
            else:
                with pytest.raises(NotFoundError):
                    self.run(backend.read(key))

    @rule(prefix=_PREFIXES, after=st.one_of(st.just(""), _KEYS))
    def list_keys(self, prefix: str, after: str) -> None:
        expected = [key for key in sorted(self.model) if key.startswith(prefix) and key > after]
        assert [key for key, _ in self.listed(self.reader, prefix, after)] == expected

    @invariant()
    def lists_what_is_there(self) -> None:
        expected = [(key, len(data)) for key, (data, _) in sorted(self.model.items())]
        assert self.listed(self.backend, "", "") == expected

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    def listed(self, backend: Backend, prefix: str, after: str) -> list[tuple[str, int]]:
        async def collect() -> list[tuple[str, int]]:
            return [(entry.key, entry.size) async for entry in backend.list_keys(prefix, after=after)]

        return self.run(collect())

    def draw_stale(self, choice: st.DataObject) -> tuple[str, ETag]:
        key = choice.draw(st.sampled_from(sorted(self.stale)))
        return key, choice.draw(st.sampled_from(sorted(self.stale[key])))

    def stored(self, key: str, data: bytes, etag: ETag) -> None:
        assert etag not in self.stale.get(key, ()), "a new version has the ETag of an earlier one"
        assert key not in self.model or self.model[key][1] != etag, "a write did not change the ETag"
        self.forget(key)
        self.model[key] = (data, etag)
        blob = self.run(self.reader.read(key))
        assert (blob.data, blob.etag) == (data, etag)

    def forget(self, key: str) -> None:
        gone = self.model.pop(key, None)
        if gone is not None:
            self.stale.setdefault(key, set()).add(gone[1])
