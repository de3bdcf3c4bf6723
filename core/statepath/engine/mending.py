"""Mending what verification finds and opening the store does not: opening reads no more than it needs.

What is damaged is kept aside before it is replaced. What is in nobody's hands any more is left to the person: a report
or a log that the history does not reach back to.
"""

from __future__ import annotations

from collections.abc import Sequence

from statepath.commit import FLOOR_KEY, JOURNAL, WriteLog, WriteReport
from statepath.engine.adoption import examine
from statepath.engine.backups import backup_keys, is_backup
from statepath.engine.engine import Engine
from statepath.engine.history import transactions
from statepath.engine.ids import log_key, report_key
from statepath.engine.opening import put_aside
from statepath.engine.snapshot import STATE_KEY
from statepath.engine.verification import Finding

_BODIES = "bodies/"


def needs_new_log(findings: Sequence[Finding]) -> bool:
    """Whether the log cannot be continued as it is: it has a damage that lies behind the snapshot."""
    return any(
        finding.key.startswith((JOURNAL, _BODIES)) and finding.key != FLOOR_KEY
        for finding in findings
        if finding.severity == "damage"
    )


def remedy(key: str) -> str:
    """What is done about damage of the key, in words."""
    if key == STATE_KEY:
        return "is kept aside, and written again from the newest backup and the journal"
    if is_backup(key):
        return "is kept aside"
    if key == FLOOR_KEY:
        return "is kept aside, and written again"
    if key.startswith((JOURNAL, _BODIES)):
        return "the journal is kept aside and begins anew with the state of now; the history of before is given up"
    if key.startswith("logs/"):
        return "what the history has of it is written again"
    if key.startswith("reports/"):
        return "is kept aside, and written again if the history has it"
    return "its file is written again from the document"


async def mend(engine: Engine, findings: Sequence[Finding]) -> list[str]:
    """Put right what can be; the keys under which damaged objects were kept."""
    damaged = [finding.key for finding in findings if finding.severity == "damage"]
    kept = [
        await put_aside(engine.backend, key, "corrupt")
        for key in damaged
        if is_backup(key) or key.startswith("reports/")
    ]
    if any(key.startswith(("logs/", "reports/")) for key in damaged):
        await _files(engine, frozenset(damaged))
    if engine.views is not None and engine.backend.capabilities.editable:
        examined = await examine(
            engine.backend, engine.replica, engine.store, limit=engine.settings.max_document, thorough=True
        )
        for collection, id in examined.altered:
            engine.views.mark(collection, id)
    await engine.flush()
    await engine.snapshot()
    if engine.replica.head and not await backup_keys(engine.backend):
        await engine.backup()
    return [key for key in kept if key]


async def _files(engine: Engine, damaged: frozenset[str]) -> None:
    """Write again what the history has of logs and reports."""
    views = engine.views
    if views is None:
        return
    async for _, _, changes in transactions(engine.backend, engine.log, engine.floor - 1):
        for change in changes:
            if (isinstance(change, WriteLog) and log_key(change.id) in damaged) or (
                isinstance(change, WriteReport) and report_key(change.id) in damaged
            ):
                views.mark_file(change)
