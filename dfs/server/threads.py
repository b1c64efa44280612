"""The threads that serve requests: so many work, however many wait for slow clients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class ServingThreads:
    """A fixed number of threads; one more for each that is lent to a slow client.

    A thread that was lent is replaced at once, and ends with its job.

    Args:
        count: how many work.
        lent_max: how many may be lent at a time.
        let_go: called in a thread that is lent, and in one that ends: what it keeps for the next
            job (a connection to the index) is of no use.
    """

    def __init__(self, *, count: int, lent_max: int, let_go: Callable[[], None]) -> None:
        self._lent_max = lent_max
        self._let_go = let_go
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._lent: set[int] = set()
        self._count = count
        for _ in range(count):
            self._start()

    def submit(self, job: Job) -> None:
        """Have a job done. It raises nothing."""
        self._jobs.put(job)

    def are_short(self) -> bool:
        """Tell whether a job waits for a thread."""
        return not self._jobs.empty()

    def lend(self) -> bool:
        """Replace the calling thread until its job is done. False: too many are lent already."""
        with self._lock:
            if len(self._lent) >= self._lent_max:
                return False
            self._lent.add(threading.get_ident())
        self._let_go()
        self._start()
        return True

    def count_lent(self) -> int:
        """Return how many are lent."""
        return len(self._lent)

    def shutdown(self, wait: bool = False) -> None:
        """Let idle threads end, and the others after their jobs; `wait` is Gunicorn's, ignored."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _start(self) -> None:
        # A process that ends does not wait for clients.
        threading.Thread(target=self._run, name="serving", daemon=True).start()

    def _run(self) -> None:
        ident = threading.get_ident()
        while (job := self._jobs.get()) is not None:
            job()
            if ident in self._lent:
                with self._lock:
                    self._lent.discard(ident)
                break
        self._let_go()
