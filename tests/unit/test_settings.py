from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import ValidationError
from statepath.errors import ConfigurationError
from statepath.settings import Settings, SettingsArgs, describe, setting_names

MiB = 1024 * 1024


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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
    }


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


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_PATH", "")
    Path(".env").write_text("STATE_PATH=/srv/state\n")
    assert Settings.load().path == "/srv/state"


def test_unknown_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_OF_THE_UNION", "1")
    Path(".env").write_text("STATE_OF_MIND=1\nOTHER=2\nexport STATE_BACKUPS=3\n")
    assert Settings.load().backups == 3


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


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"backups = \n", "is not valid TOML"), (b"a = '\xff'", "it is not UTF-8")],
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
    settings = Settings.load(path)
    shown = f"{settings!r} {settings} {describe(path)}"
    assert settings.path == path
    assert "hunter" not in shown
    assert "…@host/db" in shown
    assert "(not a state path)" in repr(Settings.load("s3:hunter2"))


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load().backups = 3  # type: ignore[misc]  # the mistake


def test_a_path_may_be_a_path_object() -> None:
    assert Settings.load(Path("a") / "b").path == "a/b"


def test_the_arguments_are_the_fields() -> None:
    assert {"path", *get_type_hints(SettingsArgs)} == set(setting_names())
