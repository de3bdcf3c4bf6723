"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from servers.postgres import PostgresServer


def pytest_configure() -> None:
    """A `STATE_…` variable of whoever runs the tests must not reach them."""
    for name in [name for name in os.environ if name.startswith("STATE_")]:
        del os.environ[name]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a test that nobody ran: it fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line("\nskipped tests are failures in CI", red=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this worker."""
    from servers.postgres import running_postgres

    with running_postgres() as server:
        yield server
