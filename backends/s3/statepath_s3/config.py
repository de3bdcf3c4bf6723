"""From the state path to a configuration, without input, output or any environment but the one given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from statepath.backend import Parameter, StateURL
from statepath.errors import InvalidArgumentError
from statepath.objectstore import Parameters, Place, endpoint, flag, seconds, text

DEFAULT_TIMEOUT = 60.0

address: Final = partial(
    endpoint, form="http://host:port", secrets="credentials where the AWS tools look for them"
)
"""A service's address, from whoever says it."""

_PARAMETERS: Final = Parameters(
    "STATE_S3_",
    endpoint_url=address,
    region=text,
    profile=text,
    anonymous=flag,
    path_style=flag,
    requester_pays=flag,
    timeout=seconds,
)
_DIRECTORY: Final = ("--x-s3", "--xa-s3")
"""How the names of S3's directory buckets, and of access points to them, end, and no others."""
_DEFAULTS: Final = {
    "anonymous": "false",
    "path_style": "false",
    "requester_pays": "false",
    "timeout": f"{DEFAULT_TIMEOUT:g}",
}


@dataclass(frozen=True, slots=True)
class S3Config:
    """Where the store is, and how to get there. `None`: as the SDK finds it.

    Attributes:
        endpoint_url: another service than Amazon's.
        region: the bucket's.
        profile: the one in `~/.aws/config` to take credentials from.
        anonymous: sign nothing.
        path_style: the bucket in the path of the request, not in the name of the host.
        requester_pays: agree to pay for the requests, where the bucket's owner does not.
        timeout: seconds after which a request has failed that does not get on.
    """

    place: Place
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool | None = None
    path_style: bool | None = None
    requester_pays: bool | None = None
    timeout: float | None = None


def parse(url: StateURL) -> S3Config:
    """The configuration that a URL `s3://bucket/prefix?region=eu-central-1` says."""
    url.only(*_PARAMETERS)
    place = Place.of(url, called="bucket")
    if place.container.endswith(_DIRECTORY):
        raise InvalidArgumentError(
            f"{place.container} is a directory bucket, which lists in no order, from no name on, and by whole folders"
            " only; use a general purpose bucket"
        )
    return _PARAMETERS.said(S3Config(place), url.query)


def complete(config: S3Config, env: Mapping[str, str]) -> S3Config:
    """The configuration with `STATE_S3_ENDPOINT_URL`, `STATE_S3_REGION` and so on, where the URL is silent."""
    return _PARAMETERS.completed(config, env)


def parameters(url: StateURL) -> list[Parameter]:
    """What the URL or the environment may say, for people."""
    return _PARAMETERS.listed(url.query, _DEFAULTS)
