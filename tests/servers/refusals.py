"""What opening a store that cannot be opened comes to."""

from __future__ import annotations

from typing import Any

import pytest
import statepath
from statepath.errors import StateError


async def refusal(path: str, kind: type[StateError], **settings: Any) -> Any:
    """The error of opening the store."""
    with pytest.raises(kind) as caught:
        async with statepath.open(path, autosave=0, deadline=1, **settings):
            pass
    return caught.value
