"""How the last attempt at what is done again and again ended: nothing, or the trouble it met."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from statepath.errors import StateError


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the last attempt failed, and when, in seconds since 1970. One that works takes its place."""

    error: StateError
    at: float = field(default_factory=time.time)
