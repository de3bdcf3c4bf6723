"""The schemes of state paths: those that an installed backend announces, and what to do about one that none does."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

from statepath.errors import BackendNotInstalledError, ConfigurationError, UnknownSchemeError
from statepath.installed import announced

GROUP: Final = "statepath.backends"

_EXTRAS: Final = {
    "s3": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "azblob": "azure",
    "postgresql": "postgres",
    "postgres": "postgres",
}
"""Schemes of our own distributions, and the extra that installs each."""


def check_scheme(scheme: str) -> None:
    """
    Raises:
        UnknownSchemeError: no installed backend has the scheme. Lists those that there are.
        BackendNotInstalledError: the scheme is one of ours, and its package is missing. Gives the install line.
    """
    known = {one.point.name for one in announced(GROUP)}
    if scheme not in known:
        raise missing(scheme, known)


def missing(scheme: str, known: Collection[str]) -> ConfigurationError:
    """The error for a scheme that none of the known ones is."""
    if extra := _EXTRAS.get(scheme):
        install = f"pip install 'statepath[{extra}]'"
        return BackendNotInstalledError(
            f"the backend for {scheme}:// is not installed; install it with: {install}",
            install=install,
            backend=scheme,
        )
    near = get_close_matches(scheme, {*known, *_EXTRAS}, n=1)
    hint = f"; did you mean {near[0]}://?" if near else ""
    return UnknownSchemeError(
        f"no backend for {scheme}:// is installed{hint} (installed: {', '.join(sorted(known)) or 'none'})",
        known=tuple(sorted(known)),
        backend=scheme,
    )
