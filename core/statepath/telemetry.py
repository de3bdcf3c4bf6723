"""What a store's work is told to, for whoever measures and traces it. `Telemetry` itself tells nobody.

The numbers and spans go to the OpenTelemetry API where that is installed (`instruments`), and nowhere else: there is
nothing to install, and nothing to pay, for who does not want them. Nothing of a document is among them, nor an id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

from statepath.commit import Change
from statepath.errors import StateError
from statepath.events import Events

NOTHING: Final = nullcontext()


class Watched(Protocol):
    """What is looked at when somebody reads the numbers, perhaps in another thread."""

    @property
    def documents(self) -> Mapping[str, int]:
        """How many there are, by collection."""
        ...

    @property
    def seq(self) -> int: ...

    @property
    def journal_bytes(self) -> int: ...

    @property
    def view_lag(self) -> int: ...

    @property
    def unsaved_seconds(self) -> float | None: ...

    @property
    def snapshot_size(self) -> int: ...

    @property
    def mirror_seconds(self) -> float | None: ...


class Telemetry:
    """The telemetry of one store."""

    traced = False
    """Whether saves have spans. It is known when the store is opened, so that it costs nothing where they have none."""

    def operation(self, name: str) -> AbstractContextManager[None]:
        """Something with a beginning and an end: `load`, `snapshot`."""
        return NOTHING

    def saving(self, changes: Sequence[Change], done: asyncio.Future[int]) -> Any:
        """A save begins, and ends with the future: its span, for the commit that it will be in. Only if `traced`."""
        return None

    def commit(self, saves: Iterable[Any]) -> AbstractContextManager[None]:
        """The saves are committed together."""
        return NOTHING

    def committed(self, transactions: int, size: int, seconds: float) -> None:
        """So many transactions and bytes are durable; the first of them had to wait for so long."""

    def not_committed(self, error: StateError, seconds: float) -> None:
        """They are not, and why."""

    def request(self, name: str, seconds: float, error: BaseException | None = None) -> None:
        """The backend answered a call."""

    def watch(self, store: Watched, events: Events) -> None:
        """Have something to look at from now on, until `close`."""

    def close(self) -> None:
        """The store is closed."""


SILENT: Final = Telemetry()
"""Tells nobody."""
