"""A master key as text, the way a file, a variable or a setting holds it."""

from __future__ import annotations

import base64
import binascii
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
