"""The worker process goes on whatever somebody has put into Redis."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from dfs.queue.rq_queue import name_job, queue_name
from tests.project.nodes import running_program
from tests.redis_server import running_redis

pytestmark = pytest.mark.integration


def name_of_queue(directory: Path) -> str:
    """Return the name of the queue of the node there."""
    identity = json.loads((directory / "data/primary/dfs.json").read_text())
    return queue_name(cluster_id=bytes.fromhex(identity["cluster_id"]), node_id="node-1")


def suspend(redis: Redis, name: str) -> None:
    """Ask all workers to pause."""
    redis.set("rq:suspended", 1)


def add_ids(redis: Redis, name: str) -> None:
    """Have ids that are none wait, and run."""
    redis.rpush(f"rq:queue:{name}", b"\xff", "no id", "")
    redis.zadd(f"rq:wip:{name}", {b"\xff": 1, b"no id": 1})


def replace_keys(redis: Redis, name: str) -> None:
    """Put other things in the place of the queue and its registries."""
    keys = [f"rq:{kind}:{name}" for kind in ("queue", "wip", "finished", "failed", "workers")]
    with redis.pipeline() as at_once:
        for key in (*keys, f"rq:queue:{name}:intermediate", "rq:workers", "rq:queues"):
            at_once.set(key, "junk")
        at_once.execute()


@pytest.mark.parametrize("attack", [suspend, add_ids, replace_keys])
def test_worker_goes_on_whatever_redis_holds(
    tmp_path: Path, attack: Callable[[Redis, str], None]
) -> None:
    """Jobs are late then, and run."""
    with (
        running_redis(tmp_path / "redis") as server,
        running_program("workers.run", tmp_path, REDIS_URL=server.url) as worker,
        Redis.from_url(server.url) as redis,
    ):
        worker.read_until("worker_started")
        name = name_of_queue(tmp_path)
        attack(redis, name)
        key = f"rq:job:{name_job(name, 'compact')}"
        redis.delete(key)
        deadline_s = time.monotonic() + 40
        ends: set[bytes] = set()
        while len(ends) < 3:  # it is due every second
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
            ended_at = redis.hget(key, "ended_at")
            if ended_at:
                ends.add(ended_at)
        assert worker.end(signal.SIGTERM)[0] == 0
