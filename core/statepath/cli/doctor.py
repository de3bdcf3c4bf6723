"""How the installation and a state path do: `doctor`."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Annotated, Any, Final

import typer

from statepath.backend import Capabilities
from statepath.cli.opening import reading
from statepath.cli.options import Json, StatePath, about
from statepath.cli.output import Output
from statepath.cli.running import asynchronous, shown
from statepath.discovery import backends, connect
from statepath.errors import NotFoundError, StateError
from statepath.settings import Settings

group = typer.Typer()

PACKAGES: Final = (
    "statepath",
    "msgspec",
    "pydantic",
    "pydantic-settings",
    "rich",
    "tenacity",
    "typer",
)


@dataclass(frozen=True, slots=True)
class Examination:
    """What `doctor` found out about one state path. `conditions` is whether the service of an object store keeps
    conditional writes, which was tried."""

    state_path: str
    capabilities: Capabilities | None = None
    store: str = "unknown"
    seq: int | None = None
    error: StateError | None = None
    conditions: str | None = None


@group.command()
@asynchronous
async def doctor(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="A state path to examine instead.", show_default=False),
    ] = None,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Examine the installation and the state path.

    Nothing of the store is changed; in an object store an object is written beside it and removed again, to see that
    the service keeps conditions.
    """
    output = Output(as_json=as_json)
    if url is not None:
        about(ctx, url)
    found = await _examine(url if url is not None else state_path)
    versions = {name: _version(name) for name in PACKAGES}
    system = {"python": platform.python_version(), "platform": platform.platform()}
    if as_json:
        output.json(
            {
                "ok": found.error is None,
                "state_path": found.state_path,
                "store": found.store,
                "seq": found.seq,
                "conditions": found.conditions,
                "capabilities": None if found.capabilities is None else asdict(found.capabilities),
                "backends": [asdict(info) for info in backends()],
                "versions": versions,
                **system,
            }
        )
    else:
        output.facts([*system.items(), *versions.items()])
        output.text("\n")
        output.table(
            ("SCHEME", "DISTRIBUTION", "VERSION", "FACTORY"),
            [(info.scheme, info.distribution, info.version, info.target) for info in backends()],
        )
        output.text("\n")
        output.facts(
            [
                ("state path", found.state_path),
                ("store", found.store),
                *([("conditional writes", found.conditions)] if found.conditions else []),
                *_abilities(found.capabilities),
            ]
        )
    if found.error is not None:
        raise found.error


async def _examine(path: str | None) -> Examination:
    from statepath.objectstore import ObjectStoreBackend  # other commands need none of it

    place = "unknown" if path is None else shown(path)
    try:
        settings = Settings.load(path)
        place = shown(settings.path)
        backend = await connect(settings.path, readonly=True)
    except NotFoundError:
        return Examination(place, store="none yet: the first save creates it")
    except StateError as error:
        return Examination(place, error=error)
    capabilities = backend.capabilities
    await backend.close()
    conditions = None
    try:
        if isinstance(backend, ObjectStoreBackend):
            trial = await connect(settings.path)  # who only reads is not told whether the service copies
            await trial.close()
            capabilities, conditions = trial.capabilities, "kept"
        async with reading(path) as store:
            return Examination(
                place, capabilities, f"{store.id}, at seq {store.seq}", store.seq, conditions=conditions
            )
    except NotFoundError:
        return Examination(place, capabilities, "none yet: the first save creates it", conditions=conditions)
    except StateError as error:
        return Examination(place, capabilities, error=error, conditions=conditions)


def _abilities(capabilities: Capabilities | None) -> list[tuple[str, Any]]:
    if capabilities is None:
        return []
    return [
        (name.replace("_", " "), {True: "yes", False: "no", None: "no limit"}.get(value, value))
        for name, value in asdict(capabilities).items()
    ]


def _version(distribution: str) -> str:
    try:
        return installed_version(distribution)
    except PackageNotFoundError:
        return "not installed"
