"""The connections of a worker that have no thread, and when each of them is closed.

Each waits for something else, in a room of its own: for the head of its first request, or the rest
of a head that came in pieces; for its next request; for a thread, since its request is here; or,
when nothing more is sent to it, for its client to notice.

A connection on which nothing has come is closed in two steps, since the client may be sending a
request at that very moment. First the client is told that nothing more comes. What it sends all the
same is thrown away for a while: so it finds the end of the connection and no answer, never a reset,
which could take an answer with it, and knows that it may ask again on another connection (RFC 9112,
9.3.1 and 9.6).
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from gunicorn.http.errors import ParseException

from dfs.server.waiting import ServingRoom, WaitingRoom

if TYPE_CHECKING:
    from dfs.server.arrivals import Arrivals
    from dfs.server.connection import Connection

LINGER_S = 2.0
"""How long a client may take to hear that its connection is closed."""
STOPPING_IDLE_S = 2.0
"""How long a connection may wait for its next request when the worker is to stop."""


class Lobby:
    """The connections that wait. Only for the main thread, unless it is said otherwise.

    Args:
        poller: of the main thread.
        arrivals: where the threads wait for connections.
        head_timeout_s: how long the head of a request may take.
        idle_timeout_s: how long a connection may wait for its next request.
        refuse_late: answers a request whose head does not come. It may raise OSError.
        on_closed: called when a connection was closed.
    """

    def __init__(
        self,
        poller: selectors.BaseSelector,
        arrivals: Arrivals,
        *,
        head_timeout_s: float,
        idle_timeout_s: float,
        refuse_late: Callable[[Connection], None],
        on_closed: Callable[[], None],
    ) -> None:
        room = partial(WaitingRoom, poller)
        self._heads = room(timeout_s=head_timeout_s, on_readable=self._collect)
        self._idle = ServingRoom(arrivals, timeout_s=idle_timeout_s)
        self._due = ServingRoom(arrivals, timeout_s=idle_timeout_s)
        self._ending = room(timeout_s=LINGER_S, on_readable=self._drain)
        self._arrivals = arrivals
        self._refuse_late = refuse_late
        self._on_closed = on_closed

    def enter(self, connection: Connection) -> None:
        """Let in a new connection."""
        self._arrivals.add(connection)
        self._heads.add(connection)

    def wait_for_head(self, connection: Connection) -> None:
        """Let in a connection whose request has begun to come."""
        self._heads.add(connection)

    def keep(self, connection: Connection) -> None:
        """Let in a connection that was served, until its next request comes. For any thread."""
        if connection.holds_more():
            self._due.push(connection)
        else:
            self._idle.add(connection)

    def push(self, connection: Connection) -> None:
        """Let in a connection for which a thread has something to do. For any thread."""
        self._due.push(connection)

    def take(self, connection: Connection) -> bool:
        """Let a connection out to be served. False: somebody else has. For any thread."""
        return self._idle.remove(connection) or self._due.remove(connection)

    def end(self, connection: Connection) -> None:
        """Close a connection so that the client gets what was sent to it."""
        if connection.end():
            self._ending.add(connection)
        else:
            self._close(connection)

    def close_expired(self, *, is_stopping: bool) -> None:
        """Close those that have waited for long enough.

        Args:
            is_stopping: those on which nothing has come may not wait for as long.
        """
        for connection in self._heads.pop_expired():
            if connection.has_begun:
                with suppress(OSError):
                    self._refuse_late(connection)
                self.end(connection)
            else:
                self._part(connection)
        for connection in self._idle.pop_expired():
            self._part(connection)
        if is_stopping:
            for connection in self._idle.pop_expired(timeout_s=STOPPING_IDLE_S):
                self._part(connection)
            for connection in self._heads.pop_expired(timeout_s=STOPPING_IDLE_S):
                self._part(connection)  # a head that has begun goes on
        for room in (self._due, self._ending):
            for connection in room.pop_expired():
                self._close(connection)

    def make_room(self) -> None:
        """Close the connection that has done nothing for longest."""
        for room in (self._ending, self._heads, self._idle, self._due):
            connection = room.pop_oldest()
            if connection is not None:
                self._close(connection)
                return

    def _part(self, connection: Connection) -> None:
        """Close a connection on which nothing has come; a request that just has is served."""
        if connection.has_more():
            self._due.push(connection)
        else:
            self.end(connection)

    def _collect(self, connection: Connection) -> None:
        """Go on with a head that has begun; a thread does the rest, and whatever is wrong."""
        if connection.has_begun:
            with suppress(OSError, ParseException):
                if not connection.collect():
                    return
        self._heads.remove(connection)
        self._due.push(connection)

    def _drain(self, connection: Connection) -> None:
        if not connection.drain():
            self._ending.remove(connection)
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._on_closed()
        self._arrivals.remove(connection)
        connection.close()
