"""All the troubles of a crowd at once, in small; `tests/crowd/run.py` does it in full size."""

from __future__ import annotations

import pytest
from crowd.run import crowd


@pytest.mark.slow
async def test_a_crowd_that_is_killed_stopped_and_cut_off_breaks_no_promise(kind, request, path, tmp_path):
    fixtures = {"local": "tmp_path_factory", "postgresql": "postgres"}
    server = request.getfixturevalue(fixtures.get(kind, kind))
    if kind == "local":
        server = str(server.mktemp("stores"))
    times = 40 if kind in fixtures else 12
    outcome = await crowd(kind, server, tmp_path, operations=times, processes=3, chance=0.03)
    assert outcome.wrong == []
    assert outcome.faults or kind == "local"
    assert outcome.operations > times
