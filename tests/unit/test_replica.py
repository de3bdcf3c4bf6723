"""The state in memory: what many appends to one document make of it."""

import json

from statepath.engine.replica import Entry, _Appended

LARGE = b'{"id":"r","pad":"%s","v":[]}' % (b"x" * 1_000_000)


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
