"""A directory that the original TypeScript server wrote: no journal, no checksums, backups named by milliseconds.

It is read whole, whatever is damaged in it, and then becomes the first commits of a store.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Container, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, count
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from msgspec import Raw

from statepath.backend import Backend, Entry
from statepath.commit import Note, Put, Transaction
from statepath.engine.adoption import check_size
from statepath.engine.documents import encode_mapping, encode_value, parse_untrusted, without_halves
from statepath.engine.history import same_value
from statepath.engine.ids import decode_id, document_key, is_id, is_shortened, log_key, report_key
from statepath.engine.replay import Damage
from statepath.engine.replica import MEMBERS
from statepath.engine.scope import MARK
from statepath.engine.snapshot import SNAPSHOT_MEMBERS, STATE_KEY, is_own_member
from statepath.engine.views import parse_view
from statepath.errors import CorruptionError, InvalidArgumentError, NotFoundError
from statepath.models import moment
from statepath.naming import is_collection

BACKUP: Final = re.compile(r"state\.backup\.(\d{10,16})\.json")

_LOG: Final = re.compile(r"logs/session_([^/]+)\.log")
_REPORT: Final = re.compile(r"reports/([^/]+)\.json")
_CUT: Final = re.compile(r"~[0-9a-f]{64}$")
"""How a name ends that would be too long for a key."""

_NO_TIME: Final = datetime.min.replace(tzinfo=UTC)
_ID_FIELDS: Final = ("id", "session_id")
_FOLDERS: Final = frozenset({"tasks", "sessions"})
_SIGNS: Final = frozenset({"tasks", "sessions", "last_saved"})
"""What a state of the original has at least one of, unless it is empty."""
_OURS: Final = frozenset({"version", "seq", "last_saved", MARK})
_SHOWN: Final = 40
"""How many characters of a name are kept of one that is too long."""
_THEIRS: Final = f"{MARK}_of_the_original"
"""The name under which a document's own member of that name is kept."""


@dataclass(slots=True)
class Original:
    """What an original directory holds.

    Attributes:
        source: the file that most of it was read from.
        transactions: the documents and members. Where files have documents that the state has not, a second one puts
            those again: what the members say, as the metrics do, is not said of them.
        misnamed: files whose document gets a file of another name.
        renamed: files of session logs and reports, the names that they get, and their ids.
        conflicts: files that say something else than the state, and do not say that it is newer; with the reason.
        state: the bytes of the `state.json` that was used, where it was whole.
    """

    source: str
    transactions: list[Transaction] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str, str]] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    state: bytes | None = None
    documents: int = 0


@dataclass(slots=True)
class State:
    """What a `state.json` of the original, or a backup of it, says.

    Attributes:
        documents: by collection and id. members: what is no collection.
        oddities: what is no document although it stands among them, a sentence each. It is a member.
        saved: when it was saved, ISO 8601, if it says so.
    """

    documents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    oddities: list[str] = field(default_factory=list)
    saved: str | None = None

    @classmethod
    def of(cls, state: dict[str, Any]) -> State:
        found = cls()
        for name, value in state.items():
            if name in _OURS:
                continue
            if isinstance(value, list) and _may_hold_documents(name, value):
                others = len(found.documents)
                if rest := [one for one in value if not _take(found.documents, name, one)]:
                    # Not documents after all: kept under a name of their own, so that nothing is lost.
                    found.oddities.append(
                        f"{len(rest)} elements of {name!r} have no id and were kept as they are"
                    )
                    found.members[_free(f"{name}_without_id", state)] = rest
                if twice := len(value) - len(rest) - (len(found.documents) - others):
                    found.oddities.append(
                        f"{twice} elements of {name!r} have the id of another one; the one updated last was kept"
                    )
            elif is_id(name) and name not in SNAPSHOT_MEMBERS and not is_own_member(name):
                found.members[name] = value
            else:
                kept = _free(_possible(name), state | found.members)
                found.oddities.append(f"the member {name[:_SHOWN]!r} was kept as {kept!r}")
                found.members[kept] = value
        saved = state.get("last_saved")
        found.saved = saved if isinstance(saved, str) else None
        return found


def _may_hold_documents(name: str, value: list[Any]) -> bool:
    """Whether the list is a collection, and not one of something else."""
    if not is_collection(name) or is_own_member(name):
        return False
    return name in _FOLDERS or any(_id(one) is not None for one in value)


def _possible(name: str) -> str:
    """A name that a member can have in the place of one that it cannot."""
    letters = "".join(char for char in name if char.isprintable())[:_SHOWN].replace("/", "_")
    return f"{letters or 'unnamed'}_of_the_original"


def _free(name: str, taken: Container[str]) -> str:
    """The name, or one made of it that nothing has."""
    return next(one for one in chain([name], (f"{name}_{n}" for n in count(2))) if one not in taken)


async def backup_keys(backend: Backend) -> list[str]:
    """The keys of the backups that the original made, oldest first."""
    found = [
        (int(match[1]), entry.key)
        async for entry in backend.list_keys("state.backup.")
        if (match := BACKUP.fullmatch(entry.key))
    ]
    return [key for _, key in sorted(found)]


async def read_backup(backend: Backend, key: str) -> State:
    """What a backup of the original says.

    Raises:
        CorruptionError: it is no state.
    """
    data = (await backend.read(key)).data
    try:
        return State.of(_parsed(without_halves(data), key))
    except InvalidArgumentError as error:
        raise CorruptionError(str(error), key=key) from None


def _parsed(data: bytes, key: str) -> dict[str, Any]:
    state = parse_untrusted(data, key=key, limit=len(data))
    if not isinstance(state, dict):
        raise InvalidArgumentError(f"{key} holds no JSON object", key=key)
    return state


def _told(damage: list[Damage], key: str, data: bytes) -> bytes:
    """The data without halves of characters. They are told; the file stays as it is."""
    whole = without_halves(data)
    if whole != data:
        reason = f"{key} has halves of characters, which no text in UTF-8 can hold: each became U+FFFD"
        damage.append(Damage(key, reason, aside=False))
    return whole


async def read_original(backend: Backend, *, limit: int) -> Original | None:
    """Read the directory, or say that there is nothing to read: what other programs keep there is let alone. `limit`
    bounds a document's size, in bytes.

    Raises:
        InvalidArgumentError: another program has its `state.json` there (`occupied`).
    """
    original = Original("")
    state = State.of(await _state(backend, original))
    documents, members = state.documents, state.members
    original.damage += [Damage(original.source, reason, aside=False) for reason in state.oddities]
    newer = await _files(backend, original, documents, limit)
    await _beside(backend, original)
    if not documents and not members and not original.source:
        return None if not original.damage else original
    puts = {
        (collection, id): Put(
            collection, id, Raw(encode_mapping(document, key=f"{collection}/{id}", limit=limit))
        )
        for (collection, id), document in documents.items()
    }
    told = [Put(MEMBERS, name, Raw(encode_value(value, key=name))) for name, value in members.items()]
    original.documents = len(documents)
    if puts or told:
        note = Note("imported", f"{original.documents} documents of an original directory")
        original.transactions.append((*puts.values(), *told, note))
    if told and newer:
        note = Note("imported", f"{len(newer)} documents that {original.source} did not have")
        original.transactions.append((*(put for place, put in puts.items() if place in newer), note))
    return original


async def _state(backend: Backend, original: Original) -> dict[str, Any]:
    """`state.json`, or the newest backup that can be read."""
    missing = False
    for key in (STATE_KEY, *reversed(await backup_keys(backend))):
        try:
            data = (await backend.read(key)).data
        except NotFoundError:
            missing = key == STATE_KEY
            continue
        except CorruptionError as error:
            original.damage.append(Damage(key, str(error)))
            continue
        try:
            state = _parsed(_told(original.damage, key, data), key)
        except InvalidArgumentError as error:
            original.damage.append(Damage(key, str(error)))
            continue
        if state and _SIGNS.isdisjoint(state):
            if key == STATE_KEY:
                raise _occupied(backend)
            continue
        original.source = key
        original.state = data
        break
    else:
        state = {}
    if missing and (original.source or original.damage):
        original.damage.insert(0, Damage(STATE_KEY, f"{STATE_KEY} is missing", aside=False))
    return state


def _occupied(backend: Backend) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the {STATE_KEY} at {backend.url} is another program's, and would be replaced: choose another state path, say "
        "a folder or prefix of its own; nothing was written",
        key=STATE_KEY,
        code="occupied",
    )


async def _files(
    backend: Backend, original: Original, documents: dict[tuple[str, str], dict[str, Any]], limit: int
) -> set[tuple[str, str]]:
    """Documents of their own files: those that are missing from the state, or newer than in it; which they are. Without
    a state only files that are named after their documents say that this is such a directory."""
    newer = set[tuple[str, str]]()
    folders = _FOLDERS | {collection for collection, _ in documents}
    evident, damage = bool(original.source or original.damage), list[Damage]()
    others: list[tuple[str, tuple[str, str], dict[str, Any]]] = []
    async for collection, entry in _listed(backend, folders):
        try:
            await check_size(backend, entry, limit)
            data = _told(damage, entry.key, (await backend.read(entry.key)).data)
            view = parse_view(data, entry.key, limit)
            document = view.decode(entry.key)
        except (InvalidArgumentError, CorruptionError) as error:
            damage.append(Damage(entry.key, str(error)))
            continue
        if not view.store and MARK.encode() in data:
            document = _unmarked(parse_untrusted(data, key=entry.key, limit=limit))
        id = _id(document)
        if id is None:
            damage.append(Damage(entry.key, f"{entry.key} holds no document with an id"))
            continue
        if document_key(collection, id) != entry.key:
            if not evident:
                continue
            others.append((entry.key, (collection, id), document))
        stored = documents.get((collection, id))
        if stored is None or _updated(document) > _updated(stored):
            documents[collection, id] = document
            newer.add((collection, id))
            original.source = original.source or "the task files"
        elif not same_value(document, stored) and _updated(document) == _updated(stored):
            original.conflicts.append(
                (entry.key, f"{original.source} has another {collection}/{id} of the same time")
            )
    _others(original, documents, others)
    if original.source or original.damage:
        original.damage += damage
    return newer


async def _listed(backend: Backend, folders: Iterable[str]) -> AsyncIterator[tuple[str, Entry]]:
    """The files of documents, with the collection. Each folder is asked for by its name, so that one that cannot be
    read, as it is a link, is told and not passed over."""
    for collection in sorted(folders):
        async for entry in backend.list_keys(f"{collection}/"):
            name = entry.key.removeprefix(f"{collection}/")
            if name.endswith(".json") and "/" not in name:
                yield collection, entry


def _others(
    original: Original,
    documents: dict[tuple[str, str], dict[str, Any]],
    others: list[tuple[str, tuple[str, str], dict[str, Any]]],
) -> None:
    """Files that are not named as their documents' files are now. Some are a person's copies, which say something of
    their own; what the original itself named so is older where it says something else."""
    told = {key for key, _ in original.conflicts}
    for key, (collection, id), document in others:
        name = key.rpartition("/")[2].removesuffix(".json")
        if same_value(document, documents[collection, id]) or _named(name) == id:
            original.misnamed.append(key)
        elif key not in told:
            original.conflicts.append(
                (key, f"{original.source} has another {collection}/{id}, which is newer")
            )


async def _beside(backend: Backend, original: Original) -> None:
    """Session logs and reports whose ids are written otherwise in names of files now."""
    for pattern, key_of in ((_LOG, log_key), (_REPORT, report_key)):
        async for entry in backend.list_keys(f"{pattern.pattern.partition('/')[0]}/"):
            match = pattern.fullmatch(entry.key)
            if match is None or decode_id(match[1]) is not None or is_shortened(match[1]):
                continue
            if _CUT.search(match[1]):
                if original.source:
                    reason = f"{entry.key} stays as it is: the name of the file is too long to tell the id"
                    original.damage.append(Damage(entry.key, reason, aside=False))
                continue
            id = _named(match[1])
            if is_id(id) and key_of(id) != entry.key:
                original.renamed.append((entry.key, key_of(id), id))


def _named(name: str) -> str:
    """The id that the original gave a file of the name. What no key can have of it is found percent-encoded."""
    try:
        id = unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        return name
    return id if is_id(id) else name


def _take(documents: dict[tuple[str, str], dict[str, Any]], collection: str, document: object) -> bool:
    id = _id(document)
    if id is None or not isinstance(document, dict):
        return False
    document = _unmarked(document)
    stored = documents.get((collection, id))
    if stored is None or _updated(document) >= _updated(stored):
        documents[collection, id] = document
    return True


def _unmarked(document: Any) -> dict[str, Any]:
    """The document with another name for a member that has the name of ours, so that nothing is lost."""
    return (
        {_THEIRS if name == MARK else name: value for name, value in document.items()}
        if MARK in document
        else document
    )


def _id(document: object) -> str | None:
    if isinstance(document, dict):
        for name in _ID_FIELDS:
            if isinstance(id := document.get(name), str) and is_id(id):
                return id
    return None


def _updated(document: dict[str, Any]) -> datetime:
    """When the document was changed last; what does not say is older than all that does."""
    return moment(document.get("updated_at")) or _NO_TIME
