"""Backends whose connections do too much or too little, and whose errors say too little."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from broken.sound import Config, Sound, SoundFactory, caught_by
from statepath.backend import ALWAYS, Backend, Blob, Entry, Span, When
from statepath.errors import NotFoundError, StateError, StoreLockedError, UnavailableError

_open: defaultdict[str, int] = defaultdict(int)
_closed: set[str] = set()
_writers: defaultdict[str, int] = defaultdict(int)
_made: defaultdict[str, bool] = defaultdict(bool)
_locked: defaultdict[str, bool] = defaultdict(bool)


@caught_by("test_a_reading_connection_refuses_changes")
class ReadonlyDeletes(Sound):
    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        self._readonly, before = False, self._readonly
        try:
            return await super().delete(key, when=when)
        finally:
            self._readonly = before


@caught_by("test_a_reading_connection_creates_nothing")
class PreparesItsFolder(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        (Path(config.name) / "format").touch()


@caught_by("test_a_reading_connection_sees_what_comes_later")
class ReadsTheStartOnly(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        if readonly:
            now = type(self._objects)()
            now.update(self._objects)
            self._objects = now


@caught_by("test_a_second_writer_is_admitted_or_told_who_writes")
class ExclusiveByWord(Sound):
    capabilities = replace(Sound.capabilities, exclusive=True)


@caught_by("test_a_second_writer_is_admitted_or_told_who_writes")
class NamesNobody(Sound):
    capabilities = replace(Sound.capabilities, exclusive=True)

    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        if not readonly and _open[config.name]:
            raise StoreLockedError("someone has it")
        super().__init__(config, readonly=readonly)
        if not readonly:
            _open[config.name] += 1

    async def close(self) -> None:
        if not self.readonly and not self._closed:
            _open[self.config.name] -= 1
        await super().close()


@caught_by("test_who_has_the_store_alone_may_let_others_in")
class AllMaintain(Sound):
    capabilities = replace(Sound.capabilities, sharing=True)

    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.joined = not readonly and _writers[config.name] > 0
        _writers[config.name] += not readonly

    async def announce(self) -> None:
        pass

    async def share(self) -> None:
        pass

    async def believe(self) -> None:
        pass

    async def maintain(self) -> bool:
        return True

    async def is_alone(self) -> bool:
        return _writers[self.config.name] == 1

    def refusal(self, why: str) -> StateError:
        return StoreLockedError(why, holder={"pid": 1})


@caught_by("test_a_closed_connection_refuses_everything")
class ListsWhenClosed(Sound):
    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        for key, blob in sorted(self._objects.items()):
            if key.startswith(prefix) and key > after:
                yield Entry(key, len(blob.data), blob.modified.timestamp())


@caught_by("test_a_closed_connection_refuses_everything", "test_a_closed_connection_appends_nothing")
class NeverCloses(Sound):
    async def close(self) -> None:
        pass


@caught_by("test_closing_one_connection_leaves_the_other")
class ClosesForAll(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if self.config.name in _closed:
            raise UnavailableError("the pool is closed", key=key)
        return await super().read(key, span=span)

    async def close(self) -> None:
        _closed.add(self.config.name)
        await super().close()


@caught_by("test_a_connection_may_be_closed_while_calls_are_under_way")
class WaitsForItsListings(Sound):
    """Closes when nobody lists any more."""

    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.listing = asyncio.Lock()

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        async with self.listing:
            async for entry in super().list_keys(prefix, after=after):
                yield entry

    async def close(self) -> None:
        async with self.listing:
            await super().close()


@caught_by("test_a_connection_may_be_closed_while_calls_are_under_way")
class CutsOffWhoReads(Sound):
    """What the library says of it is no error of ours."""

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        self._check_open(key)
        for _ in range(3):
            await asyncio.sleep(0)
            if self._closed:
                raise RuntimeError("Session is closed")
        return await super().read(key, span=span)


@caught_by("test_connections_that_were_closed_leave_nothing_behind")
class LeavesATask(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.refreshing = asyncio.ensure_future(asyncio.Event().wait())


@caught_by("test_connections_that_were_closed_leave_nothing_behind")
class LeavesAFile(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        os.open(os.devnull, os.O_RDONLY)


@caught_by("test_an_error_names_its_key_and_can_be_pickled")
class NamelessErrors(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if key not in self._objects:
            raise NotFoundError("there is no such object")
        return await super().read(key, span=span)


@caught_by("test_an_error_names_its_key_and_can_be_pickled")
class ErrorsWithHandles(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        try:
            return await super().read(key, span=span)
        except NotFoundError as error:
            error.response = self  # type: ignore[attr-defined]
            raise


@caught_by("test_many_connections_come_and_go")
class LeaksConnections(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        _open[config.name] += 1
        if _open[config.name] > 5:
            raise UnavailableError("too many connections")


@caught_by("test_two_stores_have_nothing_in_common")
class ForgetsItsStore(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(replace(config, name="all of them"), readonly=readonly)


@caught_by("test_of_several_that_make_a_store_at_once_each_is_admitted_or_refused")
class LooksThenCreates(SoundFactory):
    """As two that both find no table."""

    async def connect(self, config: Config, *, readonly: bool = False) -> Backend:
        missing = not _made[config.name]
        await asyncio.sleep(0)
        if missing and _made[config.name]:
            raise UnavailableError("the table exists already")
        _made[config.name] = True
        return await super().connect(config, readonly=readonly)


class ClosesItsLock(Sound):
    capabilities = replace(Sound.capabilities, exclusive=True)

    async def close(self) -> None:
        _locked[self.config.name] = False
        await super().close()


@caught_by("test_a_connection_that_is_given_up_keeps_nobody_out")
class LeavesItsLock(SoundFactory):
    """It is given up between the lock and the connection that would end it."""

    def __init__(self) -> None:
        super().__init__(ClosesItsLock)

    async def connect(self, config: Config, *, readonly: bool = False) -> Backend:
        if _locked[config.name]:
            raise StoreLockedError("somebody has it", holder={"pid": 1})
        _locked[config.name] = not readonly
        await asyncio.sleep(0)
        return await super().connect(config, readonly=readonly)
