"""Jobs whose worker process has ended before they had.

rq takes such a job to run until its time limit has passed, an hour for those of the stores, and
nobody may ask for it anew as long as it runs. So each worker process holds a lock on a file while
it lives, its workers are named after that file, and whoever finds the lock free knows better.

A worker that ends between taking a job and beginning it leaves it where nobody looks: for rq, for
one to two minutes. Such a job is told by its being there whenever one looks.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import structlog
from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus

from dfs.core.durable import storage_error
from dfs.core.filelock import FileLock

BEGUN_S = 1.0
"""A worker that has taken a job begins it long before."""
LOOKED_AT_S = 1.0
"""Longer than others hold the lock to see whether anybody does."""


class Presence:
    """The sign that this process lives, for the other worker processes of its node.

    Args:
        directory: of the signs; it is there.
        name: of this process.
    """

    def __init__(self, *, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name

    def worker_name(self) -> str:
        """Return the name of a further worker of this process."""
        return f"{self._name}.{uuid.uuid4().hex[:8]}"

    def is_gone(self, worker_name: str) -> bool:
        """Tell whether the process of a worker has ended. A sign left behind is removed.

        Raises:
            StorageError: the sign cannot be looked at.
        """
        path = self._directory / worker_name.partition(".")[0]
        if not path.exists():
            return True
        lock = FileLock(path)
        try:
            with lock.hold(timeout_s=0) as is_free:
                if is_free:
                    path.unlink(missing_ok=True)
                return is_free
        finally:
            lock.close()


@contextmanager
def showing_presence(directory: Path) -> Iterator[Presence]:
    """Show inside the block that this process lives. The kernel ends it if the process is killed.

    Raises:
        StorageError: the sign cannot be put up.
    """
    name = uuid.uuid4().hex
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path=directory) from error
    lock = FileLock(directory / name)
    try:
        with lock.hold(timeout_s=LOOKED_AT_S):
            yield Presence(directory=directory, name=name)
    finally:
        lock.close()
        with suppress(OSError):
            (directory / name).unlink(missing_ok=True)


def look_up(queue: Queue, job_id: str) -> Job | None:
    """Return a job of a queue; None if there is none of that id.

    `Queue.fetch_job` would then remove the id from the queue, into which another process may have
    put a job of that id this very moment. That one would wait for ever.
    """
    with suppress(NoSuchJobError):
        return Job.fetch(job_id, connection=queue.connection, serializer=queue.serializer)
    return None


class AbandonedJobs:
    """The jobs of a queue that were taken or running when their worker process ended.

    Args:
        presence: what this process shows to the others of its node.
    """

    def __init__(self, queue: Queue, presence: Presence) -> None:
        self._queue = queue
        self._presence = presence
        self._taken_s: dict[tuple[str, datetime | None], float] = {}  # when first seen

    def drop(self) -> list[str]:
        """Remove them: they are due anew within seconds, and safe to run twice, or once not at all.

        One that was taken is removed by a call `BEGUN_S` or more after the first that has seen it.

        Returns:
            Their ids.

        Raises:
            redis.RedisError: the queue does not answer.
            StorageError: as `Presence.is_gone`.
        """
        abandoned = [*self._find_running(), *self._find_taken()]
        for job in abandoned:
            with suppress(InvalidJobOperation):  # another process was quicker
                job.delete()
            self._queue.intermediate_queue.remove(job.id)
            structlog.get_logger().warning("job_abandoned", job=job.id)
        return [job.id for job in abandoned]

    def _find_running(self) -> Iterator[Job]:
        for job in self._look_up(self._queue.started_job_registry.get_job_ids(cleanup=False)):
            is_running = job.get_status(refresh=False) is JobStatus.STARTED
            if is_running and job.worker_name and self._presence.is_gone(job.worker_name):
                yield job

    def _find_taken(self) -> Iterator[Job]:
        """Yield those that were taken long ago; their id may have been asked for anew since."""
        seen_s, self._taken_s = self._taken_s, {}
        moment_s = time.monotonic()
        for job in self._look_up(self._queue.intermediate_queue.get_job_ids()):
            if job.get_status(refresh=False) is JobStatus.QUEUED:
                asked = (job.id, job.enqueued_at)
                since_s = self._taken_s[asked] = seen_s.get(asked, moment_s)
                if moment_s - since_s >= BEGUN_S:
                    yield job

    def _look_up(self, job_ids: Iterable[str]) -> Iterator[Job]:
        for job_id in job_ids:
            job = look_up(self._queue, job_id)
            if job is not None:
                yield job
