"""The local backend's configuration: which folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from statepath.backend import StateURL
from statepath.errors import InvalidArgumentError

from statepath_local.failures import SCHEME

_DRIVE = re.compile(r"/?[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class LocalConfig:
    """The folder as the URL names it: it may begin with `~`, or be relative to the working directory."""

    path: str

    def resolve(self) -> str:
        """The absolute path.

        Raises:
            InvalidArgumentError: `~` cannot be resolved, or the working directory was removed.
        """
        path = os.path.expanduser(self.path)
        if path.startswith("~") and self.path.startswith("~"):
            raise InvalidArgumentError(
                f"the state path {self.path!r} names no home folder; for a folder of that name "
                f"write ./{self.path}",
                backend=SCHEME,
            )
        try:
            return os.path.abspath(path)
        except FileNotFoundError as error:
            raise InvalidArgumentError(
                f"the state path {self.path!r} is relative, and the working directory does not exist any more; "
                "give an absolute path",
                backend=SCHEME,
            ) from error


def parse(url: StateURL) -> LocalConfig:
    """The configuration of a plain path, `file:///path` or `file://localhost/path`.

    Raises:
        InvalidArgumentError: another host, a user or a port, a parameter, a drive letter, or no path.
    """
    url.only()
    if url.user is not None or url.port is not None or url.host not in (None, "localhost"):
        raise InvalidArgumentError(
            f"a file URL names a folder of this machine: file:///path (three slashes), not file://{url.netloc}/…"
            if url.password is None and url.user is None
            else "a file URL has no user or password: write file:///path",
            backend=SCHEME,
        )
    if os.name == "posix" and _DRIVE.match(url.path):
        raise InvalidArgumentError(
            f"{url.path!r} has a drive letter, and this system has none; give a path such as /srv/agents",
            backend=SCHEME,
        )
    if not url.path:
        raise InvalidArgumentError("the file URL names no folder; write file:///path", backend=SCHEME)
    return LocalConfig(url.path)
