"""From the state path to a configuration, without input, output or any environment but the one given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from statepath.backend import Parameter, StateURL
from statepath.objectstore import Place, endpoint, flag, seconds

DEFAULT_TIMEOUT = 60.0

_FORM: Final = "http://host:port"
_SECRETS: Final = "credentials where Google's tools look for them"

_PARAMETERS: Final = ("endpoint_url", "user_project", "anonymous", "timeout")
_DEFAULTS: Final = {"anonymous": "false", "timeout": f"{DEFAULT_TIMEOUT:g}"}
_EMULATOR: Final = "STORAGE_EMULATOR_HOST"
_NO_EMULATOR: Final = "default"


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
    return _with(GCSConfig(Place.of(url, called="bucket")), url.query, {name: name for name in url.query})


def complete(config: GCSConfig, env: Mapping[str, str]) -> GCSConfig:
    """The configuration with `STATE_GCS_ENDPOINT_URL`, `STATE_GCS_TIMEOUT` and so on, where the URL is silent; of the
    other variables with the endpoint in `STORAGE_EMULATOR_HOST`, which all of Google's libraries know."""
    variables = {name: f"STATE_GCS_{name.upper()}" for name in _PARAMETERS if getattr(config, name) is None}
    given = {name: env[variable] for name, variable in variables.items() if env.get(variable)}
    emulator = env.get(_EMULATOR, _NO_EMULATOR)
    if "endpoint_url" in variables and "endpoint_url" not in given and emulator not in ("", _NO_EMULATOR):
        variables["endpoint_url"] = _EMULATOR
        given["endpoint_url"] = emulator if "://" in emulator else f"http://{emulator}"
    return _with(config, given, variables)


def parameters(url: StateURL) -> list[Parameter]:
    """What the URL or the environment may say, for people."""
    return [
        Parameter(
            name,
            (f"STATE_GCS_{name.upper()}", *((_EMULATOR,) if name == "endpoint_url" else ())),
            url.query.get(name),
            _DEFAULTS.get(name),
        )
        for name in _PARAMETERS
    ]


def _with(config: GCSConfig, given: Mapping[str, str], called: Mapping[str, str]) -> GCSConfig:
    values: dict[str, object] = {}
    for name, text in given.items():
        if name == "endpoint_url":
            values[name] = endpoint(called[name], text, form=_FORM, secrets=_SECRETS)
        elif name == "anonymous":
            values[name] = flag(called[name], text)
        elif name == "timeout":
            values[name] = seconds(called[name], text)
        else:
            values[name] = text
    return replace(config, **values)  # type: ignore[arg-type]  # each value is of its field's type
