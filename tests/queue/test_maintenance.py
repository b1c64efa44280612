"""What a worker process does every few seconds, and once a minute."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from dfs.queue.checked import CheckedJob
from scripts.embedded_redis import free_port
from tests.queue.conftest import NoPresence
from tests.redis_server import RedisServer
from workers import run
from workers.abandoned import AbandonedJobs
from workers.run import NodeWorker

FREED_MIB = 64


def resident_mib() -> int:
    """Return how much memory of its own this process has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon"))


def make_worker(redis: Redis) -> NodeWorker:
    """Return a worker that has done nothing yet."""
    worker = NodeWorker(["test"], connection=redis, serializer=JSONSerializer, job_class=CheckedJob)
    worker.abandoned = AbandonedJobs(worker.queues[0], NoPresence())  # type: ignore[arg-type]
    return worker


def test_what_jobs_have_freed_goes_back_to_the_kernel(redis_server: RedisServer) -> None:
    """The C library keeps it by itself, for a job that may never come."""
    with Redis.from_url(redis_server.url) as redis:
        worker = make_worker(redis)
        pieces = [bytes(4096) for _ in range(FREED_MIB << 8)]
        pieces = pieces[::100]  # what stays is strewn over all of it
        before_mib = resident_mib()
        worker.run_maintenance_tasks()
        released_mib = before_mib - resident_mib()
    assert pieces
    assert released_mib > FREED_MIB // 2


def test_abandoned_jobs_are_looked_for_more_often_than_is_cleaned(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rq's own tasks, which are more, are done once a minute, and the first time."""
    done: list[str] = []
    monkeypatch.setattr(AbandonedJobs, "drop", lambda _: done.append("drop"))
    monkeypatch.setattr(SimpleWorker, "run_maintenance_tasks", lambda _: done.append("clean"))
    with Redis.from_url(redis_server.url) as redis:
        worker = make_worker(redis)
        assert worker.should_run_maintenance_tasks
        for _ in range(2):
            worker.run_maintenance_tasks()
        assert done == ["drop", "clean", "drop"]
        assert not worker.should_run_maintenance_tasks
        monkeypatch.setattr(run, "CLEANING_INTERVAL_S", 0)
        worker.run_maintenance_tasks()
        assert done[3:] == ["drop", "clean"]


def test_maintenance_leaves_it_to_others_to_find_that_redis_is_gone(
    redis_server: RedisServer,
) -> None:
    """rq would end the worker for it, with a traceback; elsewhere it tries again."""
    with Redis.from_url(redis_server.url) as redis, Redis(port=free_port()) as nobody:
        worker = make_worker(redis)
        gone = Queue("test", connection=nobody, serializer=JSONSerializer)
        worker.abandoned = AbandonedJobs(gone, NoPresence())  # type: ignore[arg-type]
        with pytest.raises(RedisConnectionError):
            worker.abandoned.drop()
        worker.run_maintenance_tasks()
        assert not worker.should_run_maintenance_tasks
