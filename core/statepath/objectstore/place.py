"""Where in an object store a state path points to: a container, and a prefix in it."""

from __future__ import annotations

from dataclasses import dataclass

from statepath.backend import StateURL
from statepath.errors import InvalidArgumentError
from statepath.url import escaped

_LONGEST_PREFIX = (
    400  # bytes; with a key of 512 characters it stays within the 1,024 that every service takes
)


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket or container, and what the names of a store's objects begin with: empty, or ending with `/`."""

    container: str
    prefix: str

    @classmethod
    def of(cls, url: StateURL, *, called: str) -> Place:
        """The place that a URL `scheme://container/prefix` names.

        Parameters:
            called: what the service calls a container, for messages.

        Raises:
            InvalidArgumentError: it names none, or has a user, a password or a port; or a part of the prefix is empty,
                `.` or `..`, or it is longer than 400 bytes.
        """
        scheme = url.scheme
        if url.user is not None or url.password is not None:
            raise InvalidArgumentError(
                f"{scheme} URLs hold no credentials, since URLs end up in logs; set them where the service's own"
                " tools look for them, and write"
                f" {scheme}://{called}/prefix"
            )
        if not url.netloc or url.port is not None:
            raise InvalidArgumentError(
                f"the {scheme} URL names no {called}; write {scheme}://{called}/prefix"
            )
        prefix = url.path.strip("/")
        if "//" in url.path or any(part in (".", "..") for part in prefix.split("/")):
            raise InvalidArgumentError(
                f"a part of the prefix in the {scheme} URL is empty, '.' or '..'; name each part"
            )
        if len(prefix.encode()) > _LONGEST_PREFIX:
            raise InvalidArgumentError(
                f"the prefix in the {scheme} URL is longer than {_LONGEST_PREFIX} bytes"
            )
        return cls(url.netloc, f"{prefix}/" if prefix else "")

    def url(self, scheme: str) -> str:
        """The state path as a person may see it."""
        return f"{scheme}://{self.container}/{escaped(self.prefix)}".rstrip("/")
