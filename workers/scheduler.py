"""The scheduler process of a node: `python -m workers.scheduler`.

It asks for the periodic jobs, which the worker processes do by themselves as long as there is none
of it. It opens neither log nor index, only looks which cluster the primary store belongs to.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import structlog

from dfs.core.allocation import share_arena
from dfs.core.config import Config, load_config
from dfs.core.disk import PRIMARY
from dfs.core.durable import storage_error
from dfs.core.errors import DfsError, StorageError
from dfs.core.filelock import FileLock
from dfs.core.logging import configure_logging, configure_stdlib_logging, style_of
from dfs.core.modes import keep_files_private
from dfs.core.signs import SCHEDULER_NAME
from dfs.queue.rq_queue import RqQueue, queue_name
from dfs.storage.identity import read_identity
from workers.schedule import Schedule, periodic_jobs

LOOK_INTERVAL_S = 1.0


def run_scheduler(config: Config, redis_url: str, stop: threading.Event) -> None:
    """Ask for the jobs of the node until the end, whenever no other scheduler process does.

    Raises:
        StorageError: the lock cannot be made.
    """
    try:
        config.run_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path=config.run_path) from error
    lock = FileLock(config.run_path / SCHEDULER_NAME)
    is_waiting = False
    try:
        while not stop.is_set():
            cluster_id = find_cluster(config.storage_path)
            if cluster_id is not None:  # else the node was never started, or has lost its disk
                with lock.hold(timeout_s=0) as is_held:
                    if is_held:
                        serve_cluster(config, redis_url, cluster_id, stop)
                    elif not is_waiting:
                        structlog.get_logger().info("scheduler_waits", reason="another one runs")
                    is_waiting = not is_held
            stop.wait(LOOK_INTERVAL_S)
    finally:
        lock.close()


def serve_cluster(config: Config, redis_url: str, cluster_id: bytes, stop: threading.Event) -> None:
    """Ask for the jobs of the node until the end, or until its primary store is of another one."""
    name = queue_name(cluster_id=cluster_id, node_id=config.node_id)
    queue = RqQueue(url=redis_url, name=name)
    stores = [PRIMARY, *(replica for replica, _ in config.replicas)]
    schedule = Schedule(queue=queue, jobs=periodic_jobs(tmp_age_s=config.tmp_age_s, stores=stores))
    structlog.get_logger().info("scheduler_started", queue=name)
    schedule.start()
    try:
        while find_cluster(config.storage_path) == cluster_id and not stop.wait(LOOK_INTERVAL_S):
            pass
    finally:
        schedule.stop()
        queue.close()


def find_cluster(storage_path: Path) -> bytes | None:
    """Return the id of the cluster that a store belongs to; None if that cannot be told now."""
    try:
        identity = read_identity(storage_path)
    except StorageError as error:
        structlog.get_logger().warning("node_awaited", error=str(error))
        return None
    return None if identity is None else identity.cluster_id


def main() -> int:
    """Run the scheduler process until SIGTERM or SIGINT. Returns its exit status."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        config = load_config()
        style = style_of(config)
        configure_logging(style)
        configure_stdlib_logging(style)
        share_arena()
        if config.redis_url is None:
            sys.stderr.write("dfs scheduler: set REDIS_URL, that of the worker.\n")
            return 2
        run_scheduler(config, config.redis_url, stop)
    except DfsError as error:
        sys.stderr.write(f"dfs scheduler: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    keep_files_private()
    sys.exit(main())
