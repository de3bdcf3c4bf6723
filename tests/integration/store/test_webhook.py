"""The webhook, against real HTTP servers on the loopback: what it is told, and that it can harm nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import statepath
from aiohttp import ClientSession, web
from pydantic import SecretStr
from servers.process import free_port
from statepath.errors import ConfigurationError
from statepath.events import AlertCleared, AlertRaised, Events
from statepath.webhook import Webhook

RAISED = AlertRaised("space", "fail", "999 bytes are free, less than 1,000", 999, 1000)
CLEARED = AlertCleared("space", "3,000 bytes are free", 75.0)
PLACE = "T0/hunter2"


@dataclass
class Hook:
    """A server that takes alerts. `answers` are its next statuses, then it answers 200; with `hang` it never does, and
    with `delay` it takes that many seconds for the first one."""

    port: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    hang: bool = False
    delay: float = 0.0
    tried: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{PLACE}?token=hunter3"

    async def answer(self, request: web.Request) -> web.Response:
        self.tried += 1
        if self.tried == 1:
            await asyncio.sleep(self.delay)
        if self.hang:
            await asyncio.Event().wait()
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            assert (request.path, request.query_string) == (f"/{PLACE}", "token=hunter3")
            self.bodies.append(await request.json())
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    async def reached(self) -> None:
        async with asyncio.timeout(60):
            while not self.tried:  # noqa: ASYNC110 - the other side is another program
                await asyncio.sleep(0.01)

    async def told(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.bodies) < count:  # noqa: ASYNC110 - the other side is another program
                await asyncio.sleep(0.01)


@pytest.fixture
async def hook():
    hook = Hook()
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", hook.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hook.port = runner.addresses[0][1]
    yield hook
    await runner.cleanup()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Attempts follow each other at once."""
    monkeypatch.setattr("statepath.webhook._SOONEST", 0.001)
    monkeypatch.setattr("statepath.webhook._LATEST", 0.01)


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "state")


def opened(place, hook, events, **settings):
    return statepath.open(place, events=events, alert_webhook=hook.url, **settings)


def tell(store, alert):
    """As the store's alerts do it."""
    store._engine.events.emit(alert)


def log_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "statepath.alerts"]


async def test_it_is_told_what_is_raised_and_what_is_cleared_in_order(hook, events, place):
    async with opened(place, hook, events) as store:
        tell(store, RAISED)
        tell(store, CLEARED)
        await hook.told(2)
    raised, cleared = hook.bodies
    assert raised.pop("time").endswith("+00:00")
    assert raised == {
        "event": "alert:raised",
        "alert": "space",
        "status": "fail",
        "summary": RAISED.summary,
        "value": 999,
        "limit": 1000,
        "store": place,
        "text": f"{place}: space: {RAISED.summary}",
    }
    assert (cleared["event"], cleared["alert"], cleared["seconds"]) == ("alert:cleared", "space", 75.0)
    assert cleared["text"] == f"{place}: space is well again after 75 s: 3,000 bytes are free"


async def test_a_failure_of_the_store_reaches_it(hook, events, place, tmp_path):
    async with opened(place, hook, events, disk_low=2**60, alert_interval=0.05):
        await hook.told(1)
    assert (hook.bodies[0]["alert"], hook.bodies[0]["limit"]) == ("space", 2**60)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_that_is_busy_is_asked_again(hook, events, place, status):
    hook.answers = [status] * 4
    async with opened(place, hook, events) as store:
        tell(store, RAISED)
        await hook.told(1)
    assert hook.tried == 5


async def test_attempts_are_bounded_and_the_next_alert_goes_on(hook, events, place, caplog):
    hook.answers = [503] * 5
    async with opened(place, hook, events) as store:
        tell(store, RAISED)
        tell(store, CLEARED)
        await hook.told(1)
    assert (hook.tried, hook.bodies[0]["event"]) == (6, "alert:cleared")
    (line,) = log_of(caplog)
    assert line == (
        f"the webhook at http://127.0.0.1:{hook.port}/… was not told of the alert space: "
        "it answered 503, in each of 5 attempts"
    )


@pytest.mark.parametrize("status", [302, 400, 404])
async def test_a_refusal_is_final_and_a_redirect_is_not_followed(hook, events, place, caplog, status):
    hook.answers = [status]
    async with opened(place, hook, events) as store:
        tell(store, RAISED)
        tell(store, CLEARED)
        await hook.told(1)
    assert (hook.tried, hook.bodies[0]["event"]) == (2, "alert:cleared")
    assert f"refused the alert space: it answered {status}" in log_of(caplog)[0]


async def test_a_server_that_is_not_there_is_a_line_in_the_log(hook, events, place, caplog):
    hook.port = free_port()
    async with opened(place, hook, events) as store:
        tell(store, RAISED)
        assert await store.collection("raw").put({"id": "a"}) == 1
    assert "was not told of the alert space: ClientConnectorError, in each of 5" in log_of(caplog)[0]


async def test_one_behind_a_proxy_is_told_through_it(hook, events, place, monkeypatch):
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{hook.port}")
    elsewhere = f"http://hooks.invalid/{PLACE}?token=hunter3"
    async with statepath.open(place, events=events, alert_webhook=elsewhere) as store:
        tell(store, RAISED)
        await hook.told(1)
    assert hook.bodies[0]["alert"] == "space"


@pytest.mark.slow
async def test_a_webhook_that_hangs_holds_up_neither_saves_nor_the_end(hook, events, place, caplog):
    hook.hang = True
    loop = asyncio.get_running_loop()
    async with opened(place, hook, events, alert_timeout=0.5) as store:
        for _ in range(100):
            tell(store, RAISED)
        for n in range(50):
            await store.collection("raw").put({"id": str(n)})
        assert len(await store.collection("raw").find().all()) == 50
        ending = loop.time()
    assert loop.time() - ending < 60
    assert "was not told everything before the store closed" in log_of(caplog)[-1]


async def test_of_too_many_the_oldest_are_dropped(hook, events, place, caplog):
    hook.hang = True
    async with opened(place, hook, events, alert_timeout=0.2) as store:
        for _ in range(102):
            tell(store, RAISED)
    assert sum("the oldest alert is dropped" in line for line in log_of(caplog)) == 2


@pytest.mark.slow
async def test_an_attempt_that_takes_too_long_is_given_up_and_made_again(hook, events, place):
    hook.delay = 60
    async with opened(place, hook, events, alert_timeout=0.5) as store:
        tell(store, RAISED)
        await hook.told(1)
    assert hook.tried >= 2


@pytest.mark.slow
async def test_what_waits_is_sent_before_the_store_is_closed(hook, events, place):
    hook.delay = 1
    async with opened(place, hook, events) as store:
        tell(store, RAISED)
    assert len(hook.bodies) == 1


async def test_what_is_raised_while_the_session_closes_is_sent_too(hook, events, place, monkeypatch):
    close = ClientSession.close

    async def closing(session):
        monkeypatch.setattr(ClientSession, "close", close)
        tell(store, CLEARED)
        await close(session)

    async with opened(place, hook, events) as store:
        monkeypatch.setattr(ClientSession, "close", closing)
        tell(store, RAISED)
        await hook.told(2)


async def test_an_end_that_is_cancelled_ends_with_that(hook, events, monkeypatch):
    close = ClientSession.close
    closing, going_on = asyncio.Event(), asyncio.Event()

    async def slowly(session):
        closing.set()
        await going_on.wait()
        await close(session)

    monkeypatch.setattr(ClientSession, "close", slowly)
    hook.hang = True
    webhook = Webhook(SecretStr(hook.url), timeout=60, events=events)
    events.emit(RAISED)
    await hook.reached()
    webhook._timeout = 0
    ending = asyncio.ensure_future(webhook.aclose())
    await closing.wait()
    ending.cancel()
    await asyncio.sleep(0)
    going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    await asyncio.wait([webhook._sending])


async def test_an_end_that_is_cancelled_while_it_waits_leaves_nothing_running(hook, events, caplog):
    hook.hang = True
    webhook = Webhook(SecretStr(hook.url), timeout=60, events=events)
    events.emit(RAISED)
    await hook.reached()
    ending = asyncio.ensure_future(webhook.aclose())
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert webhook._sending.done()
    assert "was not told everything before the store closed" in log_of(caplog)[-1]


async def test_of_two_stores_that_share_a_bus_each_sends_its_own_alerts(hook, events, place):
    async with opened(place, hook, events), opened(f"{place}2", hook, events) as other:
        tell(other, RAISED)
        tell(other, CLEARED)
        await hook.told(2)
    assert [(body["event"], body["store"]) for body in hook.bodies] == [
        ("alert:raised", other.url),
        ("alert:cleared", other.url),
    ]


@pytest.mark.slow
async def test_no_secret_of_it_is_ever_shown(hook, events, place, caplog):
    caplog.set_level(logging.DEBUG)
    hook.answers = [302, 503, 503, 503, 503, 503]
    async with opened(place, hook, events, alert_timeout=30) as store:
        shown = f"{store.settings!r}"
        for _ in range(2):
            tell(store, RAISED)
        while len(log_of(caplog)) < 2:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.01)
    hook.hang = True
    async with opened(place, hook, events, alert_timeout=0.2) as store:
        tell(store, RAISED)
    assert len(log_of(caplog)) == 3
    assert "hunter" not in shown + caplog.text


async def test_a_reader_tells_it_nothing(hook, events, place):
    async with statepath.open(place) as store:
        await store.collection("raw").put({"id": "a"})
    async with statepath.open(place, readonly=True, events=events, alert_webhook=hook.url) as store:
        tell(store, RAISED)
    assert hook.tried == 0


async def test_without_the_http_client_the_store_does_not_open_and_says_what_to_install(
    hook, events, place, monkeypatch
):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'statepath\[alerts\]'"):
        await opened(place, hook, events)
    async with statepath.open(place) as store:
        assert store.seq == 0


PROGRAM = """
import asyncio, os, statepath

async def main():
    raised, events = asyncio.Event(), statepath.Events()
    events.on("alert:raised", lambda alert: raised.set())
    async with statepath.open(alert_interval=0.05, disk_low=2**60, events=events) as store:
        await store.collection("raw").put({"id": "a", "text": "canary"})
        print(store.seq, flush=True)
        await raised.wait()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_program_is_set_up_by_its_environment(hook, place, tmp_path):
    """A process of its own; nothing of a document reaches the webhook."""
    settings = {"STATE_PATH": place, "STATE_ALERT_WEBHOOK": hook.url, "DEBUG": "persistence:*"}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**settings, "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    await hook.told(1)
    assert hook.bodies[0]["alert"] == "space"
    assert "ERROR statepath.alerts alert: space:" in done.stderr
    assert "hunter" not in done.stderr
    assert "canary" not in done.stderr + json.dumps(hook.bodies)


@pytest.mark.slow
async def test_a_command_tells_it_nothing(hook, place, tmp_path):
    async with statepath.open(place) as store:
        await store.collection("raw").put({"id": "a"})
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "statepath.cli", "delete", "raw/a", "--yes", "-s", place],
        env={"STATE_ALERT_WEBHOOK": hook.url, "STATE_DISK_LOW": str(2**60), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "alert" in done.stderr) == (0, False), done.stderr
    assert hook.tried == 0
