"""The format of a snapshot: what is written is what is read."""

from __future__ import annotations

import pytest
from statepath.engine.replica import Entry, Replica
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
