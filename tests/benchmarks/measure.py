"""How the benchmarks measure: the place, the raw disk beside it, and ratios with their limits."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

SEGMENT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ratio:
    """A measured ratio and what it should be: at least, or at most, the limit."""

    what: str
    value: float
    limit: float
    at_least: bool

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{self.what:<72} {self.value:7.2f} {sign} {self.limit:<5g} {'yes' if self.holds else 'NO'}"


def arguments(parser: ArgumentParser) -> Namespace:
    """The options that every benchmark has."""
    parser.add_argument("--dir", type=Path, default=Path(), help="work below this folder (default: here)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the medians count (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser.parse_args()


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """A folder on the disk to be measured, removed at the end; nothing before: on some file systems creating
    files is slow after deletions."""
    folder = Path(tempfile.mkdtemp(prefix=".benchmark-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def file_system(folder: Path) -> str:
    """The type of the file system that holds the folder."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    holding = [m for m in mounts if folder.resolve().is_relative_to(m[1].encode().decode("unicode_escape"))]
    return max(holding, key=lambda m: len(m[1]))[2] if holding else "unknown"


def raw_sync(folder: Path, size: int, times: int = 300) -> float:
    """The median time of a write and a data sync into a segment that was filled before, in µs."""
    path = folder / "segment"
    if not path.exists():
        with path.open("wb") as file:
            file.write(b" " * SEGMENT)
            file.flush()
            os.fsync(file.fileno())
    data = b"x" * size
    data_sync = getattr(os, "fdatasync", os.fsync)
    took = []
    descriptor = os.open(path, os.O_WRONLY)
    try:
        for n in range(times):
            start = perf_counter_ns()
            os.pwrite(descriptor, data, n * size % (SEGMENT - size))
            data_sync(descriptor)
            took.append(perf_counter_ns() - start)
    finally:
        os.close(descriptor)
    return median(took) / 1000


def raw_create(folder: Path, times: int = 300) -> float:
    """The median time to create a small file, in µs. Without a journal ext4 takes ten times as long for minutes after
    many files were deleted; a run in that time says little about files."""
    place = folder / "created"
    place.mkdir()
    took = []
    for n in range(times):
        start = perf_counter_ns()
        descriptor = os.open(place / str(n), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, b"x" * 2048)
        os.close(descriptor)
        took.append(perf_counter_ns() - start)
    return median(took) / 1000


def describe(folder: Path) -> dict[str, Any]:
    """The machine, and what its disk gives."""
    syncs = {size: round(raw_sync(folder, size)) for size in (2048, 20480)}
    create = round(raw_create(folder))
    place = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
        "file_system": file_system(folder),
        "raw_sync_us": syncs,
        "raw_create_us": create,
    }
    print(f"Python {place['python']}, SQLite {place['sqlite']}, {place['system']}, {place['cores']} cores")
    print(
        f"{place['file_system']}: a write and data sync into a filled segment takes {syncs[2048]} µs for 2 KB and"
    )
    print(f"{syncs[20480]} µs for 20 KB, creating a file of 2 KB {create} µs (p50)\n", flush=True)
    return place


def report(place: dict[str, Any], results: Any, ratios: Sequence[Ratio], file: Path | None) -> None:
    print()
    for ratio in ratios:
        print(ratio)
    if file is not None:
        told = [{**asdict(ratio), "holds": ratio.holds} for ratio in ratios]
        file.write_text(json.dumps({"place": place, "results": results, "ratios": told}, indent=2) + "\n")
    sys.stdout.flush()
