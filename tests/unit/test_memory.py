"""The memory backend: which connections share a store, and which URLs name one."""

import asyncio

import pytest
from statepath.backend import IF_ABSENT, StateURL
from statepath.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from statepath.memory import MemoryBackend, factory


async def connect(url: str) -> MemoryBackend:
    return await factory.connect(factory.parse(StateURL.parse(url)))


async def test_a_named_store_outlives_its_connections() -> None:
    first = await connect("memory://test-outlives/agents")
    await first.write("a", b"A")
    await first.close()
    assert (await (await connect("memory://test-outlives/agents/")).read("a")).data == b"A"


@pytest.mark.parametrize("other", ["memory://test-names/other", "memory://Test-Names/agents", "memory://"])
async def test_another_name_is_another_store(other: str) -> None:
    await (await connect("memory://test-names/agents")).write("a", b"A")
    with pytest.raises(NotFoundError):
        await (await connect(other)).read("a")


async def test_without_a_name_each_connection_has_a_store_of_its_own() -> None:
    first, second = await connect("memory://"), await connect("memory://")
    await first.write("a", b"A")
    with pytest.raises(NotFoundError):
        await second.read("a")


async def test_the_url_tells_where_an_object_is() -> None:
    assert (await connect("memory://test-url/agents")).url == "memory://test-url/agents"


@pytest.mark.parametrize("url", ["memory://user@name", "memory://name:80", "memory://name?x=1"])
async def test_what_means_nothing_in_a_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        factory.parse(StateURL.parse(url))


async def test_a_store_may_be_used_from_several_threads() -> None:
    def contend(number: int) -> int:
        async def create() -> int:
            backend = await connect("memory://test-threads")
            won = 0
            for turn in range(200):
                try:
                    await backend.write(f"{turn}", b"", when=IF_ABSENT)
                except AlreadyExistsError:
                    continue
                won += 1
                assert [entry.key async for entry in backend.list_keys(f"{turn}")]
            return won

        return asyncio.run(create())

    assert sum(await asyncio.gather(*(asyncio.to_thread(contend, number) for number in range(4)))) == 200
