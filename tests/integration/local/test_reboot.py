"""After the machine was started anew, a document's file is not believed for its time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import statepath
from statepath_local.port import Port


def lose_content(file: Path) -> None:
    """What a loss of power may leave of a file that was not synced: its time, and nothing else."""
    kept = file.stat()
    file.write_bytes(b"\0" * kept.st_size)
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))


async def save(folder: Path) -> Path:
    async with statepath.open(folder) as store:
        await store.collection("tasks").put({"id": "a", "text": "whole"})
    return folder / "tasks" / "a.json"


async def lost_in_a_restart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bytes]:
    """A file that a loss of power took the content of, and what that was."""
    file = await save(folder)
    whole = file.read_bytes()
    lose_content(file)
    monkeypatch.setattr(Port, "boot_id", lambda self: "another-run")
    return file, whole


async def test_a_file_that_lost_its_content_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, whole = await lost_in_a_restart(tmp_path, monkeypatch)
    async with statepath.open(tmp_path) as store:
        assert await store.collection("tasks").get("a") == {"id": "a", "text": "whole"}
    assert file.read_bytes() == whole


async def test_it_is_written_again_though_the_first_one_to_open_the_store_ended_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, whole = await lost_in_a_restart(tmp_path, monkeypatch)
    first = await statepath.open(tmp_path, view_interval=3600)
    async with statepath.open(tmp_path):
        await first._engine.release()
    assert file.read_bytes() != whole
    async with statepath.open(tmp_path) as store:
        await store.flush()
        assert file.read_bytes() == whole


async def test_a_file_that_was_looked_at_once_is_believed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await save(tmp_path)
    monkeypatch.setattr(Port, "boot_id", lambda self: "another-run")
    async with statepath.open(tmp_path) as store:
        await store.flush()
    lose_content(file)
    lost = file.read_bytes()
    async with statepath.open(tmp_path):
        pass
    assert file.read_bytes() == lost


async def test_a_clock_that_went_back_hides_no_lost_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, whole = await lost_in_a_restart(tmp_path, monkeypatch)
    monkeypatch.setattr("time.time", lambda: 0.0)
    async with statepath.open(tmp_path):
        pass
    assert file.read_bytes() == whole


async def test_in_one_run_of_the_machine_a_file_is_not_read_that_kept_its_time(tmp_path: Path) -> None:
    file = await save(tmp_path)
    lose_content(file)
    lost = file.read_bytes()
    async with statepath.open(tmp_path):
        pass
    assert file.read_bytes() == lost
