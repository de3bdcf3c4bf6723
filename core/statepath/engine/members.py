"""Members of `state.json`, and collections, which stand there by their names, too."""

from __future__ import annotations

from statepath.commit import Delete
from statepath.engine.replica import MEMBERS, Entry, Replica
from statepath.errors import InvalidArgumentError


def make_way(replica: Replica, collection: str, member: Entry | None) -> tuple[Delete, ...]:
    """What has to go with the first document of the collection: an empty list that stands under its name.

    Parameters:
        member: what stands there.

    Raises:
        InvalidArgumentError: it is anything else, which documents would hide, if none does yet.
    """
    if member is None:
        return ()
    if member.json() == b"[]":
        return (Delete(MEMBERS, collection),)
    if replica.holds(collection) and replica.collections.get(collection):
        return ()
    raise InvalidArgumentError(
        f"{collection!r} is a member of state.json, and no collection: take another name, or delete the member",
        key=collection,
    )
