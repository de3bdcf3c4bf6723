"""The last resort: when the storage cannot take the state any more, it is written to a local file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime


def write_emergency(chunks: Iterable[bytes]) -> str:
    """Write a snapshot to a new file `statepath-emergency-<UTC time>-….json` that only its owner can read, and
    sync it; the file's path. It is tried in the folder for temporary files (`TMPDIR`), then in the working
    directory.

    Raises:
        OSError: it could be written in neither.
    """
    data = b"".join(chunks)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    failure = OSError("there is no folder to write to")
    for folder in (tempfile.gettempdir, os.getcwd):
        try:
            return _write(folder(), f"statepath-emergency-{stamp}-", data)
        except OSError as error:
            failure = error
    raise failure


def _write(folder: str, prefix: str, data: bytes) -> str:
    # mkstemp creates it with mode 0600 and never opens what is there already.
    descriptor, path = tempfile.mkstemp(prefix=prefix, suffix=".json", dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(path)
        raise
    return path
