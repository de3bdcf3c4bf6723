"""`statepath demo`: real kills, and a comparison that notices when something is missing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath import Task
from statepath.cli.demo import orchestrator
from statepath.cli.demo.simulation import (
    COMPLETED,
    Acknowledgement,
    Session,
    line_at,
    session_at,
    task_at,
)
from statepath.cli.demo.trial import Outcome, Trial

Run = Callable[..., Any]

AGENT = "agent_1_00"
TASK = f"{AGENT}_task_0000"


@pytest.fixture
def trial(path: str) -> Trial:
    """A trial whose server has completed one task and told so."""
    trial = Trial(path)

    async def work() -> None:
        async with statepath.open(path) as store:
            tasks, sessions = store.collection("tasks", Task), store.collection("sessions", Session)
            async with store.transaction() as tx:
                tx.put(tasks, task_at(TASK, COMPLETED))
                tx.put(sessions, session_at(AGENT, 1))
            done = {f"tasks/{TASK}": COMPLETED, f"sessions/{AGENT}": 1}
            trial.saves.append(Acknowledgement(tx.seq or 0, done))
            seq = await store.append_log(AGENT, line_at(AGENT, 0))
            trial.saves.append(Acknowledgement(seq, {f"logs/{AGENT}": 1}))

    asyncio.run(work())
    return trial


def compare(trial: Trial) -> Outcome:
    return asyncio.run(trial._recover())


def change(path: str, fn: Callable[[Any, Any], Any]) -> None:
    async def run() -> None:
        async with statepath.open(path) as store:
            await fn(store, store.collection("tasks", Task))

    asyncio.run(run())


def test_what_was_acknowledged_and_is_there_is_recovered(trial: Trial) -> None:
    outcome = compare(trial)
    assert (outcome.acknowledged, outcome.recovered, outcome.lost, outcome.ahead) == (2, 2, 0, 0)
    assert outcome.well


def test_a_document_that_is_gone_is_lost(trial: Trial) -> None:
    change(trial.path, lambda store, tasks: tasks.delete(TASK))
    outcome = compare(trial)
    assert outcome.lost == 1
    assert not outcome.well


def test_a_document_of_an_earlier_step_is_lost(trial: Trial) -> None:
    change(trial.path, lambda store, tasks: tasks.put(task_at(TASK, 1)))
    assert compare(trial).lost == 1


def test_a_seq_that_the_log_does_not_reach_is_lost(trial: Trial) -> None:
    trial.saves.append(Acknowledgement(99, {f"tasks/{TASK}": COMPLETED}))
    assert compare(trial).lost == 1


def test_a_later_state_that_was_not_acknowledged_is_fine(trial: Trial) -> None:
    change(trial.path, lambda store, tasks: tasks.put(task_at(f"{AGENT}_task_0001", 0)))
    outcome = compare(trial)
    assert (outcome.lost, outcome.ahead, outcome.partial) == (0, 1, ())


def test_a_document_that_no_save_wrote_is_partial(trial: Trial) -> None:
    change(
        trial.path,
        lambda store, tasks: tasks.put(task_at(TASK, COMPLETED).model_copy(update={"result": None})),
    )
    outcome = compare(trial)
    assert f"tasks/{TASK} is not what any save wrote" in outcome.partial
    assert not outcome.well


def test_half_a_transaction_is_partial(trial: Trial) -> None:
    change(
        trial.path,
        lambda store, tasks: store.collection("sessions", Session).put(session_at(AGENT, 2)),
    )
    assert any("half a transaction" in sentence for sentence in compare(trial).partial)


def test_a_cut_log_is_partial(trial: Trial) -> None:
    change(trial.path, lambda store, tasks: store.append_log(AGENT, line_at(AGENT, 1)[:-5]))
    assert f"logs/{AGENT} is not what any save wrote" in compare(trial).partial


@pytest.mark.slow
def test_the_demo_loses_nothing(cli: Run, tmp_path: Path) -> None:
    answer = cli("demo", "--tasks", "120", "--kills", "2", "--json")
    facts = answer.json
    assert answer.code == 0
    assert (facts["lost"], facts["partial"], facts["damage"], facts["kills"]) == (0, [], [], 2)
    assert facts["acknowledged"] == facts["recovered"] > 120
    assert facts["tasks"] >= 120
    assert len(facts["rounds"]) == 2
    assert not Path(facts["path"]).exists()


@pytest.mark.slow
def test_the_demo_shows_the_layout_and_keeps_the_store_that_it_was_given(on: Run, path: str) -> None:
    answer = on("demo", "--tasks", "40", "--kills", "1")
    assert answer.code == 0
    assert "state.json" in answer.out
    assert "0 lost" in answer.out
    assert on("status", "--json").json["documents"]["tasks"] >= 40


def test_the_demo_refuses_a_place_that_is_not_empty(on: Run, filled: str, files: Run) -> None:
    before = files()
    answer = on("demo")
    assert answer.code == 4
    assert "is not empty" in answer.err
    assert files() == before


@pytest.mark.parametrize("words", [(), ("--keep",)])
def test_the_demo_says_that_there_is_no_folder_for_it(
    cli: Run, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")
    assert cli("demo", *words, "--json").error["code"] == "no_temporary"


def test_the_demo_refuses_a_store_that_only_one_process_sees(cli: Run) -> None:
    assert cli("demo", "-s", "memory://demo").code == 1


def test_the_demo_fails_when_something_is_lost(
    cli: Run, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(self: Trial, tasks: int) -> None:
        self.outcomes.append(Outcome(2, 1, 0, (), (), 1, 2, 0.1))

    monkeypatch.setattr(Trial, "round", lose)
    answer = cli("demo", "--json")
    assert (answer.code, answer.json["lost"]) == (1, 1)


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_the_demo_shows_no_secret_of_its_place(
    cli: Run, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def win(self: Trial, tasks: int) -> None:
        self.outcomes.append(Outcome(2, 2, 0, (), (), 1, 2, 0.1))

    monkeypatch.setattr(Trial, "round", win)
    answer = cli("demo", "-s", f"sqlite://{tmp_path}/state.db?timeout=17", *words)
    assert answer.code == 0
    assert (f"{tmp_path}/state.db?timeout=…" in answer.out, "timeout=17" in answer.out) == (True, False)


@pytest.mark.slow
def test_a_server_that_cannot_work_tells_why_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    words = (sys.executable, "-m", orchestrator.__name__, str(tmp_path / "file"), "1")
    ended = subprocess.run(words, capture_output=True, check=False, text=True)
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (1, "", 1)
    assert ended.stderr.startswith(f"error: the state path {tmp_path / 'file'}")


@pytest.mark.slow
def test_a_server_whose_starter_was_killed_ends_in_silence(path: str) -> None:
    words = (sys.executable, "-m", orchestrator.__name__, path, "1")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        server.stdout.readline()
        server.stdout.close()
        assert (server.stderr.read(), server.wait()) == (b"", 1)


def test_it_says_where_it_works(cli: Run) -> None:
    told = " ".join(cli("demo", "--help").out.replace("│", " ").split())
    assert "Default: a temporary folder, never STATE_PATH." in told
