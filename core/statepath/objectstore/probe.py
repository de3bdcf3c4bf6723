"""Whether a service keeps conditions: asked once of each container, before anything is entrusted to it.

The commit protocol stands on conditional writes. A service that takes them and ignores them acknowledges commits that
another writer then replaces; there is nothing by which that could be noticed later.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from statepath.backend import ALWAYS, IF_ABSENT, IfMatch
from statepath.commit import PROBES
from statepath.errors import AlreadyExistsError, ConflictError, NotFoundError, StateError, UnsupportedError
from statepath.objectstore.driver import Driver
from statepath.objectstore.place import Place

_passed: Final[set[tuple[str, str, str]]] = set()


async def probe(driver: Driver, place: Place) -> None:
    """Try each condition on an object of its own, which is removed again. What a container has passed is remembered
    for the life of the process.

    Raises:
        UnsupportedError: the service ignores a condition, or does not know it.
        StateError: the container cannot be used at all: it is missing, or access is refused, be it to deletions only.
    """
    known = (driver.scheme, driver.endpoint, place.container)
    if known in _passed:
        return
    name = f"{place.prefix}{PROBES}{secrets.token_hex(12)}"
    try:
        await _try(driver, name)
    except BaseException:
        with suppress(StateError):
            await driver.remove(name, ALWAYS)
        raise
    # A part of the trial, too: who may not delete could neither trim a journal nor give a lease back.
    await driver.remove(name, ALWAYS)
    _passed.add(known)


async def _try(driver: Driver, name: str) -> None:
    stale = await driver.put(name, b"1", IF_ABSENT)
    await _must_fail(driver, lambda: driver.put(name, b"2", IF_ABSENT), "create only if absent")
    current = await driver.put(name, b"2", IfMatch(stale))
    # The service has to refuse what is stale: a driver that does so before it asks would hide one that does not.
    bare = driver.unchecked()
    await _must_fail(driver, lambda: bare.put(name, b"3", IfMatch(stale)), "replace only a given version")
    await _must_fail(driver, lambda: bare.remove(name, IfMatch(stale)), "delete only a given version")
    served = await driver.get(name, None)
    if served.data != b"2" or served.etag != current:
        raise _ignores(driver, "read what was written last")


async def _must_fail(driver: Driver, call: Callable[[], Awaitable[object]], condition: str) -> None:
    try:
        await call()
    except (AlreadyExistsError, ConflictError, NotFoundError):
        return
    raise _ignores(driver, condition)


def _ignores(driver: Driver, condition: str) -> UnsupportedError:
    return UnsupportedError(
        f"the service at {driver.endpoint} does not keep the condition '{condition}' in {driver.container}: two"
        " writers would lose each other's commits there; use a service, or a release of it, that has conditional"
        " writes",
        backend=driver.scheme,
        code="conditions_ignored",
    )
