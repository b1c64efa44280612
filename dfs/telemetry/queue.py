"""Metrics of the queue as it is, and of the jobs that were run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from dfs.telemetry.lookup import Lookup, LookupCollector, single

_RESULTS = ("finished", "failed")
_SECONDS_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 60)


class JobCounters:
    """Counts the jobs that a worker process has run.

    Args:
        jobs: their names. Each stands at 0 until it is run, see `StoreCounters`. Their label is
            called `task`: Prometheus has a `job` of its own.
    """

    def __init__(self, *, registry: CollectorRegistry, jobs: Iterable[str] = ()) -> None:
        self._runs = Counter(
            "dfs_jobs",
            "Jobs that were run, by what came of them",
            ("task", "result"),
            registry=registry,
        )
        self._seconds = Histogram(
            "dfs_job_duration_seconds",
            "Seconds that a job took",
            ("task",),
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        for job in jobs:
            self._seconds.labels(job)
            for result in _RESULTS:
                self._runs.labels(job, result)

    def observe_job(self, job: str, *, duration_s: float, has_failed: bool) -> None:
        """Count a job that has ended."""
        self._runs.labels(job, _RESULTS[has_failed]).inc()
        self._seconds.labels(job).observe(duration_s)


@dataclass(frozen=True, slots=True)
class QueueGauges:
    """How the queue is.

    Attributes:
        jobs: state -> how many jobs are in it; None if the queue does not answer.
    """

    jobs: Mapping[str, int] | None


_METRICS: tuple[Lookup[QueueGauges], ...] = (
    single(
        "dfs_queue_up",
        "1 if the queue answers; not told by a node that has none",
        lambda found: found.jobs is not None,
    ),
    Lookup(
        "dfs_queue_jobs",
        "Jobs of this node that wait, that run, and that have failed and were not begun anew",
        ("state",),
        lambda found: {(state,): count for state, count in (found.jobs or {}).items()},
    ),
)


def collect_queue(read: Callable[[], QueueGauges | None]) -> LookupCollector[QueueGauges]:
    """Return what tells how the queue is; nothing if there is none."""
    return LookupCollector(read, _METRICS, name="queue")
