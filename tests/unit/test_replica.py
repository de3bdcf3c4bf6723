"""The state in memory: cuts of it, and what many appends to one document make of it."""

from __future__ import annotations

import gc
import json

from statepath.engine.replica import Entry, Replica, _Appended

LARGE = b'{"id":"r","pad":"%s","v":[]}' % (b"x" * 1_000_000)


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


def test_a_chain_of_appends_to_a_large_document_is_no_longer_than_the_stack_bears() -> None:
    entry, longest, folds = Entry(LARGE, 1, 1), 0, 0
    for n in range(3 * 4096 + 10):
        before = entry
        entry = entry.appended("raw/r", "v", b"%d" % n, n + 2, 1)
        assert isinstance(entry._content, _Appended)
        longest = max(longest, entry._content.length)
        folds += n > 0 and isinstance(before._content, bytes)
    assert longest == 4096
    assert folds == 3  # so that each append pays for a small part of the document
    assert json.loads(entry.json())["v"] == list(range(3 * 4096 + 10))


def test_a_small_document_is_folded_once_what_was_appended_outweighs_it() -> None:
    entry = Entry(b'{"id":"r","v":[]}', 1, 1)
    for n in range(1025):
        entry = entry.appended("raw/r", "v", b"1", n + 2, 1)
    assert isinstance(entry._content, _Appended)
    assert entry._content.length == 1
