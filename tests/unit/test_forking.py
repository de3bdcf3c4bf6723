"""The processes of a crowd are forked from one server, whoever has it started."""

import asyncio
import os

import pytest
from crowd.processes import Client


async def forked(name):
    return await Client(asyncio.to_thread, os.getenv, name).result()


@pytest.mark.slow
async def test_each_has_the_environment_of_who_wants_it_and_nothing_of_the_servers_own(monkeypatch):
    assert await forked("PATH") == os.environ["PATH"]
    monkeypatch.delenv("PATH")
    monkeypatch.setenv("STATE_VIEWS", "false")
    assert (await forked("PATH"), await forked("STATE_VIEWS")) == (None, "false")
