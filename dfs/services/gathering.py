"""Waiting, before a commit, for changes that are already on their way: they share its sync."""

from __future__ import annotations

import threading


class Gathering:
    """Knows how many threads will submit a change very soon: those of this process in its block.

    Args:
        wait_s: how long a leader waits for them at most.
    """

    def __init__(self, *, wait_s: float) -> None:
        self._wait_s = wait_s
        self._mutex = threading.Lock()
        self._expected = 0
        self._announced = threading.local()
        self._wake: threading.Lock | None = None

    def __enter__(self) -> None:
        """Have this thread expected inside the block, until it arrives."""
        self.expect()
        self._announced.value = True

    def __exit__(self, *exc_info: object) -> None:
        """Expect this thread no longer."""
        self.arrive()

    def expect(self) -> None:
        """Expect somebody, whichever thread it will be."""
        with self._mutex:
            self._expected += 1

    def forgo(self) -> None:
        """Expect one fewer, and wake a leader that waits for the last."""
        with self._mutex:
            self._expected -= 1
            if self._expected == 0 and self._wake is not None:
                self._wake.release()
                self._wake = None

    def arrive(self) -> None:
        """Count this thread's announcement as kept, and wake a leader that waits for the last."""
        if not getattr(self._announced, "value", False):
            return
        self._announced.value = False
        self.forgo()

    def expects(self) -> bool:
        """Tell whether anybody is on the way."""
        return self._expected > 0

    def wait(self) -> None:
        """Wait until nobody is expected, or long enough. For one thread at a time."""
        with self._mutex:
            if not self._expected:
                return
            wake = self._wake = threading.Lock()
            wake.acquire()
        wake.acquire(timeout=self._wait_s)
        with self._mutex:
            self._wake = None
