"""The settings of a store: one model, with what each of them means, its unit, its bounds and its default.

`kinds` reads the values, `sources` has where they come from, `faults` what is wrong with them, and `masking` and
`describing` how they are shown.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypedDict

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import Unpack

from statepath.settings.archiverules import ArchiveRule
from statepath.settings.faults import Fault, of_another_kind, refusal, unfit
from statepath.settings.kinds import (
    MASTERS,
    NAMING,
    PATHS,
    Bool,
    BoolOrAuto,
    Compression,
    Duration,
    DurationOrAuto,
    DurationOrOff,
    KeyFile,
    Names,
    Number,
    NumberOrOff,
    PathText,
    PathTextOrOff,
    Rules,
    Seconds,
    Size,
    SizeOrAuto,
    SizeOrOff,
    WebhookOrOff,
)
from statepath.settings.masking import shown
from statepath.settings.sources import Layer, LayerSource, layers_over, values_of, warn_of_no_effect

__all__ = ["Settings", "SettingsArgs", "setting_names"]


class SettingsArgs(TypedDict, total=False):
    """The settings that `statepath.open` takes by name. Durations are seconds, `timedelta` or text such as
    "15m"; sizes are bytes or text such as "100MiB"."""

    load: bool
    autosave: float | str | timedelta
    backups: int
    views: bool | None
    history: float | str | timedelta
    history_bytes: int | str | None
    disk_low: int | str
    deadline: float | str | timedelta
    snapshot_age: float | str | timedelta
    view_interval: float | str | timedelta
    max_document: int | str
    migrations: str | tuple[str, ...]
    migrate: bool
    archive: str | tuple[str, ...]
    log_age: float | str | timedelta | None
    log_bytes: int | str | None
    report_age: float | str | timedelta | None
    report_bytes: int | str | None
    encryption_key_file: str | os.PathLike[str] | None
    encryption_key: str | SecretStr | None
    encryption_provider: str | None
    compression: str | None

    mirror: str | os.PathLike[str] | None
    mirror_lag: float | str | timedelta
    save_late: float | str | timedelta | None
    backup_age: float | str | timedelta | None
    key_age: float | str | timedelta | None
    journal_lag: int | str | None
    view_lag: int
    health_timeout: float | str | timedelta
    alert_interval: float | str | timedelta
    alert_webhook: str | SecretStr | None
    alert_timeout: float | str | timedelta
    metrics_port: int | str | None
    metrics_host: str


class Settings(BaseSettings):
    """How a store is kept. Each field is also the environment variable `STATE_<FIELD>`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    path: PathText = Field("./coding-agent-state", min_length=1)
    """The state path: a folder or a URL."""

    loads: Bool = Field(True, alias="load")
    """Whether the documents are held in memory; if not, each is read where the backend keeps them."""

    autosave: Seconds = 30.0
    """Seconds between snapshots, where anything has changed; 0: none by time."""

    backups: Number = Field(10, ge=1)
    """How many earlier snapshots are kept."""

    views: BoolOrAuto = None
    """Whether each document is also kept as a file; `None` (or "auto"): where people can open the files."""

    history: Duration = timedelta(hours=24)
    """How far back the log is kept, for `restore` and `history`."""

    history_bytes: SizeOrAuto = None
    """The most bytes of log to keep; `None` (or "auto"): four times the snapshot, at least 1 GiB."""

    disk_low: Size = 100 * 1024 * 1024
    """Bytes of free space below which `disk:low` is told."""

    deadline: Seconds = Field(30.0, gt=0)
    """Seconds to find out whether a commit of unknown outcome is durable, before `OutcomeUnknownError`."""

    snapshot_age: Duration = Field(timedelta(minutes=15), gt=timedelta(0))
    """The longest that changes wait for a snapshot, however few they are."""

    view_interval: Seconds = 0.2
    """Seconds between two rounds of writing views."""

    max_document: Size = Field(64 * 1024 * 1024, ge=1024)
    """The most bytes of one document."""

    migrations: Names = ()
    """Modules (`package.module`) or functions (`package.module:function`) that hold migrations."""

    migrate: Bool = True
    """Whether migrations that are due are done when the store is opened for writing."""

    archive: Rules = ()
    """What leaves the live state by itself, a rule each: "tasks older_than=30d status=completed"."""

    log_age: DurationOrOff = None
    """How long session logs are kept that nothing is appended to; `None` (or "off"): for ever."""

    log_bytes: SizeOrOff = None
    """The most bytes of session logs to keep: the longest untouched are removed; `None` (or "off"): no bound."""

    report_age: DurationOrOff = None
    """How long reports are kept that are not written again; `None` (or "off"): for ever."""

    report_bytes: SizeOrOff = None
    """The most bytes of reports to keep: the longest unwritten are removed; `None` (or "off"): no bound."""

    encryption_key_file: KeyFile = Field(None, min_length=1)
    """The file that holds the master key, and makes the store an encrypted one."""

    encryption_key: SecretStr | None = Field(None, min_length=1)
    """The master key itself: 32 bytes in base64 or hexadecimal digits."""

    encryption_provider: str | None = Field(None, min_length=1, repr=False)
    """What keeps the master key: the name of an installed provider, a colon, and what that wants to know."""

    compression: Compression = None
    """How what an encrypted store writes is compressed before; `None` (or "none"): not at all."""

    @property
    def encrypted(self) -> bool:
        """Whether a master key is configured."""
        return any(getattr(self, name) is not None for name in MASTERS)

    @property
    def plain(self) -> Settings:
        """The same without a master key."""
        return self.with_master(None)

    def with_master(self, file: str | None) -> Settings:
        """The same with the master key in that file, and no other one."""
        return self.model_copy(update={**dict.fromkeys(MASTERS), "encryption_key_file": file})

    @property
    def quiet(self) -> Settings:
        """The same for a command beside a server: nobody is alerted, and no metrics are served."""
        return self.model_copy(update={"alert_webhook": None, "metrics_port": None})

    mirror: PathTextOrOff = Field(None, min_length=1)
    """The state path of a replica, to which whoever has the store open for writing ships each commit; `None` (or
    "off"): none."""

    mirror_lag: Duration = timedelta(seconds=10)
    """By how much the replica may be behind before `mirror:lagging` is told."""

    save_late: DurationOrAuto = Field(None, gt=timedelta(0))
    """How long a change may wait for a snapshot until `health` says `fail`; `None` (or "auto"): four times
    `snapshot_age`."""

    backup_age: DurationOrOff = Field(None, gt=timedelta(0))
    """How old the newest backup may be; `None` (or "off"): of any age, since an unchanged store makes none."""

    key_age: DurationOrOff = Field(None, gt=timedelta(0))
    """How old the key that an encrypted store seals with may be; `None` (or "off"): of any age."""

    journal_lag: SizeOrAuto = Field(None, ge=1)
    """The most bytes of commits behind the snapshot; `None` (or "auto"): four times the snapshot, at least 4 GiB."""

    view_lag: Number = Field(100_000, ge=1)
    """The most files that may be behind the log."""

    health_timeout: Seconds = Field(5.0, gt=0)
    """Seconds in which the storage has to answer `health`."""

    alert_interval: Seconds = Field(30.0, gt=0)
    """Seconds between two looks at what raises alerts."""

    alert_webhook: WebhookOrOff = None
    """The address that alerts are sent to, as JSON; `None` (or "off"): none."""

    alert_timeout: Seconds = Field(10.0, gt=0)
    """Seconds that one attempt to reach the webhook may take."""

    metrics_port: NumberOrOff = Field(None, ge=1, le=65535)
    """The port at which Prometheus may read the metrics of this process; `None` (or "off"): none."""

    metrics_host: str = Field("127.0.0.1", min_length=1)
    """The address that this port is opened on."""

    @property
    def archive_rules(self) -> tuple[ArchiveRule, ...]:
        """The rules of `archive`, parsed."""
        return tuple(ArchiveRule.parse(text) for text in self.archive)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, **overrides: Unpack[SettingsArgs]) -> Settings:
        """The settings from all sources; what is passed here wins.

        Raises:
            ConfigurationError: names every setting that cannot be used, where it comes from, and why; never
            its value. What is wrong with one setting alone has its own class and code: `InvalidArgumentError` (a state
            path is malformed), `UnknownSchemeError`, `BackendNotInstalledError`.
        """
        settings, faults, layers = read(path, overrides)
        if faults:
            raise refusal(faults, layers)
        warn_of_no_effect(setting_names())
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources in the order of the design, in place of pydantic's own."""
        layers = layers_over({}, setting_names())
        return init_settings, *(LayerSource(settings_cls, layer) for layer in layers[1:])

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            yield name, (shown(name, value) if name in (*PATHS, *NAMING) else value)


def read(
    path: str | os.PathLike[str] | None, overrides: SettingsArgs
) -> tuple[Settings, list[Fault], tuple[Layer, ...]]:
    """The settings from all sources, why no store can be opened with them, and the sources.

    Raises:
        ConfigurationError: a value is not of its setting's kind; names all that is wrong.
    """
    arguments: dict[str, Any] = {**overrides} if path is None else {**overrides, "path": path}
    layers = layers_over(arguments, setting_names())
    unusable = unfit(layers)
    try:
        return _of(layers), unusable, layers
    except ValidationError as error:
        faults = list(of_another_kind(error, setting_names()))
        told = {name for fault in faults for name in fault.names}
        faults += [fault for fault in unusable if told.isdisjoint(fault.names)]
        raise refusal(faults, layers) from None


def _of(layers: tuple[Layer, ...]) -> Settings:
    """The settings that these say. `Settings()` would read all of them again, which takes as long as to open a small
    store, and might find others than were checked."""
    settings = Settings.__new__(Settings)
    BaseModel.__init__(settings, **values_of(layers))
    return settings


def setting_names() -> dict[str, str]:
    """The name of each setting, and the field that holds it: `load` is a method already."""
    return {field.alias or name: name for name, field in Settings.model_fields.items()}
