"""The rules of the setting `archive`: "tasks older_than=30d status=completed"."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from statepath.quantities import to_duration


@dataclass(frozen=True, slots=True)
class ArchiveRule:
    """Which documents are archived by themselves: those of a collection that were not changed for so long, and whose
    fields have these values."""

    collection: str
    older_than: timedelta
    fields: tuple[tuple[str, Any], ...]

    @classmethod
    def parse(cls, text: str) -> ArchiveRule:
        """The rule that a text such as "tasks older_than=30d status=completed" says. A value is JSON, else a text."""
        collection, *conditions = text.split() or ("",)
        older_than: timedelta | None = None
        fields: list[tuple[str, Any]] = []
        for condition in conditions:
            name, equals, value = condition.partition("=")
            if not equals or not all(name.split(".")):
                raise ValueError(
                    'a rule is a collection, older_than=…, and field=value: "tasks older_than=30d"'
                )
            if name == "older_than":
                older_than = to_duration(value)
                continue
            try:
                fields.append((name, msgspec.json.decode(value)))
            except (msgspec.MsgspecError, RecursionError):
                fields.append((name, value))
        if older_than is None:
            raise ValueError('a rule needs older_than: "tasks older_than=30d status=completed"')
        return cls(collection, older_than, tuple(fields))


def rules_of(value: object) -> object:
    """The rules, each a text."""
    return (
        tuple(part.strip() for part in value.split(";") if part.strip()) if isinstance(value, str) else value
    )


def check_rules(value: object) -> object:
    """The rules, each a text.

    Raises:
        ValueError: names every rule that says nothing, and why.
    """
    value = rules_of(value)
    if isinstance(value, list | tuple):
        causes = []
        for place, rule in enumerate(value, 1):
            try:
                ArchiveRule.parse(str(rule))
            except ValueError as error:
                causes.append(f"rule {place}: {error}")
        if causes:
            raise ValueError("; ".join(causes))
    return value
