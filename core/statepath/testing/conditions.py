"""Checks of conditional writes and deletions, alone and with many at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Iterable, Sequence

import pytest

from statepath.backend import ALWAYS, IF_ABSENT, Backend, ETag, IfMatch
from statepath.errors import AlreadyExistsError, ConflictError, NotFoundError, StateError
from statepath.testing.meanwhile import meanwhile
from statepath.testing.patience import AT_MOST
from statepath.testing.subject import Subject, admits_others

LARGE = 17 * 1024 * 1024 + 1
"""Bytes: more than a part of what services take in parts."""

_CONTENDERS = 12
_TURNS = 4


class ConditionChecks(Subject):
    async def test_create_refuses_what_exists(self) -> None:
        async with self.connection() as backend:
            etag = await backend.write("a", b"first", when=IF_ABSENT)
            with pytest.raises(AlreadyExistsError):
                await backend.write("a", b"second", when=IF_ABSENT)
            assert await _stored(backend, "a") == (b"first", etag)

    async def test_create_takes_the_place_of_what_was_deleted(self) -> None:
        async with self.connection() as backend:
            await backend.write("a", b"first", when=IF_ABSENT)
            await backend.delete("a")
            etag = await backend.write("a", b"second", when=IF_ABSENT)
            assert await _stored(backend, "a") == (b"second", etag)

    async def test_replace_takes_the_version_that_is_stored(self) -> None:
        async with self.connection() as backend:
            etag = await backend.write("a", b"0")
            for turn in (b"1", b"2", b"3"):
                etag = await backend.write("a", turn, when=IfMatch(etag))
                assert await _stored(backend, "a") == (turn, etag)
            await backend.write("a", b"4", when=IfMatch((await backend.read("a")).etag))
            assert (await backend.read("a")).data == b"4"

    async def test_replace_refuses_another_version(self) -> None:
        async with self.connection() as backend:
            stale = await backend.write("a", b"A")
            current = await backend.write("a", b"B")
            with pytest.raises(ConflictError):
                await backend.write("a", b"C", when=IfMatch(stale))
            assert await _stored(backend, "a") == (b"B", current)

    async def test_replace_refuses_a_version_with_the_same_bytes(self) -> None:
        async with self.connection() as backend:
            stale = await backend.write("a", b"A")
            await backend.write("a", b"B")
            current = await backend.write("a", b"A")
            with pytest.raises(ConflictError):
                await backend.write("a", b"C", when=IfMatch(stale))
            assert await _stored(backend, "a") == (b"A", current)

    async def test_replace_refuses_what_is_missing(self) -> None:
        async with self.connection() as backend:
            etag = await backend.write("a", b"A")
            await backend.delete("a")
            with pytest.raises(ConflictError):
                await backend.write("a", b"B", when=IfMatch(etag))
            with pytest.raises(ConflictError):
                await backend.write("never", b"B", when=IfMatch(etag))
            for key in ("a", "never"):
                with pytest.raises(NotFoundError):
                    await backend.read(key)

    async def test_delete_takes_only_the_version_it_names(self) -> None:
        async with self.connection() as backend:
            stale = await backend.write("a", b"A")
            current = await backend.write("a", b"B")
            with pytest.raises(ConflictError):
                await backend.delete("a", when=IfMatch(stale))
            assert await _stored(backend, "a") == (b"B", current)
            assert await backend.delete("a", when=IfMatch(current)) is True
            assert await backend.delete("a", when=IfMatch(current)) is False
            with pytest.raises(NotFoundError):
                await backend.read("a")

    async def test_a_refused_change_creates_nothing(self) -> None:
        async with self.connection() as backend:
            etag = await backend.write("a", b"A")
            with pytest.raises(ConflictError):
                await backend.write("folder/new", b"B", when=IfMatch(etag))
            assert [entry.key async for entry in backend.list_keys("")] == ["a"]

    async def test_one_of_many_creates_wins(self) -> None:
        async with self.writers() as handles:
            for key in ("journal/00000000000000000001.jsonl", "leases/x"):
                contents = [str(turn).encode() for turn in range(_CONTENDERS)]
                won = await _contend(
                    handles[turn % 2].write(key, data, when=IF_ABSENT) for turn, data in enumerate(contents)
                )
                await _check_winner(handles[0], key, won, contents)

    async def test_one_of_many_replaces_wins(self) -> None:
        async with self.writers() as handles:
            etag = await handles[0].write("state.json", b"start")
            for number in range(3):
                # No content comes twice: who replaces an object while others do writes something new.
                contents = [f"{number}-{turn}".encode() for turn in range(_CONTENDERS)]
                won = await _contend(
                    handles[turn % 2].write("state.json", data, when=IfMatch(etag))
                    for turn, data in enumerate(contents)
                )
                etag = await _check_winner(handles[1], "state.json", won, contents)

    async def test_of_many_writes_at_once_each_is_given_its_own_etag(self) -> None:
        async with self.writers() as handles:
            contents = [str(turn).encode() for turn in range(_CONTENDERS)]
            outcomes = await _contend(
                handles[turn % 2].write("a", data) for turn, data in enumerate(contents)
            )
            data, etag = await _stored(handles[0], "a")
            last = contents.index(data)
            told = [turn for turn, outcome in enumerate(outcomes) if outcome == etag]
            unanswered = isinstance(outcomes[last], StateError)
            assert told == ([] if unanswered else [last]), "the ETag of one write was given to another"

    async def test_one_of_many_large_writes_wins(self) -> None:
        async with self.writers() as handles:
            size = min(LARGE, handles[0].capabilities.max_object_bytes or LARGE)
            contents = [random.Random(turn).randbytes(size) for turn in range(3)]
            etag = await handles[0].write("a", b"A")
            for key, when in (("a", IfMatch(etag)), ("new", IF_ABSENT)):
                won = await _contend(
                    handles[turn % 2].write(key, data, when=when) for turn, data in enumerate(contents)
                )
                await _check_winner(handles[0], key, won, contents)

    async def test_one_of_many_deletions_wins(self) -> None:
        async with self.writers() as handles:
            etag = await handles[0].write("a", b"A")
            won = await _contend(
                handles[turn % 2].delete("a", when=IfMatch(etag)) for turn in range(_CONTENDERS)
            )
            assert [outcome for outcome in won if outcome is True] == [True]

    async def test_a_deletion_and_a_replace_do_not_both_win(self) -> None:
        async with self.writers() as (one, other):
            for turn in range(10):
                etag = await one.write("a", b"A", when=ALWAYS)
                deletion, write = await asyncio.gather(
                    one.delete("a", when=IfMatch(etag)),
                    other.write("a", b"B", when=IfMatch(etag)),
                    return_exceptions=True,
                )
                won = (deletion is True) + isinstance(write, str)
                assert won == 1, f"turn {turn}: {deletion!r}, {write!r}"

    async def test_no_replace_is_lost(self) -> None:
        """Each contender adds its tokens to a list by read and replace; each token must be there once."""
        async with self.writers() as handles:
            await handles[0].write("list", b"[]")

            async def contend(number: int) -> None:
                for turn in range(_TURNS):
                    await add_token(handles[number % 2], "list", f"{number}-{turn}")

            await asyncio.gather(*(contend(number) for number in range(8)))
            tokens = json.loads((await handles[0].read("list")).data)
            assert sorted(tokens) == sorted(
                f"{number}-{turn}" for number in range(8) for turn in range(_TURNS)
            )

    async def test_connections_of_two_event_loops_lose_nothing_of_each_other(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            if not await admits_others(backend):
                return
            await backend.write("list", b"[]")

            async def add(name: str, backend: Backend) -> None:
                for turn in range(_TURNS):
                    await add_token(backend, "list", f"{name}-{turn}")

            async def add_both(name: str, another: str, backend: Backend) -> None:
                async with asyncio.timeout(AT_MOST):
                    await asyncio.gather(add(name, backend), add(another, backend))

            async def add_there() -> None:
                async with self.connection(path) as backend:
                    await add_both("there", "too", backend)

            async with meanwhile(asyncio.to_thread(asyncio.run, add_there())):
                await add_both("here", "besides", backend)
            tokens = json.loads((await backend.read("list")).data)
            expected = itertools.product(("here", "besides", "there", "too"), range(_TURNS))
            assert sorted(tokens) == sorted(f"{name}-{turn}" for name, turn in expected)

    async def test_what_a_person_changed_is_read_and_not_replaced(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            if not backend.capabilities.editable:
                return
            etag = await backend.write("tasks/a.json", b"ours")
            assert (await backend.read("tasks/a.json")).data == b"ours"
        await self.raw_write(path, "tasks/a.json", b"theirs")
        await self.raw_write(path, "tasks/new.json", b"new")
        async with self.connection(path) as backend:
            edited = await backend.read("tasks/a.json")
            assert edited.data == b"theirs"
            assert edited.etag != etag, "an edited object has the ETag that it had before"
            with pytest.raises(ConflictError):
                await backend.write("tasks/a.json", b"ours again", when=IfMatch(etag))
            with pytest.raises(AlreadyExistsError):
                await backend.write("tasks/new.json", b"ours", when=IF_ABSENT)
            assert [entry.key async for entry in backend.list_keys("tasks/")] == [
                "tasks/a.json",
                "tasks/new.json",
            ]


async def add_token(backend: Backend, key: str, token: str) -> None:
    """Add it to the list that is stored there, by read and replace, however often others are faster."""
    while True:
        blob = await backend.read(key)
        tokens = json.loads(blob.data)
        if token in tokens:
            return
        await asyncio.sleep(0)
        try:
            await backend.write(key, json.dumps([*tokens, token]).encode(), when=IfMatch(blob.etag))
        except ConflictError:
            continue
        except StateError as error:
            if not error.retryable:
                raise


async def _stored(backend: Backend, key: str) -> tuple[bytes, ETag]:
    blob = await backend.read(key)
    return blob.data, blob.etag


async def _contend(attempts: Iterable[Awaitable[object]]) -> list[object]:
    """What became of the attempts, made at once; those that lost were refused as they may be."""
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            lost = isinstance(outcome, AlreadyExistsError | ConflictError)
            assert lost or (isinstance(outcome, StateError) and outcome.retryable), repr(outcome)
    return outcomes


async def _check_winner(
    backend: Backend, key: str, outcomes: Sequence[object], contents: Sequence[bytes]
) -> ETag:
    data, etag = await _stored(backend, key)
    won = [turn for turn, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    assert len(won) == 1, f"{len(won)} of {len(outcomes)} at once were told that they had won {key}"
    whole = data == contents[won[0]]
    assert whole, "what is stored is not the winner's"
    assert etag == outcomes[won[0]], "the ETag is not the winner's"
    return etag
