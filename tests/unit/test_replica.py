"""The state in memory, and cuts of it."""

from __future__ import annotations

import gc

from statepath.engine.replica import Entry, Replica


def replica_of(documents: int) -> Replica:
    replica = Replica()
    for n in range(documents):
        replica.set("tasks", str(n), Entry(b'{"n":%d}' % n, n + 1, 0))
    return replica


def test_a_cut_stays_as_it_was() -> None:
    replica = replica_of(3)
    cut = replica.cut()
    replica.set("tasks", "1", None)
    replica.set("tasks", "2", Entry(b"{}", 9, 0))
    tasks = cut.collections["tasks"]
    assert [(id, entry.json()) for id, entry in tasks] == [
        ("0", b'{"n":0}'),
        ("1", b'{"n":1}'),
        ("2", b'{"n":2}'),
    ]
    assert len(tasks) == 3


def test_a_cut_makes_no_object_a_document_for_the_garbage_collector_to_look_at() -> None:
    replica = replica_of(2000)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        cut = replica.cut()
        made = len(gc.get_objects()) - before
    finally:
        gc.enable()
    assert made < 200
    assert cut.documents == 2000
