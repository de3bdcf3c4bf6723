"""The local backend keeps the contract."""

from pathlib import Path

import pytest
from statepath.testing import BackendContract
from statepath.testing.subject import altered
from statepath_local import factory

pytestmark = pytest.mark.slow


class TestLocal(BackendContract):
    factory = factory

    def state_path(self, folder: Path) -> str:
        return f"file://{folder}/store"

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        try:
            return _path(state_path, key).read_bytes()
        except FileNotFoundError:
            return None

    async def raw_write(self, state_path: str, key: str, data: bytes) -> None:
        path = _path(state_path, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def raw_damage(self, state_path: str, first: int) -> bool:
        (segment,) = _path(state_path, "journal").glob("*.jsonl")
        lines = segment.read_bytes().splitlines(keepends=True)
        lines[first - 1] = altered(lines[first - 1])
        segment.write_bytes(b"".join(lines))
        return True


def _path(state_path: str, key: str) -> Path:
    return Path(state_path.removeprefix("file://"), key)
