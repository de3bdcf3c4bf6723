"""Session logs: text that is appended, ordered by the log and kept in files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from statepath.arguments import wrong_kind
from statepath.commit import FileChange, RemoveLog, WriteLog, size_of
from statepath.engine.engine import Engine
from statepath.engine.ids import LOGS, check_id, decode_id, log_key, log_place
from statepath.engine.logfiles import lay, read_log
from statepath.errors import InvalidArgumentError, NotFoundError

_PIECE: Final = 1024 * 1024


async def append(engine: Engine, id: str, text: str) -> int:
    """Add text to the end of a session's log; the seq. Of several calls at once the text comes in their order."""
    check_id(id)
    if not isinstance(text, str):
        raise wrong_kind(f"the text for the log of {id}", "a str", text, "decode or format it first")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(
            f"the text for the log of {id} has a lone surrogate", key=f"logs/{id}"
        ) from None
    if not text:
        return engine.seq
    pieces = range(0, len(text), _PIECE)
    # Whoever comes later stays behind, though it may find faster where the log ends.
    async with engine.log_turn(id):
        offset = await engine.log_offset(id)
        committer = engine.committer
        if committer.crowded:
            await committer.room()
        changes = tuple(WriteLog(id, offset, text[at : at + _PIECE]) for at in pieces)
        committed = committer.submit(changes, sum(size_of(change) for change in changes))
    return await committed


async def read(engine: Engine, id: str) -> str:
    """A session's log, with everything that is committed."""
    key = log_key(check_id(id))
    await engine.flush_file(key)

    async def stored() -> bytes | None:
        try:
            return await read_log(engine.backend, id)
        except NotFoundError:
            return None

    if engine.unwritten is None:
        text = await stored()
    else:
        text = _with(*await engine.unwritten.read(key, stored))
    if text is None:
        raise NotFoundError(f"there is no log of session {id}", key=f"logs/{id}")
    return text.decode(errors="replace")


def _with(text: bytes | None, changes: Sequence[FileChange]) -> bytes | None:
    """The text of a session log after the changes."""
    log = None if text is None else bytearray(text)
    for change in changes:
        if isinstance(change, WriteLog):
            log = bytearray() if log is None else log
            lay(log, change.offset, change.text.encode())
        else:
            log = None
    return None if log is None else bytes(log)


async def names(engine: Engine) -> list[str]:
    """The sessions that have a log, sorted."""
    await engine.flush_files()
    found: set[str] = set()
    async for entry in engine.backend.list_keys(LOGS):
        name = entry.key.removeprefix(LOGS).partition("/")[0]
        if name.endswith(".log") and (id := decode_id(name.removesuffix(".log"))) is not None:
            found.add(id)
    if engine.unwritten is not None:
        found = engine.unwritten.names(LOGS, found)
    return sorted(found | set(engine.replica.logs))


async def delete(engine: Engine, id: str) -> bool:
    """Remove a session's log; whether there was one."""
    known = engine.replica.log_size(check_id(id))
    if not known:
        await engine.catch_up()  # another handle may have begun it
        known = engine.replica.log_size(id)
    if not known and not await _is_stored(engine, log_key(id)):
        return False
    return bool(await engine.commit_file(RemoveLog(id, None if known else 0)))


async def _is_stored(engine: Engine, log: str) -> bool:
    await engine.flush_file(log)
    places = [log_place(entry.key) async for entry in engine.backend.list_keys(log)]
    return any(place is not None and place[0] == log for place in places)
