"""Backends that are sound as long as one process has the store."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from broken.sound import Config, Sound, caught_by
from statepath.backend import ALWAYS, Backend, Blob, Commit, CommitLog, Entry, ETag, Span, When
from statepath.errors import StoreLockedError
from statepath.log import PortableCommitLog

_writing = asyncio.Lock()
_held: set[str] = set()


@caught_by("test_another_process_sees_the_same_objects")
class SharedByWord(Sound):
    capabilities = replace(Sound.capabilities, shared=True)


@caught_by("test_another_process_is_kept_out_of_a_store_that_one_has_alone")
class KnowsWhoHasItHere(Sound):
    """Keeps in mind which stores this process has open."""

    capabilities = replace(Sound.capabilities, exclusive=True, durable=True)

    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        if not readonly and config.name in _held:
            raise StoreLockedError("somebody has it", holder={"pid": os.getpid()})
        super().__init__(config, readonly=readonly)
        if not readonly:
            _held.add(config.name)

    async def close(self) -> None:
        if not self.readonly:
            _held.discard(self.config.name)
        await super().close()


@caught_by(
    "test_no_replace_of_another_process_is_lost",
    "test_of_two_processes_that_create_an_object_one_wins",
    "test_the_commits_of_two_processes_stand_one_behind_the_other",
)
class LocksItsOwnProcess(Sound):
    """Keeps everything in a file, and checks the condition under a lock that another process does not have."""

    capabilities = replace(Sound.capabilities, shared=True)

    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.file = Path(config.name, "objects.json")

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        self.load()
        return await super().read(key, span=span)

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        async with _writing:
            self.load()
            await super().write(key, data, when=when)
            self.put(key, etag=ETag(token_hex(8)))
            await asyncio.sleep(0.002)
            self.save()
            return self._objects[key].etag

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        async with _writing:
            self.load()
            found = await super().delete(key, when=when)
            self.save()
            return found

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        self.load()
        async for entry in super().list_keys(prefix, after=after):
            yield entry

    def load(self) -> None:
        stored = json.loads(self.file.read_text()) if self.file.exists() else {}
        self._objects.clear()
        for key, (text, etag) in stored.items():
            self._objects[key] = Blob(text.encode(), etag, datetime.now(UTC))

    def save(self) -> None:
        new = self.file.with_suffix(f".{os.getpid()}")
        new.write_text(
            json.dumps({key: (blob.data.decode(), blob.etag) for key, blob in self._objects.items()})
        )
        new.replace(self.file)


@caught_by("test_what_another_process_changes_is_seen_by_who_had_looked")
class RemembersWhatItRead(LocksItsOwnProcess):
    def load(self) -> None:
        if not self._objects:
            super().load()


@caught_by(
    "test_no_other_process_sees_a_part_of_a_change",
    "test_what_a_killed_process_was_writing_is_whole_or_absent",
)
class WritesOneHalfFirst(LocksItsOwnProcess):
    """To its own process it shows nothing between the halves."""

    capabilities = replace(LocksItsOwnProcess.capabilities, durable=True)

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        await super().write(key, data[: len(data) // 2], when=when)
        if len(data) > 1_000:
            time.sleep(0.2)
        return await super().write(key, data)


class HangsElsewhere(LocksItsOwnProcess):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if multiprocessing.parent_process() is not None:
            time.sleep(3600)
        return await super().read(key, span=span)


class HearsItself(PortableCommitLog):
    """Follows what its own process commits."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend, review=0)
        self.news = asyncio.Event()

    async def append(self, after: int, commit: Commit) -> None:
        await super().append(after, commit)
        self.news.set()

    async def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncGenerator[Commit]:
        while True:
            async for commit in self.read(after):
                after = commit.last
                yield commit
            self.news.clear()
            await self.news.wait()


@caught_by("test_a_follower_gets_what_another_process_commits")
class HearsOnlyItself(LocksItsOwnProcess):
    def make_log(self) -> CommitLog:
        return HearsItself(self)


@caught_by("test_what_is_finished_outlives_its_process")
class KeepsItUntilItIsClosed(RemembersWhatItRead):
    capabilities = replace(LocksItsOwnProcess.capabilities, durable=True)

    def save(self) -> None:
        """Later."""

    async def close(self) -> None:
        LocksItsOwnProcess.save(self)
        await super().close()


@caught_by("test_a_writer_that_was_killed_keeps_nobody_out")
class LocksWithAFile(LocksItsOwnProcess):
    """Takes a file for a lock, which nobody removes but who made it."""

    capabilities = replace(LocksItsOwnProcess.capabilities, exclusive=True)

    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.lock = self.file.with_name("lock")
        if not readonly:
            try:
                self.lock.touch(exist_ok=False)
            except FileExistsError:
                raise StoreLockedError("somebody has it", holder={"pid": 0}) from None

    async def close(self) -> None:
        if not self.readonly:
            self.lock.unlink(missing_ok=True)
        await super().close()


class LocksEachWriteWithAFile(LocksItsOwnProcess):
    """As `LocksWithAFile`, for as long as a write takes."""

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        lock = self.file.with_name("lock")
        while True:
            try:
                lock.touch(exist_ok=False)
                break
            except FileExistsError:
                await asyncio.sleep(0.001)
        try:
            return await super().write(key, data, when=when)
        finally:
            lock.unlink()
