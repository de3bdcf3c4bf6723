"""Who measures a store: a program that has set up OpenTelemetry, a port that Prometheus reads, or nobody."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, Self

from statepath.backend import Backend
from statepath.errors import ConfigurationError
from statepath.telemetry import SILENT, Telemetry
from statepath.threads import in_thread

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

logger = logging.getLogger("statepath.metrics")

_API: Final = ("opentelemetry.metrics", "opentelemetry.trace")
_INSTALL: Final = "pip install 'statepath[prometheus]'"


def measured(backend: Backend, scheme: str, provider: MeterProvider | None = None) -> Telemetry:
    """The telemetry of a store on the backend of that scheme: to the provider, or to the one that the program has set
    before.

    Who has set one has imported the API. Where nobody has, it is not imported, and nothing is measured.
    """
    if provider is None and not any(module in sys.modules for module in _API):
        return SILENT
    from opentelemetry import metrics, trace

    used = metrics.get_meter_provider() if provider is None else provider
    if not _records(used) and not _records(trace.get_tracer_provider()):
        return SILENT
    if "explicit_bucket_boundaries_advisory" not in signature(metrics.Meter.create_histogram).parameters:
        logger.warning(
            "nothing is measured: opentelemetry-api is too old; pip install 'statepath[telemetry]'"
        )
        return SILENT
    from statepath.instruments import OpenTelemetry, instruments

    return OpenTelemetry(instruments(used), url=backend.url, backend=scheme)


def _records(provider: object) -> bool:
    """Whether it is more than the API's own providers, which only hold the place of one that is set later."""
    return not type(provider).__module__.startswith(_API)


@dataclass(slots=True)
class _Server:
    """What serves one port, for so many stores. A child that was forked can only `leave` it."""

    close: Callable[[], object]
    leave: Callable[[], object]
    users: int = 0


class MetricsPort:
    """A port at which Prometheus reads the metrics of the process. Stores that name the same one share it.

    Attributes:
        provider: what the stores' metrics go to.
    """

    _lock = threading.Lock()
    _servers: Final[dict[tuple[str, int], _Server]] = {}
    _provider: Any = None
    _parents: Final[list[Any]] = []
    """The providers of the processes that this one was forked from, whose numbers are still read at any port."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        with self._lock:
            server = self._servers.get(self._place)
            if server is None:
                server = _serve(host, port)
                try:
                    while self._parents:
                        self._parents.pop().shutdown()
                    if MetricsPort._provider is None:
                        MetricsPort._provider = _provider()
                except BaseException:
                    server.close()
                    raise
                self._servers[self._place] = server
            server.users += 1
            self.provider: MeterProvider = MetricsPort._provider

    @classmethod
    async def take(cls, host: str, port: int) -> Self:
        """The port, in a thread. Who is cancelled meanwhile has not got it, however impatient."""
        taking = asyncio.create_task(in_thread(partial(cls, host, port)))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await asyncio.shield(cls._give_back(taking))
            raise

    @staticmethod
    async def _give_back(taking: asyncio.Task[MetricsPort]) -> None:
        await asyncio.wait([taking])
        if not taking.cancelled() and taking.exception() is None:
            await taking.result().aclose()

    @classmethod
    def leave_to_parent(cls) -> None:
        """The thread that serves is none of a forked child: its copy of a port would only keep that from being opened
        again. Nor are the numbers. What others' locks guard waits until a port is opened: here one may be held for
        ever."""
        for server in cls._servers.values():
            server.leave()
        cls._servers.clear()
        cls._lock = threading.Lock()
        if cls._provider is not None:
            cls._parents.append(cls._provider)
            cls._provider = None

    async def aclose(self) -> None:
        """Let the port go; the last one closes it."""
        await in_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            server = self._servers[self._place]
            server.users -= 1
            if server.users:
                return
            del self._servers[self._place]
            server.close()
            if not self._servers:
                MetricsPort._provider.shutdown()
                MetricsPort._provider = None


os.register_at_fork(after_in_child=MetricsPort.leave_to_parent)


def _serve(host: str, port: int) -> _Server:
    """Open the port."""
    try:
        import opentelemetry.exporter.prometheus  # noqa: F401 - better known now than when it is read
        from prometheus_client import start_http_server
    except ImportError:
        raise ConfigurationError(
            f"metrics_port needs packages that are not installed; install them with: {_INSTALL}"
        ) from None
    try:
        server, thread = start_http_server(port, host)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise ConfigurationError(
            f"metrics_port: {host}:{port} cannot be opened: {error.strerror or error}"
            + ("; another program has it: end that, or name another port" if taken else "")
        ) from None

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return _Server(close, server.socket.close)


def _provider() -> MeterProvider:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider

    return MeterProvider([PrometheusMetricReader()], shutdown_on_exit=False)


__all__ = ["MetricsPort", "measured"]
