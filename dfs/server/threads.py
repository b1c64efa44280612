"""The threads that serve requests: so many work, however many wait for slow clients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from dfs.server.crew import ServingCrew

T = TypeVar("T")
Taken_co = TypeVar("Taken_co", covariant=True)


class Work(Protocol[Taken_co]):
    """Where the threads find what to do."""

    def take(self) -> Taken_co | None:
        """Wait for something to do; None: there is nothing any more."""

    def close(self) -> None:
        """Have `take` return None, to every thread."""


class ServingThreads(Generic[T]):
    """A fixed number of threads; one more for each that is lent to a slow client.

    A thread that was lent is replaced at once, and ends when it has served.

    Args:
        work: what they do.
        crew: says which of them runs.
        serve: does one thing of it. It raises nothing.
        count: how many work.
        lent_max: how many may be lent at a time.
    """

    def __init__(
        self,
        work: Work[T],
        *,
        crew: ServingCrew,
        serve: Callable[[T], None],
        count: int,
        lent_max: int,
    ) -> None:
        self._work = work
        self._crew = crew
        self._serve = serve
        self._lent_max = lent_max
        self._lock = threading.Lock()
        self._lent: set[int] = set()
        for _ in range(count):
            self._start()

    def are_short(self) -> bool:
        """Tell whether something waits for a thread."""
        return self._crew.is_short()

    def step_aside(self) -> None:
        """Let another thread run: the calling one is going to wait."""
        self._crew.step_aside()

    def lend(self) -> bool:
        """Replace the calling thread until it has served. False: too many are lent already."""
        with self._lock:
            if len(self._lent) >= self._lent_max:
                return False
            self._lent.add(threading.get_ident())
        try:
            self._start()
        except RuntimeError:  # the machine has no more threads
            self._lent.discard(threading.get_ident())
            return False
        return True

    def count_lent(self) -> int:
        """Return how many are lent."""
        return len(self._lent)

    def shutdown(self, wait: bool = False) -> None:
        """Let idle threads end, and the others when they are; `wait` is Gunicorn's, ignored."""
        self._work.close()

    def _start(self) -> None:
        # A process that ends does not wait for clients.
        threading.Thread(target=self._run, name="serving", daemon=True).start()

    def _run(self) -> None:
        ident = threading.get_ident()
        self._crew.join()
        while (thing := self._work.take()) is not None:
            self._serve(thing)
            if ident in self._lent:
                with self._lock:
                    self._lent.discard(ident)
                break
        self._crew.leave()
