"""The same store without async: for scripts, notebooks and programs that use threads.

python examples/blocking.py        # in ./coding-agent-state, or where STATE_PATH says
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import statepath
from pydantic import BaseModel
from statepath.sync import SyncTransaction


class Account(BaseModel):
    id: str
    credits: int = 0
    notes: list[str] = []


with statepath.open_sync() as store:
    accounts = store.collection("accounts", Account)
    before = store.seq
    accounts.put(Account(id="ada", credits=100))
    accounts.put(Account(id="bob"))

    def pay(number: int) -> None:
        """Move one credit. Whoever meets another payment at the same moment is called again."""

        def move(tx: SyncTransaction) -> None:
            ada, bob = tx.get(accounts, "ada"), tx.get(accounts, "bob")
            assert ada is not None
            assert bob is not None
            ada.credits, bob.credits = ada.credits - 1, bob.credits + 1
            tx.put(accounts, ada)
            tx.put(accounts, bob)
            tx.append(accounts, "bob", "notes", f"payment {number}")

        store.transact(move)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(pay, range(1, 21)))

    for account in accounts.find(order_by="-credits"):
        print(f"{account.id} has {account.credits} credits and {len(account.notes)} notes")

    print(
        f"{len(store.history('accounts/ada', since=before))} changes of accounts/ada, each of them durable:"
    )
    for change in store.history("accounts/ada", limit=3):
        print(f"  seq {change.seq} at {change.time:%H:%M:%S.%f}: {change.kind} {change.value}")

    # What a feed has had, it can have again: `cursor` is where to go on.
    with store.watch(since=before, collections=("accounts",)) as feed:
        first = next(feed)
    print(
        f"The feed begins with {first.kind} {first.key}; the next one is behind {first.cursor.split(':')[1]}."
    )
