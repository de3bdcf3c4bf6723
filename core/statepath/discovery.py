"""From a state path to a backend.

The scheme of the URL names an entry point of the group `statepath.backends`. Only that entry point is loaded,
so a broken plugin can break nobody but itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Self

from statepath.arguments import path_text
from statepath.backend import Backend, BackendFactory, Parameter, StateURL, SupportsParameters
from statepath.errors import (
    ConfigurationError,
    DuplicateSchemeError,
    InvalidArgumentError,
    StateError,
)
from statepath.installed import announced
from statepath.retry import until_served
from statepath.schemes import GROUP, missing


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """An installed backend, as its distribution announces it; nothing of it was imported.

    Attributes:
        scheme: what stands before `://` in a state path.
        distribution: the installed package, and its `version`.
        target: where its factory is: `package.module:name`.
    """

    scheme: str
    distribution: str
    version: str
    target: str


def backends() -> tuple[BackendInfo, ...]:
    """The installed backends, by scheme and distribution. Imports none of them."""
    found = {info: None for info, _ in _announced()}
    return tuple(sorted(found, key=lambda info: (info.scheme, info.distribution)))


def resolve(
    state_path: str | os.PathLike[str], env: Mapping[str, str] | None = None
) -> tuple[BackendFactory, Any, StateURL]:
    """The factory that the state path names, its configuration, and the parsed path. Opens nothing.

    Parameters:
        env: the variables that complete the configuration; `None`: those of the process.

    Raises:
        InvalidArgumentError: the state path is malformed, or has a part that the backend does not know.
        UnknownSchemeError: no backend has the scheme. Lists those that are installed.
        BackendNotInstalledError: the scheme is one of ours, and its package is missing. Gives the install
        line. DuplicateSchemeError: two distributions claim the scheme. ConfigurationError: the backend cannot
        be loaded.
    """
    url = StateURL.parse(path_text(state_path, "the state path"))
    factory, info = _load(url.scheme)
    try:
        config = factory.with_env(factory.parse(url), os.environ if env is None else env)
    except Exception as error:
        if isinstance(error, StateError) and not url.betrayed_by(error):
            raise
        raise _unfit(error, url, info) from _cause(error, url)
    return factory, config, url


def parameters(state_path: str | os.PathLike[str]) -> Sequence[Parameter]:
    """What the backend that the state path names tells of its parameters; nothing, where it tells none.

    Raises: as `resolve`, and of the state path alone.
    """
    url = StateURL.parse(path_text(state_path, "the state path"))
    factory, info = _load(url.scheme)
    if not isinstance(factory, SupportsParameters):
        return ()
    try:
        factory.parse(url)  # what cannot be used may be a secret in the wrong place
        return tuple(factory.parameters(url))
    except Exception as error:
        if isinstance(error, StateError) and not url.betrayed_by(error):
            raise
        raise _unfit(error, url, info) from _cause(error, url)


def refused(state_path: str | os.PathLike[str], variables: Iterable[str]) -> frozenset[str]:
    """Which of the variables have a value that the backend does not take: it may be a secret in the wrong place.

    Raises: as `resolve`, and of the state path alone.
    """
    url = StateURL.parse(path_text(state_path, "the state path"))
    factory, _ = _load(url.scheme)
    config = factory.parse(url)

    def takes(env: Mapping[str, str]) -> bool:
        try:
            factory.with_env(config, env)
        except Exception:  # noqa: BLE001 - a third party's may raise anything
            return False
        return True

    if takes(os.environ):
        return frozenset()
    given = {name: os.environ[name] for name in variables if name in os.environ}
    return frozenset(name for name, value in given.items() if not takes({name: value}))


def check_apart(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """
    Raises:
        InvalidArgumentError: both are one place, or the target lies within the store, which would take it for its own.
    """
    store, place = Location.of(source), Location.of(target)
    if place.is_of(store):
        raise InvalidArgumentError("the store cannot be copied onto itself: name another place")
    place.check_outside(store)


@dataclass(frozen=True, slots=True, repr=False)
class Location:
    """Where a store is, as its state path was understood: the environment and the working directory may be others
    later.

    Attributes:
        begins: what the names of the store's objects begin with; `named` says that this alone says which store it is.
    """

    factory: BackendFactory
    config: Any
    begins: str
    named: bool

    @classmethod
    def of(cls, state_path: str | os.PathLike[str]) -> Self:
        """Raises: as `resolve`."""
        factory, config, url = resolve(state_path)
        folder = _folder(config, url)
        if folder is None:
            return cls(factory, config, f"{url.netloc}/{url.path.strip('/')}".rstrip("/") + "/", named=False)
        return cls(factory, config, folder, named=True)

    def is_of(self, store: Location) -> bool:
        """Whether it is that store's own place."""
        if self._is_elsewhere(store):
            return False
        return self.config == store.config or (self.named and self.begins == store.begins)

    def check_outside(self, store: Location) -> None:
        """
        Raises:
            InvalidArgumentError: it lies within the store, which would take it for its own.
        """
        within = self.begins != store.begins and self.begins.startswith(store.begins)
        if within and not self._is_elsewhere(store):
            raise InvalidArgumentError(
                "the new store would lie within the one that it is made of: name another place"
            )

    def _is_elsewhere(self, other: Location) -> bool:
        """Whether they are of two backends, of two services, or of two accounts of one."""
        if self.factory is not other.factory:
            return True
        one, another = self.config, other.config
        if getattr(one, "endpoint_url", None) != getattr(another, "endpoint_url", None):
            return True
        accounts = {getattr(config, "account_name", None) for config in (one, another)} - {None}
        return len(accounts) > 1


def _folder(config: Any, url: StateURL) -> str | None:
    """What the names of a store's objects begin with, where that alone says which store it is."""
    from statepath.objectstore import Place  # only here, and loaded already where it is one

    if url.scheme == "file":
        return os.path.realpath(os.path.expanduser(url.path)).rstrip("/") + "/"
    place = getattr(config, "place", None)
    return f"{place.container}/{place.prefix}" if isinstance(place, Place) else None


async def connect(
    state_path: str | os.PathLike[str],
    *,
    readonly: bool = False,
    env: Mapping[str, str] | None = None,
    deadline: float = 0.0,
) -> Backend:
    """A connection to the backend that the state path names.

    Parameters and errors: as `resolve`, and those of the backend's own `connect`; what is no `StateError` there
    becomes a `ConfigurationError` that names the backend. With `readonly` nothing is locked, created or changed.
    `deadline` is for how many seconds a service is tried again that answers, and cannot serve now.
    """
    factory, config, url = resolve(state_path, env)

    async def attempt() -> Backend:
        return await factory.connect(config, readonly=readonly)

    try:
        return await (until_served(attempt, deadline=deadline) if deadline else attempt())
    except Exception as error:
        if isinstance(error, StateError) and not url.betrayed_by(error):
            raise
        raise _unfit(error, url, _load(url.scheme)[1]) from _cause(error, url)


def _cause(error: Exception, url: StateURL) -> Exception | None:
    """The error, unless a traceback of it would quote a secret."""
    return None if url.betrayed_by(error) else error


def _unfit(error: Exception, url: StateURL, info: BackendInfo) -> StateError:
    """What a backend made of the state path, without the secrets that the error may quote. What it says to programs,
    its class and its code, stays."""
    betrayed = url.betrayed_by(error)
    cause = (
        f"{type(error).__name__}{', which quotes a secret and is not shown' if betrayed else f': {error}'}"
    )
    message = (
        f"the backend {url.scheme!r} of {_named(info)} cannot use the state path {url.redacted()}: {cause}"
    )
    if not isinstance(error, StateError):
        return ConfigurationError(message, backend=url.scheme)
    kind = next(one for one in type(error).__mro__ if one.__module__ == StateError.__module__)
    told: StateError = kind(message, backend=url.scheme)
    told.code, told.retryable = error.code, error.retryable
    return told


def _announced() -> list[tuple[BackendInfo, EntryPoint]]:
    """Every entry point of the group, with the distribution that announces it."""
    return [
        (BackendInfo(one.point.name, one.distribution, one.version, one.point.value), one.point)
        for one in announced(GROUP)
    ]


def _load(scheme: str) -> tuple[BackendFactory, BackendInfo]:
    announced = _announced()
    # One distribution can be seen twice: installed, and by its checkout. The first on the path is the one
    # imported.
    claims: dict[tuple[str, str], tuple[BackendInfo, EntryPoint]] = {}
    for info, point in announced:
        if info.scheme == scheme:
            claims.setdefault((_normal(info.distribution), info.target), (info, point))
    if not claims:
        raise missing(scheme, {info.scheme for info, _ in announced})
    if len(claims) > 1:
        names = tuple(sorted(_named(info) for info, _ in claims.values()))
        raise DuplicateSchemeError(
            f"the scheme {scheme!r} is claimed by {' and by '.join(names)}; uninstall all but one of them",
            distributions=names,
            backend=scheme,
        )
    ((info, point),) = claims.values()
    try:
        factory = point.load()
    except Exception as error:
        raise ConfigurationError(
            f"the backend {scheme!r} of {_named(info)} cannot be loaded from {info.target}:"
            f" {type(error).__name__}: {error}; reinstall {info.distribution}",
            backend=scheme,
        ) from error
    lacking = [
        name for name in ("parse", "with_env", "connect") if not callable(getattr(factory, name, None))
    ]
    if lacking:
        raise ConfigurationError(
            f"{info.target} of {_named(info)} is not a backend factory: it has no {' and no '.join(lacking)}",
            backend=scheme,
        )
    return factory, info


def _named(info: BackendInfo) -> str:
    return f"{info.distribution} {info.version}"


def _normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")
