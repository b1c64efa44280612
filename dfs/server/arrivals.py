"""Connections for which there is something to do, and the threads that wait for them.

The threads wait on the kernel's list itself: whichever is free takes the next connection, and puts
it back when it is done. So a request passes through no other thread, and costs two hand-overs of
the interpreter less than by way of a queue.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING

from dfs.server.crew import ServingCrew

if TYPE_CHECKING:
    from dfs.server.connection import Connection

_NEVER = select.EPOLLONESHOT
_REQUEST = select.EPOLLIN | select.EPOLLONESHOT
_NOW = select.EPOLLIN | select.EPOLLOUT | select.EPOLLONESHOT
"""What has to be so before a connection is taken. Each is taken once, then it is put back."""


class Arrivals:
    """Connections, each of which is taken by one thread at a time. For many threads."""

    def __init__(self, *, gather_s: float) -> None:
        self.crew = ServingCrew(has_arrivals=self.exist, call=self._ring, gather_s=gather_s)
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._end = os.eventfd(0)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._poll.register(self._end, select.EPOLLIN)
        self._poll.register(self._bell, select.EPOLLIN)

    def add(self, connection: Connection) -> None:
        """Know a connection, which nobody takes yet."""
        fd = connection.sock.fileno()
        self._connections[fd] = connection
        self._poll.register(fd, _NEVER)

    def remove(self, connection: Connection) -> None:
        """Forget a connection, before it is closed."""
        fd = connection.sock.fileno()
        del self._connections[fd]
        self._poll.unregister(fd)

    def push(self, connection: Connection) -> None:
        """Let a connection be taken now, or when its client has read what was sent to it."""
        self._poll.modify(connection.sock.fileno(), _NOW)

    def put_back(self, connection: Connection) -> None:
        """Let a connection be taken when something comes from its client."""
        self._poll.modify(connection.sock.fileno(), _REQUEST)

    def take(self) -> Connection | None:
        """Wait for a connection, and return it; None after `close`.

        One that was removed at the same moment, or another with its descriptor, may be returned.
        """
        crew, poll = self.crew, self._poll.poll
        while True:
            crew.look_out()
            events = () if crew.is_pressed() else poll(0, 1)
            if not events:
                if crew.do_chore() or not crew.rest():
                    continue
                events = poll(-1, 1)
            crew.begin()
            fd = events[0][0]
            if fd == self._end:
                return None
            if fd == self._bell:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)
            connection = self._connections.get(fd)
            if connection is not None:
                return connection

    def exist(self) -> bool:
        """Tell whether a connection waits for a thread."""
        look = select.poll()
        look.register(self._poll, select.POLLIN)
        return bool(look.poll(0))

    def _ring(self) -> None:
        """Have the thread that waits for arrivals look around."""
        os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """Let all threads know that there is nothing more to do."""
        os.eventfd_write(self._end, 1)
