"""Jobs whose worker process has ended before they had.

rq takes such a job to run until its time limit has passed, an hour for those of the stores, and
nobody may ask for it anew as long as it runs. So each worker process holds a lock on a file while
it lives, its workers are named after that file, and whoever finds the lock free knows better.

A worker that ends between taking a job and beginning it leaves it where nobody looks: for rq, for
one to two minutes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
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


def drop_abandoned(queue: Queue, presence: Presence) -> list[str]:
    """Remove the jobs of a queue that were taken or running when their worker process ended.

    They are due anew within seconds, and safe to run twice, and not at all for once.

    Returns:
        Their ids.

    Raises:
        redis.RedisError: the queue does not answer.
        StorageError: as `Presence.is_gone`.
    """
    abandoned: list[Job] = []
    for job_id in queue.started_job_registry.get_job_ids(cleanup=False):
        job = look_up(queue, job_id)
        if job is None or job.get_status(refresh=False) is not JobStatus.STARTED:
            continue
        if job.worker_name and presence.is_gone(job.worker_name):
            abandoned.append(job)
    taken = queue.intermediate_queue
    for job_id in taken.get_job_ids():
        job = look_up(queue, job_id)
        if job is not None and _is_not_begun(job):
            abandoned.append(job)
    for job in abandoned:
        with suppress(InvalidJobOperation):  # another process was quicker
            job.delete()
        taken.remove(job.id)
        structlog.get_logger().warning("job_abandoned", job=job.id)
    return [job.id for job in abandoned]


def _is_not_begun(job: Job) -> bool:
    """Tell whether a job that was taken should have begun by now, and has not."""
    if job.get_status(refresh=False) is not JobStatus.QUEUED or job.enqueued_at is None:
        return False
    return (datetime.now(UTC) - job.enqueued_at).total_seconds() > BEGUN_S
