"""What differs between two states: document by document, and within a document field by field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from statepath.engine.documents import decode
from statepath.engine.history import same_json, same_value
from statepath.engine.replica import MEMBERS, Replica

DifferenceKind = Literal["added", "changed", "removed"]


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field that differs.

    Attributes:
        path: where it is, as filters name it: `result.tests_passed`.
        before, after: its values; `None` where there is none, which `kind` tells from a null.
    """

    path: str
    kind: DifferenceKind
    before: JsonValue
    after: JsonValue


@dataclass(frozen=True, slots=True)
class Difference:
    """One document that is not the same in two states; `before` or `after` is `None` where there is none."""

    kind: DifferenceKind
    collection: str
    id: str
    before: JsonValue
    after: JsonValue

    @property
    def key(self) -> str:
        return f"{self.collection}/{self.id}"

    def fields(self) -> tuple[FieldDifference, ...]:
        """The fields of a changed document that differ. Lists are compared as a whole."""
        return tuple(_fields("", self.before, self.after)) if self.kind == "changed" else ()


def differences(before: Replica, after: Replica) -> list[Difference]:
    """The documents that differ, by collection and id."""
    found: list[Difference] = []
    names = sorted({*before.collections, *after.collections} - {MEMBERS})
    for name in names:
        old, new = before.collections.get(name, {}), after.collections.get(name, {})
        for id in sorted({*old, *new}):
            was, now, key = old.get(id), new.get(id), f"{name}/{id}"
            if was is None and now is not None:
                found.append(Difference("added", name, id, None, decode(now.json(), key)))
            elif now is None and was is not None:
                found.append(Difference("removed", name, id, decode(was.json(), key), None))
            elif was is not None and now is not None and not same_json(was.json(), now.json()):
                found.append(
                    Difference("changed", name, id, decode(was.json(), key), decode(now.json(), key))
                )
    return found


def _fields(path: str, before: JsonValue, after: JsonValue) -> Iterator[FieldDifference]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        yield FieldDifference(path, "changed", before, after)
        return
    for name in dict.fromkeys((*before, *after)):
        place = f"{path}.{name}" if path else name
        if name not in after:
            yield FieldDifference(place, "removed", before[name], None)
        elif name not in before:
            yield FieldDifference(place, "added", None, after[name])
        elif not same_value(before[name], after[name]):
            yield from _fields(place, before[name], after[name])
