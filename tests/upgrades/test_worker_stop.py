"""A worker of the queue that is told to stop ends its unit of work first."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from redis import Redis

from dfs.wiring import open_services
from tests.hostile.test_parked import node_lock
from tests.project.chaos_clients import wait_until
from tests.project.nodes import END_TIMEOUT_S, running_program
from tests.redis_server import running_redis
from tests.services.conftest import store_bytes
from tests.upgrades.test_golden_nodes import config_of

pytestmark = pytest.mark.integration


def is_waiting_for_lock(pid: int) -> bool:
    """Tell whether a process waits for a lock of a file, as the kernel says."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(fields[1] == "->" and fields[5] == str(pid) for fields in lines)


def has_pending_signals(pid: int) -> bool:
    """Tell whether a process has not looked yet at a signal that was sent to it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("ShdPnd", "SigPnd")))


def test_worker_that_is_stopped_ends_its_unit_of_work(tmp_path: Path) -> None:
    """Here one that waits for the lock of the node; it takes up no other one."""
    services = open_services(config_of(tmp_path))
    file_id = store_bytes(services, "deleted", b"x").files[0].id
    services.files.delete(file_id)
    services.close()
    settings = {"WAL_PATH": "data/wal", "REPLICA2_PATH": "", "DFS_DELETE_GRACE_S": "0"}
    with (
        running_redis(tmp_path / "redis") as server,
        running_program("workers.run", tmp_path, REDIS_URL=server.url, **settings) as worker,
        Redis.from_url(server.url) as redis,
    ):
        worker.read_until("worker_started")
        pid = worker.process.pid
        with node_lock(tmp_path / "data"):
            assert wait_until(lambda: is_waiting_for_lock(pid), timeout_s=END_TIMEOUT_S)
            os.kill(pid, signal.SIGTERM)
            assert wait_until(lambda: not has_pending_signals(pid), timeout_s=END_TIMEOUT_S)
            assert worker.process.poll() is None
        assert worker.process.wait(END_TIMEOUT_S) == 0
        assert worker.process.stdout is not None
        assert "Traceback" not in worker.process.stdout.read()
        for kind in ("wip", "failed"):
            assert [redis.zcard(key) for key in redis.scan_iter(f"rq:{kind}:*")] == []
