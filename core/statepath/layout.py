"""Which objects at a state path are a store's: beside them there may be anything, which is let alone."""

from __future__ import annotations

import re
from typing import Final

from statepath.aside import key_before, why_aside
from statepath.commit import JOURNAL
from statepath.naming import is_collection

_ENCODED: Final = r"[a-z0-9_.%~-]{1,200}"
"""What an id becomes in a key. The original server named logs and reports by the ids as they were."""

_OURS: Final = re.compile(
    r"keyring\.json"
    r"|state(?:\.[^/]+)?\.json"
    r"|state\.migration-[^/]+\.log"
    rf"|{JOURNAL}[^/]+"
    r"|bodies/[0-9a-f]{1,64}/[0-9]{1,9}"
    r"|logs/session_[^/]+\.log(?:/[0-9]{20})?"
    r"|reports/[^/]+\.json"
    r"|archive/[0-9a-f]{64}\.(?:jsonl\.gz|index\.json)"
    rf"|leases/{_ENCODED}"
)
_DOCUMENT: Final = re.compile(rf"([^/]+)/{_ENCODED}\.json")


def is_ours(key: str) -> bool:
    """Whether a store has something under the key that is no document's file, or had it before it was kept aside."""
    return _OURS.fullmatch(_first(key)) is not None


def is_document(key: str) -> bool:
    """Whether the file of a document may lie there, or lay there before it was kept aside. Only what it says tells
    whether it is one: so may the `state.json` of a store in a folder of this one."""
    found = _DOCUMENT.fullmatch(_first(key))
    return found is not None and is_collection(found[1])


def _first(key: str) -> str:
    """The key that the object had at first: what is kept aside can be damaged, and be kept aside once more."""
    while why_aside(key):
        key = key_before(key)
    return key
