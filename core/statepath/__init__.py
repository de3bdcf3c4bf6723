"""statepath keeps the state of long-lived servers safe, on any storage."""

from statepath._version import __version__

__all__ = ["__version__"]
