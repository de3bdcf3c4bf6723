"""How much a store holds."""

from __future__ import annotations

from dataclasses import dataclass

from statepath.backend import Tally
from statepath.engine.engine import Engine
from statepath.engine.replica import MEMBERS


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store holds.

    Attributes:
        documents: how many, by collection; `bytes`: of their JSON, with `load=False` those that the storage takes.
        logs: how many session logs.
        seq: the head. `floor`: the lowest seq that the log still had when this handle learnt of it last: where others
            save, `history` looks anew.
    """

    documents: dict[str, int]
    bytes: dict[str, int]
    logs: int
    seq: int
    floor: int


async def stats(engine: Engine) -> Stats:
    """Counted in memory, or told by the storage where that has the documents."""
    engine.check_open()
    replica = engine.replica
    if engine.elsewhere is not None:
        held = await engine.elsewhere.tally()
    else:
        held = {
            name: Tally(len(documents), sum(entry.size for entry in documents.values()))
            for name, documents in replica.collections.items()
            if documents and name != MEMBERS
        }
    return Stats(
        documents={name: tally.documents for name, tally in held.items()},
        bytes={name: tally.bytes for name, tally in held.items()},
        logs=len(replica.logs),
        seq=replica.head,
        floor=engine.floor,
    )
