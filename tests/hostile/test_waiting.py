"""Connections that wait for their client, and are closed at any moment."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

import pytest

from dfs.server.arrivals import Arrivals
from dfs.server.connection import Connection
from dfs.server.waiting import ServingRoom


class ClosedMeanwhile:
    """A connection that the main thread, which makes room, closes as soon as it is let in."""

    def __init__(self, arrivals: Arrivals, room: ServingRoom, sock: socket.socket) -> None:
        self._arrivals = arrivals
        self._room = room
        self._sock = sock

    @property
    def sock(self) -> socket.socket:
        """The socket; once the connection is let in it is closed before it can be used."""
        this = cast(Connection, self)
        if self._room.remove(this):
            self._arrivals.remove(this)
            self._sock.close()
        return self._sock


@pytest.mark.parametrize("let_in", [ServingRoom.add, ServingRoom.push])
def test_connection_closed_as_it_is_let_in_breaks_no_thread(
    let_in: Callable[[ServingRoom, Any], None],
) -> None:
    """A thread that has served goes on with the next, whether or not the client has sent more."""
    arrivals = Arrivals(gather_s=0)
    room = ServingRoom(arrivals, timeout_s=30)
    server, client = socket.socketpair()
    connection = ClosedMeanwhile(arrivals, room, server)
    arrivals.add(cast(Connection, connection))
    with client:
        let_in(room, connection)
    assert len(room) == 0
