"""Verification: what is stored, checked against each other. It only reads."""

from __future__ import annotations

from dataclasses import dataclass

from statepath.commit import FLOOR_KEY, JOURNAL
from statepath.engine.adoption import examine
from statepath.engine.backups import backup_keys
from statepath.engine.engine import Engine
from statepath.engine.floor import read_floor
from statepath.engine.history import transactions
from statepath.engine.snapshot import STATE_KEY, read_meta
from statepath.errors import NotFoundError, StateError


@dataclass(frozen=True, slots=True)
class Finding:
    """Something stored that is not as it should be. `severity` is `damage`, or `notice` for what mends itself."""

    key: str
    reason: str
    severity: str = "damage"


async def verify(engine: Engine) -> list[Finding]:
    """Check the floor, the snapshot, the backups, the journal's chain and the views."""
    if not engine.store:
        upgrade = f"{STATE_KEY} is the original server's; the store is upgraded when it is opened for writing"
        return [Finding(STATE_KEY, upgrade, "notice")]
    findings: list[Finding] = []
    backend = engine.backend
    try:
        floor = await read_floor(backend)
        if floor is None and engine.replica.head:
            findings.append(Finding(FLOOR_KEY, f"{FLOOR_KEY} is missing"))
    except StateError as error:
        findings.append(Finding(FLOOR_KEY, str(error)))
    for key in (STATE_KEY, *await backup_keys(backend)):
        try:
            meta = read_meta((await backend.read(key)).data, key)
        except NotFoundError:
            continue
        except StateError as error:
            findings.append(Finding(key, str(error)))
            continue
        if meta.store != engine.store:
            findings.append(Finding(key, f"{key} belongs to another store"))
    head, last = engine.replica.head, engine.floor - 1
    try:
        async for _, seq, _ in transactions(backend, engine.log, engine.floor - 1):
            last = seq
    except StateError as error:
        findings.append(Finding(error.key or JOURNAL, str(error)))
    else:
        if last < head:
            findings.append(
                Finding(JOURNAL, f"the journal ends at seq {last}, and the state shows seq {head}")
            )
    if backend.capabilities.editable and engine.settings.views is not False:
        examined = await examine(backend, engine.replica, engine.store, limit=engine.settings.max_document)
        findings += [Finding(key, reason) for key, reason in (*examined.broken, *examined.conflicts)]
        findings += [
            Finding(edit.key, "was edited by hand; it is adopted when the store is opened next", "notice")
            for edit in examined.edits
        ]
        findings += [
            Finding(f"{collection}/{id}", "its file is missing or shows another version", "notice")
            for collection, id in examined.stale
        ]
    return findings
