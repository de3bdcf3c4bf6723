"""What a run of many clients has to satisfy, told from what each of them saw.

An operation is known by when it began and when it ended, on a clock that all clients share. One whose outcome is
unknown ends at infinity: it may have taken effect at any time since it began, or never.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal


@dataclass(frozen=True)
class Swap:
    """A compare-and-swap that puts the unique `token` in place of `parent` (empty: of nothing). `done` says what became
    of it; `None`: nobody knows."""

    key: str
    token: str
    parent: str
    begun: float
    ended: float
    done: bool | None


@dataclass(frozen=True)
class Look:
    """A read that gave the token (empty: nothing was there)."""

    key: str
    token: str
    begun: float
    ended: float


def check_chain(swaps: Iterable[Swap], looks: Iterable[Look], final: dict[str, str]) -> list[str]:
    """What is wrong with a run, a sentence each. `final` is the last token of each key.

    From the last token back to nothing, the parents are the chain of each key. Who was told that a swap was done finds
    it there, who was told that it was refused does not; and a read is of a token that was not yet replaced by one which
    had been acknowledged before the read began, and was not begun after it ended.
    """
    wrong: list[str] = []
    by_token = {swap.token: swap for swap in swaps}
    chains: dict[str, list[str]] = {}
    for key, last in final.items():
        chain: list[str] = []
        token = last
        while token:
            if token not in by_token:
                wrong.append(f"{key}: nobody wrote {token}")
                break
            chain.append(token)
            token = by_token[token].parent
            if len(chain) > len(by_token):
                wrong.append(f"{key}: the chain is a ring")
                break
        chains[key] = chain[::-1]
    places = {token: (key, place) for key, chain in chains.items() for place, token in enumerate(chain)}
    for swap in by_token.values():
        if swap.done and swap.token not in places:
            wrong.append(f"{swap.key}: {swap.token} was acknowledged and is not in the chain")
        if swap.done is False and swap.token in places:
            wrong.append(f"{swap.key}: {swap.token} was refused and is in the chain")
    for look in looks:
        chain = chains.get(look.key, [])
        if look.token and look.token not in places:
            wrong.append(f"{look.key}: {look.token} was read and is not in the chain")
            continue
        place = places[look.token][1] if look.token else -1
        if look.token and by_token[look.token].begun > look.ended:
            wrong.append(f"{look.key}: {look.token} was read before it was written")
        if any(by_token[later].ended < look.begun for later in chain[place + 1 :]):
            wrong.append(f"{look.key}: {look.token or 'nothing'} was read when it had been replaced")
    return wrong


@dataclass(frozen=True)
class Operation:
    """What a client did to one key: `write` a value, `delete`, or `read` one (`None`: nothing was there)."""

    kind: Literal["write", "delete", "read"]
    value: str | None
    begun: float
    ended: float = inf


def linearizable(operations: Sequence[Operation]) -> bool:
    """Whether the operations on one key can be put into an order that each client's times allow, and in which each read
    gives what was written last (Wing and Gong, with Lowe's memory of what was tried)."""
    operations = sorted(operations, key=lambda one: one.begun)
    required = sum(1 << place for place, one in enumerate(operations) if one.ended < inf)
    tried: set[tuple[int, str | None]] = set()
    stack: list[tuple[int, str | None]] = [(0, None)]
    while stack:
        done, value = stack.pop()
        if done & required == required:
            return True
        if (done, value) in tried:
            continue
        tried.add((done, value))
        first = (~done & done + 1).bit_length() - 1  # all before it are done
        open_until = inf
        for place in range(first, len(operations)):
            if operations[place].begun > open_until:
                break
            if not done >> place & 1:
                open_until = min(open_until, operations[place].ended)
        for place in range(first, len(operations)):
            one = operations[place]
            if one.begun > open_until:
                break
            if done >> place & 1:
                continue
            if one.kind == "read":
                if one.value == value:
                    stack.append((done | 1 << place, value))
            else:
                stack.append((done | 1 << place, one.value if one.kind == "write" else None))
    return False
