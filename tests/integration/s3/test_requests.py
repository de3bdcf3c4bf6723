"""How a request is sent."""

from __future__ import annotations

import statepath
from servers.proxy import Proxy
from servers.services import s3_service


async def test_a_small_save_is_one_round_trip(aws, moto):
    async with Proxy(moto).running() as proxy:
        path = s3_service("moto", moto).at(proxy.url).path("trips")
        waited = []
        async with statepath.open(path, autosave=0) as store:
            for size in (10, 200_000):
                proxy.requests = []
                await store.collection("raw").put({"id": "a", "text": "x" * size})
                waited += [request.waited for request in proxy.requests]
        assert waited == [False, True]


async def test_the_service_need_not_guess_what_a_content_is(aws, moto):
    """SeaweedFS would compress it."""
    async with Proxy(moto).running() as proxy:
        async with statepath.open(s3_service("moto", moto).at(proxy.url).path("type"), autosave=0) as store:
            await store.collection("raw").put({"id": "a"})
            await store.snapshot()
        puts = [request for request in proxy.requests if request.method == "PUT"]
        assert puts
        assert all(b"\r\ncontent-type: binary/octet-stream\r\n" in put.head.lower() for put in puts)
