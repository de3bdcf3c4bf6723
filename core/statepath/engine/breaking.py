"""A lease is taken away from its holder, and what that one changes from then on is refused by the log."""

from __future__ import annotations

import logging
from contextlib import suppress

from statepath.commit import Delete
from statepath.engine.committer import unfenced
from statepath.engine.engine import Engine
from statepath.engine.leases import Holder, finish, has_taken, lease_key
from statepath.engine.replica import MEMBERS, Entry
from statepath.engine.snapshot import LEASE_MEMBERS
from statepath.errors import ConflictError, NotFoundError, StateError

logger = logging.getLogger("statepath.engine")


async def break_lease(engine: Engine, name: str, seen: Holder | None) -> Holder:
    """Take a lease away from its holder, and with `seen` only from that one: the log refuses what it changes from then
    on.

    Raises:
        NotFoundError: nobody holds it.
        LeaseHeldError: another one than `seen` has it by now.
    """
    engine.committer  # noqa: B018 - a handle that cannot write breaks nothing
    await engine.catch_up()
    # Half done, it would leave a holder without a lease whose changes go through.
    return await finish(_break(engine, name, seen, engine.get(MEMBERS, f"{LEASE_MEMBERS}{name}")))


async def _break(engine: Engine, name: str, seen: Holder | None, before: Entry | None) -> Holder:
    try:
        holder = await engine.leases.remove(name, seen)
    except NotFoundError:
        if before is not None:  # who took it away before did not come to that
            await _delete_epoch(engine, name, before.version)
        raise
    await end_epoch(engine, holder, before)
    return holder


async def end_epoch(engine: Engine, holder: Holder, before: Entry | None) -> None:
    """Have the log refuse what a holder changes from now on whose lease was taken away. `before`: what the log had of
    the lease when that began."""
    epoch = holder.epoch
    if not epoch:
        # One that has given no sign of life yet does not tell its epoch, and may have committed it just now.
        entry = before
        try:
            await engine.catch_up()
            entry = engine.get(MEMBERS, f"{LEASE_MEMBERS}{holder.name}")
        except StateError as error:
            logger.debug("the epoch of the lease %s is the last one known: %s", holder.name, error)
        if entry is not None and (entry is before or has_taken(holder, entry.json())):
            epoch = entry.version
    if epoch:
        await _delete_epoch(engine, holder.name, epoch)


async def end_left_epochs(engine: Engine, *, dry_run: bool) -> list[tuple[str, int]]:
    """Have the log forget the epochs of leases that nobody has: who gives one back while its store is closing can
    commit nothing any more. The keys of these leases, with the bytes that the state holds of each."""
    if not dry_run:
        await engine.catch_up()
    # Before the leases are looked at: whoever takes one meanwhile has an epoch of its own.
    epochs = {
        member.removeprefix(LEASE_MEMBERS): entry
        for member, entry in engine.replica.members.items()
        if member.startswith(LEASE_MEMBERS)
    }
    free = await engine.leases.free(epochs)
    if not dry_run:
        for name in free:
            await _delete_epoch(engine, name, epochs[name].version)
    return [(lease_key(name), epochs[name].size) for name in free]


async def _delete_epoch(engine: Engine, name: str, epoch: int) -> None:
    # Whoever has taken it since it was free has an epoch of its own.
    with suppress(ConflictError), unfenced():
        await engine.committer.submit((Delete(MEMBERS, f"{LEASE_MEMBERS}{name}", epoch),), 0)
