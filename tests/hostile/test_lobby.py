"""Connections that wait are closed so that no request is lost that has come."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import Config

import dfs.server.waiting
from dfs.server.arrivals import Arrivals
from dfs.server.connection import Connection
from dfs.server.lobby import STOPPING_IDLE_S, Lobby
from dfs.server.wire import Terms

REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
IDLE_S = 30.0


class Rig:
    """A lobby without threads, with one connection in it, and a clock that stands still.

    Attributes:
        now_s: what the clock shows.
        closed: how many connections were closed.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.now_s = 0.0
        self.closed = 0
        self.client = socket.create_connection(listener.getsockname(), timeout=10)
        sock, address = listener.accept()
        no_threads: Any = None
        self.connection = Connection(
            Config(),
            sock,
            address,
            None,
            terms=Terms(grace_s=1, bytes_per_s_min=1),
            threads=no_threads,
            head_bytes_max=1000,
        )
        self.poller = selectors.DefaultSelector()
        self.lobby = Lobby(
            self.poller,
            Arrivals(gather_s=0),
            head_timeout_s=IDLE_S,
            idle_timeout_s=IDLE_S,
            refuse_late=lambda _: None,
            on_closed=self._note_closed,
        )

    def _note_closed(self) -> None:
        self.closed += 1

    def keep(self) -> None:
        """Let the connection in as one that was served."""
        self.connection.init()
        self.lobby.enter(self.connection)
        self.send(REQUEST)
        self.look()
        assert self.lobby.take(self.connection)
        assert self.connection.collect()
        self.connection.parser.unreader.take_buffered()
        self.lobby.keep(self.connection)

    def send(self, data: bytes) -> None:
        """Send bytes, and wait until the server has them."""
        self.client.sendall(data)
        with selectors.DefaultSelector() as sight:
            sight.register(self.connection.sock.fileno(), selectors.EVENT_READ)
            assert sight.select(10)

    def look(self) -> None:
        """Do what the main thread does when something has come."""
        for key, _ in self.poller.select(10):
            key.data(key.fileobj)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Return a connection in a lobby."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rig = Rig(listener)
    monkeypatch.setattr(dfs.server.waiting, "monotonic", lambda: rig.now_s)
    with rig.client, rig.poller:
        yield rig
        rig.connection.close()


@pytest.mark.parametrize("is_stopping", [False, True])
def test_request_that_came_as_its_connection_was_to_be_closed_is_served(
    rig: Rig, is_stopping: bool
) -> None:
    """It is there, though no thread has seen it yet."""
    rig.keep()
    rig.send(REQUEST)
    rig.now_s = STOPPING_IDLE_S if is_stopping else IDLE_S
    rig.lobby.close_expired(is_stopping=is_stopping)
    assert rig.lobby.take(rig.connection)


def test_first_request_that_came_as_the_worker_stopped_is_served(rig: Rig) -> None:
    """So it is on a connection on which nothing had come before."""
    rig.lobby.enter(rig.connection)
    rig.send(REQUEST)
    rig.now_s = STOPPING_IDLE_S
    rig.lobby.close_expired(is_stopping=True)
    assert rig.lobby.take(rig.connection)


def test_client_whose_request_crosses_the_end_of_its_connection_meets_no_reset(rig: Rig) -> None:
    """It finds the end, and nothing of an answer, until it closes the connection itself."""
    rig.keep()
    rig.now_s = IDLE_S
    rig.lobby.close_expired(is_stopping=False)
    assert rig.client.recv(1) == b""
    rig.send(REQUEST)
    rig.look()
    assert rig.client.recv(1) == b""
    assert not rig.closed
    rig.client.shutdown(socket.SHUT_WR)
    rig.look()
    assert rig.closed == 1


def test_request_that_waits_for_a_thread_outlives_idle_connections(rig: Rig) -> None:
    """A worker that stops waits for it longer than for a request that may never come."""
    rig.keep()
    assert rig.lobby.take(rig.connection)
    rig.lobby.push(rig.connection)
    rig.now_s = STOPPING_IDLE_S
    rig.lobby.close_expired(is_stopping=True)
    assert rig.lobby.take(rig.connection)


def test_idle_connections_of_a_worker_that_stops_are_closed_soon(rig: Rig) -> None:
    """Whoever is connected and asks for nothing does not hold up the end."""
    rig.keep()
    rig.lobby.close_expired(is_stopping=True)
    assert rig.lobby.take(rig.connection)
    rig.lobby.keep(rig.connection)
    rig.now_s = STOPPING_IDLE_S
    rig.lobby.close_expired(is_stopping=True)
    assert not rig.lobby.take(rig.connection)
    assert rig.client.recv(1) == b""
