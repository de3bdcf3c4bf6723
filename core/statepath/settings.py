"""The settings of a store: one model, filled from arguments, the environment and files.

Arguments win over environment variables (`STATE_…`), these over the `.env` of the working directory, this
over the file `statepath.toml` (or the one that `STATE_CONFIG` names), and that over the defaults.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeAlias, TypedDict
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import Unpack

from statepath import naming
from statepath.errors import ConfigurationError, InvalidArgumentError, StateError
from statepath.masterkey import check_private, parse_master_key
from statepath.schemes import check_scheme
from statepath.url import StateURL

__all__ = ["Setting", "Settings", "SettingsArgs", "describe", "setting_names"]

logger = logging.getLogger("statepath.settings")

PREFIX: Final = "STATE_"
CONFIG_VARIABLE: Final = "STATE_CONFIG"
CONFIG_FILE: Final = "statepath.toml"
ENV_FILE: Final = ".env"

_OF_BACKENDS: Final = ("STATE_S3_", "STATE_GCS_", "STATE_AZURE_", "STATE_POSTGRES_")
_MISSPELT: Final = 0.8
"""So alike a variable is to a setting that it cannot be another program's."""

_PATHS: Final = ("path", "mirror")
_MASTERS: Final = ("encryption_key_file", "encryption_key", "encryption_provider")

Kind: TypeAlias = Literal["argument", "environment", ".env", "file", "default"]


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


_UNITS: Final = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES: Final = {"": 1, "b": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("kmgt", 1)
    for unit, base in (("b", 1000), ("ib", 1024))
}
_QUANTITY: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_SWITCHED_OFF: Final = (
    "alert_webhook",
    "backup_age",
    "key_age",
    "log_age",
    "log_bytes",
    "metrics_port",
    "report_age",
    "report_bytes",
)
_LONGEST: Final = timedelta(days=36500)
_NO_DURATION: Final = 'this is no duration: write "30s", "15m", "24h", "7d", or a number of seconds'
_NO_SIZE: Final = 'this is no size: write "100MiB", "1GB", or a number of bytes'


def _seconds(value: object) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2].lower() in _UNITS:
        value = float(match[1]) * _UNITS[match[2].lower()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_NO_DURATION)  # noqa: TRY004 - pydantic collects ValueError only
    if not 0 <= value <= _LONGEST.total_seconds():
        raise ValueError("a duration is from 0 seconds to 100 years")
    return float(value)


def _duration(value: object) -> timedelta:
    return timedelta(seconds=_seconds(value))


def _bytes(value: object) -> int:
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2].lower() in _SIZES:
        value = int(Decimal(match[1]) * _SIZES[match[2].lower()])
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(_NO_SIZE)  # noqa: TRY004 - as above
    if value < 0:
        raise ValueError("a size is not negative")
    return value


def size(text: str) -> int:
    """The bytes that a text such as "100MiB" means.

    Raises:
        InvalidArgumentError: it means none.
    """
    try:
        return _bytes(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise InvalidArgumentError(f"{text!r}: {error}") from None


def duration(value: timedelta | str) -> timedelta:
    """The duration that a text such as "30d" means.

    Raises:
        InvalidArgumentError: it means none.
    """
    try:
        return _duration(value)
    except ValueError as error:
        raise InvalidArgumentError(f"{value!r}: {error}") from None


def _auto(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "auto" else value


def _none(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in ("none", "off", "false") else value


def _bytes_or_auto(value: object) -> int | None:
    value = _auto(value)
    return None if value is None else _bytes(value)


def _duration_or_auto(value: object) -> timedelta | None:
    value = _auto(value)
    return None if value is None else _duration(value)


def _off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "off" else value


def _duration_or_off(value: object) -> timedelta | None:
    value = _off(value)
    return None if value is None else _duration(value)


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("this is no number: write it in digits")  # noqa: TRY004 - as above
    return value


def _number_or_off(value: object) -> object:
    return _number(_off(value))


def _webhook(value: object) -> object:
    """A secret: what makes such a URL work is in its path or its query."""
    value = _off(value)
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text is None:
        return None
    if not isinstance(text, str) or _host(text) is None:
        raise ValueError('this is no address of a webhook: write "https://host/path"')
    return SecretStr(text)


def _host(url: str) -> str | None:
    """Where a URL of the web leads to, as it may be shown."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, url)):
        return None
    return f"{parts.scheme}://{parts.hostname}{port}"


def shown_webhook(url: SecretStr) -> str:
    """The address of a webhook without what is secret of it."""
    return f"{_host(url.get_secret_value())}/…"


def _bytes_or_off(value: object) -> int | None:
    value = _off(value)
    return None if value is None else _bytes(value)


def _names(value: object) -> object:
    return (
        tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    )


@dataclass(frozen=True, slots=True)
class ArchiveRule:
    """Which documents are archived by themselves: those of a collection that were not changed for so long, and whose
    fields have these values."""

    collection: str
    older_than: timedelta
    fields: tuple[tuple[str, Any], ...]

    @classmethod
    def parse(cls, text: str) -> ArchiveRule:
        """The rule that a text such as "tasks older_than=30d status=completed" says. A value is JSON, else a text."""
        collection, *conditions = text.split() or ("",)
        older_than: timedelta | None = None
        fields: list[tuple[str, Any]] = []
        for condition in conditions:
            name, equals, value = condition.partition("=")
            if not equals or not name:
                raise ValueError(
                    'a rule is a collection, older_than=…, and field=value: "tasks older_than=30d"'
                )
            if name == "older_than":
                older_than = _duration(value)
                continue
            try:
                fields.append((name, json.loads(value)))
            except ValueError:
                fields.append((name, value))
        if older_than is None:
            raise ValueError('a rule needs older_than: "tasks older_than=30d status=completed"')
        return cls(collection, older_than, tuple(fields))


def _parted(value: object) -> object:
    """The rules, each a text."""
    return (
        tuple(part.strip() for part in value.split(";") if part.strip()) if isinstance(value, str) else value
    )


def _rules(value: object) -> object:
    value = _parted(value)
    if isinstance(value, list | tuple):
        causes = []
        for place, rule in enumerate(value, 1):
            try:
                ArchiveRule.parse(str(rule))
            except ValueError as error:
                causes.append(f"rule {place}: {error}")
        if causes:
            raise ValueError("; ".join(causes))
    return value


def _text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Seconds: TypeAlias = Annotated[float, BeforeValidator(_seconds)]
Duration: TypeAlias = Annotated[timedelta, BeforeValidator(_duration)]
Size: TypeAlias = Annotated[int, BeforeValidator(_bytes)]
Number: TypeAlias = Annotated[int, BeforeValidator(_number)]


class Settings(BaseSettings):
    """How a store is kept. Each field is also the environment variable `STATE_<FIELD>`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    path: Annotated[str, BeforeValidator(_text)] = Field("./coding-agent-state", min_length=1)
    """The state path: a folder or a URL."""

    loads: bool = Field(True, alias="load")
    """Whether the documents are held in memory; if not, each is read where the backend keeps them."""

    autosave: Seconds = 30.0
    """Seconds between snapshots, where anything has changed; 0: none by time."""

    backups: Number = Field(10, ge=1)
    """How many earlier snapshots are kept."""

    views: Annotated[bool | None, BeforeValidator(_auto)] = None
    """Whether each document is also kept as a file; `None` (or "auto"): where people can open the files."""

    history: Duration = timedelta(hours=24)
    """How far back the log is kept, for `restore` and `history`."""

    history_bytes: Annotated[int | None, BeforeValidator(_bytes_or_auto)] = None
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

    migrations: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """Modules (`package.module`) or functions (`package.module:function`) that hold migrations."""

    migrate: bool = True
    """Whether migrations that are due are done when the store is opened for writing."""

    archive: Annotated[tuple[str, ...], BeforeValidator(_rules)] = ()
    """What leaves the live state by itself, a rule each: "tasks older_than=30d status=completed"."""

    log_age: Annotated[timedelta | None, BeforeValidator(_duration_or_off)] = None
    """How long session logs are kept that nothing is appended to; `None` (or "off"): for ever."""

    log_bytes: Annotated[int | None, BeforeValidator(_bytes_or_off)] = None
    """The most bytes of session logs to keep: the longest untouched are removed; `None` (or "off"): no bound."""

    report_age: Annotated[timedelta | None, BeforeValidator(_duration_or_off)] = None
    """How long reports are kept that are not written again; `None` (or "off"): for ever."""

    report_bytes: Annotated[int | None, BeforeValidator(_bytes_or_off)] = None
    """The most bytes of reports to keep: the longest unwritten are removed; `None` (or "off"): no bound."""

    encryption_key_file: Annotated[str | None, BeforeValidator(_text)] = Field(None, min_length=1)
    """The file that holds the master key, and makes the store an encrypted one."""

    encryption_key: SecretStr | None = Field(None, min_length=1)
    """The master key itself: 32 bytes in base64 or hexadecimal digits."""

    encryption_provider: str | None = Field(None, min_length=1, repr=False)
    """What keeps the master key: the name of an installed provider, a colon, and what that wants to know."""

    compression: Annotated[Literal["zstd"] | None, BeforeValidator(_none)] = None
    """How what an encrypted store writes is compressed before; `None` (or "none"): not at all."""

    @property
    def encrypted(self) -> bool:
        """Whether a master key is configured."""
        return any(getattr(self, name) is not None for name in _MASTERS)

    @property
    def plain(self) -> Settings:
        """The same without a master key."""
        return self.with_master(None)

    def with_master(self, file: str | None) -> Settings:
        """The same with the master key in that file, and no other one."""
        return self.model_copy(update={**dict.fromkeys(_MASTERS), "encryption_key_file": file})

    @property
    def quiet(self) -> Settings:
        """The same for a command beside a server: nobody is alerted, and no metrics are served."""
        return self.model_copy(update={"alert_webhook": None, "metrics_port": None})

    mirror: Annotated[str | None, BeforeValidator(_text)] = Field(None, min_length=1)
    """The state path of a replica, to which whoever has the store open for writing ships each commit."""

    mirror_lag: Duration = timedelta(seconds=10)
    """By how much the replica may be behind before `mirror:lagging` is told."""

    save_late: Annotated[timedelta | None, BeforeValidator(_duration_or_auto)] = Field(None, gt=timedelta(0))
    """How long a change may wait for a snapshot until `health` says `fail`; `None` (or "auto"): four times
    `snapshot_age`."""

    backup_age: Annotated[timedelta | None, BeforeValidator(_duration_or_off)] = Field(None, gt=timedelta(0))
    """How old the newest backup may be; `None` (or "off"): of any age, since an unchanged store makes none."""

    key_age: Annotated[timedelta | None, BeforeValidator(_duration_or_off)] = Field(None, gt=timedelta(0))
    """How old the key that an encrypted store seals with may be; `None` (or "off"): of any age."""

    journal_lag: Annotated[int | None, BeforeValidator(_bytes_or_auto)] = Field(None, ge=1)
    """The most bytes of commits behind the snapshot; `None` (or "auto"): four times the snapshot, at least 4 GiB."""

    view_lag: Number = Field(100_000, ge=1)
    """The most files that may be behind the log."""

    health_timeout: Seconds = Field(5.0, gt=0)
    """Seconds in which the storage has to answer `health`."""

    alert_interval: Seconds = Field(30.0, gt=0)
    """Seconds between two looks at what raises alerts."""

    alert_webhook: Annotated[SecretStr | None, BeforeValidator(_webhook)] = None
    """The address that alerts are sent to, as JSON; `None` (or "off"): none."""

    alert_timeout: Seconds = Field(10.0, gt=0)
    """Seconds that one attempt to reach the webhook may take."""

    metrics_port: Annotated[int | None, BeforeValidator(_number_or_off)] = Field(None, ge=1, le=65535)
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
        arguments = _arguments(path, overrides)
        settings, faults = _read(arguments)
        if faults:
            raise _refusal(faults, _layers(arguments))
        for name in _without_effect(_read_env_file()):
            _warn(
                f"{name} in {ENV_FILE} has no effect: what a backend reads has to be in the environment itself, "
                "or in the state path"
            )
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
        return init_settings, *(_Source(settings_cls, layer.values) for layer in _layers({})[1:])

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            yield name, (_shown(name, value) if name in _PATHS else value)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it may be shown.

    Attributes:
        name: the field, and `variable` its environment variable.
        value: as it would be written in a file, `None` for "auto". A state path has no credentials here.
        origin: what kind of source won.
        source: the variable or the file that won, where it is one.
    """

    name: str
    variable: str
    value: str | int | float | bool | None
    origin: Kind
    source: str | None = None


def describe(
    path: str | os.PathLike[str] | None = None, **overrides: Unpack[SettingsArgs]
) -> tuple[Setting, ...]:
    """Every setting with its value and where that comes from, also where no store can be opened with them: a state path
    that leads nowhere is shown.

    Parameters: as `Settings.load`.

    Raises:
        ConfigurationError: a value is not of its setting's kind; names all that is wrong.
    """
    arguments = _arguments(path, overrides)
    layers = _layers(arguments)
    settings, _ = _read(arguments)
    lines = []
    for name, field in setting_names().items():
        layer = next((layer for layer in layers if name in layer.values), None)
        lines.append(
            Setting(
                name=name,
                variable=PREFIX + name.upper(),
                value=_shown(name, getattr(settings, field)),
                origin="default" if layer is None else layer.kind,
                source=None if layer is None else layer.name(name),
            )
        )
    return tuple(lines)


def setting_names() -> dict[str, str]:
    """The name of each setting, and the field that holds it: `load` is a method already."""
    return {field.alias or name: name for name, field in Settings.model_fields.items()}


@dataclass(frozen=True, slots=True)
class _Layer:
    """The values of one source."""

    kind: Kind
    values: Mapping[str, Any]
    file: str | None = None

    def name(self, field: str) -> str | None:
        """What to call the place of a value in a message."""
        if self.kind == "argument":
            return None
        return self.file if self.kind == "file" else PREFIX + field.upper()


class _Source(PydanticBaseSettingsSource):
    """A layer, as pydantic-settings wants it."""

    def __init__(self, settings_cls: type[BaseSettings], values: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._values = values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self._values)


def _layers(arguments: Mapping[str, Any]) -> tuple[_Layer, ...]:
    """The sources, the strongest first."""
    env_file = _read_env_file()
    config = os.environ.get(CONFIG_VARIABLE) or env_file.get(CONFIG_VARIABLE)
    file = config or CONFIG_FILE
    return (
        _Layer("argument", arguments),
        _Layer("environment", _fields(os.environ)),
        _Layer(".env", _fields(env_file) | _misspelt(env_file), ENV_FILE),
        _Layer("file", _read_toml(file, required=config is not None), file),
    )


def _fields(variables: Mapping[str, str | None]) -> dict[str, Any]:
    """The settings among the variables. An empty variable is one that is not set."""
    found = {name: variables.get(PREFIX + name.upper()) for name in setting_names()}
    return {name: value for name, value in found.items() if value}


def _misspelt(variables: Mapping[str, str | None]) -> dict[str, Any]:
    """What is meant to be a setting and is none. The environment may hold anybody's variables; a file of ours that is
    passed over in silence may leave a store without its key."""
    names = setting_names()
    return {
        field: value
        for variable, value in variables.items()
        if value and variable.startswith(PREFIX) and not variable.startswith(_OF_BACKENDS)
        if (field := variable.removeprefix(PREFIX).lower()) not in names
        if get_close_matches(field, names, n=1, cutoff=_MISSPELT)
    }


def _without_effect(variables: Mapping[str, str | None]) -> list[str]:
    """The variables of backends, which do not read this file; but for those that somebody has exported from it."""
    return [name for name in variables if name.startswith(_OF_BACKENDS) and name not in os.environ]


@cache
def _warn(message: str) -> None:
    """Say it once, however often the settings are read."""
    logger.warning(message)


def _read_env_file() -> dict[str, str | None]:
    if not os.path.isfile(ENV_FILE):
        return {}
    try:
        return dotenv_values(ENV_FILE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"{ENV_FILE} in {os.getcwd()} cannot be read: {_plain(error)}") from None


def _read_toml(file: str, *, required: bool) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        if required:
            raise ConfigurationError(
                f"{CONFIG_VARIABLE} names the file {file}, which does not exist"
            ) from None
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from None
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {_plain(error)}") from None


def _plain(error: OSError | UnicodeError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeError) else error.strerror or type(error).__name__


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with a setting, or with several together. Without the values: one of them may be a secret in the
    wrong place."""

    names: tuple[str, ...]
    error: StateError


def _arguments(path: str | os.PathLike[str] | None, overrides: SettingsArgs) -> dict[str, Any]:
    return {**overrides} if path is None else {**overrides, "path": path}


def _read(arguments: Mapping[str, Any]) -> tuple[Settings, list[_Fault]]:
    """The settings from all sources, and why no store can be opened with them.

    Raises:
        ConfigurationError: a value is not of its setting's kind; names all that is wrong.
    """
    layers = _layers(arguments)
    unfit = _unfit(layers)
    try:
        return Settings(**arguments), unfit
    except ValidationError as error:
        faults = list(_of_another_kind(error))
        told = {name for fault in faults for name in fault.names}
        faults += [fault for fault in unfit if told.isdisjoint(fault.names)]
        raise _refusal(faults, layers) from None


def _of_another_kind(error: ValidationError) -> Iterator[_Fault]:
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        field = str(problem["loc"][0])
        if problem["type"] == "extra_forbidden":
            near = get_close_matches(field, setting_names(), n=1)
            cause = "there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
        else:
            cause = problem["msg"].removeprefix("Value error, ")
        yield _Fault((field,), ConfigurationError(cause))


def _unfit(layers: tuple[_Layer, ...]) -> list[_Fault]:
    """What is wrong with values of the right kind, as far as it is known without a look at any storage or at a file
    that they name."""
    values = {name: value for layer in reversed(layers) for name, value in layer.values.items()}
    faults: list[_Fault] = []

    @contextmanager
    def about(name: str) -> Iterator[None]:
        try:
            yield
        except StateError as error:
            faults.append(_Fault((name,), error))

    for name in _PATHS:
        path = _text(values.get(name))
        if isinstance(path, str) and path:
            with about(name):
                url = StateURL.parse(path)
                if name == "path":  # a mirror is nothing to those who only read
                    check_scheme(url.scheme)
    masters = [name for name in _MASTERS if values.get(name) is not None]
    if len(masters) > 1:
        several = "a store has one master key: unset all but one"
        faults.append(_Fault(tuple(masters), ConfigurationError(several, code="bad_key")))
    key = values.get("encryption_key")
    if isinstance(key, SecretStr):
        key = key.get_secret_value()
    if isinstance(key, str) and key:
        with about("encryption_key"):
            parse_master_key(key, "it")
            _check_kept_private(layers)
    rules = _parted(values.get("archive"))
    collections = (
        [(str(rule).split() or [""])[0] for rule in rules] if isinstance(rules, list | tuple) else []
    )
    misnamed = [(place, naming.fault_of(name)) for place, name in enumerate(collections, 1) if name]
    if causes := [f"rule {place} begins with no collection: {cause}" for place, cause in misnamed if cause]:
        faults.append(_Fault(("archive",), ConfigurationError("; ".join(causes))))
    return faults


def _check_kept_private(layers: tuple[_Layer, ...]) -> None:
    """
    Raises:
        ConfigurationError: the master key stands in a file that is not only this program's (`bad_key`).
    """
    file = next(layer.file for layer in layers if "encryption_key" in layer.values)
    if file is not None:
        check_private(f"{file}, which holds the master key,", file, os.stat(file))


def _refusal(faults: list[_Fault], layers: tuple[_Layer, ...]) -> StateError:
    """One error for all that is wrong. What is wrong alone keeps its class and its code."""
    lines = [
        f"{' and '.join(_place(name, layers) for name in fault.names)}: {fault.error}" for fault in faults
    ]
    if len(faults) > 1:
        return ConfigurationError(
            f"{len(lines)} settings cannot be used:\n" + "\n".join(f"  {line}" for line in lines)
        )
    (fault,) = faults
    fault.error.args = (f"a setting cannot be used: {lines[0]}",)
    return fault.error


def _place(name: str, layers: tuple[_Layer, ...]) -> str:
    """The setting, and where its value comes from."""
    layer = next(layer for layer in layers if name in layer.values)
    source = layer.name(name)
    return f"{name} ({layer.kind})" if source is None else f"{name} ({layer.kind}: {source})"


def _shown(name: str, value: Any) -> Any:
    if name in _PATHS and value is not None:
        try:
            return StateURL.parse(value).redacted()
        except InvalidArgumentError:
            return "(not a state path)"
    if name == "encryption_provider" and value is not None:
        kind, colon, _ = value.partition(":")
        return f"{kind}:…" if colon else kind  # what a provider is told may be a URL with a password
    if isinstance(value, SecretStr):
        return shown_webhook(value) if name == "alert_webhook" else "(secret)"
    if value is None and name in _SWITCHED_OFF:
        return "off"
    if isinstance(value, timedelta):
        return _duration_text(value)
    if isinstance(value, tuple):
        return ("; " if name == "archive" else ", ").join(value)
    return value


def _duration_text(value: timedelta) -> str:
    seconds = value.total_seconds()
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:g}{unit}"
    return f"{seconds:g}s"
