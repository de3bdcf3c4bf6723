"""The access token that requests carry: renewed in good time, and used for as long as it is good."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from math import inf
from time import monotonic
from typing import Any, Final

from gcsfs.retry import HttpError, NonRetryableError
from google.auth.exceptions import GoogleAuthError

logger = logging.getLogger("statepath.gcs")

_EARLY: Final = 360
"""Seconds before a token runs out that it is renewed; gcsfs does it 300 s before, and blocks the event loop."""
_PAUSE: Final = 10.0
"""Seconds until it is tried again where no new one was issued: a machine's own service gives the old one until some
minutes before its end."""


class Token:
    """The token of credentials as gcsfs holds them. Where a new one is not to be had, requests go on with the one that
    there is, which is good for some minutes more."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._renewing = asyncio.Lock()
        self._again = 0.0

    async def headers(self) -> dict[str, str]:
        """What a request says of who sends it; nothing, where there are no credentials.

        Raises:
            HttpError, NonRetryableError, GoogleAuthError: there is no token that is good.
        """
        google = self._credentials.credentials
        if google is None:
            return {}
        if not self._is_fresh:
            await self._renew(google)
        return _said_by(google)

    async def replaces(self, refused: Mapping[str, str]) -> bool:
        """Whether there is another token now than the one in these headers. The service has refused it although its
        time is not up: it was revoked, or this machine's clock was set back.

        Raises: as `headers`.
        """
        google = self._credentials.credentials
        if google is None:
            return False
        async with self._renewing:
            if _said_by(google) == refused and monotonic() >= self._again:
                self._again = monotonic() + _PAUSE
                await self._ask(google, inf)
            return _said_by(google) != refused

    @property
    def _is_fresh(self) -> bool:
        return bool(self._credentials._credentials_valid(_EARLY))  # noqa: SLF001 - nothing public says it

    async def _renew(self, google: Any) -> None:
        if _is_good(google) and (self._renewing.locked() or monotonic() < self._again):
            return
        async with self._renewing:
            if self._is_fresh:
                return
            before = google.token
            await self._ask(google, _EARLY)
            if google.token == before:
                self._again = monotonic() + _PAUSE

    async def _ask(self, google: Any, early: float) -> None:
        """Ask for a new one, if the one that there is runs out within so many seconds."""
        try:
            await asyncio.to_thread(self._credentials.maybe_refresh, early)
        except (HttpError, NonRetryableError, GoogleAuthError) as error:
            if not _is_good(google):
                raise
            logger.warning("no new access token was issued for now (%s)", type(error).__name__)


def _said_by(google: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    google.apply(headers)
    return headers


def _is_good(google: Any) -> bool:
    """Whether the service takes the token still; google-auth calls it invalid some minutes before."""
    expiry = google.expiry
    return google.token is not None and (expiry is None or expiry.replace(tzinfo=UTC) > datetime.now(UTC))
