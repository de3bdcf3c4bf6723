"""What counts as getting on."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from statepath.objectstore import Patience


async def given(*blocks):
    for block in blocks:
        yield block


async def test_what_stands_still_ends():
    with pytest.raises(TimeoutError):
        async with Patience(0.01):
            await asyncio.Event().wait()


async def test_each_block_that_leaves_renews_it_and_so_does_the_end_of_them():
    async with Patience(60) as patience:
        ends = [
            patience._limit.when(),
            *[patience._limit.when() async for _ in patience.sending(given(b"a", b"b"))],
            patience._limit.when(),
        ]
    assert sorted(set(ends)) == ends


async def test_what_arrives_renews_it_once_it_is_enough():
    async with Patience(60) as patience:
        end = patience._limit.when()
        patience.received(59 * 1024)
        assert patience._limit.when() == end
        patience.received(1024)
        assert patience._limit.when() > end


async def test_what_has_arrived_is_given_as_a_whole():
    async with Patience(60) as patience:
        assert await patience.receiving(given(b"a", b"", b"bc")) == b"abc"


async def test_what_arrives_is_in_memory_once():
    size, count = 64 * 1024, 200

    async def blocks():
        for _ in range(count):
            yield bytes(size)

    tracemalloc.start()
    try:
        async with Patience(60) as patience:
            whole = await patience.receiving(blocks())
        assert tracemalloc.get_traced_memory()[1] < 1.3 * len(whole)
    finally:
        tracemalloc.stop()


async def test_a_body_may_go_on_when_the_request_is_over():
    """A service may refuse it before it has read the whole."""
    async with Patience(60) as patience:
        sending = patience.sending(given(b"a", b"b"))
        await anext(sending)
    assert [block async for block in sending] == [b"b"]
