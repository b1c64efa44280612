"""The worker process of a node: `python -m workers.run`.

It opens the services as a web worker does, recovery included, listens to the one queue of its node
and runs jobs in its own process, one at a time. SIGTERM lets a running job end; a second one, more
than a second later, does not.
"""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from dfs.core.config import Config, load_config
from dfs.core.descriptors import raise_descriptor_limit
from dfs.core.errors import DfsError
from dfs.core.logging import configure_logging, configure_stdlib_logging
from dfs.queue.rq_queue import queue_name
from dfs.wiring import Services, open_services
from workers.jobs import jobs_use
from workers.schedule import Schedule, periodic_jobs

MAINTENANCE_INTERVAL_S = 60
CONNECT_TIMEOUT_S = 5
REDIS_WAIT_S = 60
REDIS_PAUSE_S = 1


class NodeWorker(SimpleWorker):
    """Runs jobs without forking: a fork would carry database connections and locks over."""

    stop_was_requested = False

    def handle_warm_shutdown_request(self) -> None:
        """Remember that the end was asked for: rq also ends by itself, when Redis is gone."""
        self.stop_was_requested = True
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]


def connect(url: str) -> Redis:
    """Return a connection for the worker's loop once Redis answers, within REDIS_WAIT_S.

    Raises:
        RedisError: it does not.
    """
    redis = Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_keepalive=True)
    deadline_s = time.monotonic() + REDIS_WAIT_S
    while True:
        try:
            redis.ping()
        except RedisError as error:
            if time.monotonic() > deadline_s:
                raise
            structlog.get_logger().warning("redis_awaited", error=str(error))
            time.sleep(REDIS_PAUSE_S)
        else:
            return redis


def run_worker(config: Config, redis_url: str, services: Services) -> int:
    """Run jobs until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 when the end was asked for.
    """
    name = queue_name(cluster_id=services.recovered.cluster_id, node_id=config.node_id)
    redis = connect(redis_url)
    schedule = Schedule(queue=services.queue, jobs=periodic_jobs(tmp_age_s=config.tmp_age_s))
    worker = NodeWorker(
        [name],
        connection=redis,
        serializer=JSONSerializer,
        maintenance_interval=MAINTENANCE_INTERVAL_S,
        log_job_description=False,
    )
    structlog.get_logger().info("worker_started", queue=name)
    schedule.start()
    try:
        with jobs_use(services):
            worker.work(logging_level="INFO" if config.debug else "WARNING")
    finally:
        schedule.stop()
        redis.close()
    return 0 if worker.stop_was_requested else 1


def main() -> int:
    """Run the worker process. Returns its exit status."""
    signal.signal(signal.SIGTERM, exit_at_once)  # rq takes over once it listens
    signal.signal(signal.SIGINT, exit_at_once)
    try:
        config = load_config()
        configure_logging(config.debug)
        configure_stdlib_logging(config.debug)
        raise_descriptor_limit()
        if config.redis_url is None:
            sys.stderr.write("dfs worker: set REDIS_URL; `make run` does it by itself.\n")
            return 2
        services = open_services(config)
        try:
            return run_worker(config, config.redis_url, services)
        finally:
            services.close()
    except (DfsError, RedisError) as error:
        sys.stderr.write(f"dfs worker: {error}\n")
        return 1


def exit_at_once(signal_number: int, frame: FrameType | None) -> None:
    """End in good order while nothing runs yet: recovery may be broken off at any point."""
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
