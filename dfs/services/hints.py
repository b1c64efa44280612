"""Telling the workers that something is owed, soon after it is, and never in a writer's way."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import structlog

from dfs.core.errors import QueueError
from dfs.queue.base import JobQueue

PAUSE_S = 0.5
"""At least so long between two hints for the same store. Debts that come meanwhile share one."""
REPLICATE_JOB, REPLICATE_PREFIX = "workers.jobs.replicate", "replicate"
SCRUB_JOB, SCRUB_PREFIX = "workers.jobs.scrub", "scrub"
REPLICATE_TIMEOUT_S = 3600


def replicate_job_id(store: str) -> str:
    """Return the id of the job that works on a store, of which there is one at a time."""
    return f"{REPLICATE_PREFIX}-{store}"


def enqueue_replication(queue: JobQueue, store: str) -> bool:
    """Ask for work on a store. Returns and raises as `JobQueue.enqueue`."""
    return queue.enqueue(
        REPLICATE_JOB,
        {"store": store},
        job_id=replicate_job_id(store),
        timeout_s=REPLICATE_TIMEOUT_S,
    )


def scrub_job_id(store: str) -> str:
    """Return the id of the job that reads a store for damage, of which there is one at a time."""
    return f"{SCRUB_PREFIX}-{store}"


def enqueue_scrub(queue: JobQueue, store: str) -> bool:
    """Ask for a slice of a scrub. Returns and raises as `JobQueue.enqueue`."""
    return queue.enqueue(SCRUB_JOB, {"store": store}, job_id=scrub_job_id(store))


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
                    enqueue_replication(self._queue, store)
                except QueueError as error:
                    structlog.get_logger().debug("hint_lost", store=store, error=str(error))
            with self._condition:
                if self._condition.wait_for(lambda: self._is_stopping, timeout=PAUSE_S):
                    return
