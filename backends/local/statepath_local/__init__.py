"""The local backend of statepath: a store in a folder."""

from statepath_local.backend import LocalBackend, LocalFactory
from statepath_local.config import LocalConfig

__all__ = ["LocalBackend", "LocalConfig", "LocalFactory", "factory"]

factory = LocalFactory()
"""What the entry point `file` of the group `statepath.backends` names."""
