"""Signals: the state is saved first, then the program ends as it would have ended without us."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from statepath.errors import UnsupportedError
from statepath.events import ShutdownSave
from statepath.models import Task
from statepath.persistence import StatePersistence
from statepath.signals import SIGNALS

MakeTask = Callable[..., Task]

SERVER = """
import asyncio, signal, sys
from statepath.persistence import StatePersistence

async def main():
    stopped = asyncio.Event()
    def stop():
        print("stopping", flush=True)
        stopped.set()
    {before}
    async with StatePersistence.open(sys.argv[1], autosave=0, handle_signals=True) as p:
        p.on("shutdown:save", lambda event: print("saved because of", event.signal, flush=True))
        await p.save_task({{"id": "a"}})
        print("ready", flush=True)
        {wait}
    print("left", flush=True)

# A shell starts what runs in the background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
asyncio.run(main())
"""


@contextmanager
def handling(number: int, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


async def test_the_state_is_saved_before_the_previous_handler_runs(tmp_path: Path, task: MakeTask) -> None:
    order: asyncio.Queue[object] = asyncio.Queue()

    def previous(number: int, frame: FrameType | None) -> None:
        order.put_nowait(number)

    with handling(signal.SIGTERM, previous):
        async with StatePersistence.open(str(tmp_path), autosave=0, handle_signals=True) as p:
            p.on("shutdown:save", order.put_nowait)
            seq = await p.save_task(task("a"))
            signal.raise_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                first, second = await order.get(), await order.get()
            assert isinstance(first, ShutdownSave)
            # The metrics were saved, too.
            assert (first.seq, first.signal, second) == (seq + 1, signal.SIGTERM, signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is previous
    # Nothing was new at the end of the block, so nothing was saved once more.
    assert order.empty()


async def test_the_second_signal_does_not_wait_for_the_save(
    tmp_path: Path, task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    saving, go_on = asyncio.Event(), asyncio.Event()
    with handling(signal.SIGTERM, lambda number, _: numbers.append(number)):
        async with StatePersistence.open(str(tmp_path), autosave=0, handle_signals=True) as p:
            await p.save_task(task("a"))
            snapshot = p.store.snapshot

            async def slow() -> int:
                saving.set()
                await go_on.wait()
                return await snapshot()

            monkeypatch.setattr(p.store, "snapshot", slow)
            signal.raise_signal(signal.SIGTERM)
            await saving.wait()
            assert numbers == []
            signal.raise_signal(signal.SIGTERM)
            assert numbers == [signal.SIGTERM]
            go_on.set()
    assert numbers == [signal.SIGTERM, signal.SIGTERM]


async def test_shutdown_puts_the_previous_handlers_back(p: StatePersistence) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    handler = StatePersistence(p.store, handle_signals=True)
    assert all(signal.getsignal(number) not in before for number in SIGNALS)
    await handler.shutdown()
    assert [signal.getsignal(number) for number in SIGNALS] == before


async def test_of_two_that_end_in_the_order_in_which_they_began_no_handler_stays(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    first = await StatePersistence.open(tmp_path / "first", handle_signals=True)
    second = await StatePersistence.open(tmp_path / "second", handle_signals=True)
    await first.shutdown()
    await second.shutdown()
    assert [signal.getsignal(number) for number in SIGNALS] == before


async def test_an_ignored_signal_stays_ignored_and_the_next_one_saves(tmp_path: Path, task: MakeTask) -> None:
    """A shell starts so what a script runs in the background."""
    told: asyncio.Queue[object] = asyncio.Queue()
    with (
        handling(signal.SIGINT, signal.SIG_IGN),
        handling(signal.SIGTERM, lambda number, frame: told.put_nowait(number)),
    ):
        async with StatePersistence.open(str(tmp_path), autosave=0, handle_signals=True) as p:
            p.on("shutdown:save", lambda event: told.put_nowait(event.signal))
            await p.save_task(task("a"))
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            signal.raise_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                assert [await told.get(), await told.get()] == [signal.SIGTERM, signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


async def test_the_save_is_no_part_of_the_lease_s_block_that_the_signal_interrupts(
    tmp_path: Path, task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with handling(signal.SIGTERM, lambda number, frame: over.set_result(number)):
        async with StatePersistence.open(str(tmp_path), autosave=0, handle_signals=True) as p:
            await p.save_task(task("a"))
            async with p.store.lease("leader"):
                await p.store.break_lease("leader")
                signal.raise_signal(signal.SIGTERM)
                async with asyncio.timeout(60):
                    assert await over == signal.SIGTERM
    assert [one.message for one in caplog.records if "the save because of" in one.message] == []


async def test_shutdown_leaves_a_handler_alone_that_came_later(p: StatePersistence) -> None:
    with handling(signal.SIGTERM, signal.SIG_DFL):
        persistence = StatePersistence(p.store, handle_signals=True)

        def later(number: int, frame: FrameType | None) -> None:
            raise AssertionError

        signal.signal(signal.SIGTERM, later)
        await persistence.shutdown()
        assert signal.getsignal(signal.SIGTERM) is later


async def test_a_handler_that_could_not_be_put_back_is_refused(
    p: StatePersistence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.getsignal", lambda number: None)
    with pytest.raises(UnsupportedError, match="SIGTERM has a handler that is not Python's"):
        StatePersistence(p.store, handle_signals=True)


async def test_without_asking_no_handler_is_touched(p: StatePersistence) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    StatePersistence(p.store)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def serve(folder: Path, *, before: str = "", wait: str = "await stopped.wait()") -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(before=before, wait=wait), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return server


def saved(folder: Path) -> list[str]:
    return [one["id"] for one in json.loads((folder / "state.json").read_text())["tasks"]]


@pytest.mark.slow
def test_sigterm_saves_and_then_kills(tmp_path: Path) -> None:
    server = serve(tmp_path)
    server.terminate()
    out, err = server.communicate(timeout=60)
    assert (out, err) == ("saved because of 15\n", "")
    assert server.returncode == -signal.SIGTERM
    assert saved(tmp_path) == ["a"]


@pytest.mark.slow
def test_sigint_saves_and_then_interrupts_as_asyncio_does(tmp_path: Path) -> None:
    server = serve(tmp_path)
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=60)
    assert out == "saved because of 2\n"
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert server.returncode == -signal.SIGINT
    assert saved(tmp_path) == ["a"]


@pytest.mark.slow
def test_a_forked_child_dies_of_a_signal_as_ever(tmp_path: Path) -> None:
    server = serve(
        tmp_path,
        wait="""
        import os, time
        # A signal that comes before Python has set itself up in the child is lost.
        ready, begun = os.pipe()
        child = os.fork()
        if not child:
            os.write(begun, b"!")
            while True:  # a signal that comes right before a sleep begins is seen behind it
                time.sleep(0.01)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        print("child died of", os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
""",
    )
    out, _ = server.communicate(timeout=60)
    assert out == "child died of 15\nsaved because of None\nleft\n"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "wait"])
def test_a_handler_of_the_loop_runs_once_and_ends_the_server_in_its_own_way(
    tmp_path: Path, when: str
) -> None:
    """`loop.add_signal_handler` is what most servers use, before they open the store or afterwards."""
    add = "asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)"
    code = (
        {"before": add}
        if when == "before"
        else {"wait": f"{add}; print('set', flush=True); await stopped.wait()"}
    )
    server = serve(tmp_path, **code)
    assert server.stdout is not None
    if when == "wait":
        assert server.stdout.readline() == "set\n"
    server.terminate()
    out, err = server.communicate(timeout=60)
    number = 15 if when == "before" else None
    assert sorted(out.splitlines()) == ["left", f"saved because of {number}", "stopping"]
    assert err == ""
    assert server.returncode == 0
    assert saved(tmp_path) == ["a"]
