"""Views of documents: what `tasks/<id>.json` says, and whether a person has changed it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, cast

import msgspec
from pydantic import JsonValue

from statepath.engine.documents import decode, parse_untrusted, pretty, texts
from statepath.engine.scope import MARK
from statepath.errors import InvalidArgumentError

_MARK: Final = b',\n  "%s": ' % MARK.encode()
_DIGEST: Final = 32


@dataclass(frozen=True, slots=True)
class View:
    """What a view's file says. `ours` means that nobody changed it; `seq` is the version that it shows or, where a
    person changed it, the version that the change was based on."""

    document: msgspec.Raw
    store: str
    seq: int
    ours: bool

    @property
    def texts(self) -> dict[str, str]:
        """The members that are texts; one of them is the id."""
        return texts(bytes(self.document))

    def decode(self, key: str) -> dict[str, JsonValue]:
        """
        Raises:
            CorruptionError: it cannot be read; names the key of the file.
        """
        return cast("dict[str, JsonValue]", decode(bytes(self.document), key))


class _Mark(msgspec.Struct, frozen=True):
    store: str
    seq: int
    digest: str


_mark = msgspec.json.Decoder(_Mark)


def render_view(document: bytes, store: str, seq: int) -> bytes:
    """The file of one document: pretty-printed, and signed with the store, the seq and a digest."""
    shown = pretty(document)[:-3]
    mark = msgspec.json.encode(_Mark(store, seq, _digest(shown)))
    return b"%s%s%s\n}\n" % (shown, _MARK, mark)


def is_file_of(store: str, data: bytes, key: str, limit: int) -> bool:
    """Whether a file shows a document of that store, or did before a person edited it."""
    try:
        return parse_view(data, key, limit).store == store
    except InvalidArgumentError:
        return False


def least_size(document: int, store: str) -> int:
    """The fewest bytes of the file of a document that has so many."""
    return document + len(_MARK) + len(store) + 2 * _DIGEST


def parse_view(data: bytes, key: str, limit: int) -> View:
    """What the file of a document says, whoever wrote it.

    Raises:
        InvalidArgumentError: it is not one JSON object that the store could hold; says why.
    """
    at = data.rfind(_MARK)
    if at > 0 and data.endswith(b"\n}\n"):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            mark = _mark.decode(data[at + len(_MARK) : -3])
            if mark.digest == _digest(data[:at]):
                return View(msgspec.Raw(data[:at] + b"\n}"), mark.store, mark.seq, ours=True)
    document = parse_untrusted(data, key=key, limit=limit)
    if not isinstance(document, dict):
        raise InvalidArgumentError(f"{key} holds no JSON object", key=key)
    store, seq = "", 0
    with suppress(msgspec.MsgspecError):
        found = msgspec.convert(document.pop(MARK, None), _Mark)
        store, seq = found.store, found.seq
    return View(msgspec.Raw(msgspec.json.encode(document)), store, seq, ours=False)


def shows_later(data: bytes, key: str, store: str, version: int) -> bool:
    """Whether a file of the store shows a later version of its document, and nobody has changed it."""
    try:
        view = parse_view(data, key, len(data))
    except InvalidArgumentError:
        return False
    return view.ours and view.store == store and view.seq > version


def _digest(shown: bytes) -> str:
    return sha256(shown).hexdigest()[:_DIGEST]
