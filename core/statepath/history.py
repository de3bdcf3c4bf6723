"""What happened to a store, told from its log."""

from __future__ import annotations

from asyncio import sleep

from statepath.arguments import wrong_kind
from statepath.breath import Breath
from statepath.commit import size_of
from statepath.engine.engine import Engine
from statepath.engine.history import transactions
from statepath.engine.ids import check_id, check_seq
from statepath.errors import InvalidArgumentError
from statepath.naming import check_told
from statepath.watch import StateChange, changes_in


async def history(engine: Engine, key: str | None, *, since: int, limit: int | None) -> list[StateChange]:
    """The changes of one document, or of all, as far as the log reaches back; oldest first.

    Raises:
        CorruptionError: the log ends before what the handle shows.
    """
    if key is not None:
        _check_key(key)
    check_seq(since)
    if limit is not None and (type(limit) is not int or limit < 0):
        raise InvalidArgumentError(f"limit is how many changes to tell, 0 or more, not {limit!r}")
    engine.check_open()
    if since > engine.replica.head:
        await engine.catch_up()
        if since > engine.replica.head:  # a log need not know what has not been committed
            return []
    found: list[StateChange] = []
    breath = Breath()
    head = engine.replica.head
    async for commit, seq, transaction in transactions(
        engine.backend, engine.log, max(since, await engine.look_back() - 1), head
    ):
        found += [
            change for change in changes_in(commit, seq, transaction) if key is None or change.key == key
        ]
        if limit is not None and len(found) > 2 * limit:
            del found[: len(found) - limit]
        if breath.due(sum(map(size_of, transaction))):
            await sleep(0)
    return found if limit is None else found[len(found) - min(limit, len(found)) :]


def _check_key(key: object) -> None:
    """
    Raises:
        InvalidArgumentError: it names no document, log or report.
    """
    if not isinstance(key, str):
        raise wrong_kind("the document", "a str such as 'tasks/task_1'", key)
    collection, slash, id = key.partition("/")
    if not slash:
        raise InvalidArgumentError(
            f"{key!r} is no document's name: write the collection and the id, such as 'tasks/task_1'"
        )
    check_told(collection)
    check_id(id)
