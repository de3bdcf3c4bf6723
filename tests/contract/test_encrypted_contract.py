"""An encrypted backend keeps the contract of the one below it."""

from base64 import b64encode
from itertools import count
from pathlib import Path
from secrets import token_bytes

import pytest
from sealed import EncryptedFactory
from statepath.memory import factory as memory
from statepath.testing import BackendContract
from statepath_local import factory as local

_numbers = count()
_KEY = b64encode(token_bytes(32)).decode()


class TestEncryptedMemory(BackendContract):
    factory = EncryptedFactory(memory, _KEY)

    def state_path(self, folder: Path) -> str:
        return f"memory://encrypted/{folder}/{next(_numbers)}"


@pytest.mark.slow
class TestEncryptedLocal(BackendContract):
    factory = EncryptedFactory(local, _KEY)

    def state_path(self, folder: Path) -> str:
        return f"file://{folder}/store"
