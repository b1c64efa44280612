"""What a worker process does once a minute."""

from __future__ import annotations

from pathlib import Path

from redis import Redis
from rq.serializers import JSONSerializer

from dfs.queue.checked import CheckedJob
from tests.queue.conftest import NoPresence
from tests.redis_server import RedisServer
from workers.run import NodeWorker

FREED_MIB = 64


def resident_mib() -> int:
    """Return how much memory of its own this process has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon"))


def test_what_jobs_have_freed_goes_back_to_the_kernel(redis_server: RedisServer) -> None:
    """The C library keeps it by itself, for a job that may never come."""
    with Redis.from_url(redis_server.url) as redis:
        worker = NodeWorker(
            ["test"], connection=redis, serializer=JSONSerializer, job_class=CheckedJob
        )
        worker.presence = NoPresence()  # type: ignore[assignment]
        pieces = [bytes(4096) for _ in range(FREED_MIB << 8)]
        pieces = pieces[::100]  # what stays is strewn over all of it
        before_mib = resident_mib()
        worker.run_maintenance_tasks()
        released_mib = before_mib - resident_mib()
    assert pieces
    assert released_mib > FREED_MIB // 2
