"""All checks in one class."""

from __future__ import annotations

from statepath.testing.accelerators import AcceleratorChecks
from statepath.testing.atomicity import AtomicityChecks
from statepath.testing.commits import CommitLogChecks
from statepath.testing.conditions import ConditionChecks
from statepath.testing.configuration import ConfigurationChecks
from statepath.testing.documents import DocumentChecks
from statepath.testing.lifecycle import LifecycleChecks
from statepath.testing.listing import ListingChecks
from statepath.testing.machine import MachineChecks
from statepath.testing.objects import ObjectChecks
from statepath.testing.processes import ProcessChecks
from statepath.testing.queries import QueryChecks


class BackendContract(
    ConfigurationChecks,
    LifecycleChecks,
    ObjectChecks,
    ListingChecks,
    ConditionChecks,
    AtomicityChecks,
    ProcessChecks,
    AcceleratorChecks,
    CommitLogChecks,
    QueryChecks,
    DocumentChecks,
    MachineChecks,
):
    """What every backend promises. Subclass it, name the factory, and say where a new store may be.

    Set `machine_settings` for other runs of the state machine, and `page` to how many entries a page of a
    listing holds at most, if that is not 1,000. Override `raw_read` and `raw_write` to reach the stored
    bytes around the backend: that catches what two of its connections would agree to get wrong. With a commit log of
    its own, override `raw_damage`, too: that shows whether it tells damage from its end.
    """
