"""What jsonb does not give back as it was: which documents have to be kept as bytes, too."""

from __future__ import annotations

import re
from typing import Final

# What JSON can say and jsonb cannot: NUL and half characters. What looks like having such is found by looking at it.
_ESCAPE: Final = b"\\"
_BEYOND_JSONB: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")

# Numbers that jsonb gives back in another form: with an exponent, and zero with a sign. Texts that look so are no harm.
# One pattern for each sign before a number, as a single first byte is looked for many times faster than one of three.
_REWRITTEN: Final = tuple(
    re.compile(before + rb"(?:-0[.0]*[,}\]]|[-0-9][0-9.]*[eE])") for before in (rb":", rb",", rb"\[")
)
# Most documents show that they have none when digits are left out and like is written alike: this is not in them.
_ALIKE: Final = bytes.maketrans(b",[-E", b"::ee")
_DIGITS: Final = b"0123456789."
_PERHAPS: Final = b":e"


def as_jsonb(document: bytes) -> str | None:
    """The JSON as a parameter; `None` where jsonb cannot hold it."""
    return None if _ESCAPE in document and _BEYOND_JSONB.search(document) else document.decode()


def is_rewritten(document: bytes) -> bool:
    """Whether jsonb may write a number of it in another form. The JSON has no spaces outside of its texts."""
    return _PERHAPS in document.translate(_ALIKE, _DIGITS) and any(
        pattern.search(document) for pattern in _REWRITTEN
    )


def forms(document: bytes) -> tuple[str | None, bytes | None]:
    """The document for jsonb, `None` where that cannot hold it; and as it is, `None` where jsonb gives it back."""
    data = as_jsonb(document)
    return data, document if data is None or is_rewritten(document) else None


def keeps(element: bytes) -> bool:
    """Whether jsonb gives the element of a list back."""
    return as_jsonb(element) is not None and not is_rewritten(b"[%s]" % element)
