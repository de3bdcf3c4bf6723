"""Versions of one program: each knows the documents of collection `a` up to another version."""

from __future__ import annotations

from typing import Any

from statepath.migrations import Migrations, Step

NEWEST = 3


def program_of(version: int) -> Migrations | None:
    """What the program of that version has registered; 0: it cares for none."""
    if not version:
        return None
    known = Migrations()
    for before in range(1, version):
        known.add(_STEPS[before])
    return known


def _to(version: int) -> Step:
    def bring_up(document: dict[str, Any]) -> dict[str, Any]:
        assert document["version"] == version - 1, "it was brought up already"
        return {**document, "version": version}

    return Step("a", version - 1, version, bring_up)


_STEPS = {version - 1: _to(version) for version in range(2, NEWEST + 1)}
