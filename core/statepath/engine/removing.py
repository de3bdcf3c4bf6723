"""The removal of a session log beside other writers, who may have begun it anew by then.

What is removed is what was looked at, and only if the log does not say that it belongs to what was appended since. So a
writer may be killed at any moment of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from statepath.backend import Backend, ETag, IfMatch
from statepath.encryption import look
from statepath.engine.ids import log_key
from statepath.errors import ConflictError, NotFoundError


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object of the session log, as it was looked at."""

    key: str
    etag: ETag
    offset: int
    size: int
    digest: bytes

    def is_of(self, text: bytes) -> bool:
        part = text[self.offset : self.offset + self.size]
        return self.size > 0 and len(part) == self.size and sha256(part).digest() == self.digest


async def remove_beside_others(
    backend: Backend, id: str, catch_up: Callable[[], Awaitable[None]], text_since: Callable[[], bytes]
) -> None:
    """Remove the objects of the session log but for those with text that was appended since it was removed.

    Parameters:
        catch_up: learns what others have committed up to now.
        text_since: that text, as far as it is known.
    """
    key = log_key(id)
    seen: list[_Seen] = []
    for name in (key, *[entry.key async for entry in backend.list_keys(f"{key}/")]):
        with suppress(NotFoundError):
            stored, etag = await look(backend, name)
            data = stored or b""  # what nobody can open is nobody's text
            offset = 0 if name == key else int(name.rpartition("/")[2])
            seen.append(_Seen(name, etag, offset, len(data), sha256(data).digest()))
    # What somebody wrote into them was committed before; what is written from here on has another token.
    await catch_up()
    text = text_since()
    # The last first: what is left of an interrupted attempt is a log without a gap.
    for one in reversed(seen):
        if not one.is_of(text):
            with suppress(ConflictError):
                await backend.delete(one.key, when=IfMatch(one.etag))
