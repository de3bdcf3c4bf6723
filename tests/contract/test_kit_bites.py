"""The kit finds nothing wrong with a sound backend, and something with each broken one."""

import asyncio
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from types import ModuleType

import pytest
from broken.lifecycle import WaitsForItsListings
from broken.processes import (
    HangsElsewhere,
    KeepsItUntilItIsClosed,
    LocksEachWriteWithAFile,
    LocksItsOwnProcess,
)
from broken.sound import FAULTS, Config, Fault, Sound, SoundFactory
from hypothesis import Phase, settings
from statepath.backend import ALWAYS, Backend, BackendFactory, ETag, When, slot_key
from statepath.errors import NotFoundError, StoreLockedError, ThrottledError
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.testing import BackendContract, processes
from statepath.testing.subject import altered

pytestmark = pytest.mark.slow

for module in sorted(Path(__file__).with_name("broken").glob("*.py")):
    import_module(f"broken.{module.stem}")


class Contract(BackendContract):
    """The kit on a backend in memory; raw access goes past the backend under test."""

    factory: BackendFactory = SoundFactory()

    def state_path(self, folder: Path) -> str:
        return f"sound://user:pass-word@host{folder}"

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        try:
            return (await self.around(state_path).read(key)).data
        except NotFoundError:
            return None

    async def raw_write(self, state_path: str, key: str, data: bytes) -> None:
        await self.around(state_path).write(key, data)

    async def raw_damage(self, state_path: str, first: int) -> bool:
        stored = await self.raw_read(state_path, slot_key(first))
        assert stored is not None
        await self.raw_write(state_path, slot_key(first), altered(stored))
        return True

    def around(self, state_path: str) -> MemoryBackend:
        return MemoryBackend(MemoryConfig(self.config(state_path).name))


def subject(factory: BackendFactory, root: Path) -> Contract:
    kit = Contract()
    kit.factory = factory
    kit.root = root
    return kit


CHECKS = {name for name in dir(BackendContract) if name.startswith("test_")}


class TestSound(Contract):
    """The one that the broken ones are made of passes every check."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}-{fault.check}")
async def test_the_kit_catches(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statepath.testing.patience.PATIENCE", 0.1)
    kit = subject(fault.factory, tmp_path)
    kit.machine_settings = settings(kit.machine_settings, phases=[Phase.generate], max_examples=200)
    with pytest.raises((Exception, pytest.fail.Exception)):
        await getattr(kit, fault.check)()


async def test_a_storage_may_take_fewer_changes_of_an_object(tmp_path: Path) -> None:
    class Throttles(Sound):
        changes = 0

        async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
            self.changes += 1
            if self.changes == 2:
                raise ThrottledError("one change of an object at a time", key=key)
            return await super().write(key, data, when=when)

    await subject(SoundFactory(Throttles), tmp_path).test_a_change_has_a_later_time()


async def test_a_lock_on_what_only_one_process_has_keeps_no_other_out(tmp_path: Path) -> None:
    class Locks(Sound):
        capabilities = replace(Sound.capabilities, exclusive=True)

    kit = subject(SoundFactory(Locks), tmp_path)
    await kit.test_another_process_is_kept_out_of_a_store_that_one_has_alone()


async def test_a_service_may_notice_late_that_a_writer_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = 0

    class NoticesLate(Sound):
        capabilities = replace(Sound.capabilities, exclusive=True, shared=True)

        def __init__(self, config: Config, *, readonly: bool = False) -> None:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise StoreLockedError("somebody has it", holder={"pid": 0})
            super().__init__(config, readonly=readonly)

    async def elsewhere(work: Callable[[Backend], Awaitable[None]], path: str) -> None:
        nonlocal refusals
        if work is not processes._go_on:
            refusals = 2  # it is killed
            return
        async with kit.connection(path) as backend:
            await work(backend)

    kit = subject(SoundFactory(NoticesLate), tmp_path)
    monkeypatch.setattr(kit, "_elsewhere", elsewhere)
    await kit.test_a_writer_that_was_killed_keeps_nobody_out()
    assert not refusals


async def test_a_person_edits_what_nobody_has_open(tmp_path: Path) -> None:
    opened = 0

    class Editable(Sound):
        capabilities = replace(Sound.capabilities, editable=True, exclusive=True)

        def __init__(self, config: Config, *, readonly: bool = False) -> None:
            nonlocal opened
            if opened:
                raise StoreLockedError("somebody has it", holder={"pid": 0})
            opened += 1
            super().__init__(config, readonly=readonly)

        async def close(self) -> None:
            nonlocal opened
            opened = 0
            await super().close()

    class ByDefault(Contract):
        raw_write = BackendContract.raw_write

    kit = ByDefault()
    kit.factory, kit.root = SoundFactory(Editable), tmp_path
    await kit.test_what_a_person_changed_is_read_and_not_replaced()


async def test_a_close_that_waits_for_a_listing_is_told_as_what_came_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statepath.testing.patience.PATIENCE", 0.1)
    kit = subject(SoundFactory(WaitsForItsListings), tmp_path)
    with pytest.raises(TimeoutError):
        await kit.test_a_connection_may_be_closed_while_calls_are_under_way()


async def test_a_pool_that_all_connections_share_may_grow(tmp_path: Path) -> None:
    ended, threads = Event(), list[Thread]()

    class HasAThreadOfThePool(Sound):
        def __init__(self, config: Config, *, readonly: bool = False) -> None:
            super().__init__(config, readonly=readonly)
            if len(threads) < 32:
                threads.append(Thread(target=ended.wait))
                threads[-1].start()

    kit = subject(SoundFactory(HasAThreadOfThePool), tmp_path)
    try:
        await kit.test_connections_that_were_closed_leave_nothing_behind()
    finally:
        ended.set()
        for thread in threads:
            thread.join()


async def test_a_factory_that_no_other_process_can_load_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here(SoundFactory):
        """As one of a test module that pytest alone knows how to import."""

    Here.__module__, Here.__qualname__ = "nowhere", "Here"
    monkeypatch.setitem(sys.modules, "nowhere", ModuleType("nowhere"))
    monkeypatch.setattr("nowhere.Here", Here, raising=False)

    kit = subject(Here(KeepsItUntilItIsClosed), tmp_path)
    with pytest.raises(pytest.fail.Exception, match="its class has to be in a module that can be imported"):
        await kit.test_what_is_finished_outlives_its_process()


async def test_no_check_waits_for_what_hangs_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("statepath.testing.processes.AT_MOST", 0.1)
        with pytest.raises(TimeoutError):
            await subject(SoundFactory(HangsElsewhere), tmp_path).test_another_process_sees_the_same_objects()
    kit = subject(SoundFactory(LocksItsOwnProcess), tmp_path)
    await kit.test_another_process_sees_the_same_objects()


async def test_a_lock_that_is_left_in_the_middle_of_a_write_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = subject(SoundFactory(LocksItsOwnProcess), tmp_path)
    await sound.test_a_writer_that_was_killed_keeps_nobody_out()
    monkeypatch.setattr("statepath.testing.patience.PATIENCE", 3.0)
    with pytest.raises(pytest.fail.Exception, match="keeps everybody out"):
        await subject(
            SoundFactory(LocksEachWriteWithAFile), tmp_path
        ).test_a_writer_that_was_killed_keeps_nobody_out()


def test_who_ran_a_process_that_is_given_up_is_not_collected_while_it_ends() -> None:
    other = processes._other_process()
    seen = weakref.ref(other)
    processes._give_up(other)
    del other
    gc.collect()
    assert seen() is not None
    assert processes._other_process() is not seen()


async def test_no_check_waits_for_who_is_never_woken_in_another_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = asyncio.get_running_loop()

    class WakesItsFirstLoop(Sound):
        async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
            if asyncio.get_running_loop() is not woken:
                await asyncio.Event().wait()
            return await super().write(key, data, when=when)

    monkeypatch.setattr("statepath.testing.conditions.AT_MOST", 0.1)
    kit = subject(SoundFactory(WakesItsFirstLoop), tmp_path)
    with pytest.raises(TimeoutError):
        await kit.test_connections_of_two_event_loops_lose_nothing_of_each_other()


def test_each_check_has_a_broken_backend_that_it_catches() -> None:
    assert {fault.check for fault in FAULTS} == CHECKS
