"""Schema versions: which version the documents of each collection have, and how they get to a later one.

The versions are a member of `state.json`, and change in the same commit as the documents.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from statepath.backend import IF_ABSENT, Backend, IfMatch, When
from statepath.commit import Change, Note, Put
from statepath.encryption import look
from statepath.engine.documents import decode, encode_mapping
from statepath.engine.history import same_value
from statepath.engine.replica import MEMBERS, Replica, Stage
from statepath.engine.snapshot import SCHEMA_MEMBER, STATE_KEY
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    MigrationError,
    NotFoundError,
    StateError,
    UnsupportedError,
)
from statepath.migrations import Migrations, Step

_LOG: Final = re.compile(r"state\.migration-v\d+-to-v\d+\.log")

_versions = msgspec.json.Decoder(dict[str, int])


def decode_versions(data: bytes) -> dict[str, int]:
    """The versions that the member of a state tells.

    Raises:
        CorruptionError: it tells none.
    """
    try:
        return _versions.decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptionError(
            f"the member {SCHEMA_MEMBER} of {STATE_KEY} is not what a store has there: {error}; put the newest backup "
            f"that has it right in the place of {STATE_KEY}",
            key=STATE_KEY,
        ) from error


def versions(replica: Replica) -> dict[str, int]:
    """The version of each collection whose documents are not of version 1."""
    entry = replica.get(MEMBERS, SCHEMA_MEMBER)
    return {} if entry is None else decode_versions(entry.json())


def check_known(replica: Replica, migrations: Migrations) -> None:
    """
    Raises:
        UnsupportedError: documents are of a later version than the program knows (`newer_schema`).
    """
    for collection, version in sorted(versions(replica).items()):
        known = migrations.target(collection)
        if version > known:
            raise UnsupportedError(
                f"the documents in {collection} are of schema version {version}, and this program knows version {known}"
                ": update the program, or register its migrations (STATE_MIGRATIONS); read-only it can be opened",
                key=collection,
                code="newer_schema",
            )


def check_reached(replica: Replica, migrations: Migrations) -> None:
    """
    Raises:
        UnsupportedError: documents are of an earlier version than the program brought them to (`older_schema`).
    """
    held = versions(replica)
    for collection in migrations.collections:
        version, brought = held.get(collection, 1), migrations.target(collection)
        if version < brought:
            raise UnsupportedError(
                f"the documents in {collection} were taken back to schema version {version}, and this program had "
                f"brought them to version {brought}: open the store again to migrate them, or run the program of "
                "before",
                key=collection,
                code="older_schema",
            )


@dataclass(slots=True)
class Plan:
    """What the registered migrations make of a state.

    Attributes:
        steps: the functions, by collection.
        reached: the versions from which, and to which, each collection goes.
        documents: how many documents of each collection change.
        puts: the documents as they will be.
    """

    steps: dict[str, list[Step]] = field(default_factory=dict)
    reached: dict[str, tuple[int, int]] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)
    puts: list[Put] = field(default_factory=list)

    @property
    def text(self) -> str:
        """In words: `tasks from 1 to 2`."""
        return ", ".join(f"{name} from {old} to {new}" for name, (old, new) in self.reached.items())

    def changes(self, replica: Replica) -> list[Change]:
        """All of it as one transaction."""
        reached = versions(replica) | {name: new for name, (_, new) in self.reached.items()}
        schema = Put(MEMBERS, SCHEMA_MEMBER, Raw(msgspec.json.encode(reached)))
        return [*self.puts, schema, Note("migrated", self.text)]

    def applied(self, replica: Replica) -> Replica:
        """The state as it will be."""
        result = Replica.of(replica.cut())
        stage = Stage(result)
        for put in self.puts:
            stage.apply(put, replica.head + 1, replica.time + 1)
        stage.install(result, replica.head + 1, "", replica.time + 1)
        return result


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did.

    Attributes:
        versions: the schema versions from and to which each collection went.
        documents: how many documents of each collection changed.
        seq: the commit.
        backup: the state of before; empty for a store that was empty.
        logs: where it is told.
    """

    versions: dict[str, tuple[int, int]]
    documents: dict[str, int]
    seq: int
    backup: str
    logs: tuple[str, ...]


def make_plan(replica: Replica, migrations: Migrations, *, limit: int) -> Plan:
    """Run the migrations that are due, without changing anything. `limit` bounds a document's size, in bytes.

    Raises:
        MigrationError: one raised, or returned something that is not the document; names it and the document.
        ConfigurationError: one is missing on the way to the version that the program needs.
        UnsupportedError: one is due, and the documents are not in memory (`not_loaded`).
    """
    plan = Plan()
    held = versions(replica)
    for collection in migrations.collections:
        before = held.get(collection, 1)
        steps = migrations.chain(collection, before)
        if not steps:
            continue
        plan.steps[collection] = steps
        plan.reached[collection] = (before, steps[-1].after)
        plan.documents[collection] = 0
        if not replica.holds(collection):
            if not replica.head:
                continue  # a new store has none, wherever it keeps them
            raise UnsupportedError(
                f"{plan.text} is to be migrated, which needs the documents in memory, and the handle was opened with "
                "load=False: do it once with STATE_LOAD=true statepath migrate up, where there is memory for them",
                code="not_loaded",
            )
        for id, entry in replica.collections.get(collection, {}).items():
            stored = entry.json()
            data = migrated(collection, id, stored, steps, limit)
            if data is not None:
                plan.puts.append(Put(collection, id, Raw(data), entry.version))
                plan.documents[collection] += 1
    return plan


def migrated(collection: str, id: str, stored: bytes, steps: Sequence[Step], limit: int) -> bytes | None:
    """The document's new bytes; `None` if it stays as it is."""
    key = f"{collection}/{id}"
    before = decode(stored, key)
    document: Any = copy.deepcopy(before)
    for step in steps:
        try:
            document = step.function(document)
        except Exception as error:
            raise _failed(step, key, f"{type(error).__name__}: {error}") from error
        if not isinstance(document, dict):
            raise _failed(step, key, f"it returned {type(document).__name__} and no document")
        if isinstance(before, dict):
            for name in ("id", "session_id"):
                if before.get(name) == id and document.get(name) != id:
                    raise _failed(step, key, f"it returned a document whose {name} is {document.get(name)!r}")
            # Which member has the id, only the program's collection knows.
            if id in before.values() and id not in document.values():
                raise _failed(step, key, f"it returned a document without its id {id!r}")
    try:
        data = encode_mapping(document, key=key, limit=limit)
    except StateError as error:
        raise _failed(steps[-1], key, str(error)) from error
    return None if data == stored or same_value(decode(data), before) else data


def _failed(step: Step, key: str, reason: str) -> MigrationError:
    return MigrationError(
        f"the migration of {step.collection} from {step.before} to {step.after} ({step.name}) failed at {key}: "
        f"{reason}; nothing was changed. Correct it, and try it with: statepath migrate up --dry-run",
        key=key,
    )


def log_key(before: int, after: int) -> str:
    """The log of what was done: `state.migration-v1-to-v2.log`."""
    return f"state.migration-v{before}-to-v{after}.log"


def is_migration_log(key: str) -> bool:
    """Whether the key is that of such a log."""
    return _LOG.fullmatch(key) is not None


async def announce(backend: Backend, plan: Plan, head: int) -> None:
    """Tell what is about to be done, behind that seq: a process that ends right after the commit has said so much."""
    for collection, (before, after) in plan.reached.items():
        text = f"{collection}: schema version {before} to {after} begins behind seq {head}"
        await _tell(backend, log_key(before, after), text)


async def write_logs(backend: Backend, plan: Plan, seq: int, backup: str) -> list[str]:
    """Tell what was done, in a log for each pair of versions; their keys. A later migration of the same pair is told
    behind the earlier one."""
    for collection, (before, after) in plan.reached.items():
        functions = ", ".join(step.name for step in plan.steps[collection])
        text = (
            f"{collection}: schema version {before} to {after} as seq {seq}, "
            f"{plan.documents[collection]} documents changed by {functions}; before: {backup or 'nothing'}"
        )
        await _tell(backend, log_key(before, after), text)
    return list(dict.fromkeys(log_key(*reached) for reached in plan.reached.values()))


async def _tell(backend: Backend, key: str, text: str) -> None:
    """Add a line to a log, behind those of others who migrate, too; one that cannot be opened begins anew."""
    line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n".encode()
    while True:
        earlier, when = b"", cast("When", IF_ABSENT)
        with suppress(NotFoundError):
            stored, etag = await look(backend, key)
            earlier, when = stored or b"", IfMatch(etag)
        with suppress(AlreadyExistsError, ConflictError):
            await backend.write(key, earlier + line, when=when)
            return
