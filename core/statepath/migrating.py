"""Migrations on request: what would be done, doing it, and taking it back."""

from __future__ import annotations

import os
from dataclasses import dataclass

from statepath.diff import Difference, differences
from statepath.discovery import connect
from statepath.engine.engine import Engine
from statepath.engine.migrating import RolledBack, read_before
from statepath.engine.migrating import rollback as roll_back
from statepath.engine.migration import Migrated, check_known, make_plan
from statepath.engine.opening import open_engine
from statepath.events import Events
from statepath.migrations import load_migrations
from statepath.settings import Settings

__all__ = ["MigrationPlan", "migrate", "plan_migration", "plan_rollback", "rollback"]

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What would be done: the schema versions from and to which each collection goes, and what changes."""

    versions: dict[str, tuple[int, int]]
    differences: tuple[Difference, ...]


async def plan_migration(path: Path | None = None, *, settings: Settings | None = None) -> MigrationPlan:
    """Run the migrations that are due, and change nothing. Works beside a running server.

    Raises:
        MigrationError: a function failed; names it and the document.
        ConfigurationError: one cannot be imported, or is missing on the way.
    """
    used = settings if settings is not None else Settings.load(path)
    migrations = load_migrations(used.migrations)
    engine = await _open(used, path, Events(), readonly=True)
    try:
        check_known(engine.replica, migrations)
        plan = make_plan(engine.replica, migrations, limit=used.max_document)
        return MigrationPlan(plan.reached, tuple(differences(engine.replica, plan.applied(engine.replica))))
    finally:
        await engine.close()


async def migrate(
    path: Path | None = None, *, settings: Settings | None = None, events: Events | None = None
) -> Migrated | None:
    """Do the migrations that are due, as opening the store does; `None`: none was. The state of before is kept.

    Raises:
        MigrationError: a function failed; nothing was changed.
    """
    used = settings if settings is not None else Settings.load(path)
    migrations = load_migrations(used.migrations)
    backend = await connect(used.path if path is None else path, deadline=used.deadline)
    bus = Events() if events is None else events
    engine = await open_engine(backend, used.model_copy(update={"migrate": True}), bus, migrations=migrations)
    await engine.close()
    return engine.migrated


async def plan_rollback(
    path: Path | None = None, *, settings: Settings | None = None
) -> tuple[RolledBack, tuple[Difference, ...]]:
    """What taking the last migration back would do, with every document that changes. Changes nothing.

    Raises: as `rollback`.
    """
    used = settings if settings is not None else Settings.load(path)
    engine = await _open(used, path, Events(), readonly=True)
    try:
        planned = await roll_back(engine, dry_run=True)
        return planned, tuple(differences(engine.replica, await read_before(engine)))
    finally:
        await engine.close()


async def rollback(
    path: Path | None = None, *, settings: Settings | None = None, events: Events | None = None
) -> RolledBack:
    """Make the state that of before the last migration, for the program of before. The state of now, with everything
    that was written since, is kept aside.

    Raises:
        NotFoundError: there is neither a pre-migration backup, nor a migration in the history.
        InvalidArgumentError: there is no migration to take back.
    """
    used = settings if settings is not None else Settings.load(path)
    engine = await _open(used, path, Events() if events is None else events, readonly=False)
    try:
        return await roll_back(engine)
    finally:
        await engine.close()


async def _open(settings: Settings, path: Path | None, events: Events, *, readonly: bool) -> Engine:
    """The store, whatever schema it has."""
    backend = await connect(
        settings.path if path is None else path, readonly=readonly, deadline=settings.deadline
    )
    return await open_engine(backend, settings, events, readonly=readonly)
