"""Ids and the keys made of them.

An id is the caller's; a key is a path that every file system and object store takes. The encoding is
reversible, and it writes lower case only, so two ids never meet in one file, on a case-insensitive disk
either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final
from unicodedata import category
from urllib.parse import unquote_to_bytes

from statepath.errors import InvalidArgumentError
from statepath.naming import DEVICE, check_collection

MAX_ID_BYTES: Final = 200
MAX_NAME_BYTES: Final = 200

LOGS: Final = "logs/session_"
"""What the key of every session log begins with."""

REPORTS: Final = "reports/"
"""What the key of every report begins with."""

_BARE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-.")
_TABLE: Final = tuple(chr(byte) if byte in _BARE else f"%{byte:02x}" for byte in range(256))
_PLAIN: Final = re.compile(r"[a-z0-9_-]+")
_OFFSET: Final = re.compile(r"[0-9]{20}")
_SHORTENED: Final = re.compile(r"(?!\.)[a-z0-9_.%-]{1,135}~[0-9a-f]{64}")


def check_id(value: object) -> str:
    """The id, if it is one: a non-empty `str` of at most 200 UTF-8 bytes without control characters.

    Raises:
        InvalidArgumentError: it is not; each cause has its own message.
    """
    # Printable ASCII, which nearly every id is, is decided without looking at each character here.
    if type(value) is str and value.isascii() and value.isprintable() and 0 < len(value) <= MAX_ID_BYTES:
        return value
    return _check_slowly(value)


def _check_slowly(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgumentError(f"an id must be a str, not {type(value).__name__}; convert it first")
    if not value:
        raise InvalidArgumentError("an id must not be empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"an id must not contain lone surrogates: character {error.start + 1} is one"
        ) from None
    if "\0" in value:
        raise InvalidArgumentError(f"an id must not contain NUL: character {value.index(chr(0)) + 1} is one")
    for place, char in enumerate(value, 1):
        if category(char) == "Cc":
            raise InvalidArgumentError(
                f"an id must not contain control characters: character {place} is U+{ord(char):04X}"
            )
    if size > MAX_ID_BYTES:
        raise InvalidArgumentError(f"an id has at most {MAX_ID_BYTES} UTF-8 bytes; this one has {size}")
    # A subclass may compare or print as something else; the store keeps what the characters say.
    return str.__str__(value)


def check_version(value: object) -> int:
    """The version that a change is checked against, if it is one: a whole number, 0 or higher.

    Raises:
        InvalidArgumentError: it is not; `True` and `1.0` are none, though they compare as equal to 1.
    """
    if type(value) is not int or value < 0:
        raise InvalidArgumentError(
            f"a version is a whole number, 0 or higher, not {value!r}; take it from a document's `version`"
        )
    return value


def check_seq(value: object) -> int:
    """The seq, if it is one: a whole number, 0 or higher.

    Raises:
        InvalidArgumentError: it is not; `True` and `1.0` are none.
    """
    if type(value) is not int or value < 0:
        raise InvalidArgumentError(f"{value!r} is no seq: seqs are 1, 2, 3, …, and 0 is the empty store")
    return value


def is_id(value: object) -> bool:
    """Whether `check_id` lets the value through."""
    try:
        check_id(value)
    except InvalidArgumentError:
        return False
    return True


def encode_id(id: str) -> str:
    """The name under which the id is stored: at most 200 characters of `a-z 0-9 _ - . % ~`.

    Everything but `a-z 0-9 _ - .` is percent-encoded in lower case; so are a dot at either end and the first
    letter of a Windows device's name. A name over 200 characters becomes its beginning, `~` and the id's
    SHA-256.
    """
    if _PLAIN.fullmatch(id) and not DEVICE.fullmatch(id):
        return id
    data = id.encode()
    name = "".join([_TABLE[byte] for byte in data])
    if name.startswith(".") or DEVICE.fullmatch(name):
        name = f"%{ord(name[0]):02x}{name[1:]}"
    if name.endswith("."):
        name = f"{name[:-1]}%2e"
    if len(name) <= MAX_NAME_BYTES:
        return name
    beginning = name[: MAX_NAME_BYTES - 65]
    cut = beginning.rfind("%", -2)
    return f"{beginning if cut < 0 else beginning[:cut]}~{sha256(data).hexdigest()}"


def decode_id(name: str) -> str | None:
    """The id that is stored under the name; `None` where the name does not tell: it is a shortened one (its
    document holds the id), or not a name that `encode_id` gives."""
    if _PLAIN.fullmatch(name) and not DEVICE.fullmatch(name) and len(name) <= MAX_ID_BYTES:
        return name
    try:
        id = check_id(unquote_to_bytes(name).decode())
    except (UnicodeError, InvalidArgumentError):
        return None
    return id if encode_id(id) == name else None


def is_shortened(name: str) -> bool:
    """Whether the name is that of an id whose own one is too long: only a digest of the id stands in it."""
    return _SHORTENED.fullmatch(name) is not None


def is_name(name: str) -> bool:
    """Whether it is the name of an id, though perhaps not of which."""
    return decode_id(name) is not None or is_shortened(name)


def document_key(collection: str, id: str) -> str:
    """Where the document's view is kept: `tasks/task_1.json`."""
    return f"{collection}/{encode_id(id)}.json"


def log_key(id: str) -> str:
    """Where a session's log is kept: `logs/session_1.log` for the session `1`."""
    return f"{LOGS}{encode_id(id)}.log"


def log_place(key: str) -> tuple[str, int] | None:
    """The key of the log of which a part is kept there, and where in the log that begins; `None`: none is."""
    log, folder, offset = key.removeprefix(LOGS).partition("/")
    if not log.endswith(".log") or not is_name(log.removesuffix(".log")):
        return None
    if folder and not _OFFSET.fullmatch(offset):  # what another tool has put there
        return None
    return f"{LOGS}{log}", int(offset or 0)


def log_id(key: str, known: Mapping[str, str]) -> str | None:
    """The session of a log; `None`: its key does not tell, and is not `known` as one of `long_logs`."""
    return known.get(key) or decode_id(key.removeprefix(LOGS).removesuffix(".log"))


def long_logs(ids: Iterable[str]) -> dict[str, str]:
    """Those of the sessions whose names are shortened, by the keys of their logs."""
    return {key: id for id in ids if "~" in (key := log_key(id))}


def report_key(id: str) -> str:
    """Where a report is kept: `reports/report_1.json`."""
    return f"{REPORTS}{encode_id(id)}.json"


def parse_ref(text: str) -> tuple[str, str]:
    """The collection and the id of a document as people write it: `tasks/task_1`. The id may contain `/`,
    too.

    Raises:
        InvalidArgumentError: there is no `/`, or a part cannot be what it stands for.
    """
    collection, slash, id = text.partition("/")
    if not slash:
        raise InvalidArgumentError(
            f"{text!r} names no document: write it as collection/id, such as tasks/task_1"
        )
    return check_collection(collection), check_id(id)
