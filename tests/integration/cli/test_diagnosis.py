"""`status`, `doctor`, `config show`, `version`."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.memory import MemoryBackend, MemoryConfig, MemoryFactory
from statepath.settings import Settings

Run = Callable[..., Any]

HIDDEN = "hunter2"


def test_status_tells_how_the_store_does(on: Run, filled: str) -> None:
    answer = on("status", "--json")
    facts = answer.json
    assert answer.code == 0
    assert (facts["ok"], facts["url"], facts["seq"], facts["floor"]) == (True, filled, 7, 1)
    assert facts["documents"] == {"counters": 1, "tasks": 3}
    assert (facts["snapshot_seq"], facts["logs"], facts["problems"], facts["damage"]) == (7, 1, [], [])
    assert facts["free_bytes"] > 0
    assert facts["last_commit"] is not None


def test_status_is_for_people_too(on: Run, filled: str) -> None:
    told = on("status").out
    assert "well" in told
    assert "1 counters, 3 tasks" in told


def test_status_of_a_damaged_store_exits_with_6(on: Run, filled: str) -> None:
    Path(filled, "state.json").write_text('{"\n"_statepath":{}')
    answer = on("status", "--json")
    assert answer.code == 6
    assert answer.json["damage"]
    assert f"next: statepath verify -s {filled}" in answer.err


def test_status_of_an_unhealthy_store_exits_with_11(on: Run, filled: str) -> None:
    answer = on("status", env={"STATE_DISK_LOW": str(2**60)})
    assert answer.code == 11
    assert "are free" in answer.out


def test_status_lists_its_checks(on: Run, filled: str) -> None:
    facts = on("status", "--json").json
    found = {check["name"]: check for check in facts["checks"]}
    assert facts["status"] == "ok"
    assert list(found) == ["reachable", "access", "space", "saved", "backups", "journal", "damage"]
    assert (found["space"]["status"], found["space"]["unit"], found["space"]["limit"]) == (
        "ok",
        "bytes",
        100 * 1024 * 1024,
    )


@pytest.mark.slow
def test_a_warning_is_told_and_only_a_strict_probe_minds(on: Run, filled: str) -> None:
    free = on("status", "--json").json["free_bytes"]
    warning = {"STATE_DISK_LOW": str(free * 2 // 3)}
    answer = on("status", env=warning)
    assert (answer.code, "warn" in answer.out) == (0, True)
    assert on("status", "--strict", env=warning).code == 11
    assert on("status", "--strict").code == 0


@pytest.mark.slow
def test_status_waits_for_a_replica_no_longer_than_for_the_store(on: Run, filled: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        mirror = f"s3://bucket/x?endpoint_url={place}&anonymous=true"
        facts = on("status", "--json", env={"STATE_MIRROR": mirror, "STATE_HEALTH_TIMEOUT": "500ms"}).json
    assert facts["mirror"]["error"] == "it did not answer within 0.5 s"


@pytest.mark.slow
def test_status_beside_a_server_tells_what_is_not_in_its_snapshot_yet(on: Run, server: Run) -> None:
    facts = on("status", "--json", env={"STATE_JOURNAL_LAG": "1"}).json
    found = {check["name"]: check for check in facts["checks"]}
    assert facts["journal_bytes"] > 0
    assert found["saved"]["value"] > 0
    assert (found["journal"]["status"], found["journal"]["limit"]) == ("fail", 1)


@pytest.fixture
def original(path: str) -> Path:
    """A folder that the original server wrote."""
    shutil.copytree(Path(__file__).parents[2] / "data" / "original-state", path)
    return Path(path)


@pytest.mark.slow
def test_a_folder_of_the_original_server_is_well_before_its_upgrade(
    on: Run, original: Path, files: Run
) -> None:
    before = files()
    facts = on("status", "--json").json
    assert (facts["ok"], facts["documents"], facts["logs"]) == (True, {"sessions": 1, "tasks": 45}, 45)
    (notice,) = on("verify", "--json").json["findings"]
    assert (notice["key"], notice["severity"]) == ("state.json", "notice")
    assert files() == before


@pytest.mark.slow
def test_a_damaged_folder_of_the_original_server_is_told(on: Run, original: Path) -> None:
    state = original / "state.json"
    state.write_bytes(state.read_bytes()[:1000])
    assert on("verify").code == 6
    assert on("status").code == 6


def test_status_changes_nothing(on: Run, filled: str, files: Run) -> None:
    before = files()
    on("status")
    assert files() == before


def test_a_missing_store_is_an_error_with_the_next_command(on: Run, path: str) -> None:
    answer = on("status")
    assert answer.code == 3
    assert f"error: there is no store at {path}" in answer.err
    assert f"next: statepath config show -s {path}" in answer.err
    assert not Path(path).exists()


def test_doctor_lists_backends_and_what_this_one_can_do(on: Run, filled: str) -> None:
    facts = on("doctor", "--json").json
    assert facts["ok"] is True
    assert {"file", "memory"} <= {backend["scheme"] for backend in facts["backends"]}
    assert facts["capabilities"]["durable"] is True
    assert facts["versions"]["statepath"] == statepath.__version__
    assert facts["seq"] == 7


def test_doctor_examines_the_state_path_that_it_is_given(cli: Run, filled: str) -> None:
    facts = cli("doctor", "memory://x", "-s", filled, "--json").json
    assert facts["state_path"] == "memory://x"
    assert facts["capabilities"]["durable"] is False
    assert facts["store"].startswith("none yet")


def test_doctor_tells_what_it_can_of_a_state_path_that_leads_nowhere(cli: Run) -> None:
    answer = cli("doctor", "nosuch://host/x")
    assert answer.code == 7
    assert "statepath.memory:factory" in answer.out
    assert "no backend for nosuch://" in answer.err


def test_doctor_creates_nothing(on: Run, path: str) -> None:
    assert on("doctor").code == 0
    assert not Path(path).exists()


def test_doctor_tries_conditions_on_nothing_but_an_object_store(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another backend does, or locks, when it connects for writing is its own matter."""
    connect, asked = MemoryFactory.connect, []

    async def watched(factory: MemoryFactory, config: MemoryConfig, *, readonly: bool = False) -> Any:
        asked.append(readonly)
        return await connect(factory, config, readonly=readonly)

    monkeypatch.setattr(MemoryFactory, "connect", watched)
    monkeypatch.setattr(MemoryBackend, "capabilities", replace(MemoryBackend.capabilities, remote=True))
    assert cli("doctor", "memory://x", "--json").json["conditions"] is None
    assert set(asked) == {True}


def test_config_show_tells_every_setting_and_its_origin(on: Run, path: str) -> None:
    facts = on("config", "show", "--json", env={"STATE_BACKUPS": "3"}).json
    assert facts.keys() == {info.alias or name for name, info in Settings.model_fields.items()}
    assert facts["path"] == {"value": path, "variable": "STATE_PATH", "origin": "argument", "source": None}
    assert facts["backups"] == {
        "value": 3,
        "variable": "STATE_BACKUPS",
        "origin": "environment",
        "source": "STATE_BACKUPS",
    }
    assert facts["autosave"]["origin"] == "default"
    assert {facts[name]["value"] for name in ("log_age", "log_bytes", "report_age", "report_bytes")} == {
        "off"
    }


def test_config_show_tells_what_the_backend_reads_and_where_that_comes_from(cli: Run) -> None:
    env = {"STATE_S3_TIMEOUT": "20", "STATE_S3_ENDPOINT_URL": f"http://me:{HIDDEN}@host"}
    facts = cli("config", "show", "--json", "-s", "s3://bucket/x?region=eu-central-1", env=env).json
    assert facts["path.region"] == {
        "value": "eu-central-1",
        "variable": "STATE_S3_REGION",
        "origin": "state path",
        "source": None,
    }
    assert facts["path.timeout"] == {
        "value": "20",
        "variable": "STATE_S3_TIMEOUT",
        "origin": "environment",
        "source": "STATE_S3_TIMEOUT",
    }
    assert (facts["path.anonymous"]["value"], facts["path.anonymous"]["origin"]) == ("false", "default")
    assert facts["path.endpoint_url"]["value"] == "(secret)"


def test_config_show_tells_no_secret_of_a_backend(cli: Run, tmp_path: Path) -> None:
    env = {"PGPASSWORD": HIDDEN, "STATE_POSTGRES_LISTEN_DSN": HIDDEN, "STATE_MIRROR": "sqlite:///x.db"}
    for words in ((), ("--json",)):
        answer = cli("config", "show", *words, "-s", "postgresql://me@host/db", env=env)
        assert answer.code == 0
        assert HIDDEN not in answer.out + answer.err
        assert all(name in answer.out for name in ("PGPASSWORD", "path.password", "mirror.timeout"))


@pytest.mark.parametrize(
    ("path", "variable", "value", "shown"),
    [
        ("az://box/x", "STATE_AZURE_ENDPOINT_URL", f"HTTPS://a.example/?sv=1&sig={HIDDEN}", "(secret)"),
        ("az://box/x", "STATE_AZURE_ENDPOINT_URL", f"a.example/?sv=1&sig={HIDDEN}", "(secret)"),
        ("az://box/x", "STATE_AZURE_ENDPOINT_URL", f"HTTPS://a.example/?{HIDDEN}", "(not valid)"),
        ("az://box/x", "STATE_AZURE_ACCOUNT_NAME", f"{HIDDEN}+/==", "(not valid)"),
        ("s3://box/x", "STATE_S3_ENDPOINT_URL", f"https://a.example/#{HIDDEN}", "(not valid)"),
        ("s3://box/x", "STATE_S3_ENDPOINT_URL", "https://a.example:99999", "(not valid)"),
        ("postgresql://me@host/db", "PGSSLKEY", f"-----BEGIN PRIVATE KEY-----\n{HIDDEN}", "(secret)"),
    ],
)
def test_config_show_tells_no_secret_that_stands_in_the_wrong_place(
    cli: Run, path: str, variable: str, value: str, shown: str
) -> None:
    answer = cli("config", "show", "--json", "-s", path, env={variable: value, "STATE_S3_REGION": "eu"})
    assert (answer.code, HIDDEN in answer.out + answer.err) == (0, False)
    (told,) = [one for one in answer.json.values() if one["source"] == variable]
    assert told["value"] == shown
    assert not path.startswith("s3") or answer.json["path.region"]["value"] == "eu"


def test_config_show_tells_nothing_of_a_state_path_that_the_backend_does_not_take(cli: Run) -> None:
    path = f"s3://box/x?endpoint_url=HTTPS%3A//a.example/%3F{HIDDEN}"
    answer = cli("config", "show", "-s", path)
    assert (answer.code, HIDDEN in answer.out + answer.err) == (0, False)
    assert "what the backend of path reads is not shown: endpoint_url holds more" in answer.err


def test_config_show_tells_the_settings_though_the_backend_is_not_there(cli: Run) -> None:
    answer = cli("config", "show", "-s", "nosuch://host/x")
    assert (answer.code, "autosave" in answer.out) == (0, True)
    assert "what the backend of path reads is not shown: no backend for nosuch://" in answer.err


def test_config_show_names_the_setting_that_cannot_be_used(cli: Run) -> None:
    answer = cli("config", "show", env={"STATE_BACKUPS": "many"})
    assert answer.code == 7
    assert "STATE_BACKUPS" in answer.err


def test_config_show_tells_of_what_no_store_can_be_opened_with_where_it_comes_from(cli: Run) -> None:
    env = {"STATE_PATH": "s4://bucket/x", "STATE_MIRROR": "s3:bucket", "STATE_ENCRYPTION_KEY": "zz"}
    facts = cli("config", "show", "--json", env=env).json
    assert [facts[name]["value"] for name in ("path", "mirror", "encryption_key")] == [
        "s4://bucket/x",
        "(not a state path)",
        "(secret)",
    ]
    answer = cli("ls", env=env)
    assert (answer.code, "next: statepath config show" in answer.err) == (7, True)
    assert all(name in answer.err for name in env)


@pytest.mark.parametrize("words", [("--version",), ("version",)])
def test_the_version_is_told(cli: Run, words: tuple[str, ...]) -> None:
    assert cli(*words).out == f"statepath {statepath.__version__}\n"


@pytest.mark.parametrize(
    "words", [("version", "--json"), ("--json", "version"), ("--json", "--version"), ("--version", "--json")]
)
def test_the_version_is_told_in_json(cli: Run, words: tuple[str, ...]) -> None:
    assert cli(*words).json == {"version": statepath.__version__}
