"""What a queue of background jobs can do.

Jobs are named by dotted string and take plain keyword arguments, so that the one who enqueues never
imports the code that runs. A job may run twice and may be killed at any point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

JobArgument = str | int | float | bool | None
JobArguments = Mapping[str, JobArgument]


class JobQueue(Protocol):
    """A queue of jobs. Every method is thread-safe."""

    def enqueue(
        self,
        job: str,
        arguments: JobArguments | None = None,
        *,
        job_id: str,
        timeout_s: int = 600,
        carried: str | None = None,
    ) -> bool:
        """Ask for a job to be run soon, once, whatever number of callers ask.

        Args:
            job: dotted name of the function.
            arguments: its keyword arguments, of JSON types.
            job_id: names this piece of work: ASCII letters, digits, `-` and `_`.
            timeout_s: seconds after which a run of it is broken off.
            carried: the span that the run belongs to, see `dfs.core.tracing`.

        Returns:
            False when a job of that id already waits or runs: there is nothing to add.

        Raises:
            QueueError: the queue does not answer. It says so within half a second.
        """
        ...

    def check(self) -> None:
        """Return if the queue answers. Raises QueueError otherwise, within half a second."""
        ...

    def count_jobs(self) -> Mapping[str, int]:
        """Return how many jobs wait ("queued"), run ("started"), and have "failed".

        What has failed is in there until it is asked for anew, or forgotten.

        Raises:
            QueueError: the queue does not answer. It says so within half a second.
        """
        ...

    def close(self) -> None:
        """Give the connections back. Safe to call twice."""
        ...
