"""The kit finds nothing wrong with a sound backend, and something with each broken one."""

from importlib import import_module
from pathlib import Path

import pytest
from broken.sound import FAULTS, Fault, SoundFactory
from hypothesis import Phase, settings
from statepath.backend import BackendFactory, slot_key
from statepath.errors import NotFoundError
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.testing import BackendContract
from statepath.testing.subject import altered

pytestmark = pytest.mark.slow

for module in sorted(Path(__file__).with_name("broken").glob("*.py")):
    import_module(f"broken.{module.stem}")


class Contract(BackendContract):
    """The kit on a backend in memory; raw access goes past the backend under test."""

    factory: BackendFactory = SoundFactory()

    def state_path(self, folder: Path) -> str:
        return f"sound://user:pass-word@host{folder}"

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        try:
            return (await self.around(state_path).read(key)).data
        except NotFoundError:
            return None

    async def raw_write(self, state_path: str, key: str, data: bytes) -> None:
        await self.around(state_path).write(key, data)

    async def raw_damage(self, state_path: str, first: int) -> bool:
        stored = await self.raw_read(state_path, slot_key(first))
        assert stored is not None
        await self.raw_write(state_path, slot_key(first), altered(stored))
        return True

    def around(self, state_path: str) -> MemoryBackend:
        return MemoryBackend(MemoryConfig(self.config(state_path).name))


CHECKS = {name for name in dir(BackendContract) if name.startswith("test_")}


class TestSound(Contract):
    """The one that the broken ones are made of passes every check."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}-{fault.check}")
async def test_the_kit_catches(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statepath.testing.patience.PATIENCE", 0.1)
    kit = Contract()
    kit.machine_settings = settings(kit.machine_settings, phases=[Phase.generate], max_examples=200)
    kit.factory = fault.factory
    kit.root = tmp_path
    with pytest.raises((Exception, pytest.fail.Exception)):
        await getattr(kit, fault.check)()


def test_each_check_has_a_broken_backend_that_it_catches() -> None:
    assert {fault.check for fault in FAULTS} == CHECKS
