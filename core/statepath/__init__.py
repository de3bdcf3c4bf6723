"""statepath keeps the state of long-lived agent and orchestration servers safe, on any storage.

async with statepath.open() as store:
    tasks = store.collection("tasks", Task)
    await tasks.put(task)  # durable when it returns
"""

from statepath._version import __version__
from statepath.archive import ArchivedDocument
from statepath.collection import Collection, Document
from statepath.copying import Copied, copy, import_backup
from statepath.diff import Difference, FieldDifference
from statepath.engine.archiving import Archived
from statepath.engine.companion import MirrorLag
from statepath.engine.health import Check, Health, Status
from statepath.errors import StateError
from statepath.events import Events
from statepath.filters import F, Filter
from statepath.lease import Lease
from statepath.migrating import MigrationPlan, migrate, plan_migration, plan_rollback, rollback
from statepath.migrations import migration
from statepath.mirroring import Mirrored, Promoted, mirror, promote
from statepath.models import PersistedState, SessionInfo, StateMetrics, Task, TaskLogEntry
from statepath.opening import open
from statepath.persistence import SavedState, StatePersistence
from statepath.query import Page, Query
from statepath.repairing import Repair, repair
from statepath.settings import Settings, SettingsArgs
from statepath.stats import Stats
from statepath.store import Restored, Store
from statepath.sync import SyncStore, open_sync
from statepath.transaction import Transaction
from statepath.watch import StateChange

__all__ = [
    "Archived",
    "ArchivedDocument",
    "Check",
    "Collection",
    "Copied",
    "Difference",
    "Document",
    "Events",
    "F",
    "FieldDifference",
    "Filter",
    "Health",
    "Lease",
    "MigrationPlan",
    "MirrorLag",
    "Mirrored",
    "Page",
    "PersistedState",
    "Promoted",
    "Query",
    "Repair",
    "Restored",
    "SavedState",
    "SessionInfo",
    "Settings",
    "SettingsArgs",
    "StateChange",
    "StateError",
    "StateMetrics",
    "StatePersistence",
    "Stats",
    "Status",
    "Store",
    "SyncStore",
    "Task",
    "TaskLogEntry",
    "Transaction",
    "__version__",
    "copy",
    "import_backup",
    "migrate",
    "migration",
    "mirror",
    "open",
    "open_sync",
    "plan_migration",
    "plan_rollback",
    "promote",
    "repair",
    "rollback",
]
