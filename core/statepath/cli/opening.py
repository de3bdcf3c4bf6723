"""Opening a store for a command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import statepath
from statepath import Settings, Store
from statepath.cli.running import shown
from statepath.errors import NotFoundError


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
