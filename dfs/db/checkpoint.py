"""Moving what was committed from SQLite's own log into its database file, beside the commits.

A commit that does so has everybody wait for thousands of pages, which lie anywhere in the file.

Source: https://www.sqlite.org/wal.html, "Checkpointing".
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Protocol

from dfs.db.faults import driver_errors

VALUES_PER_CHECKPOINT = 8_000
"""So many values in rows that are put change about a thousand pages."""
_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
"""While others go on reading and writing. What they write meanwhile is left for the next."""


class Executes(Protocol):
    """What is used of a connection."""

    def execute(self, sql: str) -> object:
        """Run a statement."""

    def close(self) -> None:
        """Close it."""


class Checkpointer:
    """A thread that makes checkpoints when there is enough to move. It begins with the first.

    What goes wrong is left to the commits: they make a checkpoint when the log is several times as
    long. Then little is left to move, and whoever writes next begins the log from its beginning.

    Args:
        connect: opens a connection of its own.
    """

    def __init__(self, connect: Callable[[], Executes]) -> None:
        self._connect = connect
        self._values = 0
        self._is_due = threading.Event()
        self._is_over = False
        self._thread: threading.Thread | None = None

    def note(self, values: int) -> None:
        """Say that so many values were written, and committed. For one thread at a time."""
        self._values += values
        if self._values < VALUES_PER_CHECKPOINT:
            return
        self._values = 0
        self._is_due.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
            with contextlib.suppress(RuntimeError):  # the machine has no more threads
                self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._is_over = True
        self._is_due.set()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        with (
            contextlib.suppress(*driver_errors()),
            contextlib.closing(self._connect()) as connection,
        ):
            while self._is_due.wait() and not self._is_over:
                self._is_due.clear()
                with contextlib.suppress(*driver_errors()):
                    connection.execute(_CHECKPOINT)
