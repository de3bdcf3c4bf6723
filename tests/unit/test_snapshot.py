"""The format of a snapshot: what is written is what is read."""

from __future__ import annotations

import pytest
from msgspec import Raw
from statepath.commit import Delete, Put
from statepath.engine.replica import Entry, Replica, Stage
from statepath.engine.snapshot import SnapshotStream, load_snapshot


@pytest.mark.parametrize("documents", [0, 1, 1999, 2000, 2001, 4000])
def test_each_document_is_where_the_snapshot_says_however_many_there_are(documents: int) -> None:
    replica = Replica()
    replica.head, replica.commit, replica.time = documents + 1, "c", 1_700_000_000_000_000
    for n in range(documents):
        replica.set("tasks", f"täsk {n}", Entry(b'{"n":%d}' % n, n + 1, n))
    replica.set("_state", "metrics", Entry(b"[1]", documents + 1, 0))
    stream = SnapshotStream(replica.cut(), store="s", incarnation="i")
    meta, found = load_snapshot(b"".join(stream), "state.json")
    assert (meta.store, meta.seq, meta.digest) == ("s", documents + 1, stream.digest)
    assert {key[:2]: (key[2].json(), key[2].version, key[2].modified) for key in found} == {
        key[:2]: (key[2].json(), key[2].version, key[2].modified) for key in replica
    }


def test_a_snapshot_says_by_which_seq_a_collection_was_changed_last_though_it_is_empty() -> None:
    replica, stage = Replica(), Stage(Replica())
    stage.apply(Put("raw", "a", Raw(b"{}")), 1, 0)
    stage.apply(Put("tasks", "b", Raw(b"{}")), 2, 0)
    stage.apply(Delete("raw", "a"), 3, 0)
    stage.install(replica, 4, "c", 0)
    _, found = load_snapshot(
        b"".join(SnapshotStream(replica.cut(), store="s", incarnation="i")), "state.json"
    )
    assert found.changed == {"raw": 3, "tasks": 2}
    assert Replica.of(found.cut()).changed == found.changed
