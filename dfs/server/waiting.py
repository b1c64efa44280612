"""Connections that wait for their client without a thread."""

from __future__ import annotations

import selectors
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfs.server.arrivals import Arrivals
    from dfs.server.connection import Connection

_CLOSED = (OSError, ValueError)
"""What a thread finds if the main one has closed a connection as soon as it was let in."""


class Room(ABC):
    """Connections that wait for the same thing, the longest waiting first.

    Args:
        timeout_s: how long a connection may stay.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._deadlines: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, connection: Connection) -> None:
        """Let a connection in."""
        self._deadlines[connection] = monotonic() + self.timeout_s
        self._watch(connection)

    def remove(self, connection: Connection) -> bool:
        """Let a connection out. False if it is not here: somebody else has let it out."""
        if self._deadlines.pop(connection, None) is None:
            return False
        self._unwatch(connection)
        return True

    def pop_oldest(self) -> Connection | None:
        """Let out whoever has waited longest, if there is anybody."""
        return next(filter(self.remove, list(self._deadlines)), None)

    def pop_expired(self, *, timeout_s: float | None = None) -> Iterator[Connection]:
        """Let out those whose time is up; `timeout_s`: as if that had been the time."""
        earlier_s = 0.0 if timeout_s is None else max(0.0, self.timeout_s - timeout_s)
        now_s = monotonic() + earlier_s
        for connection, deadline_s in list(self._deadlines.items()):
            if deadline_s > now_s:
                return
            if self.remove(connection):
                yield connection

    @abstractmethod
    def _watch(self, connection: Connection) -> None:
        """Have it noticed when the connection need not wait any more."""

    @abstractmethod
    def _unwatch(self, connection: Connection) -> None:
        """Have it noticed no more."""


class WaitingRoom(Room):
    """Connections that the main thread polls. Only for that thread.

    Args:
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
        super().__init__(timeout_s=timeout_s)
        self._poller = poller
        self._on_readable = on_readable

    def _watch(self, connection: Connection) -> None:
        wake = partial(self._wake, connection)
        self._poller.register(connection.sock.fileno(), selectors.EVENT_READ, wake)

    def _unwatch(self, connection: Connection) -> None:
        self._poller.unregister(connection.sock.fileno())

    def _wake(self, connection: Connection, _: int) -> None:
        if connection in self._deadlines:  # unless it was removed after the poll
            self._on_readable(connection)


class ServingRoom(Room):
    """Connections that the serving threads poll. Whoever removes one has it for itself."""

    def __init__(self, arrivals: Arrivals, *, timeout_s: float) -> None:
        super().__init__(timeout_s=timeout_s)
        self._arrivals = arrivals

    def push(self, connection: Connection) -> None:
        """Let in a connection whose request is here."""
        self._deadlines[connection] = monotonic() + self.timeout_s
        with suppress(*_CLOSED):
            self._arrivals.push(connection)

    def _watch(self, connection: Connection) -> None:
        with suppress(*_CLOSED):
            self._arrivals.put_back(connection)

    def _unwatch(self, connection: Connection) -> None:
        """Do nothing: it is noticed once only, and whoever notices it tries to remove it."""
