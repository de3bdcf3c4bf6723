"""`STATE_METRICS_PORT`: what Prometheus reads, from real processes and over real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest
import statepath
from servers.process import free_port
from statepath import measuring
from statepath.errors import ConfigurationError

PROGRAM = """
import asyncio, sys, statepath

async def main():
    async with statepath.open() as store:
        for n in range(10):
            await store.collection("raw").put({"id": f"canary-{n}", "text": "canary"})
        await store.snapshot()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "state")


def read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text: str = answer.read().decode()
    return text


def value(text: str, name: str, **labels: str) -> float:
    """The one sample of that name whose labels have these values."""
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(f"{name}{{") and all(f'{key}="{wanted}"' in line for key, wanted in labels.items())
    ]
    assert len(found) == 1, text
    return found[0]


@contextmanager
def served(place: str, port: int, folder: object) -> Iterator[subprocess.Popen[str]]:
    """A program that serves its metrics, set up by its environment alone."""
    environment = {**os.environ, "STATE_PATH": place, "STATE_METRICS_PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=str(folder),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_prometheus_reads_what_a_program_does(place, port, tmp_path):
    with served(place, port, tmp_path) as process:
        text = read(port)
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    for operation in ("save", "snapshot", "load"):
        assert value(text, "db_client_operation_duration_seconds_count", db_operation_name=operation) >= 1
    assert value(text, "statepath_commits_total") == 10
    assert value(text, "statepath_commit_transactions_total") == 10
    assert value(text, "statepath_documents", db_collection_name="raw", db_namespace=place) == 10
    assert value(text, "statepath_seq", statepath_backend="file") == 10
    assert value(text, "statepath_backend_requests_total", db_operation_name="write", error_type="") >= 3
    assert re.search(r"^process_cpu_seconds_total ", text, re.MULTILINE)
    assert "canary" not in text


@pytest.mark.slow
def test_the_panels_of_the_page_ask_for_what_is_served(place, port, tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    dashboard = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:statepath|db_client)_\w+", target["expr"])
        if name != "statepath_alert"  # a label
    }
    named = set(re.findall(r"^\| `[\w.]+` \| `(\w+)` \|", page, re.MULTILINE))
    with served(place, port, tmp_path):
        text = read(port)
    # What has not happened yet is not there: no failure, no alert.
    ours = {
        name for name in re.findall(r"^(\w+)\{", text, re.MULTILINE) if name.startswith(("statepath", "db_"))
    }
    ours |= {"statepath_failures_total", "statepath_alerts"}
    assert asked <= ours
    assert named == {re.sub(r"_(bucket|count|sum)$", "", name) for name in ours}


@pytest.mark.slow
def test_a_port_that_is_taken_is_an_error_before_anything_is_opened(place, port, tmp_path):
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env={**os.environ, "STATE_PATH": place, "STATE_METRICS_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert f"ConfigurationError: metrics_port: 127.0.0.1:{port} cannot be opened" in told
    assert "another program has it: end that, or name another port" in told
    assert not os.path.exists(place)


async def test_an_address_that_is_not_this_machine_s_is_an_error(place, port):
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        await statepath.open(place, metrics_port=port, metrics_host="192.0.2.1")


@pytest.mark.slow
async def test_two_stores_share_a_port_and_the_last_one_closes_it(tmp_path, port):
    one = await statepath.open(tmp_path / "one", metrics_port=port)
    await one.collection("raw").put({"id": "a"})
    async with statepath.open(tmp_path / "two", metrics_port=port):
        text = await asyncio.to_thread(read, port)
        assert value(text, "statepath_seq", db_namespace=one.url) == 1
        assert value(text, "statepath_seq", db_namespace=str(tmp_path / "two")) == 0
    text = await asyncio.to_thread(read, port)
    assert value(text, "statepath_seq") == 1
    await one.aclose()
    with pytest.raises(URLError):
        await asyncio.to_thread(read, port)
    async with statepath.open(tmp_path / "one", metrics_port=port):
        assert value(await asyncio.to_thread(read, port), "statepath_seq") == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_keeps_no_port_from_being_opened_again(place, port):
    lives, tell = os.pipe()
    async with statepath.open(place, metrics_port=port):
        child = os.fork()
        if not child:
            os.write(tell, b".")
            signal.pause()
            os._exit(0)
        os.read(lives, 1)
    try:
        async with statepath.open(place, metrics_port=port):
            assert "statepath" in await asyncio.to_thread(read, port)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(lives)
        os.close(tell)


FORKING = """
import asyncio, os, sys, urllib.request, statepath

async def count(place, port, documents):
    async with statepath.open(place, metrics_port=port) as store:
        for n in range(documents):
            await store.collection("raw").put({"id": str(n)})
        if place == "parents" and not os.fork():
            asyncio.events._set_running_loop(None)
            code = 1
            try:
                print(asyncio.new_event_loop().run_until_complete(count("childs", int(sys.argv[2]), 3)))
                sys.stdout.flush()
                code = 0
            finally:
                os._exit(code)
        if place == "parents":
            assert os.wait()[1] == 0
        else:
            return await asyncio.to_thread(read, port)

def read(port):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()

asyncio.run(count("parents", int(sys.argv[1]), 5))
"""


@pytest.mark.slow
def test_a_forked_child_reports_its_own_numbers_only(port, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(port), str(free_port())],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=60,
    )
    assert value(done.stdout, "statepath_commits_total") == 3
    assert value(done.stdout, "statepath_seq", db_namespace=str(tmp_path / "childs")) == 3
    assert "parents" not in done.stdout


@pytest.mark.slow
async def test_the_port_is_let_go_when_the_main_thread_has_ended(place, port):
    store = await statepath.open(place, metrics_port=port)
    ended = ThreadPoolExecutor()
    ended.shutdown()  # as Python does then
    asyncio.get_running_loop().set_default_executor(ended)
    await store.aclose()
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.slow
async def test_a_store_that_cannot_be_opened_lets_the_port_go(place, port):
    Path(place).write_bytes(b"no folder")
    with pytest.raises(statepath.StateError):
        await statepath.open(place, metrics_port=port)
    with pytest.raises(URLError):
        await asyncio.to_thread(read, port)


@pytest.mark.slow
async def test_what_cannot_be_measured_lets_the_port_go(place, port, monkeypatch):
    def broken():
        raise RuntimeError("this reader cannot be made")

    with monkeypatch.context() as patched:
        patched.setattr(measuring, "_provider", broken)
        with pytest.raises(RuntimeError, match="cannot be made"):
            await statepath.open(place, metrics_port=port)
    with pytest.raises(URLError):
        await asyncio.to_thread(read, port)
    async with statepath.open(place, metrics_port=port):
        assert value(await asyncio.to_thread(read, port), "statepath_seq") == 0
    with pytest.raises(URLError):
        await asyncio.to_thread(read, port)


@pytest.mark.slow
async def test_who_is_cancelled_while_the_port_is_opened_lets_it_go(place, port, monkeypatch):
    begun, going_on, opened = threading.Event(), threading.Event(), threading.Event()

    def slowly(*where):
        begun.set()
        assert going_on.wait(60)
        close = serve(*where)
        opened.set()
        return close

    serve = measuring._serve
    monkeypatch.setattr(measuring, "_serve", slowly)
    opening = asyncio.ensure_future(statepath.open(place, metrics_port=port).__aenter__())
    assert await asyncio.to_thread(begun.wait, 60)
    opening.cancel()
    await asyncio.sleep(0)
    going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await asyncio.to_thread(opened.wait, 60)
    with pytest.raises(URLError):
        await asyncio.to_thread(read, port)


async def test_who_is_cancelled_again_before_the_port_is_opened_lets_it_go_too(place, port, monkeypatch):
    begun, going_on, closed = threading.Event(), threading.Event(), threading.Event()

    def slowly(*where):
        begun.set()
        assert going_on.wait(60)
        server = serve(*where)
        close = server.close

        def told():
            close()
            closed.set()

        server.close = told
        return server

    serve = measuring._serve
    monkeypatch.setattr(measuring, "_serve", slowly)
    opening = asyncio.ensure_future(statepath.open(place, metrics_port=port).__aenter__())
    assert await asyncio.to_thread(begun.wait, 60)
    opening.cancel()
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    going_on.set()
    assert await asyncio.to_thread(closed.wait, 60)
    with pytest.raises(URLError):
        await asyncio.to_thread(read, port)


@pytest.mark.slow
async def test_commands_and_readers_beside_the_server_leave_the_port_alone(tmp_path, place, port):
    with served(place, port, tmp_path):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "statepath.cli", "status", "-s", place],
            env={**os.environ, "STATE_METRICS_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        async with statepath.open(place, readonly=True, metrics_port=port) as reader:
            assert reader.seq == 10
    async with statepath.open(tmp_path / "other", metrics_port=port):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "statepath.cli", "put", "raw/a", "-", "-s", place],
            input="{}",
            env={**os.environ, "STATE_METRICS_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")


async def test_without_its_packages_the_port_says_what_to_install(place, port, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'statepath\[prometheus\]'"):
        await statepath.open(place, metrics_port=port)
    assert not os.path.exists(place)
