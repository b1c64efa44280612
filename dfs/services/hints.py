"""Telling the workers that something is owed, soon after it is, and never in a writer's way."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from dfs.core.errors import QueueError
from dfs.queue.base import JobQueue

PAUSE_S = 0.5
"""At least so long between two hints for the same store. Debts that come meanwhile share one."""


@dataclass(frozen=True, slots=True)
class StoreJob:
    """A job that works on one store, of which there is one at a time for each store.

    Attributes:
        name: dotted name of the function.
        prefix: of its ids.
        timeout_s: seconds after which a run is broken off.
    """

    name: str
    prefix: str
    timeout_s: int

    def id_of(self, store: str) -> str:
        """Return the id of the job for a store."""
        return f"{self.prefix}-{store}"

    def enqueue(self, queue: JobQueue, store: str) -> bool:
        """Ask for a run. Returns and raises as `JobQueue.enqueue`."""
        return queue.enqueue(
            self.name, {"store": store}, job_id=self.id_of(store), timeout_s=self.timeout_s
        )


REPLICATE = StoreJob("workers.jobs.replicate", "replicate", timeout_s=3600)
SCRUB = StoreJob("workers.jobs.scrub", "scrub", timeout_s=600)


def ignore_hint(stores: Iterable[str]) -> None:
    """Do nothing: there is no queue, and whoever runs without one does the work himself."""


class Hinter:
    """Enqueues jobs from a thread of its own, begun at the first hint.

    A hint that is lost, because the queue is down or the process dies, costs time and nothing
    else: the periodic jobs look for debts, too.
    """

    def __init__(self, *, queue: JobQueue) -> None:
        self._queue = queue
        self._wanted: set[str] = set()
        self._condition = threading.Condition()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def wake(self, stores: Iterable[str]) -> None:
        """Have work on these stores asked for soon. Never raises, never waits for the queue."""
        with self._condition:
            before = len(self._wanted)
            self._wanted.update(stores)
            if len(self._wanted) == before or self._is_stopping:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hinter", daemon=True)
                self._thread.start()
            self._condition.notify()

    def stop(self) -> None:
        """End the thread. What was not asked for yet is left to the periodic jobs."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._wanted or self._is_stopping)
                if self._is_stopping:
                    return
                wanted, self._wanted = self._wanted, set()
            for store in sorted(wanted):
                try:
                    REPLICATE.enqueue(self._queue, store)
                except QueueError as error:
                    structlog.get_logger().debug("hint_lost", store=store, error=str(error))
            with self._condition:
                if self._condition.wait_for(lambda: self._is_stopping, timeout=PAUSE_S):
                    return
