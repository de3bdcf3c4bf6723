"""Where there is no room for temporary files: a container whose root is read-only, a full disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from statepath.errors import StateError


@contextmanager
def temporary_files() -> Iterator[None]:
    """Say why none can be made, and what to do.

    Raises:
        StateError: the system refused (`no_temporary`).
    """
    try:
        yield
    except OSError as error:
        raise StateError(
            f"no temporary file can be made in {tempfile.tempdir or 'any folder for it'}: {error.strerror or error}; "
            "make room there, or name another folder in TMPDIR",
            code="no_temporary",
        ) from error
