"""Files whose names no key has: people give them, and the original server did.

Such a file is found under its name with each byte percent-encoded that a key cannot have, unless a file of that very
name exists. The first change gives it that name. What becomes too long for a key so is its beginning, with a digest.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_to_bytes

from statepath_local.tree import is_name

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-")

MAX_FILE: Final = 255
"""No file system of Linux or macOS takes more bytes as the name of a file."""

_MAX_PART: Final = 440
"""A key has 512 characters, and a folder of ours 65 of them. A part so long is no file's own name."""

_MAX_ENDING: Final = 16


def key_part(name: str) -> str:
    """The last part of the key under which a file of this name is found."""
    if is_name(name):
        return name
    data = os.fsencode(name)
    part = "".join(chr(byte) if byte in _SAFE else f"%{byte:02x}" for byte in data)
    if len(part) <= _MAX_PART:
        return part
    digest, ending = sha256(data).hexdigest(), os.path.splitext(part)[1][:_MAX_ENDING]
    return f"{part[: _MAX_PART - len(digest) - len(ending) - 1]}~{digest}{ending}"


def odd_name(part: str) -> str | None:
    """The other name that a file may have which is found under the last part of a key."""
    if "%" not in part:
        return None
    name = os.fsdecode(unquote_to_bytes(part))
    if "/" in name or "\0" in name or is_name(name) or key_part(name) != part:
        return None
    return name
