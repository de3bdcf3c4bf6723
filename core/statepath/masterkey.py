"""A master key as text, the way a file, a variable or a setting holds it."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from shlex import quote
from typing import Final

from statepath.errors import ConfigurationError

MASTER_BYTES: Final = 32
MAKE_ONE: Final = "make one for a new store with: statepath keys init --new-key"


def parse_master_key(text: str, source: str) -> bytes:
    """The 32 bytes that the text stands for, in hexadecimal digits or base64.

    Raises:
        ConfigurationError: it stands for something else (`bad_key`). No message quotes it.
    """
    text = text.strip()
    try:
        secret = (
            bytes.fromhex(text) if len(text) == 2 * MASTER_BYTES else base64.b64decode(text, validate=True)
        )
    except (ValueError, binascii.Error):
        raise ConfigurationError(
            f"what {source} holds is no master key: write {MASTER_BYTES} bytes in base64 or hexadecimal digits, "
            f"or {MAKE_ONE}",
            code="bad_key",
        ) from None
    if len(secret) != MASTER_BYTES:
        raise ConfigurationError(
            f"the master key in {source} is too {'short' if len(secret) < MASTER_BYTES else 'long'}: it has "
            f"{len(secret)} bytes, and needs {MASTER_BYTES}; {MAKE_ONE}",
            code="bad_key",
        )
    return secret


def is_master_key(text: str) -> bool:
    """Whether the text is a master key, and so must not be shown."""
    try:
        parse_master_key(text, "it")
    except ConfigurationError:
        return False
    return True


def check_private(file: str, path: str, found: os.stat_result) -> None:
    """Whether a `file` with a master key in it, at the path, is this program's own.

    Raises:
        ConfigurationError: others can exchange or read it (`bad_key`); gives the command that ends that.
    """
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(
            f"{file} belongs to another user, who could exchange it: "
            f"make it this program's own with: chown {os.geteuid()} {quote(path)}",
            code="bad_key",
        )
    if found.st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        raise ConfigurationError(
            f"{file} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): "
            f"close it with: chmod 600 {quote(path)}; whoever may have read it has the key, so rotate it",
            code="bad_key",
        )
