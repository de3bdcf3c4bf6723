"""What a wrapper around a backend passes on of `SupportsSharing`: all of it, as it is."""

from __future__ import annotations

from typing import cast

from statepath.backend import Backend, SupportsSharing
from statepath.errors import StateError


class PassesSharing:
    """For a wrapper whose `_backend` may be shared by several writers; `capabilities.sharing` says whether it is."""

    _backend: Backend

    @property
    def joined(self) -> bool:
        return self._sharing.joined

    async def announce(self) -> None:
        await self._sharing.announce()

    async def share(self) -> None:
        await self._sharing.share()

    async def believe(self) -> None:
        await self._sharing.believe()

    async def maintain(self) -> bool:
        return await self._sharing.maintain()

    async def is_alone(self) -> bool:
        return await self._sharing.is_alone()

    def refusal(self, why: str) -> StateError:
        return self._sharing.refusal(why)

    @property
    def _sharing(self) -> SupportsSharing:
        return cast("SupportsSharing", self._backend)
