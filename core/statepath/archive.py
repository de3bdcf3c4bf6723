"""The archive: documents that are done, out of the live state and still at hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from statepath.arguments import wrong_kind
from statepath.engine import archiving
from statepath.engine.archiving import Archived
from statepath.engine.engine import Engine
from statepath.filters import F, Filter, check_depth
from statepath.naming import check_collection
from statepath.quantities import duration


@dataclass(frozen=True, slots=True)
class ArchivedDocument:
    """A document in the archive: the version that it had, when it was changed last, and the segment that it is in."""

    collection: str
    id: str
    version: int
    modified: datetime
    segment: str

    @property
    def key(self) -> str:
        return f"{self.collection}/{self.id}"


async def archive(
    engine: Engine,
    collection: str,
    where: Filter | None,
    equals: Mapping[str, Any],
    *,
    older_than: timedelta | str,
    dry_run: bool,
) -> Archived:
    """Archive the documents of a collection that match and have not been changed for so long."""
    engine.check_open()
    if where is not None and not isinstance(where, Filter):
        raise wrong_kind("where", "a filter made with F", where)
    wanted = where
    for field, value in equals.items():
        one = F(field) == value
        wanted = one if wanted is None else wanted & one
    if wanted is not None:
        check_depth(wanted)
    before = round((datetime.now(UTC) - duration(older_than)).timestamp() * 1_000_000)
    matches = (lambda document: True) if wanted is None else wanted.matches
    chosen = await archiving.choose(engine.replica, check_collection(collection), before, matches)
    if dry_run:
        return Archived(len(chosen), sum(entry.size for _, entry in chosen), (), 0)
    return await archiving.archive(engine, collection, chosen)


async def archive_by_rules(engine: Engine, *, dry_run: bool) -> Archived:
    """Archive what the setting `archive` says; all its rules together."""
    engine.check_open()
    done = await archiving.archive_by_rules(engine, dry_run=dry_run)
    return Archived(
        sum(one.documents for one in done),
        sum(one.bytes for one in done),
        tuple(name for one in done for name in one.segments),
        sum(one.compressed for one in done),
    )


async def archived(engine: Engine, collection: str | None) -> AsyncGenerator[ArchivedDocument]:
    """What is in the archive, of one collection or of all, the latest first."""
    engine.check_open()
    if collection is not None:
        check_collection(collection)
    async for segment, place in archiving.documents(engine, collection):
        modified = datetime.fromtimestamp(place.modified / 1_000_000, UTC)
        yield ArchivedDocument(segment.collection, place.id, place.version, modified, segment.key)
