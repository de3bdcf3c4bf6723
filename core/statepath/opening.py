"""Opening a store, and what is started beside it: alerts, metrics, a mirror."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from typing_extensions import Unpack

from statepath.arguments import wrong_kind
from statepath.debug import enable_debug
from statepath.discovery import Location, check_apart, connect
from statepath.engine.alerting import Alerts
from statepath.engine.engine import Engine
from statepath.engine.mirror import Mirror
from statepath.engine.opening import open_engine
from statepath.engine.primary import OpenPrimary
from statepath.errors import ConfigurationError, InvalidArgumentError, ReadOnlyError
from statepath.events import Event, Events
from statepath.measuring import MetricsPort, measured
from statepath.migrations import load_migrations
from statepath.schemes import check_scheme
from statepath.settings import Settings, SettingsArgs
from statepath.store import Store
from statepath.url import StateURL
from statepath.webhook import Webhook

logger = logging.getLogger("statepath.opening")

H = TypeVar("H", bound=AbstractAsyncContextManager[Any, None])


class Opening(Generic[H]):
    """What `open` returns: `async with` it, or `await` it for the same and close that yourself."""

    def __init__(self, opened: Callable[[], Awaitable[H]]) -> None:
        self._opened = opened
        self._handle: H | None = None

    def __await__(self) -> Generator[Any, None, H]:
        return self._opened().__await__()

    async def __aenter__(self) -> H:
        self._handle = await self._opened()
        return self._handle

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            await self._handle.__aexit__(kind, error, traceback)


def open(
    path: str | os.PathLike[str] | None = None,
    *,
    readonly: bool = False,
    settings: Settings | None = None,
    events: Events | None = None,
    **overrides: Unpack[SettingsArgs],
) -> Opening[Store]:
    """Open a store: `async with statepath.open() as store: …`.

    Parameters:
        path: a folder or a URL. Default: `STATE_PATH`, else `./coding-agent-state`.
        readonly: take no lock and write nothing; works beside a running server. A replica is always opened so.
        load (one of the overrides): with `load=False` the documents stay in the database, each is read when it is asked
             for, and what looks at all of them at once raises `UnsupportedError` (`not_loaded`).
        settings: instead of those from the environment and the configuration files; not together with overrides.
        events: the bus to tell events on, to hear those of opening, too. Several stores may share one.
        overrides: settings by name, such as `autosave=5`.

    With `DEBUG=persistence:*` in the environment, what happens is logged to stderr.

    Raises (when it is entered or awaited):
        ConfigurationError: a setting cannot be used, or no backend is found (`UnknownSchemeError`,
            `BackendNotInstalledError`, `DuplicateSchemeError`).
        StoreLockedError: another process has the store for itself; names it.
        NotFoundError: read-only, and there is no store.
        UnsupportedError: a newer program wrote the store (`newer_format`, `newer_schema`), or a migration is due and
            `migrate` is off (`migration_pending`); or with `load=False` the backend keeps no documents that can be
            read one by one (`no_documents`), or the store has to be recovered first (`needs_recovery`).
        MigrationError: a migration failed; nothing was changed.
    """

    async def opened() -> Store:
        enable_debug()
        if settings is not None and overrides:
            raise InvalidArgumentError(
                f"give either settings= or {', '.join(overrides)}: settings= would leave the latter without effect"
            )
        if settings is not None and not isinstance(settings, Settings):
            raise wrong_kind("settings=", "statepath.Settings", settings)
        if events is not None and not isinstance(events, Events):
            raise wrong_kind("events=", "statepath.Events", events)
        used = settings if settings is not None else Settings.load(path, **overrides)
        state_path = used.path if path is None else path
        if used.mirror is not None and not readonly:
            _check_mirror(state_path, used.mirror)
        migrations = load_migrations(used.migrations)
        bus = Events() if events is None else events
        own = Events()  # who listens to this store alone must not hear of another one that tells the same bus
        own.on(Event, bus.emit)
        async with AsyncExitStack() as beside:
            webhook = provider = None
            if used.alert_webhook is not None and not readonly:
                webhook = Webhook(used.alert_webhook, timeout=used.alert_timeout, events=own)
                beside.push_async_callback(webhook.aclose)
            if used.metrics_port is not None and not readonly:
                port = await MetricsPort.take(used.metrics_host, used.metrics_port)
                beside.push_async_callback(port.aclose)
                provider = port.provider

            async def engine_of(*, readonly: bool) -> Engine:
                backend = await connect(state_path, readonly=readonly, deadline=used.deadline)
                beside.push_async_callback(backend.close)
                if webhook is not None:
                    webhook.store = backend.url
                telemetry = measured(backend, StateURL.parse(os.fspath(state_path)).scheme, provider)
                engine = await open_engine(
                    backend, used, own, readonly=readonly, migrations=migrations, telemetry=telemetry
                )
                telemetry.watch(engine.vitals, own)
                beside.callback(telemetry.close)
                return engine

            try:
                engine = await engine_of(readonly=readonly)
            except ReadOnlyError as error:
                if error.code != "replica":
                    raise
                engine = await engine_of(readonly=True)
            if not engine.readonly:
                if used.compression is not None and not used.encrypted:
                    logger.warning(
                        "compression (STATE_COMPRESSION) has no effect: only what an encrypted store writes is "
                        "compressed, and no master key is set"
                    )
                beside.push_async_callback(Alerts(engine).aclose)
                if used.mirror is not None:
                    place = StateURL.parse(used.mirror).redacted()
                    mirror = Mirror(OpenPrimary(engine), place, partial(connect, used.mirror), used, own)
                    engine.attach(mirror)
                    mirror.start()
            location = Location.of(state_path)
            engine.beside.push_async_exit(beside.pop_all())
        return Store(engine, events=bus, owns_events=events is None, location=location)

    return Opening(opened)


def _check_mirror(state_path: str | os.PathLike[str], mirror: str) -> None:
    """
    Raises:
        ConfigurationError: no installed backend has its scheme; names the setting.
        InvalidArgumentError: as `check_apart`.
    """
    try:
        check_scheme(StateURL.parse(mirror).scheme)
    except ConfigurationError as error:
        error.args = (f"a setting cannot be used: mirror (STATE_MIRROR): {error}",)
        raise
    check_apart(state_path, mirror)


__all__ = ["Opening", "open"]
