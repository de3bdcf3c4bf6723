"""The storage protocol: everything that a backend's author has to know, on one page.

A backend keeps bytes under keys. It is five methods and a value that says what it can do. On top of them the core
builds the commit log, transactions, snapshots, recovery, history and restore; a backend knows nothing of these.
`statepath.testing.BackendContract` checks each promise made here; `docs/writing-a-backend.md` leads through it.

Keys are what the core makes of ids: one or more segments joined by `/`, each segment of the characters
`a-z 0-9 A-Z . _ - ~ %`, never empty, `.` or `..`; at most 512 characters in all. No key continues another one behind
a `/`, so that each may be a file in a folder. The key `lock` is never used. A backend stores keys as they are.

Every method may be called from many tasks at once of the event loop that made the connection, which none may block
(`in_thread`); other loops of the process may have connections of their own to the same store. A call that is cancelled
may have been applied.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, NewType, Protocol, TypeAlias, runtime_checkable

from statepath.commit import (
    Append,
    Body,
    Commit,
    Delete,
    Put,
    append_items,
    decode_changes,
    decode_commit,
    encode_commit,
    microseconds,
    moved_behind,
    slot_key,
)
from statepath.errors import StateError
from statepath.filters import (
    And,
    Contains,
    Equals,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Ordered,
    Path,
    StartsWith,
)
from statepath.threads import handed, in_thread
from statepath.url import StateURL

__all__ = [
    "ALWAYS",
    "IF_ABSENT",
    "Always",
    "And",
    "Append",
    "Backend",
    "BackendFactory",
    "Blob",
    "Body",
    "Capabilities",
    "Commit",
    "CommitLog",
    "Contains",
    "Delete",
    "ETag",
    "Entry",
    "Equals",
    "Exists",
    "Filter",
    "IfAbsent",
    "IfMatch",
    "In",
    "LazyWrite",
    "Moment",
    "Not",
    "Or",
    "Ordered",
    "Parameter",
    "Part",
    "Path",
    "Put",
    "Shown",
    "Span",
    "StartsWith",
    "StateURL",
    "SupportsAppend",
    "SupportsCommitLog",
    "SupportsCopy",
    "SupportsDocuments",
    "SupportsExtend",
    "SupportsLazyWrites",
    "SupportsNewest",
    "SupportsParameters",
    "SupportsPlacing",
    "SupportsQueries",
    "SupportsSchema",
    "SupportsSharing",
    "SupportsSpace",
    "SupportsStreams",
    "Tally",
    "When",
    "append_items",
    "decode_changes",
    "decode_commit",
    "encode_commit",
    "handed",
    "in_thread",
    "microseconds",
    "moved_behind",
    "slot_key",
]

ETag = NewType("ETag", str)
"""An opaque token of one stored version of an object. Compared for equality only; never a clock."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes, `start` up to but not including `stop` (`None`: to the end). Past the end is cut off."""

    start: int
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes and the version they are, from one response. `modified` is the storage's clock, aware, in UTC."""

    data: bytes
    etag: ETag
    modified: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing. `modified` is when the object's content was last changed, in seconds since 1970, exact
    to the microsecond: on the storage's clock, or as `LazyWrite` said."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Always:
    """Write or delete whatever is there."""


@dataclass(frozen=True, slots=True)
class IfAbsent:
    """Only create: `AlreadyExistsError` if the key exists."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Only replace that version: `ConflictError` if another one, or none, is stored."""

    etag: ETag


When: TypeAlias = Always | IfAbsent | IfMatch
ALWAYS: Final = Always()
IF_ABSENT: Final = IfAbsent()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend declares. What is not declared here is refused, or done by the core's portable way.

    Attributes:
        durable: a finished write survives the end of the process and the loss of power.
        shared: another process that opens the same state path sees the same objects.
        exclusive: connecting for writing takes a lock, and a second writer gets `StoreLockedError`.
        sharing: `SupportsSharing` is implemented: `exclusive` ends when the connection says so.
        editable: people open the objects as files: document views are on by default, and edits are adopted.
        remote: each call crosses a network: what can be done twice without harm is repeated when it fails.
        overlapping: an append to the log is worked on outside of this process, and costs little that does not grow with
            it: other saves are prepared meanwhile, in two commits instead of one.
        commit_log: `SupportsCommitLog` is implemented.
        streams: `SupportsStreams` is implemented.
        append: `SupportsAppend` is implemented.
        lazy_writes: `SupportsLazyWrites` is implemented.
        copy: `SupportsCopy` is implemented.
        space: `SupportsSpace` is implemented.
        queries: `SupportsQueries` is implemented.
        documents: `SupportsDocuments` is implemented.
        max_object_bytes: a larger object is refused with `InvalidArgumentError`; `None`: no limit of its own.
    """

    durable: bool
    shared: bool
    exclusive: bool = False
    sharing: bool = False
    editable: bool = False
    remote: bool = False
    overlapping: bool = False
    commit_log: bool = False
    streams: bool = False
    append: bool = False
    lazy_writes: bool = False
    copy: bool = False
    space: bool = False
    queries: bool = False
    documents: bool = False
    max_object_bytes: int | None = None


class Backend(Protocol):
    """Bytes under keys. All conditional writes are mandatory: the core builds its commits on them.

    Errors are those of `statepath.errors`: `NotFoundError`, `AlreadyExistsError`, `ConflictError`,
    `AccessDeniedError`, `ThrottledError`, `UnavailableError`, and `ClosedError` after `close`. A backend does not retry
    a conditional write whose outcome is open; it raises `UnavailableError`.
    """

    capabilities: Capabilities

    url: str
    """The state path as a person may see it: without credentials. `f"{url}/{key}"` tells where an object is."""

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        """The object's bytes (or the range of them) with the ETag of the version they were read from.

        Raises:
            NotFoundError: there is no such object.
        """
        ...

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        """Store the bytes under the key, all or nothing: no reader ever sees a part of them. When the call returns,
        the object is as durable as `capabilities.durable` says, and the ETag is that of this very version.

        Of several writers with `IF_ABSENT` on one key exactly one succeeds; so too with `IfMatch` on one ETag. The
        core never replaces an object by bytes that it had before while others may do so, too (each record that is
        replaced holds something random), so a storage whose own token is a hash of the content is sound.

        Raises:
            AlreadyExistsError: `when` is `IF_ABSENT` and the key exists.
            ConflictError: `when` is `IfMatch` and another version, or none, is stored.
            UnavailableError: it may or may not have been applied.
        """
        ...

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        """Remove the object; whether there was one. `when` is `ALWAYS` or `IfMatch`.

        Raises:
            ConflictError: `when` is `IfMatch` and another version is stored.
        """
        ...

    def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        """The objects whose keys begin with the prefix and sort after `after`, in byte order, across all pages.
        An object that is written or deleted meanwhile may or may not be listed; all others are, once."""
        ...

    async def close(self) -> None:
        """Release what the connection holds: no thread, task or file of it stays. May be called twice; any other call
        afterwards is `ClosedError`. It waits for no listing and no follower; a call that is under way ends soon, with
        its result or an error of `statepath.errors`."""
        ...


class BackendFactory(Protocol):
    """What an entry point of the group `statepath.backends` names; the entry point's name is the URL scheme."""

    def parse(self, url: StateURL) -> Any:
        """The backend's own configuration value, from the URL alone: no environment, no input or output.

        Raises:
            InvalidArgumentError: a part of the URL cannot be used. Unknown query parameters are errors.
        """
        ...

    def with_env(self, config: Any, env: Mapping[str, str]) -> Any:
        """The configuration completed from the environment, where the URL is silent."""
        ...

    async def connect(self, config: Any, *, readonly: bool = False) -> Backend:
        """A connection. With `readonly` it takes no lock, creates nothing, and each change is `ReadOnlyError`. Several
        may be asked for at once where nothing is yet. A call that fails or is cancelled leaves nothing open.

        Raises:
            StoreLockedError: the backend is `exclusive` and another writer has the store; names the holder.
        """
        ...


class Shown(NamedTuple):
    """A document as it is to be found by queries; `modified` is in microseconds since 1970."""

    collection: str
    id: str
    version: int
    modified: int
    document: bytes


@runtime_checkable
class SupportsQueries(Protocol):
    """Finds documents by an index of its own, which it derives from its commit log."""

    async def show(self, seq: int, documents: Iterable[Shown]) -> None:
        """What the documents are as of the seq: called when a writer has opened the store, for an index that cannot be
        brought up to date from the log alone. The rest is done behind; the items may be drawn in a worker thread, and
        again from the beginning."""
        ...

    async def settle(self, seq: int) -> bool:
        """Whether the index shows the seq, perhaps after a while; `False`: it is known not to soon."""
        ...

    async def find(self, collection: str, where: Filter, seq: int) -> frozenset[str] | None:
        """The ids of all documents of the collection that fulfil the condition as of the seq, and perhaps of others:
        the core looks at each. `None`: it would not be faster than to look at all, or is not known as of that seq."""
        ...


class Part(NamedTuple):
    """Some of the documents that were asked for, and the seq that all of them are as of."""

    seq: int
    documents: Sequence[Shown]


class Tally(NamedTuple):
    """How many documents a collection holds, and the bytes that they take in the storage."""

    documents: int
    bytes: int


class Moment(Protocol):
    """All documents as of the seq, for as long as the moment is held."""

    seq: int

    def scan(
        self, collection: str, where: Filter | None = None, *, after: str = ""
    ) -> AsyncGenerator[Sequence[Shown]]:
        """All documents of the collection that fulfil the condition, and perhaps others: the core looks at each. They
        come by id, in the order of its UTF-8, behind `after`, in parts of a size that memory has room for."""
        ...

    async def tally(self, *, collection: str | None = None) -> Mapping[str, Tally]:
        """What the collection holds, or each collection that holds any."""
        ...


@runtime_checkable
class SupportsDocuments(Protocol):
    """Keeps the documents themselves where they can be read one by one, for a handle that does not hold them.

    They are as of one seq, which follows the log. A document is equal to what the log says, value by value; the order
    of its members, and the space between them, may be others. Where `at_least` is not reached soon, `UnavailableError`
    is raised.
    """

    async def serve(self, seq: int) -> None:
        """Begin to bring the documents up to date with the log, for a writer that does not know them (one that does
        calls `SupportsQueries.show`), and wait until they show the seq. Who only reads waits for the writers.

        Raises:
            UnsupportedError: the log alone cannot bring them up to date.
        """
        ...

    async def read_documents(self, keys: Sequence[tuple[str, str]], at_least: int) -> Part:
        """Those of the documents, named by collection and id, that there are, as of one seq, `at_least` or later."""
        ...

    def moment(self, at_least: int) -> AbstractAsyncContextManager[Moment]:
        """All documents as of one seq, `at_least` or later, however long it takes to read them."""
        ...


class Parameter(NamedTuple):
    """Something that a state path may say of its backend, and the `variables` that are asked where the URL is silent:
    the first that is set counts. `said` is what the URL says, `default` what holds where nobody does; `None`: nothing,
    or what others decide. What is `secret` is shown to nobody."""

    name: str
    variables: tuple[str, ...] = ()
    said: str | None = None
    default: str | None = None
    secret: bool = False


@runtime_checkable
class SupportsParameters(Protocol):
    """A factory that tells what its configuration is made of, for people who ask where a value comes from."""

    def parameters(self, url: StateURL) -> Sequence[Parameter]:
        """Each parameter once. Every variable that `with_env` looks at is among them, and whatever may hold a secret is
        marked as one. As `parse`, it depends on the URL alone."""
        ...


@runtime_checkable
class SupportsSchema(Protocol):
    """A factory whose storage has to be made ready once, by somebody who may."""

    def schema_sql(self) -> str:
        """The script that makes it ready, or brings it up to date. Running it twice does no harm."""
        ...


class CommitLog(Protocol):
    """The log of commits. The core has a portable one, over `write(when=IF_ABSENT)`; a backend that can do better
    offers its own (`SupportsCommitLog`)."""

    async def append(self, after: int, commit: Commit) -> None:
        """Make the commit durable right behind the seq `after`, which is the last seq of the newest commit.

        Raises:
            HeadMoved: another writer's commit is there already. Nothing was written. It may bring all commits behind
                `after` along, up to the end of the log, if that costs little, and say that the next place is kept.
            OutcomeUnknownError: it may or may not be durable; no further append is taken.
            UnavailableError: nothing was written (`disk_full`), and a later append may succeed.
        """
        ...

    def read(self, after: int) -> AsyncIterator[Commit]:
        """The durable commits whose last seq is higher than `after`, oldest first, each a whole, checked record,
        ending at the head. The first may begin at or below `after`; the seqs have no gap between one and the next. Who
        has enough of them before that closes the iterator (`aclose`, as an asynchronous generator has it).

        Raises:
            CorruptionError: a commit that had been durable is damaged; raised after the last good one before it.
            HistoryTrimmedError: the log begins later than `after + 1`.
        """
        ...

    async def trim(self, upto: int) -> None:
        """Forget commits whose last seq is `upto` or lower, as far as that is convenient. The floor was raised."""
        ...

    async def restart(self, after: int) -> list[str]:
        """Move every commit aside, as `<key>.corrupt.<UTC time>`, and begin anew right behind the seq `after`: what
        recovery does when the log is damaged and its state was saved otherwise. Returns the keys that were kept."""
        ...

    def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        """As `read`, and then each further commit once it is durable, until the iterator is closed.

        Who follows may learn of commits otherwise, above all of those that it appends. `known` gives the seq up to
        which it did: commits that do not go beyond that may be left out, and need not be read.
        """
        ...


@runtime_checkable
class SupportsExtend(Protocol):
    """A commit log that takes several commits for the price of one, as whoever ships them from another log has them."""

    async def extend(self, after: int, commits: Sequence[Commit]) -> None:
        """As `append`, for commits that follow each other, 8 MiB at most in all. What a crash leaves of them are the
        first ones, or none.

        Raises:
            HeadMoved, OutcomeUnknownError, UnavailableError: as `append`, of all of them.
        """
        ...


@runtime_checkable
class SupportsPlacing(Protocol):
    """A commit log that finds the place of a commit by itself, where nothing in the commit depends on what stands
    before it: so of several writers none has to wait until it knows what the others did."""

    async def place(self, after: int, commit: Commit) -> tuple[Commit, Sequence[Commit]]:
        """As `append`, but where commits stand behind `after` that were all placed, too, the commit goes behind them.
        Returns it as it stands in the log then (`moved_behind`), and the commits before it; none of them where that
        would cost much: they can be read.

        Raises:
            HeadMoved: something was appended behind `after`, which may matter to the commit; or much came, or `after`
                is not what this object met last. Nothing was written.
            OutcomeUnknownError, UnavailableError: as `append`.
        """
        ...


@runtime_checkable
class SupportsNewest(Protocol):
    """A commit log that tells how far it had come, also where a damaged commit ends what can be read of it. A damaged
    replica whose log does not is made anew only where that is asked for: it may have more than its primary."""

    async def newest(self) -> tuple[int, str]:
        """The last seq that was given away and its commit's id, as far as the log tells: 0, or empty, where not."""
        ...


@runtime_checkable
class SupportsCommitLog(Protocol):
    def commit_log(self) -> CommitLog:
        """The native commit log of this connection; the same object at each call."""
        ...


@runtime_checkable
class SupportsSharing(Protocol):
    """A connection for writing that has the store to itself, or came to others that share it.

    Who has it to itself can look at everything in peace, repair it, and then let others in. Who came to others finds
    the store as somebody has it open.
    """

    joined: bool
    """Whether other writers may be there since the connection was made."""

    async def announce(self) -> None:
        """Other writers that connect from now on wait for `share`, instead of being refused at once."""
        ...

    async def share(self) -> None:
        """Let other writers in, if the storage is one where that is safe."""
        ...

    async def believe(self) -> None:
        """Every view shows what it should. Where a listing told no times, since what was written lazily may have been
        lost, it can tell them from now on, also to who connects next."""
        ...

    async def maintain(self) -> bool:
        """Be the one of all writers that does what one of them should do; whether this one is it. It ends with the
        connection, or its process."""
        ...

    async def is_alone(self) -> bool:
        """Whether no other writer seems to be there now."""
        ...

    def refusal(self, why: str) -> StateError:
        """The `StoreLockedError` for what needs the store for itself, and cannot have it; names those who have it."""
        ...


@runtime_checkable
class SupportsStreams(Protocol):
    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        """As `write`, for objects that should not be held in memory whole. The chunks are drawn in a worker thread,
        and the writes are paced so that commits go on meanwhile."""
        ...


@runtime_checkable
class SupportsAppend(Protocol):
    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        """Write the bytes into the object at the offset and cut it off behind them; create it where it is missing.
        Durable on return. A gap before the offset is filled with line ends. With `cut=False` what stands behind them
        stays: another writer may be further."""
        ...


class LazyWrite(NamedTuple):
    """An object to be replaced, or with `data=None` removed. `modified`, in microseconds since 1970, is what a
    listing shows for it from then on, until someone else changes it."""

    key: str
    data: bytes | None
    modified: int


@runtime_checkable
class SupportsLazyWrites(Protocol):
    async def write_lazily(
        self, items: Iterable[LazyWrite], *, keep: Callable[[str, bytes], bool] | None = None
    ) -> None:
        """Replace or remove many objects, each all or nothing, soon durable but not on return: for views, which are
        rebuilt from the log. The items are drawn in a worker thread, each right before it is written. What cannot be
        written is raised once the others are: the first of it, if it is more. Where the error tells the keys
        (`unwritten`), only those are tried again.

        `keep(key, data)` is asked in that thread about an object whose own time is later than the item's: whether it
        stays. Nobody else replaces it meanwhile."""
        ...


@runtime_checkable
class SupportsCopy(Protocol):
    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        """Make `target` what `source` is now, all or nothing, without moving the bytes, and replace whatever is there.
        The ETag is that of the target.

        `when` is `ALWAYS` or `IfMatch`, and about the source: what is copied are the bytes of that version, also where
        the source is replaced meanwhile. A storage that cannot hold this does not declare `copy`.

        Raises:
            NotFoundError: there is no source. The target stays as it is.
            ConflictError: `when` is `IfMatch` and the source has other bytes by now. The target stays as it is.
        """
        ...


@runtime_checkable
class SupportsSpace(Protocol):
    async def free_bytes(self) -> int:
        """How many bytes this process may still write to the storage."""
        ...
