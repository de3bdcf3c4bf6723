"""What is done about a conflict, where a collection says so: the last write wins, a three-way merge, or the caller's
own function."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, Final, Literal, TypeAlias, cast

from pydantic import JsonValue

from statepath.errors import InvalidArgumentError

Json = dict[str, JsonValue]
Resolve: TypeAlias = Callable[[Json | None, Json | None, Json], Json]
"""Gets the document that a change was based on, the stored one, and the refused one; `None` for one that does not
exist. What it returns is stored, unless there is a conflict again. It may raise what the caller is to get."""

OnConflict: TypeAlias = Literal["raise", "last_write_wins", "merge"] | Resolve

_POLICIES: Final = ("raise", "last_write_wins", "merge")
_MISSING: Final = object()


class Clash(Exception):  # noqa: N818 - a signal, which becomes the conflict that it is about
    """Both sides changed the same place, each in its own way, or the other side deleted the document."""


def check_policy(policy: object) -> OnConflict:
    """
    Raises:
        InvalidArgumentError: it is no policy.
    """
    if callable(policy) and (iscoroutinefunction(policy) or iscoroutinefunction(type(policy).__call__)):
        raise InvalidArgumentError(
            "on_conflict takes a function that is not async: it is given all that it needs, and nothing waits for it"
        )
    if policy in _POLICIES or callable(policy):
        return cast("OnConflict", policy)
    raise InvalidArgumentError(
        f"{policy!r} is no way to resolve conflicts: take {', '.join(map(repr, _POLICIES))} or a function"
    )


def resolver(policy: OnConflict) -> Resolve | None:
    """The function of a policy; `None`: a conflict is raised."""
    if policy == "raise":
        return None
    if policy == "last_write_wins":
        return lambda base, theirs, ours: ours
    return merge if policy == "merge" else policy


def merge(base: Json | None, theirs: Json | None, ours: Json) -> Json:
    """Both sides' changes of one JSON object. What both appended to a list is kept, theirs first.

    Raises:
        Clash: they changed the same place in different ways, or theirs deleted the document, whatever ours did.
    """
    if theirs is None and base is not None:
        raise Clash("the other side deleted it")
    return cast(
        "Json", _merge(_MISSING if base is None else base, _MISSING if theirs is None else theirs, ours, "")
    )


def _merge(base: Any, theirs: Any, ours: Any, path: str) -> Any:
    if _same(base, theirs):
        return ours
    if _same(base, ours):
        return theirs
    if isinstance(theirs, dict) and isinstance(ours, dict) and (base is _MISSING or isinstance(base, dict)):
        before: dict[str, Any] = base if isinstance(base, dict) else {}
        merged = {}
        for name in dict.fromkeys((*theirs, *ours)):
            value = _merge(
                before.get(name, _MISSING),
                theirs.get(name, _MISSING),
                ours.get(name, _MISSING),
                f"{path}.{name}" if path else name,
            )
            if value is not _MISSING:
                merged[name] = value
        return merged
    if isinstance(base, list) and _continues(theirs, base) and _continues(ours, base):
        return [*theirs, *ours[len(base) :]]
    if _same(theirs, ours):  # last: two equal appends to a list are two
        return ours
    raise Clash(f"both sides changed {path}")


def _continues(value: Any, base: list[Any]) -> bool:
    return isinstance(value, list) and len(value) >= len(base) and _same(value[: len(base)], base)


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values say the same. In Python `True` equals 1; in JSON they differ, and 1 and 1.0 do not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
