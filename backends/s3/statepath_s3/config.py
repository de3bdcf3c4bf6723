"""From the state path to a configuration, without input, output or any environment but the one given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from statepath.backend import Parameter, StateURL
from statepath.objectstore import Place, endpoint, flag, seconds

DEFAULT_TIMEOUT = 60.0

_PARAMETERS: Final = ("endpoint_url", "region", "profile", "anonymous", "path_style", "timeout")
_DEFAULTS: Final = {"anonymous": "false", "path_style": "false", "timeout": f"{DEFAULT_TIMEOUT:g}"}

_FORM: Final = "http://host:port"
_SECRETS: Final = "credentials where the AWS tools look for them"


@dataclass(frozen=True, slots=True)
class S3Config:
    """Where the store is, and how to get there. `None`: as the SDK finds it.

    Attributes:
        endpoint_url: another service than Amazon's.
        region: the bucket's.
        profile: the one in `~/.aws/config` to take credentials from.
        anonymous: sign nothing.
        path_style: the bucket in the path of the request, not in the name of the host.
        timeout: seconds after which a request has failed that does not get on.
    """

    place: Place
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool | None = None
    path_style: bool | None = None
    timeout: float | None = None


def parse(url: StateURL) -> S3Config:
    """The configuration that a URL `s3://bucket/prefix?region=eu-central-1` says."""
    url.only(*_PARAMETERS)
    return _with(S3Config(Place.of(url, called="bucket")), url.query, {name: name for name in url.query})


def complete(config: S3Config, env: Mapping[str, str]) -> S3Config:
    """The configuration with `STATE_S3_ENDPOINT_URL`, `STATE_S3_REGION` and so on, where the URL is silent."""
    variables = {name: f"STATE_S3_{name.upper()}" for name in _PARAMETERS if getattr(config, name) is None}
    given = {name: env[variable] for name, variable in variables.items() if env.get(variable)}
    return _with(config, given, variables)


def parameters(url: StateURL) -> list[Parameter]:
    """What the URL or the environment may say, for people."""
    return [
        Parameter(name, (f"STATE_S3_{name.upper()}",), url.query.get(name), _DEFAULTS.get(name))
        for name in _PARAMETERS
    ]


def _with(config: S3Config, given: Mapping[str, str], called: Mapping[str, str]) -> S3Config:
    values: dict[str, object] = {}
    for name, text in given.items():
        if name == "endpoint_url":
            values[name] = endpoint(called[name], text, form=_FORM, secrets=_SECRETS)
        elif name in ("anonymous", "path_style"):
            values[name] = flag(called[name], text)
        elif name == "timeout":
            values[name] = seconds(called[name], text)
        else:
            values[name] = text
    return replace(config, **values)  # type: ignore[arg-type]  # each value is of its field's type
