"""Power failures: every state that the disk could be in, at any moment of a journal's life.

A port records what is written, named and synced. From each beginning of that record states of the disk are made in
which what was not yet synced is there, missing, or torn. What was acknowledged by then must be read from each of
them, in order and whole, and the next commit must find its place.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from statepath.backend import Commit
from statepath.errors import OutcomeUnknownError
from statepath_local import segments, writer
from statepath_local.port import Bytes, Port

Connect = Callable[..., Any]

ROOT = 0


@dataclass(frozen=True)
class Data:
    """Bytes written into a file (`None`: it was cut off at the offset)."""

    file: int
    offset: int
    data: bytes | None

    def apply(self, content: bytearray, size: int | None = None) -> None:
        if self.data is None:
            content[self.offset :] = b""
            return
        data = self.data[:size]
        content.extend(b"\0" * (self.offset - len(content)))
        content[self.offset : self.offset + len(data)] = data


@dataclass(frozen=True)
class Name:
    """An entry of a folder (`None`: it was removed)."""

    folder: int
    name: str
    file: int | None


@dataclass(frozen=True)
class Synced:
    """All that was written into a file, or named in a folder, is on the disk."""

    file: int


@dataclass(frozen=True)
class Acknowledged:
    seq: int


Event = Data | Name | Synced | Acknowledged


class RecordingPort(Port):
    """The real port; keeps each inode alive, so that its number names one file for good."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.folders: set[int] = {ROOT}
        self._numbers: dict[int, int] = {}
        self._kept: list[int] = []
        self._lock = threading.RLock()
        self.fails = False
        """Whether the next commit's sync fails, as on a disk with an error."""

    def _number(self, fd: int) -> int:
        inode = os.fstat(fd).st_ino
        if inode not in self._numbers:
            self._numbers[inode] = len(self._numbers) + 1
            # Opened anew: a duplicate would share the lock.
            self._kept.append(os.open(f"/dev/fd/{fd}", os.O_RDONLY))
        return self._numbers[inode]

    def _named(self, name: str, within: int) -> int:
        fd = os.open(name, os.O_RDONLY, dir_fd=within)
        try:
            return self._number(fd)
        finally:
            os.close(fd)

    def adopt_root(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        self._numbers[os.fstat(fd).st_ino] = ROOT
        self._kept.append(fd)

    def release(self) -> None:
        for fd in self._kept:
            os.close(fd)

    def acknowledge(self, seq: int) -> None:
        with self._lock:
            self.events.append(Acknowledged(seq))

    def open(self, name: str, flags: int, *, within: int) -> int:
        with self._lock:
            fd = super().open(name, flags, within=within)
            if flags & os.O_CREAT:
                self.events.append(Name(self._number(within), name, self._number(fd)))
            return fd

    def mkdir(self, name: str, *, within: int) -> None:
        with self._lock:
            super().mkdir(name, within=within)
            number = self._named(name, within)
            self.folders.add(number)
            self.events.append(Name(self._number(within), name, number))

    def rename(self, source: str, target: str, *, within: int, into: int) -> None:
        with self._lock:
            number = self._named(source, within)
            super().rename(source, target, within=within, into=into)
            self.events.append(Name(self._number(into), target, number))
            self.events.append(Name(self._number(within), source, None))

    def unlink(self, name: str, *, within: int) -> None:
        with self._lock:
            super().unlink(name, within=within)
            self.events.append(Name(self._number(within), name, None))

    def pwrite(self, fd: int, data: Bytes, offset: int) -> int:
        with self._lock:
            self.events.append(Data(self._number(fd), offset, bytes(data)))
            return super().pwrite(fd, data, offset)

    def ftruncate(self, fd: int, size: int) -> None:
        with self._lock:
            self.events.append(Data(self._number(fd), size, None))
            super().ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        with self._lock:
            self.events.append(Synced(self._number(fd)))

    fsync_dir = fsync

    def fdatasync(self, fd: int) -> None:
        if self.fails and threading.current_thread().name == "statepath-journal":
            self.fails = False
            raise OSError(errno.EIO, "a bad sector")
        self.fsync(fd)


class HastyPort(Port):
    """The real port, for states that have no power failure of their own."""

    def fsync(self, fd: int) -> None:
        pass

    fdatasync = fsync_dir = fsync


@dataclass
class Disk:
    """What is on the disk for certain, and what may be."""

    events: Sequence[Event]
    certain: list[Event] = field(default_factory=list)
    pending: list[Data | Name] = field(default_factory=list)
    acknowledged: int = 0

    def __post_init__(self) -> None:
        for event in self.events:
            if isinstance(event, Acknowledged):
                self.acknowledged = event.seq
            elif isinstance(event, Synced):
                done = [one for one in self.pending if _place(one) == event.file]
                self.certain += done
                self.pending = [one for one in self.pending if _place(one) != event.file]
            else:
                self.pending.append(event)

    def choices(self) -> Iterator[list[tuple[Data | Name, int | None]]]:
        """Which of the pending events happened, and how many bytes of each (`None`: all)."""
        whole: list[tuple[Data | Name, int | None]] = [(event, None) for event in self.pending]
        for number in range(len(whole) + 1):
            yield [*whole[:number]]
        for number, (event, _) in enumerate(whole):
            yield [whole[number]]
            yield whole[:number] + whole[number + 1 :]
            if isinstance(event, Data) and event.data:
                for size in {1, len(event.data) // 2, len(event.data) - 1}:
                    yield [*whole[:number], (event, size)]
                    yield [*whole[:number], (event, size), *whole[number + 1 :]]

    def tree(
        self, happened: Sequence[tuple[Data | Name, int | None]], folders: set[int]
    ) -> dict[str, bytes | None]:
        """Paths and contents (`None`: a folder)."""
        contents: dict[int, bytearray] = {}
        entries: dict[int, dict[str, int]] = {ROOT: {}}
        for event, size in [*((event, None) for event in self.certain), *happened]:
            if isinstance(event, Data):
                event.apply(contents.setdefault(event.file, bytearray()), size)
            elif isinstance(event, Name):
                names = entries.setdefault(event.folder, {})
                names.pop(event.name, None)
                if event.file is not None:
                    names[event.name] = event.file
        found: dict[str, bytes | None] = {}

        def walk(folder: int, path: str) -> None:
            for name, file in entries.get(folder, {}).items():
                if file in folders:
                    found[path + name] = None
                    walk(file, f"{path}{name}/")
                else:
                    found[path + name] = bytes(contents.get(file, b""))

        walk(ROOT, "")
        return found


def _place(event: Data | Name) -> int:
    return event.file if isinstance(event, Data) else event.folder


def states(port: RecordingPort) -> Iterator[tuple[int, dict[str, bytes | None]]]:
    """Each different state, with the seq that had been acknowledged at the latest when it could be met."""
    latest: dict[frozenset[tuple[str, bytes | None]], int] = {}
    for number in range(len(port.events) + 1):
        disk = Disk(port.events[:number])
        for happened in disk.choices():
            state = frozenset(disk.tree(happened, port.folders).items())
            latest[state] = max(latest.get(state, 0), disk.acknowledged)
    for state, acknowledged in latest.items():
        yield acknowledged, dict(state)


def build(path: Path, tree: dict[str, bytes | None]) -> None:
    path.mkdir()
    for name in sorted(tree):
        content = tree[name]
        if content is None:
            (path / name).mkdir()
        else:
            (path / name).write_bytes(content)


@pytest.mark.slow
async def test_what_was_acknowledged_survives_a_power_failure_at_any_moment(
    connect: Connect,
    chain: Any,
    commits: Any,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (segments, writer):
        monkeypatch.setattr(module, "SMALLEST", 2048)
        monkeypatch.setattr(module, "LARGEST", 4096)
    monkeypatch.setattr(segments, "_FILL", b" " * 1024)
    monkeypatch.setattr(segments, "_SHORTEST_PAUSE", 0)
    path.mkdir()
    port = RecordingPort()
    port.adopt_root(path)
    log = chain(None)
    try:
        for sizes in ((1,), (1, 1), (400, 700, 300), (1, 900), (1, 600, 1)):
            backend = await connect(port=port)
            log.log = backend.commit_log()
            log.commits = await commits(log.log)
            # Whoever has read it may have told others.
            port.acknowledge(log.head)
            for size in sizes:
                await log.append(size)
                port.acknowledge(log.head)
            port.fails = True
            with pytest.raises(OutcomeUnknownError):
                await log.append()
            await backend.close()
    finally:
        port.release()
    issued = await commits((await connect(readonly=True)).commit_log())
    found = list(states(port))
    assert len(found) > 1000
    place = tmp_path / "state"
    for acknowledged, tree in random.Random(1).sample(found, 800):
        build(place, tree)
        log.commits = await _recovered(connect, commits, place)
        assert log.commits == issued[: len(log.commits)]
        assert log.head >= acknowledged
        backend = await connect(place, port=HastyPort())
        log.log = backend.commit_log()
        assert await commits(log.log) == log.commits
        await log.append()
        await backend.close()
        assert await _recovered(connect, commits, place) == log.commits
        shutil.rmtree(place)


async def _recovered(connect: Connect, commits: Any, place: Path) -> list[Commit]:
    backend = await connect(place, readonly=True)
    try:
        found: list[Commit] = await commits(backend.commit_log())
        return found
    finally:
        await backend.close()
