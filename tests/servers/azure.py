"""Azurite, the emulator of Azure Blob Storage that Microsoft keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from azure.storage.blob import BlobServiceClient
from servers.npm import NODE, installed
from servers.process import HOST, Command, free_port, running

VERSION = "3.37.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that every Azurite has; its key is in Microsoft's documentation."""
CONTAINER = "states"


@contextmanager
def azurite() -> Iterator[str]:
    """Azurite with the container; its address."""
    main = installed("azurite", VERSION) / "dist/src/blob/main.js"

    def command(folder: Path) -> Command:
        port = free_port()
        arguments = [
            str(NODE),
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
