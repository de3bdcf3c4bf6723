"""What a handle knows of how it does, without a look at the storage: for health, metrics and a mirror. It may be asked
in another thread."""

from __future__ import annotations

from statepath.engine.autosave import Autosave
from statepath.engine.committer import Committer
from statepath.engine.companion import Companion, MirrorLag
from statepath.engine.floor import Floor
from statepath.engine.replica import MEMBERS, Replica
from statepath.engine.snapshotter import Snapshotter
from statepath.engine.trouble import Trouble
from statepath.engine.viewwriter import ViewWriter
from statepath.errors import StateError


class Vitals:
    """Of a handle that shows the replica.

    Parameters:
        floor: the log's own record as it was found.
        journal_bytes: about how many bytes of commits were found behind the last snapshot, of `snapshot_size`.
        loads: whether the replica holds the documents.
    """

    def __init__(
        self,
        replica: Replica,
        floor: Floor | None = None,
        *,
        journal_bytes: int = 0,
        snapshot_size: int = 0,
        loads: bool = True,
    ) -> None:
        self._replica = replica
        self._found = self._record = Floor(store="", incarnation="") if floor is None else floor
        self._journal, self._size = journal_bytes, snapshot_size
        self._loads = loads
        self._committer: Committer | None = None
        self._views: ViewWriter | None = None
        self._snapshotter: Snapshotter | None = None
        self.autosave: Autosave | None = None
        self.companion: Companion | None = None

    def writing(self, committer: Committer, views: ViewWriter, snapshotter: Snapshotter) -> None:
        """The handle writes from now on."""
        self._committer, self._views, self._snapshotter = committer, views, snapshotter

    def committed(self, size: int) -> None:
        """A commit of about so many bytes has become visible."""
        if self._snapshotter is not None:
            self._snapshotter.committed(size)
        else:
            self._journal += size

    @property
    def seq(self) -> int:
        return self._replica.head

    @property
    def documents(self) -> dict[str, int]:
        """How many documents each collection holds, as far as this handle holds them."""
        if not self._loads:
            return {}
        held = dict(self._replica.collections)
        return {name: len(documents) for name, documents in held.items() if documents and name != MEMBERS}

    @property
    def record(self) -> Floor:
        """The log's own record, as this handle knows it."""
        return self._record if self._snapshotter is None else self._snapshotter.floor

    def learn(self, record: Floor) -> None:
        """That is the log's own record by now. A handle that writes learns of it where it saves."""
        self._record = record

    @property
    def saved(self) -> tuple[int, float | None]:
        """The seq of the last snapshot and when this handle wrote it, in seconds since 1970; of one that was found, the
        time of its last commit."""
        if self._snapshotter is not None:
            return self._snapshotter.saved, self._snapshotter.saved_at
        marks = self._record.snapshots
        return (marks[-1].seq, marks[-1].time / 1_000_000) if marks else (0, None)

    @property
    def unsaved_seconds(self) -> float | None:
        """How long the oldest change of this handle waits for a snapshot; `None`: none does."""
        return None if self._snapshotter is None else self._snapshotter.waiting

    @property
    def snapshot_size(self) -> int:
        """The bytes of the last snapshot, roughly."""
        return self._size if self._snapshotter is None else self._snapshotter.size

    @property
    def journal_bytes(self) -> int:
        """The bytes that were committed since the last snapshot that this handle knows of, roughly."""
        return self.journal_behind(None)

    def journal_behind(self, floor: Floor | None) -> int:
        """The bytes that were committed since the last snapshot, roughly. For a reader `floor` is the log's own record
        as it is now: it says which snapshots were written meanwhile."""
        if self._snapshotter is not None:
            return self._snapshotter.since
        then, now = self._found.snapshots, floor.snapshots if floor is not None else ()
        written = now[-1].journal_bytes - (then[-1].journal_bytes if then else 0) if now else 0
        return max(0, self._journal - written)

    @property
    def view_lag(self) -> int:
        """How many files are behind the log."""
        return 0 if self._views is None else self._views.lag

    @property
    def mirror_lag(self) -> MirrorLag | None:
        """How far the replica is behind, where there is one."""
        return None if self.companion is None else self.companion.lag

    @property
    def mirror_seconds(self) -> float | None:
        """For how long the oldest commit has waited to be on the replica."""
        return None if self.companion is None else self.companion.lag.seconds

    @property
    def failure(self) -> StateError | None:
        """Why the handle takes no further commits, if so."""
        return None if self._committer is None else self._committer.failure

    @property
    def save_trouble(self) -> Trouble | None:
        """Why the last save failed, if it did; and so for what is written behind."""
        return None if self._committer is None else self._committer.trouble

    @property
    def autosave_trouble(self) -> Trouble | None:
        """Why it is not known whether this handle is the one that saves by time, if so."""
        return None if self.autosave is None else self.autosave.trouble

    @property
    def snapshot_trouble(self) -> Trouble | None:
        return None if self._snapshotter is None else self._snapshotter.trouble

    @property
    def trim_trouble(self) -> Trouble | None:
        """Why the log could not be trimmed the last time, if so."""
        return None if self._snapshotter is None else self._snapshotter.trim_trouble

    @property
    def backup_trouble(self) -> Trouble | None:
        return None if self._snapshotter is None else self._snapshotter.backups.trouble

    @property
    def view_trouble(self) -> Trouble | None:
        return None if self._views is None else self._views.trouble
