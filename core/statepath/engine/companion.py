"""What goes along with an open store: the mirror, which ships its commits to a replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class MirrorLag:
    """How far a replica is behind its primary.

    Attributes:
        target: the replica's state path.
        seq: up to where it has everything; `None` while that is not known.
        behind: how many transactions it lacks; seconds: for how long the oldest of them has been durable.
        failure: why nothing is shipped now, if so; stopped: that it is not tried again.
        elsewhere: another process ships there, and knows how far the replica is.
    """

    target: str
    seq: int | None
    behind: int
    seconds: float
    failure: str | None = None
    stopped: bool = False
    elsewhere: bool = False


class Companion(Protocol):
    """It runs until the store is closed."""

    @property
    def lag(self) -> MirrorLag: ...

    async def finish(self) -> None:
        """Everything is committed: do what is left, in bounded time."""
        ...

    async def stop(self) -> None: ...
