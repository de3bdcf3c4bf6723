"""Which of several hosts a connection goes to: the first that answers, takes it, and is what is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
from statepath.errors import StateError, ThrottledError, UnavailableError

from statepath_postgres.failures import translated

# A preference is asked for first, and then no more.
_ROUNDS: Final = {"prefer-standby": ("standby", "any")}


async def connect_to_one(
    dsn: str | None, *, hosts: Sequence[tuple[str, int]], session: str, url: str, **arguments: Any
) -> asyncpg.Connection:
    """A connection to one of the hosts; of none, or of one without a name, to the local server. Each has the whole
    `timeout`: asyncpg, given several, has one for them all.

    Raises:
        StateError: none of them would do; why the last one that should have would not. A host that does not know the
            user or the database is not passed over.
    """
    choices: list[dict[str, Any]] = [_address(*each) for each in hosts] or [{}]
    failure: StateError | None = None
    for wanted in _ROUNDS.get(session, (session,)):
        unlike: list[dict[str, Any]] = []
        for choice in choices:
            try:
                with translated(url):
                    return await asyncpg.connect(dsn, **choice, target_session_attrs=wanted, **arguments)
            except (UnavailableError, ThrottledError) as error:
                if isinstance(error.__cause__, asyncpg.exceptions.TargetServerAttributeNotMatched):
                    unlike.append(choice)
                    failure = failure or error
                else:
                    failure = error
        choices = unlike
    assert failure is not None  # noqa: S101 - there is a host
    raise failure


def _address(host: str, port: int) -> dict[str, Any]:
    return {"host": [host], "port": [port]} if host else {"port": port}
