"""Files whose names no key has: people give them, and the original server did.

Such a file is found under its name with each byte percent-encoded that a key cannot have, unless a file of that very
name exists. The first change gives it that name.
"""

from __future__ import annotations

import os
from urllib.parse import unquote_to_bytes

from statepath_local.tree import is_name

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-")


def key_part(name: str) -> str:
    """The last part of the key under which a file of this name is found."""
    if is_name(name):
        return name
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02x}" for byte in os.fsencode(name))


def odd_name(part: str) -> str | None:
    """The other name that a file may have which is found under the last part of a key."""
    if "%" not in part:
        return None
    name = os.fsdecode(unquote_to_bytes(part))
    if "/" in name or "\0" in name or is_name(name) or key_part(name) != part:
        return None
    return name
