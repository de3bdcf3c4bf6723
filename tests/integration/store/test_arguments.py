"""An argument of the wrong kind is refused by name, before anything is done: none ends in an error of Python's."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from inspect import isawaitable
from typing import Any

import pytest
import statepath
from pydantic import BaseModel
from statepath import Events, F, StatePersistence
from statepath.errors import ConfigurationError, InvalidArgumentError
from statepath.events import StateSaved


class Task(BaseModel):
    id: str
    logs: list[str] = []


class Odd:
    """Neither a text nor a number, a list, a mapping, a path or a function."""

    __hash__ = None


NO_TEXTS = (None, 5, b"x", True, Odd(), ["x"])
NO_SEQS = ("x", b"x", 1.5, True, -1, Odd())
NO_DURATIONS = ("x", b"x", True, Odd(), math.nan, 10**400)
NO_FUNCTIONS = (None, 5, "x", Odd())
NO_PATHS = (5, b"x", Odd())


def no_op(*_: object) -> None:
    """A function, where one is wanted."""


CALLS: dict[str, tuple[tuple[Any, ...], Callable[[Any, Any], Any]]] = {
    "collection(name)": (NO_TEXTS, lambda store, x: store.collection(x)),
    "collection(model)": ((5, "x", Odd(), dict), lambda store, x: store.collection("raw", x)),
    "collection(id=)": (NO_TEXTS, lambda store, x: store.collection("raw", id=x)),
    "collection(model, id=)": (NO_TEXTS, lambda store, x: store.collection("tasks", Task, id=x)),
    "transact(fn)": ((*NO_FUNCTIONS, no_op), lambda store, x: store.transact(x)),
    "get_member(name)": (NO_TEXTS, lambda store, x: store.get_member(x)),
    "append_log(id)": (NO_TEXTS, lambda store, x: store.append_log(x, "text")),
    "append_log(text)": (NO_TEXTS, lambda store, x: store.append_log("s", x)),
    "read_log(id)": (NO_TEXTS, lambda store, x: store.read_log(x)),
    "save_report(id)": (NO_TEXTS, lambda store, x: store.save_report(x, 1)),
    "save_report(data)": ((b"x", Odd(), {1}), lambda store, x: store.save_report("r", x)),
    "read_report(id)": (NO_TEXTS, lambda store, x: store.read_report(x)),
    "watch(since=)": (NO_SEQS, lambda store, x: store.watch(since=x)),
    "watch(collections=)": ((None, 5, "tasks", Odd()), lambda store, x: store.watch(collections=x)),
    "watch(collections=a name)": (
        (*NO_TEXTS, "", "Tasks", "state", "tasks/task_1"),
        lambda store, x: store.watch(collections=(x,)),
    ),
    "watch(ids=a name)": ((*NO_TEXTS, "", "a\0", "x" * 201), lambda store, x: store.watch(ids=(x,))),
    "lease(ttl=)": ((None, *NO_DURATIONS, 0, math.inf), lambda store, x: store.lease("l", ttl=x)),
    "lease(wait=)": (NO_DURATIONS, lambda store, x: store.lease("l", wait=x)),
    "claim(ttl=)": ((None, *NO_DURATIONS, 0, math.inf), lambda store, x: store.claim("t", ttl=x)),
    "claim(wait=)": (NO_DURATIONS, lambda store, x: store.claim("t", wait=x)),
    "history(key)": (
        (5, b"x", Odd(), "nonsense", "", "raw/", "/a", "Raw/a", "logs/"),
        lambda store, x: store.history(x),
    ),
    "history(since=)": ((None, *NO_SEQS), lambda store, x: store.history(since=x)),
    "history(limit=)": (NO_SEQS, lambda store, x: store.history(limit=x)),
    "diff(a)": ((None, *NO_SEQS), lambda store, x: store.diff(x)),
    "diff(b)": (NO_SEQS, lambda store, x: store.diff(0, x)),
    "restore(at=)": ((None, *NO_SEQS), lambda store, x: store.restore(at=x)),
    "restore(to=)": (NO_PATHS, lambda store, x: store.restore(at=0, to=x)),
    "export(path)": ((None, *NO_PATHS), lambda store, x: store.export(x)),
    "archive(collection)": (NO_TEXTS, lambda store, x: store.archive(x, older_than="0s")),
    "archive(where)": ((5, "x", Odd()), lambda store, x: store.archive("raw", x, older_than="0s")),
    "archive(older_than=)": ((None, b"x", True, Odd()), lambda store, x: store.archive("raw", older_than=x)),
    "clean(older_than=)": ((None, b"x", True, Odd()), lambda store, x: store.clean(older_than=x)),
    "archived(collection)": ((5, b"x", Odd()), lambda store, x: anext(store.archived(x))),
    "read_archived(collection)": (NO_TEXTS, lambda store, x: store.read_archived(x, "a")),
    "read_archived(id)": (NO_TEXTS, lambda store, x: store.read_archived("raw", x)),
    "unarchive(collection)": (NO_TEXTS, lambda store, x: store.unarchive(x, "a")),
    "unarchive(id)": (NO_TEXTS, lambda store, x: store.unarchive("raw", x)),
    "sync(at_least=)": (NO_SEQS, lambda store, x: store.sync(at_least=x)),
    "Collection.put(value)": (NO_TEXTS, lambda store, x: raw(store).put(x)),
    "Collection.put(model)": (({"id": "a"}, *NO_TEXTS), lambda store, x: tasks(store).put(x)),
    "Collection.put(if_version=)": (NO_SEQS, lambda store, x: raw(store).put({"id": "b"}, if_version=x)),
    "Collection.create(value)": (NO_TEXTS, lambda store, x: raw(store).create(x)),
    "Collection.get(id)": (NO_TEXTS, lambda store, x: raw(store).get(x)),
    "Collection.get_document(id)": (NO_TEXTS, lambda store, x: raw(store).get_document(x)),
    "Collection.delete(id)": (NO_TEXTS, lambda store, x: raw(store).delete(x)),
    "Collection.delete(if_version=)": (NO_SEQS, lambda store, x: raw(store).delete("a", if_version=x)),
    "Collection.append(id)": (NO_TEXTS, lambda store, x: raw(store).append(x, "list", 1)),
    "Collection.append(field)": (NO_TEXTS, lambda store, x: raw(store).append("a", x, 1)),
    "Collection.append(item)": ((b"x", Odd(), {1}), lambda store, x: raw(store).append("a", "list", x)),
    "Collection.append(model's item)": (
        (None, 5, Odd()),
        lambda store, x: tasks(store).append("a", "logs", x),
    ),
    "Collection.update(id)": (NO_TEXTS, lambda store, x: raw(store).update(x, no_op)),
    "Collection.update(fn)": (NO_FUNCTIONS, lambda store, x: raw(store).update("a", x)),
    "Collection.update(fn's result)": ((5, "x", Odd()), lambda store, x: raw(store).update("a", lambda _: x)),
    "Collection.find(where)": ((5, "x", Odd()), lambda store, x: raw(store).find(x)),
    "Collection.find(F.in_())": ((None, 5, "x", Odd()), lambda store, x: raw(store).find(F("n").in_(x))),
    "Collection.find(order_by=)": (
        (5, b"x", Odd(), "\ud800"),
        lambda store, x: raw(store).find(order_by=x, limit=1).page(),
    ),
    "Collection.find(limit=)": (NO_SEQS, lambda store, x: raw(store).find(limit=x)),
    "Collection.find(after=)": ((5, b"x", Odd()), lambda store, x: raw(store).find(after=x).page()),
    "Transaction.get(collection)": (NO_TEXTS, lambda store, x: within(store, lambda tx: tx.get(x, "a"))),
    "Transaction.get(id)": (NO_TEXTS, lambda store, x: within(store, lambda tx: tx.get(raw(store), x))),
    "Transaction.put(collection)": (
        NO_TEXTS,
        lambda store, x: within(store, lambda tx: tx.put(x, {"id": "b"})),
    ),
    "Transaction.put(value)": (NO_TEXTS, lambda store, x: within(store, lambda tx: tx.put(raw(store), x))),
    "Transaction.delete(collection)": (
        NO_TEXTS,
        lambda store, x: within(store, lambda tx: tx.delete(x, "a")),
    ),
    "Transaction.delete(id)": (NO_TEXTS, lambda store, x: within(store, lambda tx: tx.delete(raw(store), x))),
    "Transaction.append(collection)": (
        NO_TEXTS,
        lambda store, x: within(store, lambda tx: tx.append(x, "a", "list", 1)),
    ),
    "Transaction.append(id)": (
        NO_TEXTS,
        lambda store, x: within(store, lambda tx: tx.append(raw(store), x, "list", 1)),
    ),
    "Transaction.append(field)": (
        NO_TEXTS,
        lambda store, x: within(store, lambda tx: tx.append(raw(store), "a", x, 1)),
    ),
    "Transaction.get_member(name)": (NO_TEXTS, lambda store, x: within(store, lambda tx: tx.get_member(x))),
    "Transaction.put_member(name)": (
        NO_TEXTS,
        lambda store, x: within(store, lambda tx: tx.put_member(x, 1)),
    ),
    "Transaction.put_member(value)": (
        (b"x", Odd(), {1}),
        lambda store, x: within(store, lambda tx: tx.put_member("m", x)),
    ),
    "Transaction.delete_member(name)": (
        NO_TEXTS,
        lambda store, x: within(store, lambda tx: tx.delete_member(x)),
    ),
    "StatePersistence(store)": (NO_TEXTS, lambda store, x: StatePersistence(x)),
    "StatePersistence.save_state(state)": (NO_TEXTS, lambda store, x: StatePersistence(store).save_state(x)),
    "StatePersistence.save_state(tasks)": (
        (None, 5, Odd(), [5], [{}], [{"id": b"x"}]),
        lambda store, x: StatePersistence(store).save_state({"tasks": x}),
    ),
    "StatePersistence.save_state(member)": (
        (Odd(), float("nan"), [float("inf")], "\ud800", {1: no_op}),
        lambda store, x: StatePersistence(store).save_state({"member": x}),
    ),
    "StatePersistence.save_state(metrics)": (
        (None, 5, {"own": float("nan")}, {"own": "\ud800"}, {"own": Odd()}),
        lambda store, x: StatePersistence(store).save_state({"metrics": x}),
    ),
    "StatePersistence.save_task(task)": (NO_TEXTS, lambda store, x: StatePersistence(store).save_task(x)),
    "StatePersistence.save_task(id)": (
        NO_TEXTS,
        lambda store, x: StatePersistence(store).save_task({"id": x}),
    ),
    "StatePersistence.save_task(text)": (
        (5, b"x", Odd()),
        lambda store, x: StatePersistence(store).save_task({"id": "b", "description": x}),
    ),
    "StatePersistence.delete_task(task_id)": (
        NO_TEXTS,
        lambda store, x: StatePersistence(store).delete_task(x),
    ),
    "StatePersistence.save_session_log(session_id)": (
        NO_TEXTS,
        lambda store, x: StatePersistence(store).save_session_log(x, "text"),
    ),
    "StatePersistence.save_session_log(content)": (
        NO_TEXTS,
        lambda store, x: StatePersistence(store).save_session_log("s", x),
    ),
    "StatePersistence.save_report(report_id)": (
        NO_TEXTS,
        lambda store, x: StatePersistence(store).save_report(x, 1),
    ),
    "StatePersistence.on(event)": (NO_TEXTS, lambda store, x: StatePersistence(store).on(x, no_op)),
    "Events.on(event)": ((*NO_TEXTS, "no:event", int), lambda store, x: store.events.on(x, no_op)),
    "Events.on(listener)": (NO_FUNCTIONS, lambda store, x: store.events.on(StateSaved, x)),
    "Events.off(event)": ((*NO_TEXTS, "no:event"), lambda store, x: store.events.off(x, no_op)),
    "Events.stream(event)": ((*NO_TEXTS, "no:event"), lambda store, x: store.events.stream(x)),
    "Events.stream(limit=)": (NO_SEQS, lambda store, x: store.events.stream(limit=x)),
    "open(path)": (NO_PATHS, lambda store, x: statepath.open(x)),
    "open(settings=)": ((5, "x", {}), lambda store, x: statepath.open(store.url, settings=x)),
    "open(events=)": ((5, "x", no_op), lambda store, x: statepath.open(store.url, events=x)),
    "copy(source)": ((None, *NO_PATHS), lambda store, x: statepath.copy(x, store.url)),
    "copy(target)": ((None, *NO_PATHS), lambda store, x: statepath.copy(store.url, x)),
    "import_backup(file)": ((None, *NO_PATHS), lambda store, x: statepath.import_backup(x, store.url)),
}


def raw(store: Any) -> Any:
    return store.collection("raw")


def tasks(store: Any) -> Any:
    return store.collection("tasks", Task)


async def within(store: Any, change: Callable[[Any], Any]) -> None:
    """Make one change in a transaction of its own."""
    async with store.transaction() as tx:
        made = change(tx)
        if isawaitable(made):
            await made


async def carry_out(call: Callable[[Any, Any], Any], store: Any, argument: Any) -> None:
    made = call(store, argument)
    if isawaitable(made):
        await made
    elif isinstance(made, AsyncIterator):
        await anext(made)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("name", CALLS)
async def test_an_argument_of_the_wrong_kind_is_refused_and_nothing_is_done(store, name):
    await raw(store).put({"id": "a", "list": []})
    await tasks(store).put(Task(id="a"))
    arguments, call = CALLS[name]
    for argument in arguments:
        with pytest.raises((InvalidArgumentError, ConfigurationError)) as refused:
            await carry_out(call, store, argument)
        assert len(str(refused.value)) > 20, argument
    assert (store.seq, await store.logs(), await store.reports()) == (2, [], [])


async def test_the_error_names_what_was_wrong_and_what_to_pass(store):
    with pytest.raises(InvalidArgumentError, match="log of s must be a str, not bytes; decode"):
        await store.append_log("s", b"x")
    with pytest.raises(InvalidArgumentError, match="at must be a seq or an aware datetime, not str"):
        await store.restore(at="2024-01-01")
    with pytest.raises(InvalidArgumentError, match="listener of state:saved must be a function, not int"):
        store.events.on("state:saved", 5)
    with pytest.raises(InvalidArgumentError, match="no Task: id: Input should be a valid string"):
        await StatePersistence(store).save_task({"id": b"x"})


async def test_a_transaction_takes_no_collection_of_another_store(store):
    async with statepath.open("memory://another", autosave=0) as another, store.transaction() as tx:
        with pytest.raises(InvalidArgumentError, match="raw is a collection of another store"):
            tx.put(raw(another), {"id": "a"})
    assert store.seq == 0


async def test_events_that_were_passed_to_open_hear_of_nothing_that_was_refused(url):
    events, told = Events(), []
    events.on("*", told.append)
    with pytest.raises(InvalidArgumentError):
        await statepath.open(url, events=events, settings=5)
    assert told == []
