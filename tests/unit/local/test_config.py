"""Which folder a state path names."""

from __future__ import annotations

from pathlib import Path

import pytest
from statepath.errors import InvalidArgumentError
from statepath.url import StateURL
from statepath_local import LocalConfig, factory


def parse(text: str) -> LocalConfig:
    return factory.parse(StateURL.parse(text))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/srv/agents", "/srv/agents"),
        ("file:///srv/agents", "/srv/agents"),
        ("file://localhost/srv/agents", "/srv/agents"),
        ("FILE:///srv/agents", "/srv/agents"),
        ("file:///srv/a%20b%23c", "/srv/a b#c"),
        ("/srv/100%25?x#y", "/srv/100%25?x#y"),
    ],
)
def test_a_path_and_a_file_url_name_a_folder(text: str, path: str) -> None:
    assert parse(text).resolve() == path


def test_a_relative_path_starts_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("./state").resolve() == str(tmp_path / "state")


def test_a_relative_path_in_a_working_directory_that_was_removed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(InvalidArgumentError, match="give an absolute path"):
        parse("./state").resolve()
    assert parse("/srv/agents").resolve() == "/srv/agents"


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse("~/agents").resolve() == "/home/somebody/agents"


def test_a_tilde_in_a_url_is_a_plain_character() -> None:
    assert parse("file:///~/agents").resolve() == "/~/agents"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file://server/share", "file:///path"),
        ("file://server:80/share", "file:///path"),
        ("file://user:secret@localhost/share", "no user or password"),
        ("file://", "names no folder"),
        ("file:///srv?region=eu", "region"),
        ("C:\\state", "drive letter"),
        ("c:/state", "drive letter"),
        ("file:///C:/state", "drive letter"),
    ],
)
def test_what_names_no_folder_of_this_machine_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


def test_a_home_folder_that_nobody_has_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="no home folder"):
        parse("~no_such_user_at_all/state").resolve()


def test_nothing_comes_from_the_environment() -> None:
    config = parse("/srv/agents")
    assert factory.with_env(config, {"STATE_PATH": "/else"}) is config
