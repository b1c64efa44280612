"""Telling the workers that something is owed, soon after it is, and never in a writer's way."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from dfs.core.errors import QueueError
from dfs.core.tracing import NO_SPANS, Spans
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

    def enqueue(self, queue: JobQueue, store: str, *, carried: str | None = None) -> bool:
        """Ask for a run. Takes `carried`, returns and raises as `JobQueue.enqueue`."""
        return queue.enqueue(
            self.name,
            {"store": store},
            job_id=self.id_of(store),
            timeout_s=self.timeout_s,
            carried=carried,
        )


REPLICATE = StoreJob("workers.jobs.replicate", "replicate", timeout_s=3600)
SCRUB = StoreJob("workers.jobs.scrub", "scrub", timeout_s=600)


class Wake(Protocol):
    """Has work on stores asked for soon."""

    def __call__(self, stores: Iterable[str], *, carried: str | None = None) -> None:
        """See `Hinter.wake`."""


def ignore_hint(stores: Iterable[str], *, carried: str | None = None) -> None:
    """Do nothing: there is no queue, and whoever runs without one does the work himself."""


class Hinter:
    """Enqueues jobs from a thread of its own, begun at the first hint.

    A hint that is lost, because the queue is down or the process dies, costs time and nothing
    else: the periodic jobs look for debts, too.

    Args:
        spans: a job belongs to the first span in which it was asked for.
    """

    def __init__(self, *, queue: JobQueue, spans: Spans = NO_SPANS) -> None:
        self._queue = queue
        self._spans = spans
        self._wanted: dict[str, str | None] = {}
        self._condition = threading.Condition()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def wake(self, stores: Iterable[str], *, carried: str | None = None) -> None:
        """Have work on these stores asked for soon. Never raises, never waits for the queue.

        Args:
            carried: the span that it belongs to; by default that of the caller.
        """
        carried = carried or self._spans.carry()
        with self._condition:
            before = len(self._wanted)
            for store in stores:
                self._wanted[store] = self._wanted.get(store) or carried
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
                wanted, self._wanted = self._wanted, {}
            for store in sorted(wanted):
                self._ask(store, wanted[store])
            with self._condition:
                if self._condition.wait_for(lambda: self._is_stopping, timeout=PAUSE_S):
                    return

    def _ask(self, store: str, carried: str | None) -> None:
        try:
            if carried is None:
                REPLICATE.enqueue(self._queue, store)
                return
            with self._spans.span("enqueue", carried=carried, store=store):
                REPLICATE.enqueue(self._queue, store, carried=self._spans.carry())
        except QueueError as error:
            structlog.get_logger().debug("hint_lost", store=store, error=str(error))
