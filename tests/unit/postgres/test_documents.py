"""What the documents view keeps beside jsonb: only what jsonb would not give back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from statepath_postgres.documents import _row

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def kept(document: bytes) -> bytes | None:
    return _row("raw", "a", 1, NOW, document).exact


@pytest.mark.parametrize("number", ["0", "0.0", "10", "-1", "-0.5", "1.50", "100"])
def test_a_number_that_jsonb_gives_back_is_not_kept_twice(number: str) -> None:
    assert kept(f'{{"n":{number},"list":[{number},{number}],"m":{number}}}'.encode()) is None


@pytest.mark.parametrize("number", ["-0", "-0.0", "-0.00", "1e5", "1E5", "-2.5e-7", "0e1"])
@pytest.mark.parametrize("place", ['{"n":%s}', '{"n":%s,"m":1}', '{"n":[1,%s]}', '{"n":[%s,1]}'])
def test_a_number_that_jsonb_writes_in_another_form_is_kept_as_it_was(number: str, place: str) -> None:
    document = (place % number).encode()
    assert kept(document) == document
