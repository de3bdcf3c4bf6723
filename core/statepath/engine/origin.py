"""An open store as what another one is made from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from statepath.commit import JOURNAL, Commit
from statepath.engine import restoring
from statepath.engine.archiving import committed, read_whole, segments
from statepath.engine.backups import backup_keys
from statepath.engine.engine import Engine
from statepath.engine.files import Files, LogPiece, Report
from statepath.engine.replica import Replica
from statepath.engine.snapshot import STATE_KEY, load_snapshot
from statepath.errors import CorruptionError, NotFoundError


@dataclass(frozen=True, slots=True)
class StoreOrigin:
    """The documents of `replica`, and the logs and reports of `now`, the present state. With `begin` the commits
    from that seq on, and the backups, go with them: then both are the present state."""

    engine: Engine
    replica: Replica
    now: Replica
    begin: int | None = None

    @property
    def name(self) -> str:
        return f"seq {self.replica.head} of {self.engine.backend.url}"

    @property
    def store(self) -> str:
        return self.engine.store

    @property
    def floor(self) -> int:
        return self.replica.head + 1 if self.begin is None else self.begin

    def files(self) -> AsyncIterator[LogPiece | Report]:
        engine, now = self.engine, self.now
        # Before a snapshot the files are brought up to it; a writer's own were brought up to `now`.
        shown = engine.vitals.saved[0] if engine.readonly else now.head
        return Files(engine.backend, engine.log, now, shown, self.begin).read()

    async def archive(self) -> AsyncIterator[tuple[str, bytes]]:
        backend, live = self.engine.backend, segments(self.replica)
        for segment in live:
            for key, data in await read_whole(backend, segment):
                yield key, data
        if self.begin is None:
            return
        earlier = await committed(self.engine)
        async for replica in self.backups():
            earlier.update(segments(replica))
        for segment in earlier.difference(live):
            try:
                objects = await read_whole(backend, segment)
            except CorruptionError:
                continue  # lost, and given up since: it is not carried on
            for key, data in objects:
                yield key, data

    async def backups(self) -> AsyncIterator[Replica]:
        if self.begin is None:
            return
        engine, shown = self.engine, set[int]()
        for key in (*await backup_keys(engine.backend), STATE_KEY):
            try:
                meta, replica = load_snapshot((await engine.backend.read(key)).data, key)
            except (NotFoundError, CorruptionError):
                continue  # one that is damaged is not carried on
            ours = meta.store == engine.store and engine.continues(meta.incarnation, meta.seq)
            if ours and self.floor - 1 <= meta.seq < self.replica.head and meta.seq not in shown:
                shown.add(meta.seq)
                yield replica

    async def commits(self, after: int) -> AsyncIterator[Commit]:
        async for commit in self.engine.log.read(after):
            if commit.last > self.replica.head:
                return
            yield commit

    async def body(self, key: str) -> bytes:
        return (await self.engine.backend.read(key)).data


async def present(engine: Engine, *, history: bool) -> StoreOrigin:
    """The store as it is now.

    Raises:
        UnsupportedError: it is no store yet (`not_upgraded`).
        CorruptionError: its log is damaged, so that it shows a part only.
        HistoryTrimmedError: with `history`, the log does not reach back any more to what this handle shows.
    """
    engine.check_open()
    if not engine.whole:
        raise CorruptionError(
            f"the journal of {engine.backend.url} is damaged, and what can be read is a part only: run statepath "
            "repair, which tells what is lost; then repeat the command",
            key=JOURNAL,
        )
    begin = None
    if history:
        begin = await engine.look_back()
        await engine.catch_up()  # the log may begin behind what this handle has seen
    now = await restoring.present(engine)
    return StoreOrigin(engine, now, now, begin)
