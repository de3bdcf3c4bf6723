"""`keys`: an encrypted store and its keys, from outside."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import statepath
from crowd.processes import running_command

pytestmark = pytest.mark.slow

Run = Callable[..., Any]


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the master key is, or will be."""
    path = tmp_path / "master-key"
    monkeypatch.setenv("STATE_ENCRYPTION_KEY_FILE", str(path))
    return path


@pytest.fixture
def encrypted(on: Run, key_file: Path) -> Run:
    """Commands on an encrypted store that holds a task."""
    assert on("keys", "init", "--new-key").code == 0
    assert on("put", "tasks/task_1", "-", stdin='{"note": "sesame"}').code == 0
    return on


def test_init_makes_the_keys_of_a_new_store(on: Run, key_file: Path, path: str) -> None:
    answer = on("keys", "init", "--new-key")
    assert answer.code == 0
    assert "made the key" in answer.out
    assert "Keep a copy" in answer.err
    assert key_file.read_text().strip() not in answer.out + answer.err
    again = on("keys", "init")
    assert (again.code, "encrypted already" in again.err) == (4, True)
    key_file.unlink()
    assert "encrypted already" in on("keys", "init", "--new-key").err
    assert not key_file.exists()


@pytest.mark.parametrize("words", [("list",), ("decrypt", "--yes")])
def test_keys_of_no_store_are_not_those_of_a_plain_one(on: Run, path: str, words: tuple[str, ...]) -> None:
    answer = on("keys", *words)
    assert (answer.code, answer.err.splitlines()[0]) == (3, f"error: there is no store at {path}")


def test_init_says_how_a_key_file_that_is_there_is_used(on: Run, key_file: Path) -> None:
    key_file.touch()
    answer = on("keys", "init", "--new-key")
    assert (answer.code, "leave out --new-key" in answer.err) == (4, True)
    assert key_file.read_bytes() == b""


def test_init_needs_a_key_and_makes_none_where_none_is_to_be(on: Run, key_file: Path, path: str) -> None:
    answer = on("keys", "init")
    assert (answer.code, "statepath keys init --new-key" in answer.err) == (7, True)
    assert not key_file.exists()
    answer = on("keys", "init", "--new-key", env={"STATE_ENCRYPTION_KEY_FILE": ""})
    assert (answer.code, "set STATE_ENCRYPTION_KEY_FILE" in answer.err) == (7, True)


def test_init_without_a_master_key_says_so_and_makes_nothing(cli: Run, filled: str, tmp_path: Path) -> None:
    for place in (filled, f"{tmp_path}/new"):
        answer = cli("keys", "init", "-s", place)
        assert (answer.code, answer.err.splitlines()[0]) == (
            7,
            "error: no master key is configured: set STATE_ENCRYPTION_KEY_FILE to the file that holds it",
        )
    assert not (tmp_path / "new").exists()


def test_init_leaves_a_plain_store_as_it_is(filled: str, files: Run, on: Run, key_file: Path) -> None:
    before = files()
    answer = on("keys", "init", "--new-key")
    assert (answer.code, "statepath keys encrypt" in answer.err) == (7, True)
    assert files() == before
    assert not key_file.exists()


def test_list_tells_what_each_key_is_needed_for_and_needs_no_key(encrypted: Run, key_file: Path) -> None:
    assert encrypted("keys", "rotate").code == 0
    key_file.unlink()
    old, new = encrypted("keys", "list", "--json").lines
    assert (old["primary"], old["objects"], old["records"]) == (False, 0, 1)
    assert (new["primary"], new["records"]) == (True, 1)  # the note behind which the log can be trimmed
    assert new["objects"] > 0
    answer = encrypted("keys", "list")
    assert old["id"] in answer.out
    assert "statepath keys retire" in answer.err
    assert "the history keeps until" in answer.err


def test_list_of_a_plain_store(on: Run, filled: str) -> None:
    answer = on("keys", "list")
    assert (answer.code, "is not encrypted" in answer.err) == (3, True)


def test_rotate_and_retire(encrypted: Run) -> None:
    (old,) = encrypted("keys", "list", "--json").lines
    made = encrypted("keys", "rotate", "--json").json
    assert made["key"] != old["id"]
    assert made["resealed"] == old["objects"]
    answer = encrypted("keys", "retire")
    assert answer.code != 0  # nobody answered
    answer = encrypted("keys", "retire", "--yes")
    assert answer.out == "no key was forgotten\n"
    assert "1 records of the journal" in answer.err
    answer = encrypted("keys", "retire", "--yes", made["key"])
    assert (answer.code, "is the primary key" in answer.err) == (2, True)
    assert encrypted("show", "tasks/task_1", "--json").code == 0


def test_commands_on_the_content_work_as_on_a_plain_store(encrypted: Run, path: str) -> None:
    assert encrypted("status").code == 0
    assert encrypted("verify").code == 0
    assert encrypted("ls", "tasks", "--json").lines[0]["value"] == {"id": "task_1", "note": "sesame"}
    assert len(encrypted("history", "--json").lines) == 1
    kept = encrypted("backup", "create", "--json").json["key"]
    (row,) = encrypted("backup", "list", "--json").lines
    assert (row["key"], row["damage"], row["documents"]) == (kept, None, 1)
    assert encrypted("delete", "tasks/task_1", "--yes").code == 0
    assert encrypted("backup", "restore", kept, "--yes").code == 0
    assert encrypted("show", "tasks/task_1").code == 0
    Path(path, kept).write_bytes(b"{}")
    (row,) = [row for row in encrypted("backup", "list", "--json").lines if row["key"] == kept]
    assert "is not sealed" in row["damage"]


def test_encrypt_and_decrypt(filled: str, on: Run, files: Run, key_file: Path) -> None:
    before = on("show", "tasks/task_1", "--json", env={"STATE_ENCRYPTION_KEY_FILE": ""}).json
    assert any(b"completed" in data for data in files().values())
    answer = on("keys", "encrypt", "--yes")
    assert (answer.code, "--new-key" in answer.err) == (7, True)
    (key_file.parent / "k").write_text("A" * 43 + "=")
    (key_file.parent / "k").chmod(0o600)
    (key_file.parent / "k").rename(key_file)
    assert on("keys", "encrypt").code != 0  # nobody answered
    answer = on("keys", "encrypt", "--yes")
    assert (answer.code, "encrypted seq 7" in answer.out) == (0, True)
    assert not [name for name, data in files().items() if b"completed" in data]
    assert on("show", "tasks/task_1", "--json").json == before
    assert on("keys", "encrypt", "--yes").code == 4
    assert on("keys", "decrypt", "--yes").code == 0
    assert on("show", "tasks/task_1", "--json", env={"STATE_ENCRYPTION_KEY_FILE": ""}).json == before


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("encrypt",), 3, "there is no store"),
        (("decrypt",), 3, "there is no store"),
        (("retire",), 3, "there is no store"),
    ],
)
def test_where_no_store_is_nobody_is_asked_and_no_key_is_wanted(
    on: Run, path: str, words: tuple[str, ...], code: int, told: str
) -> None:
    answer = on("keys", *words, stdin="y\n")
    assert (answer.code, told in answer.err, "Go on?" in answer.err) == (code, True, False)
    assert not Path(path).exists()


def test_nobody_is_asked_about_what_there_is_not_to_do(on: Run, filled: str, files: Run) -> None:
    before = files()
    for command, code, told in (
        ("encrypt", 7, "no master key is configured"),
        ("decrypt", 3, "is not encrypted"),
        ("retire", 1, "is not encrypted"),
    ):
        answer = on("keys", command, stdin="y\n")
        assert (answer.code, told in answer.err, "Go on?" in answer.err) == (code, True, False)
    assert files() == before


def test_an_encrypted_store_is_not_asked_to_be_encrypted_again(encrypted: Run) -> None:
    answer = encrypted("keys", "encrypt", stdin="y\n")
    assert (answer.code, "encrypted already" in answer.err, "Go on?" in answer.err) == (4, True, False)


def test_encrypt_names_what_is_not_the_store_s(filled: str, on: Run, key_file: Path) -> None:
    for n in range(7):
        Path(filled, f"note{n}.txt").touch()
    key_file.touch(0o600)
    key_file.write_text("A" * 43 + "=")
    answer = on("keys", "encrypt", "--yes")
    assert answer.code == 0
    assert "left as they are: 7 objects (note0.txt, " in answer.err
    assert "note4.txt, …)" in answer.err


def test_the_wrong_key_is_told_with_both_names_and_no_secret(encrypted: Run, key_file: Path) -> None:
    secret = key_file.read_text().strip()
    key_file.write_text("A" * 43 + "=")
    answer = encrypted("status", "--json")
    assert answer.code == 7
    assert answer.error["code"] == "wrong_key"
    assert "this is the wrong key" in answer.error["message"]
    assert secret not in answer.err
    assert "A" * 20 not in answer.err


def test_an_exchange_of_the_master_key_that_was_interrupted_goes_on_with_the_same_command(
    encrypted: Run, key_file: Path, tmp_path: Path, path: str
) -> None:
    async def interrupted() -> None:
        async with statepath.open(path, autosave=0) as store:
            await store.rotate_key(master=tmp_path / "new", progress=_stop)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupted())
    answer = encrypted("keys", "rotate")
    assert (answer.code, "wrong key" in answer.err) == (7, True)
    answer = encrypted("keys", "rotate", "--new-master", str(tmp_path / "new"))
    assert (answer.code, f"Keep {tmp_path / 'new'}" in answer.err) == (0, True)
    assert encrypted("ls", "tasks", env={"STATE_ENCRYPTION_KEY_FILE": str(tmp_path / "new")}).code == 0


def _stop(step: str) -> None:
    raise KeyboardInterrupt(step)


def test_what_cannot_be_sealed_anew_is_no_success(encrypted: Run, path: str) -> None:
    assert encrypted("backup", "create").code == 0
    data = bytearray((Path(path) / "state.json").read_bytes())
    data[-1] ^= 1
    backup = Path(path) / "state.backup.20260101T000000.000000Z.json"
    backup.write_bytes(data)
    answer = encrypted("keys", "rotate")
    assert (answer.code, backup.name in answer.err, "statepath verify" in answer.err) == (6, True, True)


def test_retire_names_what_is_damaged_and_would_keep_a_key_for_ever(encrypted: Run, path: str) -> None:
    assert encrypted("backup", "create").code == 0
    data = bytearray((Path(path) / "state.json").read_bytes())
    data[-1] ^= 1
    backup = Path(path) / "state.backup.20260101T000000.000000Z.json"
    backup.write_bytes(data)
    encrypted("keys", "rotate")
    told = encrypted("keys", "retire", "--yes").err
    assert f"1 objects (damaged, until statepath repair keeps them aside: {backup.name})" in told
    encrypted("repair", "--yes")
    assert "objects" not in encrypted("keys", "retire", "--yes").err


def test_a_key_is_exchanged_where_a_server_serves_its_metrics(encrypted: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {"STATE_METRICS_PORT": str(taken.getsockname()[1])}
        assert encrypted("keys", "rotate", env=env).code == 0
        assert encrypted("keys", "retire", "--yes", env=env).code == 0


def test_config_shows_no_key(on: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_ENCRYPTION_KEY", "hunter2")
    for answer in (on("config", "show"), on("config", "show", "--json")):
        assert "hunter2" not in answer.out
        assert "(secret)" in answer.out


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["encrypt", "decrypt", "rotate"])
def test_a_command_that_is_killed_is_finished_by_the_next(
    cli: Run, on: Run, path: str, key_file: Path, what: str
) -> None:
    plain = {"STATE_ENCRYPTION_KEY_FILE": ""}
    assert cli("keys", "init", "--new-key", "-s", f"{path}-other").code == 0
    before = plain if what == "encrypt" else None
    for n in range(40):
        assert on("put", f"tasks/task_{n}", "-", stdin='{"note": "sesame"}', env=before).code == 0
    for n in range(5):
        assert on("backup", "create", env=before).code == 0
        assert on("put", "tasks/more", "-", stdin=f'{{"n": {n}}}', env=before).code == 0
    words = ["keys", what, *(["--yes"] if what != "rotate" else [])]
    moments = random.Random(20261125)
    code, killed = -1, 0
    while code not in (0, 3, 4):  # the latter: it had been done when it was killed
        running = running_command(*words, "-s", path, STATE_ENCRYPTION_KEY_FILE=str(key_file))
        running.join(moments.random() * (0.4 + 0.2 * killed))
        running.kill()
        running.join()
        assert running.exitcode is not None
        code = running.exitcode
        killed += 1
    after = plain if what == "decrypt" else None
    assert on("verify", env=after).code == 0
    assert len(on("ls", "tasks", "--json", env=after).lines) == 41
    found = [file for file in Path(path).rglob("*") if file.is_file() and b"sesame" in file.read_bytes()]
    assert bool(found) == (what == "decrypt")
