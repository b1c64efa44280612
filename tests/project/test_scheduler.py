"""The scheduler process must ask for the jobs of its node, and be no loss when it is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from dfs.queue.rq_queue import name_job, queue_name
from dfs.storage.identity import new_identity, write_identity
from tests.project.chaos_clients import wait_until
from tests.project.nodes import running_node, running_program
from tests.redis_server import RedisServer
from workers.scheduler import OwnStore

pytestmark = pytest.mark.integration


def test_scheduler_waits_for_its_node_and_asks_for_its_jobs(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Started before the node has a store, and with another node's after that; ends with 0."""
    settings = {"REDIS_URL": redis_server.url, "REPLICA2_PATH": ""}
    store = tmp_path / "data/primary"
    with running_program("workers.scheduler", tmp_path, **settings) as scheduler:
        assert wait_until((tmp_path / "data/run").exists, timeout_s=30)
        for _ in range(2):
            store.mkdir(parents=True, exist_ok=True)
            (store / "dfs.json").unlink(missing_ok=True)
            identity = new_identity()
            write_identity(store, identity)
            name = queue_name(cluster_id=identity.cluster_id, node_id="node-1")
            assert name in scheduler.read_until("scheduler_started")
            expect_jobs(redis_server, name)
        status, output = scheduler.end(signal.SIGTERM)
    assert (status, "Traceback" in output) == (0, False)


def expect_jobs(server: RedisServer, name: str) -> None:
    """Wait until the jobs of a node with one replica stand in its queue."""
    jobs = ("compact", "replicate-primary", "scrub-replica1", "collect-garbage")
    wanted = {name_job(name, job).encode() for job in jobs}
    with Redis.from_url(server.url) as redis:
        assert wait_until(
            lambda: wanted <= set(redis.lrange(f"rq:queue:{name}", 0, -1)), timeout_s=30
        )


def test_worker_leaves_the_schedule_to_a_scheduler_until_it_is_killed(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """One asks at a time, a second scheduler waits, and a dead one is replaced within seconds."""
    settings = {"REDIS_URL": redis_server.url, "REPLICA1_PATH": "", "REPLICA2_PATH": ""}
    with running_node(tmp_path, **settings) as node:
        with running_program("workers.scheduler", tmp_path, **settings) as first:
            first.read_until("scheduler_started")
            node.read_until("schedule_left")
            with running_program("workers.scheduler", tmp_path, **settings) as second:
                second.read_until("scheduler_waits")
                first.end(signal.SIGKILL)
                second.read_until("scheduler_started")
                second.end(signal.SIGKILL)
        node.read_until("schedule_resumed")


def test_scheduler_tells_once_that_it_cannot_read_its_store(tmp_path: Path) -> None:
    """It looks every second, for as long as the disk is away."""
    store, identity = OwnStore(tmp_path), new_identity()
    assert store.find_cluster() is None
    for _ in range(2):
        (tmp_path / "dfs.json").write_text("junk")
        with capture_logs() as events:
            assert [store.find_cluster() for _ in range(3)] == [None] * 3
        assert [event["event"] for event in events] == ["node_awaited"]
        (tmp_path / "dfs.json").unlink()
        write_identity(tmp_path, identity)
        assert store.find_cluster() == identity.cluster_id


def test_scheduler_without_queue_says_so(tmp_path: Path) -> None:
    """It ends at once and names the setting."""
    with running_program("workers.scheduler", tmp_path) as scheduler:
        assert "REDIS_URL" in scheduler.read_until("dfs scheduler")
        assert scheduler.process.wait(timeout=30) == 2
