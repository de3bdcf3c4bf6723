from __future__ import annotations

import re
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import SecretStr, ValidationError
from statepath.discovery import backends, resolve
from statepath.errors import ConfigurationError, InvalidArgumentError, StateError, UnknownSchemeError
from statepath.quantities import duration
from statepath.settings import Settings, SettingsArgs, setting_names, sources
from statepath.settings.describing import describe
from statepath_azure import config as azure
from statepath_gcs import config as gcs
from statepath_postgres import connections as postgres
from statepath_s3 import config as s3

MiB = 1024 * 1024
KEY = "hunter2A" * 5 + "aaa="
"""A master key of 32 bytes."""
INSTALLED = ", ".join(sorted({info.scheme for info in backends()}))
PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def part(title: str) -> str:
    """What stands under a title of the page."""
    (text,) = re.findall(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(text)


def page_of(backend: str) -> str:
    return (PAGE.parent / f"{backend.lower()}.md").read_text()


def refused(*lines: str) -> Any:
    return pytest.raises(ConfigurationError, match=".*".join(re.escape(line) for line in lines))


def origin(name: str, **arguments: Any) -> tuple[object, ...]:
    (setting,) = (setting for setting in describe(**arguments) if setting.name == name)
    return setting.value, setting.origin, setting.source


def test_the_defaults_are_those_of_the_manual() -> None:
    settings = Settings.load()
    assert settings.path == "./coding-agent-state"
    assert settings.loads is True
    assert settings.autosave == 30
    assert settings.backups == 10
    assert settings.views is None
    assert settings.history == timedelta(hours=24)
    assert settings.history_bytes is None
    assert settings.disk_low == 100 * MiB
    assert settings.deadline == 30
    assert settings.snapshot_age == timedelta(minutes=15)
    assert settings.view_interval == 0.2
    assert settings.max_document == 64 * MiB
    assert settings.migrations == ()
    assert settings.migrate is True
    assert settings.archive == ()
    assert (settings.log_age, settings.log_bytes) == (None, None)
    assert (settings.report_age, settings.report_bytes) == (None, None)
    assert settings.encryption_key_file is settings.encryption_key is settings.encryption_provider is None
    assert settings.compression is None
    assert settings.mirror is None
    assert settings.mirror_lag == timedelta(seconds=10)
    assert (settings.save_late, settings.backup_age, settings.journal_lag) == (None, None, None)
    assert settings.key_age is None
    assert (settings.view_lag, settings.health_timeout) == (100_000, 5)
    assert (settings.alert_interval, settings.alert_webhook, settings.alert_timeout) == (30, None, 10)
    assert (settings.metrics_port, settings.metrics_host) == (None, "127.0.0.1")


UNITS = {
    "path": "text",
    "views": "true or false",
    "load": "true or false",
    "migrations": "names",
    "migrate": "true or false",
    "archive": "rules",
    "encryption_key_file": "text",
    "encryption_key": "text",
    "encryption_provider": "text",
    "compression": "text",
    "mirror": "text",
    "alert_webhook": "URL",
    "metrics_host": "text",
}
"""The units of what is no quantity."""


def _unit(name: str) -> str:
    if name in UNITS:
        return UNITS[name]
    for unit, given in (("duration", "1h"), ("size", "1KiB")):
        try:
            Settings.load(**{name: given})  # type: ignore[arg-type]  # one of the names
        except ConfigurationError:
            continue
        return unit
    return "number"


def test_the_page_lists_every_setting_with_its_default_and_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = re.findall(
        r"^\| `STATE_(\w+)` \| (?:`(.*?)` )?\| ([\w ]+) \| [^|]+ \|$", part("Settings"), re.MULTILINE
    )
    *listed, config = rows
    assert config[:2] == ("CONFIG", "statepath.toml")
    assert [name.lower() for name, _, _ in listed] == list(setting_names())
    for name, default, unit in listed:
        assert unit == _unit(name.lower()), name
        monkeypatch.setenv(f"STATE_{name}", default)
    assert Settings.load() == Settings.model_construct()


class Asked(dict[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}

    def get(self, name: str, default: Any = None) -> Any:
        self.names[name] = None
        return default

    def __contains__(self, name: object) -> bool:
        self.names[str(name)] = None
        return False


BACKENDS = {
    "S3": ("s3://bucket/x", s3.DEFAULT_TIMEOUT),
    "GCS": ("gs://bucket/x", gcs.DEFAULT_TIMEOUT),
    "AZURE": ("az://container/x?account_name=acc", azure.DEFAULT_TIMEOUT),
    "POSTGRES": ("postgresql://host/x", postgres.TIMEOUT),
}
"""A state path for each backend that reads variables of its own, and its timeout."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("page", ["configuration", "own"])
def test_the_pages_list_every_variable_that_a_backend_reads(backend: str, page: str) -> None:
    env = Asked()
    resolve(BACKENDS[backend][0].partition("?")[0], env)
    asked = {name for name in env.names if name.startswith("STATE_")}
    text = part("What backends read") if page == "configuration" else page_of(backend)
    listed = re.findall(rf"^\| .*?`(STATE_{backend}_\w+)`", text, re.MULTILINE)
    assert len(listed) == len(set(listed)) == len(asked)
    assert set(listed) == asked


def test_the_page_lists_the_defaults_of_the_backends() -> None:
    rows = re.findall(
        r"^\| `STATE_(\w+)` \| (?:`(.*?)` )?\| ([\w ]+) \| [^|]+ \|$",
        part("What backends read"),
        re.MULTILINE,
    )
    listed = {name: (default, unit) for name, default, unit in rows}
    for backend, (_, timeout) in BACKENDS.items():
        assert listed.pop(f"{backend}_TIMEOUT") == (f"{timeout:g}", "seconds")
    assert listed.pop("POSTGRES_POOL") == (str(postgres.POOL), "number")
    assert listed.pop("POSTGRES_STATEMENT_TIMEOUT") == (f"{postgres.STATEMENT_TIMEOUT:g}", "seconds")
    assert listed.pop("POSTGRES_LOCK_TIMEOUT") == (f"{postgres.LOCK_TIMEOUT:g}", "seconds")
    assert set(listed.values()) == {("", "text"), ("", "URL"), ("false", "true or false")}


def test_the_page_has_a_state_path_for_every_backend_of_ours() -> None:
    ours = {info.scheme for info in backends() if not info.distribution.startswith("statepath-sqlite")}
    assert ours <= set(re.findall(r"`(\w+)://", part("The state path")))


def test_every_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "path": "s3://bucket/agents",
        "load": "no",
        "autosave": "10s",
        "backups": "3",
        "views": "off",
        "history": "7d",
        "history_bytes": "2GiB",
        "disk_low": "1GB",
        "deadline": "1m",
        "snapshot_age": "600",
        "view_interval": "50ms",
        "max_document": "1.5 KiB",
        "migrations": "mine.first, mine.second:function",
        "migrate": "no",
        "archive": "tasks older_than=30d; sessions older_than=1w",
        "log_age": "90d",
        "log_bytes": "10GiB",
        "report_age": "1w",
        "report_bytes": "1GiB",
        "encryption_key_file": "/run/secrets/key",
        "compression": "zstd",
        "mirror": "s3://elsewhere/agents",
        "mirror_lag": "1m",
        "save_late": "2h",
        "backup_age": "1d",
        "key_age": "90d",
        "journal_lag": "8GiB",
        "view_lag": "5000",
        "health_timeout": "2s",
        "alert_interval": "1m",
        "alert_webhook": "https://hooks.example/T0/s3cret",
        "alert_timeout": "3",
        "metrics_port": "9464",
        "metrics_host": "0.0.0.0",  # noqa: S104 - what a container sets
    }
    for name, text in texts.items():
        monkeypatch.setenv(f"STATE_{name.upper()}", text)
    assert Settings.load().model_dump() == {
        "path": "s3://bucket/agents",
        "loads": False,
        "autosave": 10.0,
        "backups": 3,
        "views": False,
        "history": timedelta(days=7),
        "history_bytes": 2048 * MiB,
        "disk_low": 10**9,
        "deadline": 60.0,
        "snapshot_age": timedelta(minutes=10),
        "view_interval": 0.05,
        "max_document": 1536,
        "migrations": ("mine.first", "mine.second:function"),
        "migrate": False,
        "archive": ("tasks older_than=30d", "sessions older_than=1w"),
        "log_age": timedelta(days=90),
        "log_bytes": 10 * 1024 * MiB,
        "report_age": timedelta(weeks=1),
        "report_bytes": 1024 * MiB,
        "encryption_key_file": "/run/secrets/key",
        "encryption_key": None,
        "encryption_provider": None,
        "compression": "zstd",
        "mirror": "s3://elsewhere/agents",
        "mirror_lag": timedelta(minutes=1),
        "save_late": timedelta(hours=2),
        "backup_age": timedelta(days=1),
        "key_age": timedelta(days=90),
        "journal_lag": 8192 * MiB,
        "view_lag": 5000,
        "health_timeout": 2.0,
        "alert_interval": 60.0,
        "alert_webhook": SecretStr("https://hooks.example/T0/s3cret"),
        "alert_timeout": 3.0,
        "metrics_port": 9464,
        "metrics_host": "0.0.0.0",  # noqa: S104 - what a container sets
    }


def test_a_master_key_may_come_from_the_environment_or_from_a_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATE_ENCRYPTION_KEY", KEY)
    assert Settings.load().encryption_key == SecretStr(KEY)
    monkeypatch.delenv("STATE_ENCRYPTION_KEY")
    monkeypatch.setenv("STATE_ENCRYPTION_PROVIDER", "kms:alias/agents")
    assert Settings.load().encryption_provider == "kms:alias/agents"


def test_arguments_win_over_the_environment_over_the_env_file_over_the_file_over_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("statepath.toml").write_text("backups = 2\nautosave = 2\ndeadline = 2\nview_interval = 2\n")
    Path(".env").write_text("STATE_BACKUPS=3\nSTATE_AUTOSAVE=3\nSTATE_DEADLINE=3\n")
    monkeypatch.setenv("STATE_BACKUPS", "4")
    monkeypatch.setenv("STATE_AUTOSAVE", "4")
    settings = Settings.load(backups=5)
    assert (settings.backups, settings.autosave, settings.deadline, settings.view_interval) == (5, 4, 3, 2)


def test_each_value_tells_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("statepath.toml").write_text('history = "48h"\n')
    Path(".env").write_text("STATE_AUTOSAVE=3\n")
    monkeypatch.setenv("STATE_DISK_LOW", "1MiB")
    assert origin("backups", backups=5) == (5, "argument", None)
    assert origin("disk_low") == (MiB, "environment", "STATE_DISK_LOW")
    assert origin("autosave") == (3.0, ".env", "STATE_AUTOSAVE")
    assert origin("history") == ("2d", "file", "statepath.toml")
    assert origin("snapshot_age") == ("15m", "default", None)
    assert origin("path", path="memory://x") == ("memory://x", "argument", None)
    assert [setting.name for setting in describe()] == list(setting_names())


@pytest.mark.parametrize("value", [timedelta(days=-1), timedelta(days=36501), timedelta.max, "36501d", -1])
@pytest.mark.parametrize("name", ["log_age", "deadline"])
def test_a_duration_is_bounded_whatever_it_is_given_as(name: str, value: object) -> None:
    with refused(f"{name} (argument): a duration is from 0 seconds to 100 years"):
        Settings.load(**{name: value})
    with pytest.raises(InvalidArgumentError, match="a duration is from 0 seconds to 100 years"):
        duration(value)  # type: ignore[arg-type]  # callers without types may give a number


def test_the_longest_duration_is_one() -> None:
    for value in (timedelta(days=36500), "36500d"):
        assert Settings.load(log_age=value).log_age == timedelta(days=36500)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_PATH", "")
    Path(".env").write_text("STATE_PATH=/srv/state\n")
    assert Settings.load().path == "/srv/state"


def test_unknown_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_OF_THE_UNION", "1")
    Path(".env").write_text("STATE_OF_MIND=1\nOTHER=2\nexport STATE_BACKUPS=3\n")
    assert Settings.load().backups == 3


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("STATE_ENCRYPTION_KEYFILE", "encryption_key_file"),
        ("STATE_HISTROY", "history"),
        ("STATE_BACKUP", "backups"),
    ],
)
def test_a_misspelt_variable_in_the_env_file_is_an_error(variable: str, meant: str) -> None:
    Path(".env").write_text(f"{variable}=hunter2\n")
    field = variable.removeprefix("STATE_").lower()
    with refused(f"{field} (.env: {variable}): there is no such setting; did you mean {meant}?") as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)
    with refused(variable):
        describe()


@pytest.mark.parametrize(
    "text",
    [
        'STATE_ENCRYPTION_KEY_FILE="/etc/hunter2\nOTHER=1\n',
        "OTHER='open\nSTATE_ENCRYPTION_KEY_FILE=/etc/hunter2\nLAST='end'\n",
        "STATE_ENCRYPTION_KEY_FILE: /etc/hunter2\n",
    ],
    ids=["no end", "within another's", "a colon"],
)
def test_a_setting_in_the_env_file_that_cannot_be_read_is_an_error(text: str) -> None:
    Path(".env").write_text(f"STATE_BACKUPS=3\n{text}")
    with refused(".env in", "what begins in line 2 holds settings", "close its quotes") as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)


def test_what_other_programs_write_into_the_env_file_is_let_alone() -> None:
    Path(".env").write_text("not a variable\nAPP_STATE_DIR: /x\nSTATE_BACKUPS=3\n")
    assert Settings.load().backups == 3


def test_the_file_may_begin_with_a_byte_order_mark() -> None:
    Path("statepath.toml").write_bytes(b"\xef\xbb\xbfbackups = 3\r\nautosave = 5\r\n")
    assert (Settings.load().backups, Settings.load().autosave) == (3, 5)


def test_an_env_file_may_begin_with_a_byte_order_mark() -> None:
    Path(".env").write_bytes(b"\xef\xbb\xbfSTATE_BACKUPS=3\n")
    assert Settings.load().backups == 3


@pytest.mark.parametrize("variable", ["state_encryption_key_file", "State_Path", "state_config"])
def test_a_setting_in_small_letters_in_the_env_file_is_an_error(variable: str) -> None:
    Path(".env").write_text(f"{variable}=hunter2\n")
    with pytest.raises(
        ConfigurationError, match=f"{variable} in .env .* write {variable.upper()}, in capital"
    ) as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)


def test_an_empty_variable_in_small_letters_is_not_set() -> None:
    Path(".env").write_text("state_path=\nstate_backups\nSTATE_BACKUPS=3\n")
    assert Settings.load().backups == 3


def test_a_misspelt_variable_of_the_environment_may_be_anybody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_HISTROY", "7d")
    assert Settings.load().history == timedelta(hours=24)


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, as a program that has just begun has it."""
    monkeypatch.setattr(sources, "_warn", cache(sources._warn.__wrapped__))
    return caplog


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_s_variable_in_the_env_file_is_told_once_to_have_no_effect(
    backend: str, warned: pytest.LogCaptureFixture
) -> None:
    Path(".env").write_text(f"STATE_{backend}_TIMEOUT=20\n")
    Settings.load()
    Settings.load()
    (line,) = warned.messages
    assert line.startswith(f"STATE_{backend}_TIMEOUT in .env has no effect")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("STATE_ENCRYPTION_KEYFILE", "STATE_ENCRYPTION_KEY_FILE"),
        ("STATE_ENCRYPTION_KEYS", "STATE_ENCRYPTION_KEY"),
        ("STATE_ENCRPYTION_KEY", "STATE_ENCRYPTION_KEY"),
    ],
)
def test_a_misspelt_master_key_of_the_environment_is_told_once_to_have_no_effect(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(variable, "hunter2")
    monkeypatch.setenv("STATE_HISTROY", "7d")  # may be anybody's
    Settings.load()
    Settings.load()
    assert warned.messages == [f"{variable} in the environment has no effect; did you mean {meant}?"]


def test_one_that_was_exported_from_the_env_file_has_its_effect(
    monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    Path(".env").write_text("STATE_S3_TIMEOUT=20\n")
    monkeypatch.setenv("STATE_S3_TIMEOUT", "20")
    Settings.load()
    assert warned.messages == []


@pytest.mark.parametrize(
    ("file", "line"),
    [("statepath.toml", f'encryption_key = "{KEY}"\n'), (".env", f"STATE_ENCRYPTION_KEY={KEY}\n")],
)
def test_a_file_with_the_master_key_is_its_owner_s_alone(file: str, line: str) -> None:
    Path(file).write_text(line)
    Path(file).chmod(0o644)
    with refused(
        f"{file}, which holds the master key, is open to other users (mode 0644)", f"chmod 600 {file}"
    ) as caught:
        Settings.load()
    assert caught.value.code == "bad_key"
    Path(file).chmod(0o600)
    assert Settings.load().encryption_key == SecretStr(KEY)


def test_a_file_whose_master_key_is_not_used_may_be_open() -> None:
    Path("statepath.toml").write_text(f'encryption_key = "{KEY}"\n')
    Path("statepath.toml").chmod(0o644)
    other = "hunter2B" * 5 + "aaa="
    assert Settings.load(encryption_key=other).encryption_key == SecretStr(other)


def test_the_file_is_the_one_that_state_config_names(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("statepath.toml").write_text("backups = 1\n")
    Path("other.toml").write_text("backups = 2\n")
    monkeypatch.setenv("STATE_CONFIG", "other.toml")
    assert origin("backups") == (2, "file", "other.toml")


def test_the_env_file_may_name_the_file() -> None:
    Path(".env").write_text("STATE_CONFIG=other.toml\n")
    Path("other.toml").write_text("backups = 2\n")
    assert Settings.load().backups == 2


def test_a_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_CONFIG", "gone.toml")
    with refused("STATE_CONFIG names the file gone.toml, which does not exist"):
        Settings.load()


def test_unknown_keys_in_the_file_are_errors() -> None:
    Path("statepath.toml").write_text("backup = 3\nnonsense = 1\n")
    with refused("backup (file: statepath.toml): there is no such setting; did you mean backups?"):
        Settings.load()


def test_unknown_arguments_are_errors() -> None:
    with refused("histroy (argument): there is no such setting; did you mean history?"):
        Settings.load(histroy="1h")  # type: ignore[call-arg]  # the mistake


@pytest.mark.parametrize("name", ["AUTOSAVE", "_secrets_dir"])
def test_what_the_library_below_would_take_is_no_setting(name: str) -> None:
    with refused(f"{name} (argument): there is no such setting"):
        Settings.load(**{name: "5"})  # type: ignore[arg-type]  # it is none


def test_the_settings_are_those_that_were_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("statepath.toml").write_text("backups = 1\n")
    looks = iter([sources.layers_over({}, setting_names())])
    Path("statepath.toml").write_text("backups = 2\n")  # after the only look at it
    monkeypatch.setattr("statepath.settings.layers_over", lambda *_: next(looks))
    assert Settings.load().backups == 1


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"backups = \n", "is not valid TOML"),
        (b"a = '\xff'", "it is not UTF-8"),
        (b"backups = " + b"9" * 5000, "a number in it is too long"),
        (b"path = " + b"[" * 5000, "it is nested too deep"),
    ],
    ids=["no value", "no text", "too long", "too deep"],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes, cause: str) -> None:
    Path("statepath.toml").write_bytes(content)
    with refused("statepath.toml", cause):
        Settings.load()


def test_an_env_file_that_cannot_be_read_is_named() -> None:
    Path(".env").write_bytes(b"STATE_PATH=\xff\n")
    with refused(".env in", "it is not UTF-8"):
        Settings.load()


def test_folders_of_those_names_are_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").mkdir()
    assert Settings.load().backups == 10
    Path("statepath.toml").mkdir()
    with refused("statepath.toml cannot be read"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0", 0),
        ("1.5", 1.5),
        ("30s", 30),
        ("15m", 900),
        ("24H", 86400),
        ("7 d", 604800),
        ("2w", 1209600),
    ],
)
def test_durations_are_seconds_or_have_a_unit(text: str, seconds: float) -> None:
    assert Settings.load(history=text).history.total_seconds() == seconds
    assert Settings.load(autosave=text).autosave == seconds


def test_durations_may_be_timedeltas() -> None:
    assert Settings.load(autosave=timedelta(minutes=1), history=timedelta(days=2)).autosave == 60


@pytest.mark.parametrize(
    "value", ["", "soon", "1x", "-1", "1h30m", -1, True, None, [1], float("nan"), "200000d"]
)
def test_what_is_no_duration_is_refused(value: Any) -> None:
    with refused("autosave (argument): "):
        Settings.load(autosave=value)


def test_what_may_be_minutes_or_months_is_refused() -> None:
    with refused('log_age (argument): M may be minutes or months: write "6m", or "180d"'):
        Settings.load(log_age="6M")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("1KB", 1000),
        ("1 kib", 1024),
        ("100MiB", 100 * MiB),
        ("0.5GiB", 512 * MiB),
    ],
)
def test_sizes_are_bytes_or_have_a_unit(text: str, size: int) -> None:
    assert Settings.load(disk_low=text).disk_low == size


@pytest.mark.parametrize("value", ["", "big", "1G", "-1", "1 MiB MiB", -1, 1.5, True, None])
def test_what_is_no_size_is_refused(value: Any) -> None:
    with refused("disk_low (argument): "):
        Settings.load(disk_low=value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("migrate", "maybe", "this is neither true nor false"),
        ("views", 2, "this is neither true nor false"),
        ("backups", "ten", "this is no whole number: write it in digits"),
        ("backups", 1.5, "this is no whole number: write it in digits"),
        ("mirror", "", "it is empty: leave it out, or say what it is"),
        ("encryption_key", "", "it is empty: leave it out, or say what it is"),
    ],
)
def test_what_is_wrong_with_a_value_is_told_in_plain_words(name: str, value: Any, told: str) -> None:
    with refused(f"{name} (argument): {told}"):
        Settings.load(**{name: value})


def test_the_line_end_of_windows_behind_a_value_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {
        "load": "false",
        "views": "true",
        "migrate": "no",
        "backups": "3",
        "history": "7d",
        "compression": "zstd",
    }
    for name, word in words.items():
        monkeypatch.setenv(f"STATE_{name.upper()}", f"{word}\r")
    settings = Settings.load()
    assert (settings.loads, settings.views, settings.migrate) == (False, True, False)
    assert (settings.backups, settings.history, settings.compression) == (3, timedelta(days=7), "zstd")


def test_auto_leaves_the_choice_to_the_store() -> None:
    Path("statepath.toml").write_text('views = true\nhistory_bytes = "1GiB"\n')
    assert Settings.load(views=None, history_bytes=None).views is None
    Path(".env").write_text("STATE_VIEWS=auto\nSTATE_HISTORY_BYTES=Auto\n")
    assert (Settings.load().views, Settings.load().history_bytes) == (None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"backups": -1},
        {"deadline": 0},
        {"snapshot_age": 0},
        {"max_document": 1023},
        {"history_bytes": -1},
        {"path": ""},
        {"save_late": 0},
        {"backup_age": 0},
        {"journal_lag": 0},
        {"view_lag": 0},
        {"health_timeout": 0},
        {"alert_interval": 0},
        {"alert_timeout": 0},
        {"metrics_port": 0},
        {"metrics_port": 65536},
        {"metrics_host": ""},
        {"backups": True},
        {"view_lag": True},
        {"metrics_port": True},
        {"metrics_port": False},
        {"archive": [""]},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with refused(f"a setting cannot be used: {next(iter(arguments))} (argument): "):
        Settings.load(**arguments)


def test_one_message_names_all_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_AUTOSAVE", "soon")
    Path(".env").write_text("STATE_BACKUPS=many\n")
    Path("statepath.toml").write_text("histroy = 1\n")
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(deadline=0)
    head, *lines = str(caught.value).splitlines()
    assert head == "4 settings cannot be used:"
    assert sorted(line.split(":")[0] for line in lines) == [
        "  autosave (environment",
        "  backups (.env",
        "  deadline (argument)",
        "  histroy (file",
    ]


def test_no_message_shows_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BACKUPS", "AUTOSAVE", "VIEWS", "DISK_LOW", "HISTORY_BYTES"):
        monkeypatch.setenv(f"STATE_{name}", "hunter2")
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert "hunter2" not in f"{caught.value!r} {caught.value}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_pydantic_s_own_message_shows_no_value_either() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"backups": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_state_path_is_shown_without_credentials() -> None:
    path = "postgresql://me:hunter2@host/db?sslpassword=hunter3"
    settings = Settings.load(path, mirror=path)
    shown = f"{settings!r} {settings} {describe(path, mirror=path)}"
    assert settings.path == settings.mirror == path
    assert "hunter" not in shown
    assert "…@host/db" in shown
    assert "(not a state path)" in repr(Settings(path="s3:hunter2"))


def test_a_master_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_ENCRYPTION_KEY", KEY)
    settings = Settings.load()
    assert settings.encrypted
    assert "hunter2" not in f"{settings!r} {settings} {describe()}"
    assert origin("encryption_key") == ("(secret)", "environment", "STATE_ENCRYPTION_KEY")


@pytest.mark.parametrize("name", ["encryption_key_file", "encryption_provider"])
def test_a_master_key_in_the_place_of_its_place_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"STATE_{name.upper()}", KEY)
    with pytest.raises(ConfigurationError, match="it holds a master key itself") as caught:
        Settings.load()
    assert caught.value.code == "bad_key"
    assert origin(name)[0] == "(secret)"
    assert "hunter2" not in f"{caught.value!r} {caught.value} {Settings()!r} {Settings()} {describe()}"


def test_a_key_provider_is_shown_without_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_ENCRYPTION_PROVIDER", "vault:https://user:hunter2@vault/key?token=hunter3")
    settings = Settings.load()
    (shown,) = (setting.value for setting in describe() if setting.name == "encryption_provider")
    assert shown == "vault:…"
    assert "hunter" not in f"{settings!r} {settings}"


def test_a_webhook_is_shown_without_what_is_secret_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_ALERT_WEBHOOK", "https://me:hunter2@hooks.example:8443/hunter3?token=hunter4")
    settings = Settings.load()
    assert origin("alert_webhook") == (
        "https://hooks.example:8443/…",
        "environment",
        "STATE_ALERT_WEBHOOK",
    )
    assert "hunter" not in f"{settings!r} {settings} {settings.model_dump()} {describe()}"


@pytest.mark.parametrize(
    "url", ["hunter2", "ftp://hunter2/x", "https://", "https://host:hunter2/", "https://host/hunter2 x"]
)
def test_what_is_no_webhook_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(alert_webhook=url)
    assert "alert_webhook (argument): this is no address of a webhook" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_off_takes_a_setting_back_that_a_file_has() -> None:
    Path("statepath.toml").write_text(
        'backup_age = "1d"\nkey_age = "90d"\nalert_webhook = "https://host/x"\nmetrics_port = 9464\n'
        'mirror = "s3://bucket/replica"\n'
    )
    Path(".env").write_text(
        "STATE_BACKUP_AGE=off\nSTATE_KEY_AGE=off\nSTATE_ALERT_WEBHOOK=Off\nSTATE_METRICS_PORT=off\n"
        "STATE_MIRROR=off\n"
    )
    settings = Settings.load()
    assert (settings.backup_age, settings.alert_webhook, settings.metrics_port) == (None, None, None)
    assert (settings.key_age, settings.mirror) == (None, None)
    assert origin("metrics_port") == ("off", ".env", "STATE_METRICS_PORT")
    assert origin("mirror") == ("off", ".env", "STATE_MIRROR")


@pytest.mark.parametrize("folder", ["./off", Path("./off")], ids=repr)
def test_a_mirror_may_be_in_a_folder_of_the_name_off(folder: Path | str) -> None:
    assert Settings.load(mirror=folder).mirror == str(folder)


def test_all_that_is_wrong_in_one_file_is_told_at_once() -> None:
    Path("statepath.toml").write_text('metrics_prot = 1\nbackups = 0\ndisk_low = "many"\nview_lag = "few"\n')
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    head, *lines = str(caught.value).splitlines()
    assert head == "4 settings cannot be used:"
    assert all("(file: statepath.toml): " in line for line in lines)
    assert any("did you mean metrics_port?" in line for line in lines)


FAULTY = """
path = "s4://hunter2.host/x"
mirror = "s3:hunter2"
encryption_key = "hunter2"
encryption_key_file = "/nope"
archive = "tasks older_than=1d; Hunter2-Coll older_than=1d; logs older_than=1d"
"""
"""Each value is of its setting's kind, and none can be used."""


def test_what_no_store_can_be_opened_with_is_told_at_once_with_what_is_of_another_kind() -> None:
    Path("statepath.toml").write_text(FAULTY + "metrics_port = true\nbackups = true\n")
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    head, *lines = str(caught.value).splitlines()
    place = "(file: statepath.toml)"
    assert head == "7 settings cannot be used:"
    expected = (
        f"backups {place}: this is no whole number: write it in digits",
        f"metrics_port {place}: this is no whole number: write it in digits",
        f"path {place}: no backend for s4:// is installed (installed: {INSTALLED})",
        f"mirror {place}: write s3:// with two slashes for a URL, or ./ before a folder of that name",
        f"encryption_key_file {place} and encryption_key {place}: a store has one master key: unset all but one",
        f"encryption_key {place}: what it holds is no master key: write 32 bytes in base64 or hexadecimal digits, ",
        (
            f"archive {place}: rule 2 begins with no collection: begin with a letter a-z, go on with a-z, 0-9 and _; "
            f"rule 3 begins with no collection: the store uses that name itself"
        ),
    )
    for line, told in zip(lines, expected, strict=True):
        assert line.strip().startswith(told)
    assert "hunter2" not in str(caught.value).lower()


@pytest.mark.parametrize(
    "arguments", [{"archive": "9tasks foo"}, {"path": "s4://x", "archive": ["9tasks"]}], ids=str
)
def test_a_value_of_another_kind_is_told_in_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(**arguments)
    assert [str(caught.value).count(f"{name} (argument)") for name in arguments] == [1] * len(arguments)


def test_a_mirror_without_a_backend_stands_in_no_readers_way() -> None:
    assert Settings.load(mirror="s4://bucket/x").mirror == "s4://bucket/x"


def test_what_no_store_can_be_opened_with_can_still_be_looked_at() -> None:
    Path("statepath.toml").write_text(FAULTY)
    assert origin("path") == ("s4://hunter2.host/x", "file", "statepath.toml")
    assert origin("mirror") == ("(not a state path)", "file", "statepath.toml")
    assert origin("encryption_key") == ("(secret)", "file", "statepath.toml")


@pytest.mark.parametrize(
    ("arguments", "error", "code"),
    [
        ({"path": "s4://bucket/x"}, UnknownSchemeError, "unknown_scheme"),
        ({"mirror": "s3:bucket"}, InvalidArgumentError, "invalid_argument"),
        ({"encryption_key": "zz"}, ConfigurationError, "bad_key"),
        ({"encryption_key": KEY, "encryption_key_file": "key"}, ConfigurationError, "bad_key"),
        ({"encryption_provider": "kms:", "encryption_key_file": "key"}, ConfigurationError, "bad_key"),
        ({"archive": "Tasks older_than=1d"}, ConfigurationError, "configuration"),
    ],
    ids=str,
)
def test_what_is_wrong_alone_has_its_own_class_and_code(
    arguments: dict[str, Any], error: type[StateError], code: str
) -> None:
    with pytest.raises(error, match=r"^a setting cannot be used: \w+ \(argument\)") as caught:
        Settings.load(**arguments)
    assert caught.value.code == code


def test_a_setting_that_an_argument_takes_back_is_not_looked_at() -> None:
    Path("statepath.toml").write_text(FAULTY)
    settings = Settings.load(
        "memory://x", mirror=None, encryption_key_file=None, encryption_key=KEY, archive=()
    )
    assert settings.path == "memory://x"


def test_each_rule_of_the_archive_that_says_nothing_is_told() -> None:
    with refused("archive (argument): rule 1: a rule needs older_than", "; rule 3: this is no duration"):
        Settings.load(archive="tasks; tasks older_than=1d; tasks older_than=soon")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load().backups = 3  # type: ignore[misc]  # the mistake


def test_a_key_file_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/agents")
    Path(".env").write_text("STATE_ENCRYPTION_KEY_FILE=~/master-key\n")
    assert Settings.load().encryption_key_file == "/home/agents/master-key"


def test_a_path_may_be_a_path_object() -> None:
    assert Settings.load(Path("a") / "b").path == "a/b"


def test_the_arguments_are_the_fields() -> None:
    assert {"path", *get_type_hints(SettingsArgs)} == set(setting_names())


def test_an_empty_master_key_is_none_that_could_be_used(tmp_path):
    with pytest.raises(ConfigurationError, match="encryption_key"):
        Settings.load(tmp_path, encryption_key="")


def test_a_value_in_a_rule_of_the_archive_is_a_text_where_it_is_no_json() -> None:
    for text in ("done", "[" * 100_000):
        (rule,) = Settings.load("memory://x", archive=f"tasks older_than=1d field={text}").archive_rules
        assert rule.fields == (("field", text),)
