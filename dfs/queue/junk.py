"""What is in the place of a queue, and is none.

Whoever can write to Redis can put there what rq fails at, again and again: keys of another type,
ids that no job can have. Nothing in a queue is worth keeping, since it is asked for anew within
seconds. So all of it is removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import structlog
from redis.exceptions import RedisError, ResponseError
from rq import Queue
from rq.job import Job
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

JUNK_ERRORS = (ValueError, TypeError, LookupError)
"""What rq raises, beside the errors of Redis itself, at what it cannot have put there like that."""
WAITING_MAX = 1000
"""The node itself has some ten jobs."""

logger = structlog.get_logger()


@contextmanager
def removing_junk(queue: Queue) -> Iterator[None]:
    """Empty the queue if what is done to it inside the block fails for what it holds.

    Raises:
        Whatever is raised in the block.
    """
    try:
        yield
    except (ResponseError, *JUNK_ERRORS) as error:
        if not isinstance(error, ResponseError) or "WRONGTYPE" in str(error):
            reason = f"{type(error).__name__}: {error}"[:200]
            logger.warning("queue_emptied", queue=queue.name, reason=reason)
            with suppress(RedisError):
                _remove(queue)
        raise


def _remove(queue: Queue) -> None:
    """Remove what rq keeps of a queue, and jobs that wait. Others are taken for lost, in time."""
    redis = queue.connection
    for key in (queue.key, queue.intermediate_queue.key):
        if redis.type(key) != b"list":
            redis.delete(key)
            continue
        # Out of the way first: what is added from now on is not lost with it, and its job left.
        aside = f"{key}:junk"
        with suppress(ResponseError):  # it is gone already
            redis.rename(key, aside)
        waiting = cast("list[bytes]", redis.lrange(aside, 0, WAITING_MAX))
        redis.delete(aside, *(Job.redis_job_namespace_prefix.encode() + id for id in waiting))
    registries = (
        queue.started_job_registry,
        queue.finished_job_registry,
        queue.failed_job_registry,
        queue.deferred_job_registry,
        queue.ready_job_registry,
        queue.scheduled_job_registry,
        queue.canceled_job_registry,
    )
    redis.delete(WORKERS_BY_QUEUE_KEY % queue.name, *(registry.key for registry in registries))
    for key in (queue.redis_queues_keys, REDIS_WORKER_KEYS):  # of all nodes that share this Redis
        if redis.type(key) != b"set":
            redis.delete(key)
