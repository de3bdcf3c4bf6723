"""Reports: JSON values, each kept in a file of its own and replaced as a whole."""

from __future__ import annotations

from msgspec import Raw
from pydantic import JsonValue

from statepath.commit import RemoveReport, WriteReport
from statepath.engine.documents import BOM, decode, encode_value
from statepath.engine.engine import Engine
from statepath.engine.ids import REPORTS, check_id, decode_id, report_key
from statepath.errors import ClosedError, NotFoundError, StateError


async def save(engine: Engine, id: str, data: object) -> str:
    """Store a report in the place of an earlier one; the key of its file."""
    key = report_key(check_id(id))
    document = encode_value(data, key=f"reports/{id}")
    await engine.commit_file(WriteReport(id, Raw(document)))
    return key


async def read(engine: Engine, id: str) -> JsonValue:
    """A report, as it was committed last."""
    key = report_key(check_id(id))
    await engine.flush_file(key)

    async def stored() -> bytes | None:
        try:
            return (await engine.backend.read(key)).data
        except NotFoundError:
            return None

    if engine.unwritten is None:
        data = await stored()
    else:
        data, since = await engine.unwritten.read(key, stored)
        if since:
            last = since[-1]
            data = bytes(last.document) if isinstance(last, WriteReport) else None
    if data is None:
        raise NotFoundError(f"there is no report {id}", key=f"reports/{id}")
    return decode(data.removeprefix(BOM), f"reports/{id}")


async def names(engine: Engine) -> list[str]:
    """The ids of the reports, sorted; those whose names do not tell their ids are left out."""
    await engine.flush_files()
    stored = [
        decode_id(entry.key.removeprefix(REPORTS).removesuffix(".json"))
        async for entry in engine.backend.list_keys(REPORTS)
        if entry.key.endswith(".json")
    ]
    found = {id for id in stored if id is not None}
    return sorted(found if engine.unwritten is None else engine.unwritten.names(REPORTS, found))


async def delete(engine: Engine, id: str) -> bool:
    """Remove a report; whether there was one."""
    key = report_key(check_id(id))
    if not await _exists(engine, id, key):
        await engine.catch_up()  # another handle may have just saved it
        if not await _exists(engine, id, key):
            return False
    await engine.commit_file(RemoveReport(id))
    return True


async def _exists(engine: Engine, id: str, key: str) -> bool:
    try:
        await engine.flush_file(key)
    except StateError as error:
        if isinstance(error, ClosedError) or id not in engine.replica.reports:
            raise
        return True  # one that cannot be written can be removed all the same
    return key in [entry.key async for entry in engine.backend.list_keys(key)]
