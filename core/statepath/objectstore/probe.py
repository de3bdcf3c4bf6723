"""Whether a service keeps conditions: asked once of each container, before anything is entrusted to it.

The commit protocol stands on conditional writes. A service that takes them and ignores them acknowledges commits that
another writer then replaces; there is nothing by which that could be noticed later. A deletion that ignores its
condition takes away what another writer has just put in the place of what was to go. A copy that ignores it puts one
version in the place of another, but nobody needs the service for that: what is read can be written.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from statepath.backend import ALWAYS, IF_ABSENT, ETag, IfMatch
from statepath.commit import PROBES
from statepath.errors import AlreadyExistsError, ConflictError, NotFoundError, StateError, UnsupportedError
from statepath.objectstore.driver import Driver
from statepath.objectstore.place import Place

_WRITES: Final = (
    "two writers would lose each other's commits there; use a service, or a release of it, that has conditional"
    " writes"
)
_DELETIONS: Final = (
    "commits would be safe there, but who removes a report, a lease or a leftover would also remove what another"
    " writer puts in its place meanwhile; use a service, or a release of it, that has conditional deletions, too"
)

_passed: Final[dict[tuple[str, str, str], bool]] = {}


class _Ignored(Exception):  # noqa: N818 - a signal that ends the trial
    """The service did what it was asked to do on a condition that does not hold."""


async def probe(driver: Driver, place: Place, bare: Driver) -> bool:
    """Try each condition on an object of its own, which is removed again; whether the service copies only the version
    that it is asked for. What a container has passed is remembered for the life of the process; where the service
    fails to copy, perhaps for now, it is tried again by the next one who asks.

    Parameters:
        bare: what leaves each condition to the service alone. The service has to refuse what is stale: a driver that
            does so before it asks would hide one that does not.

    Raises:
        UnsupportedError: the service ignores a condition, or does not know it.
        StateError: the container cannot be used at all: it is missing, or access is refused, be it to deletions only.
    """
    known = (driver.scheme, driver.endpoint, place.container)
    if known in _passed:
        return _passed[known]
    name = f"{place.prefix}{PROBES}{secrets.token_hex(12)}"
    try:
        copies = await _try(driver, bare, name)
    except BaseException:
        with suppress(StateError):
            await driver.remove(name, ALWAYS)
        raise
    # A part of the trial, too: who may not delete could neither trim a journal nor give a lease back.
    await driver.remove(name, ALWAYS)
    if copies is not None:
        _passed[known] = copies
    return bool(copies)


async def _try(driver: Driver, bare: Driver, name: str) -> bool | None:
    with _required(driver, "create only if absent"):
        stale = await driver.put(name, b"1", IF_ABSENT)
        await _refuses(driver.put(name, b"2", IF_ABSENT))
    with _required(driver, "replace only a given version"):
        current = await driver.put(name, b"2", IfMatch(stale))
        await _refuses(bare.put(name, b"3", IfMatch(stale)))
    with _required(driver, "delete only a given version", _DELETIONS):
        await _refuses(bare.remove(name, IfMatch(stale)))
    with _required(driver, "read what was written last"):
        served = await driver.get(name, None)
        if served.data != b"2" or served.etag != current:
            raise _Ignored
    # Onto itself: so there is no second object to remove.
    return await _copies(bare, name, stale)


async def _copies(bare: Driver, name: str, stale: ETag) -> bool | None:
    """Whether the service refuses to copy what is stale; `None`: it failed, which fails nothing else."""
    try:
        await bare.copy(name, name, IfMatch(stale))
    except ConflictError:
        return True
    except StateError as error:
        return None if error.retryable else False
    return False


async def _refuses(call: Awaitable[object]) -> None:
    """
    Raises:
        _Ignored: the service did as it was asked, though the condition does not hold.
    """
    try:
        await call
    except (AlreadyExistsError, ConflictError, NotFoundError):
        return
    raise _Ignored


@contextmanager
def _required(driver: Driver, condition: str, loss: str = _WRITES) -> Iterator[None]:
    """Say of a condition that the service ignores, or does not know, what comes of that."""
    try:
        yield
    except (_Ignored, UnsupportedError) as error:
        raise UnsupportedError(
            f"the service at {driver.endpoint} does not keep the condition '{condition}' in {driver.container}: {loss}",
            backend=driver.scheme,
            code="conditions_ignored",
        ) from error
