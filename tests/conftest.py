"""What holds for every test."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from servers.postgres import PostgresServer

SERVERS = frozenset({"azurite", "bare_gcs", "gcs", "moto", "postgres", "seaweed", "service"})
"""The fixtures that start a server. A test that names one is slow; one that asks for it otherwise is marked so."""


def pytest_configure() -> None:
    """A `STATE_…` variable of whoever runs the tests must not reach them."""
    for name in [name for name in os.environ if name.startswith("STATE_")]:
        del os.environ[name]
    # Hundreds of processes load the package: each would compile it anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in the background so, and children would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What an example takes says something about the machine alone.
    settings.register_profile(
        "statepath", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("statepath")


def pytest_collection() -> None:
    """What is collected stays: the garbage collector need not look for any in it."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a test that nobody ran: it fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line("\nskipped tests are failures in CI", red=True)


def pytest_itemcollected(item: pytest.Item) -> None:
    if not SERVERS.isdisjoint(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.slow)


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> None:
    if fixturedef.argname in SERVERS and request.config.getoption("markexpr") == "not slow":
        pytest.fail(f"it starts a server ({fixturedef.argname}): mark it slow", pytrace=False)


@pytest.fixture(autouse=True)
def _nothing_stays_in_memory() -> Iterator[None]:
    """A named store in memory lives as long as the process: the next test of that name would find it."""
    from statepath.memory import _stores

    yield
    _stores.clear()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this worker."""
    from servers.postgres import running_postgres

    with running_postgres() as server:
        yield server
