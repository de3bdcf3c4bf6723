"""The servers that tests start come up, whoever else takes ports at the same time."""

import socket
import sys

import pytest
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


def test_no_port_is_given_twice():
    assert len({free_port() for _ in range(300)}) == 300
