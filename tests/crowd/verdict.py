"""What the clients noted, against what the store holds: the sentences that say what is wrong."""

from __future__ import annotations

import json
from collections import defaultdict
from math import inf
from pathlib import Path
from typing import Any

import statepath
from crowd.checkers import Look, Operation, Swap, check_chain, linearizable
from statepath.commit import Body, Delete, Put
from statepath.engine.replica import MEMBERS
from statepath.engine.snapshot import LEASE_MEMBERS
from statepath.store import Store

Pair = tuple[dict[str, Any], dict[str, Any] | None]


def paired(folder: Path) -> list[Pair]:
    """Each beginning that was noted there, or in that one file, with its end, if it had one."""
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    notes = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    ended = {(one["run"], one["n"]): one for one in notes if one["state"] == "ended"}
    return [(one, ended.get((one["run"], one["n"]))) for one in notes if one["state"] == "begun"]


def swaps_and_looks(pairs: list[Pair]) -> tuple[list[Swap], list[Look]]:
    swaps, looks = [], []
    for begun, ended in pairs:
        if begun["op"] == "swap":
            done = None if ended is None else ended["done"]
            end = inf if ended is None or done is None else ended["at"]
            swaps.append(Swap(begun["key"], begun["token"], begun["parent"], begun["at"], end, done))
        elif begun["op"] == "look" and ended is not None:
            looks.append(Look(begun["key"], ended["token"], begun["at"], ended["at"]))
    return swaps, looks


def operations(pairs: list[Pair]) -> dict[str, list[Operation]]:
    """What was done to each register. What was refused did nothing, and what was not read tells nothing."""
    found: dict[str, list[Operation]] = defaultdict(list)
    for begun, ended in pairs:
        if begun["op"] not in ("write", "delete", "read") or (ended is not None and ended.get("refused")):
            continue
        if ended is None and begun["op"] == "read":
            continue
        value = begun["value"] if ended is None else ended["value"]
        end = inf if ended is None else ended["at"]
        found[begun["key"]].append(Operation(begun["op"], value, begun["at"], end))
    return dict(found)


async def violations(path: str, folder: Path) -> list[str]:
    """What is wrong with a run, a sentence each."""
    pairs = paired(folder)
    swaps, looks = swaps_and_looks(pairs)
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        final = {document["id"]: str(document["token"]) async for document in raw}
        wrong = check_chain(swaps, looks, final)
        wrong += [str(problem) for problem in await store.verify()]
        for key in final:
            chain: list[Any] = [change.value for change in await store.history(f"raw/{key}")]
            if [value["parent"] for value in chain] != ["", *(value["token"] for value in chain[:-1])]:
                wrong.append(f"raw/{key}: its history is no chain")
        wrong += await _of_leases(store)
    wrong += [
        f"{key}: its operations have no order"
        for key, each in operations(pairs).items()
        if not linearizable(each)
    ]
    return wrong


async def _of_leases(store: Store) -> list[str]:
    """Each change under a lease belongs to the epoch that had begun last, and had not been ended."""
    wrong: list[str] = []
    epoch = 0
    async for commit in store._engine.log.read(0):
        for seq, transaction in enumerate(commit.transactions, commit.first):
            if isinstance(transaction, Body):
                continue
            for change in transaction:
                if isinstance(change, Put | Delete) and (change.collection, change.id) == (
                    MEMBERS,
                    f"{LEASE_MEMBERS}leader",
                ):
                    epoch = seq if isinstance(change, Put) else 0
                elif isinstance(change, Put) and change.collection == "terms":
                    of = json.loads(bytes(change.document))["epoch"]
                    if of != epoch:
                        wrong.append(f"seq {seq} is of epoch {of}, and that of then was {epoch}")
    return wrong
