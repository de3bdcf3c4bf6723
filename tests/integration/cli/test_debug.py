"""Debug mode: what is logged, and what is not."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import statepath
from statepath.cli.running import logging_to_stderr
from statepath.debug import enable_debug
from statepath.errors import UnavailableError

Run = Callable[..., Any]


@pytest.fixture
def debug() -> Iterator[Callable[[str | None], io.StringIO]]:
    """Turn debug mode on, for one test; the text that is logged."""
    ends = []

    def begin(names: str | None) -> io.StringIO:
        stream = io.StringIO()
        ends.append(enable_debug(names, stream))
        return stream

    yield begin
    for end in ends:
        end()


@pytest.mark.parametrize(
    ("names", "logged"),
    [
        ("persistence:*", {"statepath", "statepath.engine", "statepath.views"}),
        ("*", {"statepath", "statepath.engine", "statepath.views"}),
        ("persistence:engine", {"statepath.engine"}),
        ("express:*,persistence:e*", {"statepath.engine"}),
        ("persistence:* -persistence:views", {"statepath", "statepath.engine"}),
        ("express:*", set()),
        ("1", set()),
        ("", set()),
    ],
)
def test_names_select_loggers(debug: Run, names: str, logged: set[str]) -> None:
    stream = debug(names)
    for name in ("statepath", "statepath.engine", "statepath.views"):
        logging.getLogger(name).debug("here")
    assert {line.split()[3] for line in stream.getvalue().splitlines()} == logged


def test_the_variable_selects_where_nothing_is_said(debug: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", "persistence:engine")
    stream = debug(None)
    logging.getLogger("statepath.engine").debug("here")
    assert "here" in stream.getvalue()


def test_extras_follow_the_message(debug: Run) -> None:
    stream = debug("persistence:*")
    logging.getLogger("statepath.engine").info("saved", extra={"key": "tasks/a", "code": "x"})
    assert stream.getvalue().endswith("INFO statepath.engine saved key=tasks/a code=x\n")


async def test_what_a_store_does_is_told_from_opening_to_closing(debug: Run, path: str) -> None:
    stream = debug("persistence:*")
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "task_1", "text": "kanarienvogel"})
        await store.backup()
    told = stream.getvalue()
    for what in (
        f"opened {path} at seq 0",
        "committed seq 1 to 1",
        "writing the files of 1 documents",
        "wrote the snapshot of seq 1",
        "kept a backup",
        f"closed {path}",
    ):
        assert what in told
    assert "kanarienvogel" not in told


def test_it_ends_as_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("statepath")
    monkeypatch.setattr(logger, "level", logging.ERROR)
    handlers = list(logger.handlers)
    enable_debug("persistence:*")()
    assert (logger.level, logger.handlers) == (logging.ERROR, handlers)


@pytest.mark.parametrize(("words", "env"), [(("--debug",), {}), ((), {"DEBUG": "persistence:*"})])
def test_a_failed_command_logs_its_traceback_in_debug_mode(
    cli: Run, filled: str, words: tuple[str, ...], env: dict[str, str]
) -> None:
    answer = cli(*words, "show", "tasks/task_9", "-s", filled, env=env)
    assert "Traceback" in answer.err
    assert "code=not_found" in answer.err


def test_a_command_logs_no_traceback_otherwise(on: Run, filled: str) -> None:
    assert "Traceback" not in on("show", "tasks/task_9").err


def test_no_content_of_documents_is_logged(cli: Run, path: str) -> None:
    answer = cli("--debug", "put", "tasks/a", "-", "-s", path, stdin='{"secret": "kanarienvogel"}')
    assert answer.code == 0
    assert "kanarienvogel" not in answer.out + answer.err


def test_what_failed_beside_a_command_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(debug=False):
        for error in (UnavailableError("no space left"), ValueError("odd")):
            logging.getLogger("statepath.engine").error("the snapshot could not be written", exc_info=error)
    assert capsys.readouterr().err == (
        "error: the snapshot could not be written: no space left\n"
        "error: the snapshot could not be written: ValueError('odd')\n"
    )
