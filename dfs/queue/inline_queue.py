"""A queue that runs each job at once, in the caller's thread: for tests and tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dfs.queue.base import JobArgument, JobArguments


class InlineQueue:
    """Runs jobs as they are enqueued.

    Args:
        jobs: the function behind each dotted name. A name that is not here is a KeyError.
    """

    def __init__(self, *, jobs: Mapping[str, Callable[..., object]]) -> None:
        self._jobs = jobs
        self._running: set[str] = set()

    def enqueue(
        self,
        job: str,
        arguments: JobArguments | None = None,
        *,
        job_id: str,
        timeout_s: int = 600,
        carried: str | None = None,
    ) -> bool:
        """Run the job now. A job that enqueues itself again is told that it already runs."""
        if job_id in self._running:
            return False
        plain: dict[str, JobArgument] = dict(arguments or {})
        self._running.add(job_id)
        try:
            self._jobs[job](**plain)
        finally:
            self._running.discard(job_id)
        return True

    def check(self) -> None:
        """Return: there is nothing that could be down."""

    def count_jobs(self) -> Mapping[str, int]:
        """Return nothing: no job waits, and whoever asks for one hears of its failure."""
        return {}

    def close(self) -> None:
        """Return: there is nothing to give back."""
