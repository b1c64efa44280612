"""The periodic jobs.

A scheduler process asks for them, or, as long as there is none, each worker process. Several that
ask at once do no harm: a job that waits or runs is not added again. None for a while does none
either: what is owed stands in the index.

Not rq's own cron: that builds its queue with the pickle serializer and gives each run a new id, so
two worker processes would run everything twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from dfs.core.errors import QueueError
from dfs.core.signs import SCHEDULER_NAME, is_shown
from dfs.queue.base import JobArguments, JobQueue
from dfs.services.hints import REPLICATE, SCRUB

SWEEP_INTERVAL_S_MAX = 3600
REPLICATE_INTERVAL_S = 2.0
"""What a lost hint costs at most."""
SCRUB_INTERVAL_S = 2.0
"""From one slice to the next; it reads what the limit allows for the time between."""
COLLECT_INTERVAL_S = 10.0
COMPACT_INTERVAL_S = 1.0


_STORE_JOBS = ((REPLICATE, REPLICATE_INTERVAL_S), (SCRUB, SCRUB_INTERVAL_S))


@dataclass(frozen=True, slots=True)
class Periodic:
    """A job to be enqueued again and again.

    Attributes:
        job: dotted name.
        job_id: what keeps two runs of it from being queued at once.
        interval_s: seconds between the beginnings of two runs.
        timeout_s: seconds after which a run is broken off.
    """

    job: str
    job_id: str
    interval_s: float
    arguments: JobArguments = field(default_factory=dict, hash=False)
    timeout_s: int = 600


def periodic_jobs(*, tmp_age_s: int, stores: Sequence[str]) -> tuple[Periodic, ...]:
    """Return the periodic jobs of a node.

    Args:
        stores: names of all its stores.
    """
    of_stores = [
        Periodic(
            job=job.name,
            job_id=job.id_of(store),
            interval_s=interval_s,
            arguments={"store": store},
            timeout_s=job.timeout_s,
        )
        for store in stores
        for job, interval_s in _STORE_JOBS
    ]
    return (
        *of_stores,
        Periodic(
            job="workers.jobs.collect_garbage",
            job_id="collect-garbage",
            interval_s=COLLECT_INTERVAL_S,
        ),
        Periodic(job="workers.jobs.compact", job_id="compact", interval_s=COMPACT_INTERVAL_S),
        Periodic(
            job="workers.jobs.sweep_temporaries",
            job_id="sweep-temporaries",
            interval_s=min(SWEEP_INTERVAL_S_MAX, tmp_age_s / 4),
        ),
    )


def has_no_scheduler(run_path: Path) -> bool:
    """Tell whether no scheduler process lives; none either if that cannot be told."""
    return not is_shown(run_path / SCHEDULER_NAME)


def always() -> bool:
    """Return True."""
    return True


class Schedule:
    """Enqueues periodic jobs from a thread of its own, each once at the start.

    Args:
        queue: a failure of it is logged, and the job is tried again at its next turn.
        is_ours: asked at each turn; False: somebody else enqueues them, and the turn is passed.
    """

    def __init__(
        self, *, queue: JobQueue, jobs: Sequence[Periodic], is_ours: Callable[[], bool] = always
    ) -> None:
        self._queue = queue
        self._jobs = jobs
        self._is_ours = is_ours
        self._was_ours = True
        self._is_failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schedule", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        due_s = dict.fromkeys(self._jobs, time.monotonic())
        while True:
            due = [job for job in self._jobs if due_s[job] <= time.monotonic()]
            is_ours = self._take_turn()
            for job in due:
                due_s[job] += job.interval_s
                if is_ours:
                    self._enqueue(job)
            if self._stopping.wait(max(0.0, min(due_s.values()) - time.monotonic())):
                return

    def _take_turn(self) -> bool:
        is_ours = self._is_ours()
        if is_ours != self._was_ours:
            structlog.get_logger().info("schedule_resumed" if is_ours else "schedule_left")
            self._was_ours = is_ours
        return is_ours

    def _enqueue(self, job: Periodic) -> None:
        try:
            self._queue.enqueue(job.job, job.arguments, job_id=job.job_id, timeout_s=job.timeout_s)
        except QueueError as error:
            if not self._is_failing:  # once an outage, not every job every two seconds
                structlog.get_logger().warning("periodic_jobs_not_queued", error=str(error))
            self._is_failing = True
        else:
            self._is_failing = False
