"""What a program does not use costs it nothing when it starts."""

import subprocess
import sys

import pytest

UNUSED = (
    "aiohttp", "cryptography", "opentelemetry", "prometheus_client", "rich", "tenacity", "typer", "zstandard",
)  # fmt: skip


@pytest.mark.slow
def test_the_package_loads_nothing_that_only_some_programs_need() -> None:
    program = f"import sys, statepath; print(sorted(sys.modules.keys() & {set(UNUSED)!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
