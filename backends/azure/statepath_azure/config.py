"""From the state path to a configuration, without input, output or any environment but the one given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from statepath.backend import Parameter, StateURL
from statepath.errors import InvalidArgumentError
from statepath.objectstore import Parameters, Place, endpoint, seconds

DEFAULT_TIMEOUT: Final = 60.0

_CONTAINER: Final = re.compile(r"(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*")
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_AT_ACCOUNT: Final = re.compile(r"([a-z0-9]{3,24})\.(?:blob|dfs)\.core\.windows\.net")


def account(name: str, text: str) -> str:
    """A storage account's name, which becomes a part of the host's name that the credentials are sent to.

    Raises:
        InvalidArgumentError: it is none. It is not quoted, since it may be a key in the wrong place.
    """
    if not _ACCOUNT.fullmatch(text):
        raise InvalidArgumentError(
            f"{name} is no storage account's name: that has 3 to 24 lower-case letters and digits"
        )
    return text


address: Final = partial(
    endpoint,
    form="http://host:port/account",
    secrets="keys and SAS tokens where the Azure tools look for them",
)
"""A service's address, from whoever says it."""

_PARAMETERS: Final = Parameters(
    "STATE_AZURE_",
    account_name=account,
    endpoint_url=address,
    timeout=seconds,
)
_DEFAULTS: Final = {"timeout": f"{DEFAULT_TIMEOUT:g}"}


@dataclass(frozen=True, slots=True)
class AzureConfig:
    """Where the store is, and how to get there. `None`: as adlfs finds it.

    Attributes:
        account_name: the storage account.
        endpoint_url: where the account's blobs are, if not at `https://<account_name>.blob.core.windows.net`.
        timeout: seconds after which a request has failed that does not get on.
    """

    place: Place
    account_name: str | None = None
    endpoint_url: str | None = None
    timeout: float | None = None


def parse(url: StateURL) -> AzureConfig:
    """The configuration that a URL `az://container/prefix?account_name=account` says. What other tools write, too, is
    `abfs://container@account.dfs.core.windows.net/prefix`."""
    url.only(*_PARAMETERS)
    query = dict(url.query)
    at = _AT_ACCOUNT.fullmatch(url.host or "")
    if at is not None and url.user is not None and url.password is None and url.port is None:
        if query.setdefault("account_name", at[1]) != at[1]:
            raise InvalidArgumentError(f"the {url.scheme} URL names two accounts; leave account_name out")
        url = replace(url, user=None, netloc=url.user)
    place = Place.of(url, called="container")
    if not _CONTAINER.fullmatch(place.container):
        raise InvalidArgumentError(
            f"{place.container!r} is no container's name: that is 3 to 63 lower-case letters, digits and single"
            " hyphens"
        )
    if any(part.endswith(".") for part in place.prefix.split("/")):
        raise InvalidArgumentError(
            f"a part of the prefix in the {url.scheme} URL ends with a dot, which Azure's names of blobs may not;"
            " choose another prefix"
        )
    return _PARAMETERS.said(AzureConfig(place), query)


def complete(config: AzureConfig, env: Mapping[str, str]) -> AzureConfig:
    """The configuration with `STATE_AZURE_ACCOUNT_NAME` and so on, where the URL is silent."""
    return _PARAMETERS.completed(config, env)


def parameters(url: StateURL) -> list[Parameter]:
    """What the URL or the environment may say, for people."""
    said = dict(url.query)
    if (account_name := parse(url).account_name) is not None:
        said["account_name"] = account_name  # which abfs://container@account… says otherwise
    return _PARAMETERS.listed(said, _DEFAULTS)
