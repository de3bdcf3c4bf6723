"""The servers that tests start come up, whoever else takes ports at the same time."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from servers import process
from servers.process import HOST, Command, free_port, running


def serving(port):
    return Command([sys.executable, "-m", "http.server", "-b", HOST, str(port)], port, lambda: True)


def test_a_server_whose_port_was_taken_is_started_anew_on_another():
    ports = []

    def command(folder):
        ports.append(free_port())
        if len(ports) == 1:
            taken.bind((HOST, ports[0]))
        return serving(ports[-1])

    with socket.socket() as taken, running(command) as port:
        assert port == ports[1]


def test_a_server_that_cannot_start_is_told_with_what_it_said():
    def command(folder):
        return Command([sys.executable, "-c", "raise SystemExit('no such thing')"], free_port(), lambda: True)

    with pytest.raises(RuntimeError, match="no such thing"), running(command):
        pass


def test_what_a_server_leaves_elsewhere_goes_with_it(tmp_path):
    left = tmp_path / "left"

    def command(folder):
        serve = serving(free_port())
        return Command(serve.arguments, serve.port, serve.ready, [left, tmp_path / "never made"])

    with running(command):
        left.touch()
    assert not left.exists()


def test_no_port_is_given_twice_by_whichever_process(monkeypatch):
    few = range(free_port(), 20_240 + 30)[:30]
    monkeypatch.setattr(process, "_PORTS", few)
    here = [free_port() for _ in range(8)]
    draw = f"process._PORTS = {few!r}; print(*(process.free_port() for _ in range(8)))"
    there = subprocess.run(
        [sys.executable, "-c", f"from servers import process; {draw}"],
        cwd=Path(process.__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    assert len({*here, *map(int, there.stdout.split())}) == 16
