"""Opening a store for a command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import statepath
from statepath import Settings, Store
from statepath.backend import Backend
from statepath.cli.running import logger, shown
from statepath.discovery import connect
from statepath.errors import NotFoundError, StateError


@asynccontextmanager
async def reading(path: str | None, settings: Settings | None = None) -> AsyncIterator[Store]:
    """The store, read-only: works beside a running server, and creates nothing.

    Raises:
        NotFoundError: there is none.
    """
    settings = settings or Settings.load(path)
    try:
        store = await statepath.open(readonly=True, settings=settings)
    except NotFoundError:
        place = shown(settings.path)
        raise NotFoundError(f"there is no store at {place}; the first save creates it", key=place) from None
    async with store:
        yield store


@asynccontextmanager
async def writing(path: str | None, settings: Settings | None = None) -> AsyncIterator[Store]:
    """The store, for one change. Who runs a command sees what fails: nobody is alerted, and no metrics are served."""
    async with statepath.open(settings=(settings or Settings.load(path)).quiet) as store:
        yield store
        _warn_if_gone(store._engine.backend)  # noqa: SLF001 - one package


async def warn_if_gone(path: str) -> None:
    """Say of a place where something was stored that it ends with this command, if so."""
    with suppress(StateError):
        backend = await connect(path, readonly=True)
        await backend.close()
        _warn_if_gone(backend)


def _warn_if_gone(backend: Backend) -> None:
    if not backend.capabilities.shared:
        logger.warning(
            "%s is in the memory of this process: what was stored there is gone with this command",
            backend.url,
        )
