"""Migrations: functions that bring the documents of a collection from one version of their model to a later one.

    @migration("tasks", 1, 2)
    def rename_state(task):
        task["status"] = task.pop("state")
        return task

A collection's documents are of version 1 until a migration brings them to another one. A program names the modules that
hold its migrations in the setting `migrations`, or in entry points of the group `statepath.migrations`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, TypeVar

from statepath.arguments import wrong_kind
from statepath.errors import ConfigurationError, InvalidArgumentError
from statepath.installed import points_of
from statepath.naming import check_collection

__all__ = ["Migrations", "Step", "load_migrations", "migration"]

GROUP: Final = "statepath.migrations"

_MARK: Final = "__statepath_migrations__"

F = TypeVar("F", bound=Callable[[dict[str, Any]], dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Step:
    """One registered function: it makes a document of version `before` one of version `after`."""

    collection: str
    before: int
    after: int
    function: Callable[[dict[str, Any]], dict[str, Any]]

    @property
    def name(self) -> str:
        """Where the function is: `package.module:name`."""
        module = getattr(self.function, "__module__", "?")
        return f"{module}:{getattr(self.function, '__qualname__', repr(self.function))}"


def migration(collection: str, before: int, after: int) -> Callable[[F], F]:
    """Register a function that gets a document of version `before`, as a dict of its own, and returns one of version
    `after`, with the same id. It may be called again for the same document, so it should do nothing else.

    Raises:
        InvalidArgumentError: the versions are no integers that rise, or there can be no such collection.
    """
    check_collection(collection)
    for version in (before, after):
        if type(version) is not int:
            raise wrong_kind("a version that a migration leads from or to", "an int", version)
    if not 1 <= before < after:
        raise InvalidArgumentError(f"a migration leads to a later version, not from {before} to {after}")

    def mark(function: F) -> F:
        steps: tuple[Step, ...] = getattr(function, _MARK, ())
        setattr(function, _MARK, (*steps, Step(collection, before, after, function)))
        return function

    return mark


@dataclass(slots=True)
class Migrations:
    """The migrations that a program has registered."""

    _steps: dict[tuple[str, int], Step] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        """
        Raises:
            ConfigurationError: another function begins at the same version.
        """
        known = self._steps.setdefault((step.collection, step.before), step)
        if known != step:
            raise ConfigurationError(
                f"two migrations of {step.collection} begin at version {step.before}: {known.name} and {step.name}"
            )

    @property
    def collections(self) -> tuple[str, ...]:
        return tuple(sorted({collection for collection, _ in self._steps}))

    def target(self, collection: str) -> int:
        """The version that the program's documents have: the last one that a migration leads to, else 1."""
        return max((step.after for step in self._steps.values() if step.collection == collection), default=1)

    def chain(self, collection: str, version: int) -> list[Step]:
        """The steps from a version to the target, in order.

        Raises:
            ConfigurationError: one is missing on the way.
        """
        steps: list[Step] = []
        while version < self.target(collection):
            step = self._steps.get((collection, version))
            if step is None:
                raise ConfigurationError(
                    f"no migration of {collection} begins at version {version}, and the program needs version "
                    f"{self.target(collection)}: register it"
                )
            steps.append(step)
            version = step.after
        return steps


def load_migrations(paths: Iterable[str] = ()) -> Migrations:
    """The migrations of the modules (`package.module`) or functions (`package.module:function`) named, and those of the
    entry points.

    Raises:
        ConfigurationError: one cannot be imported, has no migration, or begins where another one does.
    """
    found = Migrations()
    named = [(path, f"the setting migrations names {path!r}") for path in paths]
    named += [
        (point.value, f"the entry point {point.name!r} of the group {GROUP} names {point.value!r}")
        for point in points_of(GROUP)
    ]
    for path, why in named:
        steps = list(_steps(path, why))
        if not steps:
            raise ConfigurationError(f"{why}, and there is no migration: is @migration missing?")
        for step in steps:
            found.add(step)
    return found


def _steps(path: str, why: str) -> Iterator[Step]:
    module, _, attribute = path.partition(":")
    try:
        target: Any = importlib.import_module(module)
        if attribute:
            target = getattr(target, attribute)
    except Exception as error:
        raise ConfigurationError(
            f"{why}, which cannot be imported: {type(error).__name__}: {error}"
        ) from error
    held = vars(target).values() if isinstance(target, ModuleType) else (target,)
    for value in held:
        steps = getattr(value, _MARK, ()) if callable(value) else ()
        yield from (step for step in steps if isinstance(step, Step))
