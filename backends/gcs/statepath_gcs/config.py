"""From the state path to a configuration, without input, output or any environment but the one given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from statepath.backend import Parameter, StateURL
from statepath.objectstore import Parameters, Place, endpoint, flag, seconds, text

DEFAULT_TIMEOUT = 60.0

_endpoint: Final = partial(
    endpoint, form="http://host:port", secrets="credentials where Google's tools look for them"
)
_PARAMETERS: Final = Parameters(
    "STATE_GCS_", endpoint_url=_endpoint, user_project=text, anonymous=flag, timeout=seconds
)
_EMULATOR: Final = "STORAGE_EMULATOR_HOST"
_NO_EMULATOR: Final = "default"
_DEFAULTS: Final = {"anonymous": "false", "timeout": f"{DEFAULT_TIMEOUT:g}"}


@dataclass(frozen=True, slots=True)
class GCSConfig:
    """Where the store is, and how to get there. `None`: as gcsfs finds it.

    Attributes:
        endpoint_url: another service than Google's public one.
        user_project: the project that pays for the requests, where the bucket's owner does not.
        anonymous: send no credentials.
        timeout: seconds after which a request has failed that does not get on.
    """

    place: Place
    endpoint_url: str | None = None
    user_project: str | None = None
    anonymous: bool | None = None
    timeout: float | None = None


def parse(url: StateURL) -> GCSConfig:
    """The configuration that a URL `gs://bucket/prefix?user_project=payer` says."""
    url.only(*_PARAMETERS)
    return _PARAMETERS.said(GCSConfig(Place.of(url, called="bucket")), url.query)


def complete(config: GCSConfig, env: Mapping[str, str]) -> GCSConfig:
    """The configuration with `STATE_GCS_ENDPOINT_URL`, `STATE_GCS_TIMEOUT` and so on, where the URL is silent; of the
    other variables with the endpoint in `STORAGE_EMULATOR_HOST`, which all of Google's libraries know."""
    config = _PARAMETERS.completed(config, env)
    emulator = env.get(_EMULATOR, _NO_EMULATOR)
    if config.endpoint_url is not None or emulator in ("", _NO_EMULATOR):
        return config
    url = emulator if "://" in emulator else f"http://{emulator}"
    return replace(config, endpoint_url=_endpoint(_EMULATOR, url))


def parameters(url: StateURL) -> list[Parameter]:
    """What the URL or the environment may say, for people."""
    return [
        one._replace(variables=(*one.variables, _EMULATOR)) if one.name == "endpoint_url" else one
        for one in _PARAMETERS.listed(url.query, _DEFAULTS)
    ]
