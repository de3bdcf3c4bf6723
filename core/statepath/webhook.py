"""A webhook: alerts, sent to a URL as JSON, behind everything else.

One task sends one alert at a time, each attempt with a time limit and each alert with a number of attempts. Nothing
waits for it, and however it fails, it is a line in the log: without the URL, whose path or query is a secret.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from statepath.errors import ConfigurationError
from statepath.events import AlertCleared, AlertRaised, Events
from statepath.proxies import proxy_for
from statepath.settings.webhookurl import shown_webhook

if TYPE_CHECKING:
    from types import ModuleType

    from aiohttp import ClientSession

logger = logging.getLogger("statepath.alerts")

_ATTEMPTS: Final = 5
_SOONEST: Final = 0.5
_LATEST: Final = 30.0
_WAITING: Final = 100
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500


class _DeliveryError(Exception):
    """An attempt failed in a way that another one may not; says how, without the URL."""


class Webhook:
    """Sends the alerts of one store.

    Attributes:
        store: its state path without credentials, set when it is known.

    Parameters:
        timeout: the seconds that an attempt, and at the end everything that is left, may take.

    Raises:
        ConfigurationError: the HTTP client is not installed; gives the install line.
    """

    def __init__(self, url: SecretStr, *, timeout: float, events: Events) -> None:
        import tenacity  # only for those who have a webhook

        self._aiohttp = _client()
        self._tenacity = tenacity
        self._url = url
        self._place = shown_webhook(url)
        self.store = ""
        self._timeout = timeout
        self._waiting: deque[AlertRaised | AlertCleared] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._stops = (events.on(AlertRaised, self._queue), events.on(AlertCleared, self._queue))

    async def aclose(self) -> None:
        """Send what waits, within the time of one attempt; then give up."""
        for stop in self._stops:
            stop()
        if self._sending is None:
            return
        try:
            await asyncio.wait([self._sending], timeout=self._timeout)
        finally:
            if self._sending.cancel():  # whoever is cut off while it waits leaves nothing running, either
                await asyncio.wait([self._sending])
                logger.error("the webhook at %s was not told everything before the store closed", self._place)

    def _queue(self, alert: AlertRaised | AlertCleared) -> None:
        if len(self._waiting) == _WAITING:
            self._waiting.popleft()
            logger.error("the webhook at %s is told too slowly; the oldest alert is dropped", self._place)
        self._waiting.append(alert)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._run(), name="statepath-webhook")

    async def _run(self) -> None:
        limit = self._aiohttp.ClientTimeout(total=self._timeout)
        # Asked again once the session is closed: what came meanwhile found this task at work.
        while self._waiting:
            async with self._aiohttp.ClientSession(timeout=limit) as session:
                while self._waiting:
                    await self._send(session, self._waiting.popleft())

    async def _send(self, session: ClientSession, alert: AlertRaised | AlertCleared) -> None:
        body = _body(alert, self.store)
        again = self._tenacity
        retrying = again.AsyncRetrying(
            retry=again.retry_if_exception_type(_DeliveryError),
            stop=again.stop_after_attempt(_ATTEMPTS),
            wait=again.wait_random_exponential(_SOONEST, _LATEST),
        )
        cause: object
        try:
            await retrying(self._attempt, session, body)
        except again.RetryError as error:
            cause = f"{error.last_attempt.exception()}, in each of {_ATTEMPTS} attempts"
        except Exception as error:  # noqa: BLE001 - whatever it is, it may quote the URL, and the next alert goes on
            cause = type(error).__name__
        else:
            return
        logger.error("the webhook at %s was not told of the alert %s: %s", self._place, alert.alert, cause)

    async def _attempt(self, session: ClientSession, body: dict[str, Any]) -> None:
        """
        Raises:
            _DeliveryError: it may work later.
        """
        url = self._url.get_secret_value()
        try:
            # A redirect is not followed: it would carry what is secret to somebody else.
            async with session.post(url, json=body, allow_redirects=False, proxy=proxy_for(url)) as response:
                status = response.status
        except (self._aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _DeliveryError(type(error).__name__) from None
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise _DeliveryError(f"it answered {status}")
        if not 200 <= status < 300:
            logger.error(
                "the webhook at %s refused the alert %s: it answered %d", self._place, body["alert"], status
            )


def _body(alert: AlertRaised | AlertCleared, store: str) -> dict[str, Any]:
    """What is sent. `text` is what chat services show."""
    facts: dict[str, Any] = {
        "event": alert.name,
        "alert": alert.alert,
        "summary": alert.summary,
        "store": store,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    if isinstance(alert, AlertRaised):
        more = {"status": alert.status, "value": alert.value, "limit": alert.limit}
        return {**facts, **more, "text": f"{store}: {alert.alert}: {alert.summary}"}
    text = f"{store}: {alert.alert} is well again after {alert.seconds:.0f} s: {alert.summary}"
    return {**facts, "seconds": alert.seconds, "text": text}


def _client() -> ModuleType:
    try:
        import aiohttp
    except ImportError:
        raise ConfigurationError(
            "alert_webhook needs an HTTP client that is not installed; install it with: "
            "pip install 'statepath[alerts]'"
        ) from None
    return aiohttp


__all__ = ["Webhook"]
