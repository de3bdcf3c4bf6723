"""A store whose master key a key service keeps; here, its stand-in."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import statepath
from statepath.encryption import KeyProvider
from statepath.errors import ConfigurationError, UnavailableError
from statepath_example_kms import FOLDER, KmsProvider, provider
from statepath_example_kms.fake import FakeKeyService

pytestmark = pytest.mark.asyncio


@pytest.fixture
def kms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKeyService:
    folder = tmp_path / "kms"
    monkeypatch.setenv(FOLDER, str(folder))
    service = FakeKeyService(str(folder))
    service.create("agents")
    return service


async def test_it_is_a_provider(kms: FakeKeyService) -> None:
    assert isinstance(provider("agents"), KeyProvider)


async def test_a_store_is_opened_with_the_key_of_the_service(kms: FakeKeyService, tmp_path: Path) -> None:
    for seq in (1, 2):
        async with statepath.open(tmp_path / "store", encryption_provider="example-kms:agents") as store:
            assert await store.collection("tasks").put({"id": str(seq)}) == seq
            (key,) = await store.data_keys()
            assert key.wrapped_by == "example-kms agents"


async def test_a_key_that_is_there_is_not_made_again(
    kms: FakeKeyService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / "kms/agents").read_bytes()
    monkeypatch.setattr("sys.argv", ["statepath_example_kms", "agents"])
    with pytest.raises(SystemExit, match="there is a key agents already"):
        runpy.run_module("statepath_example_kms", run_name="__main__")
    assert (tmp_path / "kms/agents").read_bytes() == before


async def test_what_makes_a_key_tells_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr("sys.argv", ["statepath_example_kms", "agents"])
    with pytest.raises(SystemExit, match=f"usage: {FOLDER}=FOLDER"):
        runpy.run_module("statepath_example_kms", run_name="__main__")


async def test_another_key_of_the_service_is_the_wrong_one(kms: FakeKeyService, tmp_path: Path) -> None:
    kms.create("others")
    async with statepath.open(tmp_path / "store", encryption_provider="example-kms:agents") as store:
        await store.collection("tasks").put({"id": "a"})
    with pytest.raises(
        ConfigurationError, match=r"this is the wrong key: .* example-kms agents, and example-kms others"
    ) as caught:
        await statepath.open(tmp_path / "store", encryption_provider="example-kms:others")
    assert caught.value.code == "wrong_key"


async def test_a_service_that_is_down_is_unavailable_and_nothing_is_touched(
    kms: FakeKeyService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with statepath.open(tmp_path / "store", encryption_provider="example-kms:agents") as store:
        await store.collection("tasks").put({"id": "a"})
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*.json*") if path.is_file()}

    async def down(self: KmsProvider, wrapped: bytes, context: bytes) -> bytes:
        raise ConnectionError("token=hunter2")

    with monkeypatch.context() as patched:
        patched.setattr(KmsProvider, "unwrap", down)
        with pytest.raises(UnavailableError, match="'example-kms' did not answer: ConnectionError") as caught:
            await statepath.open(tmp_path / "store", encryption_provider="example-kms:agents")
    assert "hunter2" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in before}
    async with statepath.open(tmp_path / "store", encryption_provider="example-kms:agents") as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}


@pytest.mark.parametrize("reference", ["", "agents"])
async def test_what_is_missing_in_the_configuration_is_told(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(ConfigurationError) as caught:
        await statepath.open(tmp_path / "store", encryption_provider=f"example-kms:{reference}")
    assert caught.value.code == "bad_key"
