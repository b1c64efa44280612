"""The queue on RQ and Redis.

Arguments travel as JSON, never as pickle, and what is read is checked: see `checked`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, WatchError
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from dfs.core.errors import QueueError
from dfs.queue.base import JobArguments
from dfs.queue.checked import CARRIED, CheckedJob
from dfs.queue.junk import JUNK_ERRORS, removing_junk

ANSWER_TIMEOUT_S = 0.2
"""One attempt to connect or to get an answer. There are at most two before QueueError."""
DOWN_PAUSE_S = 1.0
"""After a failure the queue is taken to be down for this long, so that callers do not each wait."""
RESULT_TTL_S = 3600
FAILURE_TTL_S = 86_400
LOST_AFTER_S = 120
"""Jobs take seconds. One that began so long ago, or waits for so long, has lost its worker or its
place, or a store hangs; a second one does no harm, and none at all would."""
_ENDED = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)


def queue_name(*, cluster_id: bytes, node_id: str) -> str:
    """Return the name of the queue of one node, which no other node's has, whoever shares Redis."""
    return f"dfs-{cluster_id.hex()}-{node_id}"


def name_job(queue: str, job_id: str) -> str:
    """Return the id of a job in Redis, which has one space of ids for all queues."""
    return f"{queue}_{job_id}"


class RqQueue:
    """Enqueues jobs for the worker processes of one node. Connects at first use.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        name: of the queue; each worker process listens to exactly one.
    """

    def __init__(self, *, url: str, name: str) -> None:
        self._redis = Redis.from_url(
            url,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),  # one more, for a connection that went stale in the pool
        )
        self._queue = Queue(
            name, connection=self._redis, serializer=JSONSerializer, job_class=CheckedJob
        )
        self._down_until_s = 0.0

    def enqueue(
        self,
        job: str,
        arguments: JobArguments | None = None,
        *,
        job_id: str,
        timeout_s: int = 600,
        carried: str | None = None,
    ) -> bool:
        """Ask for a job to be run; see `JobQueue.enqueue`. What ended under that id is replaced."""
        name = name_job(self._queue.name, job_id)
        if carried is not None:
            arguments = {**(arguments or {}), CARRIED: carried}
        with self._translated_errors():
            if self._add(job, arguments, name, timeout_s):
                return True
            return self._remove_ended(name) and self._add(job, arguments, name, timeout_s)

    def check(self) -> None:
        """Return if Redis answers. Raises QueueError otherwise."""
        with self._translated_errors():
            self._redis.ping()

    def count_jobs(self) -> Mapping[str, int]:
        """Return how many jobs are in which state; see `JobQueue.count_jobs`."""
        queue = self._queue
        with self._translated_errors(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.llen(queue.key)
            pipeline.zcard(queue.started_job_registry.key)
            pipeline.zcount(queue.failed_job_registry.key, time.time(), math.inf)
            queued, started, failed = pipeline.execute()
        return {"queued": queued, "started": started, "failed": failed}

    def close(self) -> None:
        """Close the connections to Redis."""
        self._redis.close()

    def _add(self, job: str, arguments: JobArguments | None, job_id: str, timeout_s: int) -> bool:
        try:
            self._queue.enqueue_call(
                job,
                kwargs=dict(arguments or {}),
                job_id=job_id,
                unique=True,
                timeout=timeout_s,
                result_ttl=RESULT_TTL_S,
                failure_ttl=FAILURE_TTL_S,
            )
        except DuplicateJobError:
            return False
        return True

    def _remove_ended(self, job_id: str) -> bool:
        """Remove the job of that id if it has ended, or whoever ran it has.

        Many ask for the same job at once: what another has put in its place meanwhile stays.

        Returns:
            Whether its id may be free now.
        """
        key = Job.key_for(job_id)
        with self._redis.pipeline() as pipeline, suppress(InvalidJobOperation, WatchError):
            pipeline.watch(key)  # type: ignore[no-untyped-call]
            try:
                job = CheckedJob.fetch(job_id, connection=self._redis, serializer=JSONSerializer)
            except NoSuchJobError:  # or Redis was emptied while it ran, and has a part of it
                pipeline.multi()
                pipeline.delete(key)
            else:
                if job.get_status(refresh=False) not in _ENDED and not _is_lost(job):
                    return False
                pipeline.multi()
                try:
                    job.delete(pipeline=pipeline)
                except JUNK_ERRORS:  # Redis has let a part of it expire, such as who ran it
                    pipeline.delete(key, job.execution_registry.key)
            pipeline.execute()
        return True

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        if time.monotonic() < self._down_until_s:
            raise QueueError("The queue does not answer.", queue=self._queue.name)
        try:
            with removing_junk(self._queue):
                yield
        except (RedisError, OSError, *JUNK_ERRORS) as error:
            self._down_until_s = time.monotonic() + DOWN_PAUSE_S
            raise QueueError(
                "The queue does not answer.",
                hint="Check REDIS_URL and that Redis runs.",
                queue=self._queue.name,
                reason=str(error),
            ) from error


def _is_lost(job: Job) -> bool:
    """Tell whether a job has not ended for so long that it never will."""
    begun_at = job.started_at if job.get_status(refresh=False) is JobStatus.STARTED else None
    since = begun_at or job.enqueued_at
    # A moment that is still to come was not written by us.
    return since is None or not -1 <= (datetime.now(UTC) - since).total_seconds() <= LOST_AFTER_S
