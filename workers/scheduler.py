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


class OwnStore:
    """The primary store of the node, asked which cluster it belongs to.

    Args:
        path: of the store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_failing = False

    def find_cluster(self) -> bytes | None:
        """Return the id of the cluster; None if that cannot be told now."""
        try:
            identity = read_identity(self._path)
        except StorageError as error:
            if not self._is_failing:  # once an outage, not every second
                structlog.get_logger().warning("node_awaited", error=str(error))
            self._is_failing = True
            return None
        self._is_failing = False
        return None if identity is None else identity.cluster_id


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
    store = OwnStore(config.storage_path)
    is_waiting = False
    try:
        while not stop.is_set():
            cluster_id = store.find_cluster()
            if cluster_id is not None:  # else the node was never started, or has lost its disk
                with lock.hold(timeout_s=0) as is_held:
                    if is_held:
                        serve_cluster(config, redis_url, cluster_id, store, stop)
                    elif not is_waiting:
                        structlog.get_logger().info("scheduler_waits", reason="another one runs")
                    is_waiting = not is_held
            stop.wait(LOOK_INTERVAL_S)
    finally:
        lock.close()


def serve_cluster(
    config: Config, redis_url: str, cluster_id: bytes, store: OwnStore, stop: threading.Event
) -> None:
    """Ask for the jobs of the node until the end, or until its primary store is of another one."""
    name = queue_name(cluster_id=cluster_id, node_id=config.node_id)
    queue = RqQueue(url=redis_url, name=name)
    jobs = periodic_jobs(tmp_age_s=config.tmp_age_s, stores=config.store_names)
    schedule = Schedule(queue=queue, jobs=jobs)
    structlog.get_logger().info("scheduler_started", queue=name)
    schedule.start()
    try:
        while store.find_cluster() == cluster_id and not stop.wait(LOOK_INTERVAL_S):
            pass
    finally:
        schedule.stop()
        queue.close()


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
