"""Connections that wait for their client without a thread."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfs.server.connection import Connection


class WaitingRoom:
    """Connections that wait for the same thing, the longest waiting first. For one thread.

    Args:
        timeout_s: how long a connection may stay.
        on_readable: called with a connection of which something can be read. It stays, unless it
            is removed.
    """

    def __init__(
        self,
        poller: selectors.BaseSelector,
        *,
        timeout_s: float,
        on_readable: Callable[[Connection], None],
    ) -> None:
        self.timeout_s = timeout_s
        self._poller = poller
        self._on_readable = on_readable
        self._deadlines: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, connection: Connection) -> None:
        """Let a connection in."""
        self._deadlines[connection] = monotonic() + self.timeout_s
        wake = partial(self._wake, connection)
        self._poller.register(connection.sock.fileno(), selectors.EVENT_READ, wake)

    def remove(self, connection: Connection) -> None:
        """Let a connection out."""
        del self._deadlines[connection]
        self._poller.unregister(connection.sock.fileno())

    def pop_oldest(self) -> Connection | None:
        """Let out whoever has waited longest, if there is anybody."""
        connection = next(iter(self._deadlines), None)
        if connection is not None:
            self.remove(connection)
        return connection

    def pop_expired(self, *, timeout_s: float | None = None) -> Iterator[Connection]:
        """Let out those whose time is up; `timeout_s`: as if that had been the time."""
        earlier_s = 0.0 if timeout_s is None else max(0.0, self.timeout_s - timeout_s)
        now_s = monotonic() + earlier_s
        for connection, deadline_s in list(self._deadlines.items()):
            if deadline_s > now_s:
                return
            self.remove(connection)
            yield connection

    def _wake(self, connection: Connection, _: int) -> None:
        if connection in self._deadlines:  # unless it was removed after the poll
            self._on_readable(connection)
