"""Work on a store that may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from dfs.core.tracing import in_context

Result = TypeVar("Result")


class Turn(Generic[Result]):
    """A piece of work in a thread of its own, given up when it makes no progress.

    A disk that hangs keeps the thread; it cannot be ended, only no longer waited for.
    """

    def __init__(self, work: Callable[[Turn[Result]], Result]) -> None:
        self._work = work
        self._report: Result | None = None
        self._error: BaseException | None = None
        self._progress_s = time.monotonic()
        self._thread = threading.Thread(target=in_context(self._run), daemon=True, name="turn")
        self._thread.start()

    def is_running(self) -> bool:
        """Tell whether the thread still works, or hangs."""
        return self._thread.is_alive()

    def note_progress(self) -> None:
        """Say that the store has answered just now."""
        self._progress_s = time.monotonic()

    def wait(self, *, patience_s: float) -> Result | None:
        """Return the report, or None without progress for so long. Raises what the work raised."""
        while self._thread.is_alive():
            left_s = self._progress_s + patience_s - time.monotonic()
            if left_s <= 0:
                return None
            self._thread.join(left_s)
        if self._error is not None:
            raise self._error
        return self._report

    def _run(self) -> None:
        try:
            self._report = self._work(self)
        except BaseException as error:
            self._error = error


class Turns:
    """Turns of work on stores: one at a time for each store and kind of work.

    Args:
        patience_s: a turn that makes no progress for so long is no longer waited for.
    """

    def __init__(self, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._turns: dict[str, Turn[Any]] = {}

    def is_hanging(self, key: str) -> bool:
        """Tell whether an earlier turn has not ended yet, so that no other can begin."""
        turn = self._turns.get(key)
        return turn is not None and turn.is_running()

    def run(self, key: str, work: Callable[[Turn[Result]], Result]) -> Result | None:
        """Do some work and return its result; None if it hangs, or an earlier turn still does.

        Raises:
            Whatever the work raises.
        """
        if self.is_hanging(key):
            return None
        turn = self._turns[key] = Turn(work)
        return turn.wait(patience_s=self._patience_s)
