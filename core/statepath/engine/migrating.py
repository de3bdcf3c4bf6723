"""Migrating an open store, and taking that back: a backup first, then one commit, then a log of what was done."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

from statepath.aside import aside_key, utc_now
from statepath.backend import IF_ABSENT, Backend, IfMatch, When
from statepath.commit import Note
from statepath.encryption import look, storage_of
from statepath.engine.archiving import leave_out_lost
from statepath.engine.backups import PRE_MIGRATION_KEY
from statepath.engine.checking import check_snapshot, keep_snapshot
from statepath.engine.engine import Engine
from statepath.engine.history import difference, transactions
from statepath.engine.migration import Migrated, Plan, announce, make_plan, versions, write_logs
from statepath.engine.replica import Replica
from statepath.engine.restoring import past
from statepath.engine.snapshot import SnapshotStream, is_ours, load_snapshot
from statepath.engine.validating import FOLLOWS
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    DivergedError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnsupportedError,
)
from statepath.events import StoreMigrated
from statepath.migrations import Migrations
from statepath.threads import in_thread

logger = logging.getLogger("statepath.migrations")

_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A migration that was taken back.

    Attributes:
        to: the seq whose state is the present one again, and seq that of the commit.
        versions: the schema versions from and to which each collection went.
        kept: the state of right before, with everything that was written since the migration.
    """

    to: int
    seq: int
    versions: dict[str, tuple[int, int]]
    kept: str


async def migrate(engine: Engine, migrations: Migrations, *, allowed: bool) -> Migrated | None:
    """Do what is due; `None` if nothing is. What another writer commits meanwhile is taken along.

    Raises:
        MigrationError: a function failed. Nothing was changed.
        UnsupportedError: something is due, and not `allowed` (`migration_pending`).
    """
    for _ in range(_ATTEMPTS):
        replica = engine.replica
        head = replica.head
        plan = make_plan(replica, migrations, limit=engine.settings.max_document)
        if not plan.reached:
            return None
        if not allowed:
            raise UnsupportedError(
                f"{engine.backend.url} needs a migration: {plan.text}; look at it with: statepath migrate up --dry-run",
                code="migration_pending",
            )
        try:
            backup = await _keep_before(engine) if head else ""
            await announce(engine.backend, plan, head)
            seq = await engine.commit(plan.changes(replica), [(*FOLLOWS, head)])
        except (AlreadyExistsError, ConflictError):
            continue
        _check(plan, replica, seq)
        await engine.snapshot()
        logs = tuple(await write_logs(engine.backend, plan, seq, backup))
        logger.info("migrated %s as seq %d", plan.text, seq)
        done = Migrated(plan.reached, plan.documents, seq, backup, logs)
        engine.events.emit(StoreMigrated(plan.text, sum(plan.documents.values()), seq, backup))
        return done
    raise ConflictError(
        f"{engine.backend.url} is written all the time by someone else; stop that, and try again"
    )


def _check(plan: Plan, replica: Replica, seq: int) -> None:
    """That the store has what the functions returned, or what another writer has made of it since."""
    for put in plan.puts:
        entry = replica.get(put.collection, put.id)
        if (entry.version if entry else replica.head) > seq:
            continue
        if entry is None or entry.json() != bytes(put.document):
            raise StateError(f"{put.collection}/{put.id} is not what its migration returned")


async def _keep_before(engine: Engine) -> str:
    """The pre-migration backup, of the state of now. An earlier one is kept under another name, unless it shows the
    same state.

    Raises:
        AlreadyExistsError, ConflictError: another program migrates the store, or has gone on with it: begin again.
    """
    backend = engine.backend
    head, stream = engine.replica.head, _stream(engine)
    await in_thread(lambda: deque(stream, 0))  # for its digest
    when: When = IF_ABSENT
    try:
        if (await check_snapshot(backend, PRE_MIGRATION_KEY)).digest == stream.digest:
            return PRE_MIGRATION_KEY
    except NotFoundError:
        pass
    except CorruptionError:
        when = await _move(backend, PRE_MIGRATION_KEY)
    else:
        when = await _move(backend, PRE_MIGRATION_KEY)
    await engine.catch_up()
    if engine.replica.head != head:  # the one that was moved may be of a migration that was made meanwhile
        raise ConflictError(f"{backend.url} has gone on from seq {head}")
    await keep_snapshot(backend, PRE_MIGRATION_KEY, stream, when=when)
    return PRE_MIGRATION_KEY


async def _move(backend: Backend, key: str) -> IfMatch:
    """Keep the object under another name, as it is stored: it may be what cannot be opened. The condition for replacing
    just what was kept."""
    content, _ = await look(backend, key)
    stored = storage_of(backend)
    blob = await stored.read(key)
    await stored.write(aside_key(key, "corrupt" if content is None else "earlier"), blob.data)
    return IfMatch(blob.etag)


def _stream(engine: Engine) -> SnapshotStream:
    return SnapshotStream(engine.replica.cut(), store=engine.store, incarnation=engine.incarnation)


async def rollback(engine: Engine, *, dry_run: bool = False) -> RolledBack:
    """Commit the state of before the last migration. The state of now is kept aside first.

    Raises:
        NotFoundError: there is neither a pre-migration backup, nor a migration in the history.
        InvalidArgumentError: no migration was made since.
    """
    before = await read_before(engine)
    replica = engine.replica
    now, then = versions(replica), versions(before)
    if now == then:
        raise InvalidArgumentError(
            "there is no migration to take back: the schema versions are those of before it"
        )
    changed = {
        name: (now.get(name, 1), then.get(name, 1))
        for name in sorted({*now, *then})
        if now.get(name, 1) != then.get(name, 1)
    }
    if dry_run:
        return RolledBack(before.head, replica.head, changed, "")
    kept = f"state.before-rollback.{utc_now()}.json"
    head = replica.head
    await keep_snapshot(engine.backend, kept, _stream(engine))
    note = Note("restored", f"to seq {before.head}, before the migration")
    await leave_out_lost(engine, before)
    seq = await engine.commit([*difference(replica, before), note], [(*FOLLOWS, head)])
    await engine.snapshot()
    text = ", ".join(f"{name} from {old} to {new}" for name, (old, new) in changed.items())
    logger.info("took the migration back: %s as seq %d; what was there is kept as %s", text, seq, kept)
    engine.events.emit(StoreMigrated(text, 0, seq, kept))
    return RolledBack(before.head, seq, changed, kept)


async def read_before(engine: Engine) -> Replica:
    """The state that the pre-migration backup shows; where there is none, as in a copy, or it is damaged, that of the
    history.

    Raises:
        NotFoundError, CorruptionError, DivergedError: there is none that can be used.
    """
    try:
        return await _kept_before(engine)
    except CorruptionError as error:
        if (then := await _before_last(engine)) is None:
            raise CorruptionError(
                f"{error}; and there is no migration in the history, which begins later: put a sound copy of it back",
                key=PRE_MIGRATION_KEY,
            ) from error
        logger.warning("the state of the history is used: %s", error, extra={"key": PRE_MIGRATION_KEY})
        return then
    except NotFoundError as error:
        if (then := await _before_last(engine)) is None:
            raise NotFoundError(
                f"there is no {PRE_MIGRATION_KEY}, and no migration in the history: none was made here, or its backup "
                "was removed, and the history begins later",
                key=PRE_MIGRATION_KEY,
            ) from error
        return then


async def _kept_before(engine: Engine) -> Replica:
    """The state that the pre-migration backup shows.

    Raises: as `read_before`.
    """
    data = (await engine.backend.read(PRE_MIGRATION_KEY)).data
    if not is_ours(data):
        raise InvalidArgumentError(
            f"{PRE_MIGRATION_KEY} is of the original server's folder, and not of a migration",
            key=PRE_MIGRATION_KEY,
        )
    meta, before = load_snapshot(data, PRE_MIGRATION_KEY)
    if meta.store != engine.store:
        raise DivergedError(f"{PRE_MIGRATION_KEY} is of another store", key=PRE_MIGRATION_KEY)
    return before


async def _before_last(engine: Engine) -> Replica | None:
    """The state of before the last migration of the history; `None`: it has none."""
    seq = await _last_migration(engine)
    return await past(engine, seq - 1) if seq > 1 else None


async def _last_migration(engine: Engine) -> int:
    """The seq of the last migration that the history has; 0: of none. The very first commit is no migration: it gives
    a new store the versions of its program."""
    last = 0
    async for _, seq, changes in transactions(engine.backend, engine.log, engine.floor - 1):
        if any(isinstance(change, Note) and change.kind == "migrated" for change in changes):
            last = seq
    return last
