"""Blocking calls in threads, where there may be none to spare."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from statepath.threads import handed, in_thread


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    """One whose only thread is busy until the pool ends, and that can start no other one."""
    free = threading.Event()

    class Busy(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            free.set()
            super().shutdown(wait, cancel_futures=cancel_futures)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Busy() as pool:
        pool.submit(free.wait)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            yield pool


async def test_a_call_for_which_there_is_no_thread_is_made_once(pool: ThreadPoolExecutor) -> None:
    calls: list[int] = []
    await in_thread(lambda: calls.append(1), pool)
    assert calls == [1]
    pool.shutdown()
    assert calls == [1]


def test_a_call_that_is_refused_is_not_made_later(pool: ThreadPoolExecutor) -> None:
    calls: list[int] = []
    with pytest.raises(RuntimeError):
        handed(pool.submit, lambda: calls.append(1))
    pool.shutdown()
    assert calls == []


async def test_what_a_call_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), ThreadPoolExecutor() as pool:
        await in_thread(lambda: 1 // 0, pool)
