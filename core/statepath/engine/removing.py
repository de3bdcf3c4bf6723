"""The removal of a session log beside other writers, who may have begun it anew by then.

What is removed is what was looked at, and only if the log does not say that it belongs to what was appended since. So a
writer may be killed at any moment of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from statepath.backend import ALWAYS, Always, Backend, IfMatch, Span
from statepath.encryption import storage_of
from statepath.engine.ids import log_key, log_place
from statepath.errors import AccessDeniedError, ConflictError, CorruptionError, NotFoundError

_ATTEMPTS: Final = 5
"""So often it is looked again where somebody else wrote meanwhile."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object of the session log, as it was looked at: when it may be removed, and where its text begins."""

    key: str
    when: Always | IfMatch
    offset: int


async def remove_beside_others(
    backend: Backend, id: str, catch_up: Callable[[], Awaitable[None]], text_since: Callable[[], bytes]
) -> None:
    """Remove the objects of the session log but for those with text that was appended since it was removed.

    Parameters:
        catch_up: learns what others have committed up to now.
        text_since: that text, as far as it is known.
    """
    for _ in range(_ATTEMPTS):
        seen = await _look(backend, log_key(id))
        # What somebody wrote into them was committed before; what is written from here on has another token.
        await catch_up()
        text = text_since()
        changed = False
        # The last first: what is left of an interrupted attempt is a log without a gap.
        for one in reversed(seen):
            if await _is_of(backend, one, text):
                continue
            try:
                await backend.delete(one.key, when=one.when)
            except ConflictError:
                changed = True
        if not changed:
            return


async def _look(backend: Backend, log: str) -> list[_Seen]:
    appends = backend.capabilities.append
    places = {log: 0}
    if not appends:  # else it has no pieces: what is in a folder of its name is a person's
        async for entry in backend.list_keys(f"{log}/"):
            if (place := log_place(entry.key)) is not None:
                places[entry.key] = place[1]
    seen: list[_Seen] = []
    for key, offset in places.items():
        try:
            blob = await storage_of(backend).read(key, span=Span(0, 0))
        except NotFoundError:
            continue
        except AccessDeniedError:
            if not appends:
                raise
            # A link, or a file that may not be read: whoever may change the folder may remove it.
            seen.append(_Seen(key, ALWAYS, offset))
        else:
            seen.append(_Seen(key, IfMatch(blob.etag), offset))
    return seen


async def _is_of(backend: Backend, seen: _Seen, text: bytes) -> bool:
    """Whether the object holds a part of the text, at its place."""
    rest = text[seen.offset :]
    if not rest:
        return False
    try:
        # A byte more tells whether it is longer.
        blob = await backend.read(seen.key, span=Span(0, len(rest) + 1))
    except (NotFoundError, CorruptionError):  # what nobody can open is nobody's text
        return False
    except AccessDeniedError:
        if seen.when is not ALWAYS:
            raise
        return False
    return bool(blob.data) and rest.startswith(blob.data)
