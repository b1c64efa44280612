"""What the dashboard of the queue (rq-dashboard) has to be told about rq and Redis."""

from __future__ import annotations

import re

from redis.exceptions import RedisError
from rq import serializers
from rq.exceptions import NoSuchJobError

from dfs.core.errors import QueueError

ANSWER_TIMEOUT_S = 2
"""The dashboard reads much more at once than a request that only enqueues."""
_JOB_ID = re.compile(r"[A-Za-z0-9_-]+")


def forbid_pickle() -> None:
    """Have rq read JSON in this process wherever no serializer is named.

    The dashboard names none in many places. With rq's own default it could not show the jobs of
    dfs, and whoever reaches Redis could run code here.
    """
    json = serializers.JSONSerializer
    vars(serializers).update(PickleSerializer=json, DefaultSerializer=json)


def limit_waiting(url: str) -> str:
    """Return the address of Redis with limits on how long an answer is waited for."""
    separator = "&" if "?" in url else "?"
    return f"{url}{separator}socket_timeout={ANSWER_TIMEOUT_S}"


def is_job_id(text: str) -> bool:
    """Return whether a job can have that id. To rq anything else is an error."""
    return _JOB_ID.fullmatch(text) is not None


def is_absent(error: Exception) -> bool:
    """Return whether the error says that there is no such job or Redis server."""
    return isinstance(error, NoSuchJobError | LookupError)


def translate(error: Exception) -> QueueError:
    """Return what stands for an error of the connection to Redis, or at what was read there."""
    reason = f"{type(error).__name__}: {error}"[:200]
    if isinstance(error, RedisError | OSError):
        return QueueError("The queue does not answer.", reason=reason)
    return QueueError("The queue holds something that cannot be shown.", reason=reason)
