"""The seed's metrics, counted again at the cost of what changed."""

from __future__ import annotations

from typing import Any

import msgspec

from statepath.engine.replica import Entries, Entry
from statepath.models import moment


class _Facts(msgspec.Struct, frozen=True):
    status: Any = None
    created_at: Any = None
    completed_at: Any = None


_decoder = msgspec.json.Decoder(_Facts)

_Share = tuple[int, str, float | None]
"""What one task adds: its version, its status, and the milliseconds that it took."""


class Tally:
    """Knows of each task what it adds to the metrics, so that only changed tasks are read again."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}

    def count(self, tasks: Entries) -> dict[str, int]:
        """The metrics of these tasks: how many, completed and failed, and the mean time from `created_at` to
        `completed_at` of the completed ones, in milliseconds."""
        before = self._shares
        self._shares = {}
        completed = failed = 0
        times: list[float] = []
        for id, entry in tasks:
            share = before.get(id)
            # What is only planned has no version of its own: -1 says nothing of it.
            if share is None or share[0] != entry.version or entry.version < 0:
                share = _read(entry)
            self._shares[id] = share
            _, status, took = share
            failed += status == "failed"
            if status == "completed":
                completed += 1
                if took is not None:
                    times.append(took)
        return {
            "total_tasks": len(tasks),
            "completed_tasks": completed,
            "failed_tasks": failed,
            # Half a millisecond is rounded up, as the original server does.
            "average_completion_time": int(sum(times) / len(times) + 0.5) if times else 0,
        }


def _read(entry: Entry) -> _Share:
    facts = _decoder.decode(entry.json())
    began, ended = moment(facts.created_at), moment(facts.completed_at)
    took = None if began is None or ended is None else (ended - began).total_seconds() * 1000
    return entry.version, facts.status if isinstance(facts.status, str) else "", took
