"""Backups that the original server made, in the commands for backups: they show no seq of this store's history."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from statepath import Store
from statepath.cli.opening import reading, writing
from statepath.cli.output import Output, confirm, counted
from statepath.cli.running import command_line
from statepath.collection import documents
from statepath.engine.history import same_value
from statepath.engine.original import BACKUP, State
from statepath.errors import UnsupportedError
from statepath.transaction import Transaction


def is_original(key: str) -> bool:
    """Whether the key is that of a backup of the original's."""
    return BACKUP.fullmatch(key) is not None


def described(key: str, size: int, kept: State) -> dict[str, Any]:
    """The row of such a backup in a list."""
    return {
        "key": key,
        "size": size,
        "damage": None,
        "seq": None,
        "last_change": _moment(kept.saved),
        "documents": len(kept.documents),
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """A document, or a member (`collection` is empty), that is to be put or, without a value, deleted."""

    collection: str
    id: str
    value: Any

    def make(self, store: Store, tx: Transaction) -> None:
        if not self.collection:
            if self.value is None:
                tx.delete_member(self.id)
            else:
                tx.put_member(self.id, self.value)
        elif self.value is None:
            tx.delete(store.collection(self.collection), self.id)
        else:
            field = "id" if self.value.get("id") == self.id else "session_id"
            tx.put(store.collection(self.collection, id=field), self.value)


async def restore_original(
    key: str, kept: State, state_path: str | None, output: Output, *, yes: bool, dry_run: bool
) -> None:
    """Say what would change, ask, and make the documents those of the backup, in one transaction."""
    async with reading(state_path) as store:
        head, planned = store.seq, [one async for one in _differences(store, kept)]
    facts = {"at": key, "changes": len(planned), "documents": _count(planned), "dry_run": dry_run}
    if dry_run or not planned:
        told = f"would change {counted(_count(planned), 'document')} to those of {key}"
        output.result(
            facts | {"restored": False, "to": None, "seq": head, "undo": None},
            told if planned else f"the documents are those of {key} already",
        )
        return
    confirm(f"This changes {counted(_count(planned), 'document')} to those of {key}.", yes=yes)
    async with writing(state_path) as store:
        if store.schema_versions:
            raise UnsupportedError(
                f"{key} is of before a migration: take that back with statepath migrate rollback first",
                code="other_schema",
            )
        async with store.transaction() as tx:
            # What one takes the other's name of goes first.
            for one in sorted(
                [one async for one in _differences(store, kept)], key=lambda one: one.value is not None
            ):
                one.make(store, tx)
        before = store.seq if tx.seq is None else tx.seq - 1
    undo = command_line(state_path, "restore", "--at", str(before))
    output.result(
        facts | {"restored": True, "to": None, "seq": tx.seq or before, "undo": undo},
        f"restored {key} as seq {tx.seq or before}; to undo it: {undo}",
    )


async def _differences(store: Store, kept: State) -> AsyncIterator[Difference]:
    for name in sorted({*store.collections(), *(collection for collection, _ in kept.documents)}):
        current = {one.id: one.value async for one in documents(store.collection(name))}
        then = {id: value for (collection, id), value in kept.documents.items() if collection == name}
        for one in _changed(name, current, then):
            yield one
    for one in _changed("", await store.members(), kept.members):
        yield one


def _changed(collection: str, now: dict[str, Any], then: dict[str, Any]) -> Iterable[Difference]:
    for id in sorted({*now, *then}):
        if not same_value(now.get(id), then.get(id)):
            yield Difference(collection, id, then.get(id))


def _count(planned: list[Difference]) -> int:
    return sum(1 for one in planned if one.collection)


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
