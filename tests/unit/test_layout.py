"""What a store has is told from what lies beside it."""

from __future__ import annotations

import pytest
from statepath.engine.migration import log_key as migration_log
from statepath.layout import is_document, is_ours

ASIDE = ".corrupt.20260101T000000.000000Z"


@pytest.mark.parametrize(
    "key",
    [
        "state.json",
        "keyring.json",
        "state.backup.20260101T000000.000000Z.json",
        "state.backup.1700000000000.json",
        "state.pre-migration.backup.json",
        migration_log(1, 2),
        "journal/floor",
        "journal/00000000000000000001.jsonl",
        f"bodies/{'0a' * 12}/0",
        "logs/session_1.log",
        "logs/session_Of The Original.log",
        "logs/session_1.log/00000000000000000000",
        "reports/r.json",
        f"archive/{'ab' * 32}.jsonl.gz",
        "leases/maintainer",
        f"state.json{ASIDE}",
        f"state.json.earlier.20260101T000000.000000Z{ASIDE}",
    ],
)
def test_what_a_store_writes_is_its_own(key: str) -> None:
    assert is_ours(key)
    assert not is_document(key)


@pytest.mark.parametrize(
    "key", ["tasks/a.json", "tasks/%c3%84.json", f"tasks/a.json{ASIDE}", "team1/state.json"]
)
def test_where_a_document_would_be_its_content_has_to_tell(key: str) -> None:
    assert is_document(key)
    assert not is_ours(key)


@pytest.mark.parametrize(
    "key",
    [
        "notes.txt",
        ".git/HEAD",
        "website/index.html",
        "bodies/of-water/lake.txt",
        "logs/access.log",
        "archive/old.zip",
        "sub/pic.png",
        "team1/journal/floor",
        "Tasks/a.json",
        f"notes.txt{ASIDE}",
    ],
)
def test_what_is_named_otherwise_is_somebody_else_s(key: str) -> None:
    assert not is_ours(key)
    assert not is_document(key)
