"""The memory backend keeps the contract."""

from itertools import count
from pathlib import Path

from statepath.memory import factory
from statepath.testing import BackendContract

_numbers = count()


class TestMemory(BackendContract):
    factory = factory

    def state_path(self, folder: Path) -> str:
        return f"memory://{folder}/{next(_numbers)}"
