"""From the state path to a configuration, without input, output or any environment but the one given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from statepath.backend import Parameter, StateURL
from statepath.errors import InvalidArgumentError

DEFAULT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class SqliteConfig:
    """The file, and for how many seconds a call waits for another process that writes (`None`: not said)."""

    path: str
    timeout: float | None = None


def parse(url: StateURL) -> SqliteConfig:
    """The configuration that a URL `sqlite:///path/to/file.db?timeout=10` says."""
    url.only("timeout")
    path = "/" + url.path.lstrip("/")
    if url.netloc or path.endswith("/"):
        raise InvalidArgumentError(
            "a sqlite URL names a file by its absolute path; write sqlite:///path/to/file.db"
        )
    timeout = url.query.get("timeout")
    return SqliteConfig(path, None if timeout is None else _seconds("timeout", timeout))


def complete(config: SqliteConfig, env: Mapping[str, str]) -> SqliteConfig:
    """The configuration with `STATE_SQLITE_TIMEOUT`, where the URL is silent."""
    if config.timeout is None and "STATE_SQLITE_TIMEOUT" in env:
        return replace(config, timeout=_seconds("STATE_SQLITE_TIMEOUT", env["STATE_SQLITE_TIMEOUT"]))
    return config


def parameters(url: StateURL) -> list[Parameter]:
    """What `statepath config show` tells of it."""
    return [Parameter("timeout", ("STATE_SQLITE_TIMEOUT",), url.query.get("timeout"), f"{DEFAULT_TIMEOUT:g}")]


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise InvalidArgumentError(f"{name} is {text!r}; give seconds, from 0 to 3600")
    return seconds
