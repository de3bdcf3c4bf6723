"""The access token, where the service refuses it before its time is up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from statepath_gcs.token import Token


class Credentials:
    """As gcsfs holds them: a token that is good for ever, and a new one for each time that it is asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.credentials = SimpleNamespace(token=str(self.asked), expiry=None, apply=self._apply)

    def _apply(self, headers: dict[str, str]) -> None:
        headers["authorization"] = f"Bearer {self.credentials.token}"

    def _credentials_valid(self, early: float) -> bool:
        return True

    def maybe_refresh(self, early: float) -> None:
        self.asked += 1
        self.credentials.token = str(self.asked)


async def test_requests_that_are_refused_together_ask_for_one():
    credentials = Credentials()
    token = Token(credentials)
    refused = await token.headers()
    assert await asyncio.gather(*(token.replaces(refused) for _ in range(3))) == [True] * 3
    assert credentials.asked == 1
    assert await token.headers() == {"authorization": "Bearer 1"}


async def test_one_that_was_replaced_meanwhile_is_not_asked_for():
    credentials = Credentials()
    token = Token(credentials)
    refused = await token.headers()
    credentials.maybe_refresh(0)
    assert await token.replaces(refused)
    assert credentials.asked == 1


async def test_without_credentials_there_is_none_to_replace():
    credentials = Credentials()
    credentials.credentials = None
    assert not await Token(credentials).replaces({})
