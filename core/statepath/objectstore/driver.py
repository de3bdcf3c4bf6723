"""The driver interface: one service's requests, a method each. Names are whole object names, prefix included."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol, TypeAlias

from statepath.backend import ETag, Span, When

Content: TypeAlias = bytes | BinaryIO
"""What is put: bytes, or a file at its beginning, which can be read again from there."""


@dataclass(frozen=True, slots=True)
class Served:
    """What one answer said of an object."""

    data: bytes
    etag: ETag
    modified: datetime


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing; `modified` is aware."""

    name: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing; `following` asks for the next one (empty: this is the last). `sorted` says whether the
    service lists in byte order, across pages."""

    objects: tuple[Listed, ...]
    following: str
    sorted: bool = True


class Driver(Protocol):
    """How one service does it. Each method is one logical request, which is sent once: a client library's own
    resending is off, since of a conditional request it makes a conflict out of a success. Up to 64 are under way at
    once, and a driver has a connection for each.

    Errors are those of `statepath.errors`, as `refusal` and `unanswered` make them.
    """

    scheme: str
    container: str
    endpoint: str
    """Where the service is, for what is remembered of it, and never with credentials."""

    async def get(self, name: str, span: Span | None) -> Served:
        """The object, or a part of it that is not empty; past the end is cut off, and nothing remains of a part that
        begins there.

        Raises:
            NotFoundError: there is no such object.
        """
        ...

    async def put(self, name: str, content: Content, when: When) -> ETag:
        """Store the object in one request, whatever its size, under a token that no version of it had before.

        Raises:
            AlreadyExistsError, ConflictError: the condition does not hold, and nothing was stored.
        """
        ...

    async def remove(self, name: str, when: When) -> bool:
        """Remove the object; whether there was one.

        Raises:
            ConflictError: `when` is `IfMatch`, and another version is stored.
        """
        ...

    async def copy(self, source: str, target: str, when: When) -> ETag:
        """Make one object of another within the service; the token of the new one. `when` is `ALWAYS` or `IfMatch`, and
        about the source.

        Raises:
            NotFoundError: there is no such source.
            ConflictError: `when` is `IfMatch`, and other bytes are stored. Nothing was copied.
        """
        ...

    async def page(self, prefix: str, after: str, following: str) -> Page:
        """A page of the objects whose names begin with the prefix.

        Parameters:
            after: names up to this one may be left out, if the service lists in byte order. It counts for the first
                page only.
            following: what the page before said.
        """
        ...

    async def close(self) -> None:
        """Give the connections back; called once."""
        ...
