"""The worker process of a node: `python -m workers.run`.

It opens the services as a web worker does, recovery included, listens to the one queue of its node
and runs jobs in its own process, one at a time. SIGTERM lets a running job end; a second one, more
than a second later, does not.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from types import FrameType

import structlog
from prometheus_client import CollectorRegistry
from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer

from dfs.core.config import Config, load_config
from dfs.core.descriptors import raise_descriptor_limit
from dfs.core.errors import DfsError
from dfs.core.logging import configure_logging, configure_stdlib_logging
from dfs.core.model import DebtKind
from dfs.queue.rq_queue import queue_name
from dfs.services.hooks import Hooks
from dfs.telemetry.files import METRICS_NAME, join_metrics
from dfs.telemetry.stores import COUNTER_KINDS, StoreCounters
from dfs.wiring import Services, open_services
from workers.abandoned import PRESENCE_NAME, Presence, drop_abandoned, showing_presence
from workers.jobs import jobs_use
from workers.schedule import Schedule, periodic_jobs

MAINTENANCE_INTERVAL_S = 60
CONNECT_TIMEOUT_S = 5
PAUSE_S = 1
"""Before the next try without Redis; twice as long each time, up to PAUSE_S_MAX."""
PAUSE_S_MAX = 5


class NodeWorker(SimpleWorker):
    """Runs jobs without forking: a fork would carry database connections and locks over."""

    stop_was_requested = False
    max_connection_wait_time = PAUSE_S_MAX
    presence: Presence

    def run_maintenance_tasks(self) -> None:
        """Do rq's periodic tasks, after removing the jobs of worker processes that were killed."""
        for queue in self.queues:
            drop_abandoned(queue, self.presence)
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]

    def handle_warm_shutdown_request(self) -> None:
        """Remember that the end was asked for: rq also ends by itself, when Redis is gone."""
        self.stop_was_requested = True
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]

    def teardown(self) -> None:
        """Say goodbye if Redis is there to hear it, and leave no thread either way."""
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except RedisError as error:
            structlog.get_logger().warning("worker_not_signed_off", error=str(error))
            if self.pubsub_thread is not None:
                self.pubsub_thread.stop()


def connect(url: str) -> Redis:
    """Return a connection for the worker's loop once Redis answers, however long that takes."""
    redis = Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_keepalive=True)
    pause_s = PAUSE_S
    while True:
        try:
            redis.ping()
        except RedisError as error:
            structlog.get_logger().warning("redis_awaited", error=str(error), pause_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(PAUSE_S_MAX, pause_s * 2)
        else:
            return redis


def run_worker(config: Config, redis_url: str, services: Services) -> None:
    """Run jobs until SIGTERM or SIGINT, across any outage of Redis."""
    name = queue_name(cluster_id=services.recovered.cluster_id, node_id=config.node_id)
    jobs = periodic_jobs(
        tmp_age_s=config.tmp_age_s, stores=[store.name for store in services.stores.all()]
    )
    schedule = Schedule(queue=services.queue, jobs=jobs)
    schedule.start()
    try:
        with (
            jobs_use(services),
            showing_presence(config.run_path / PRESENCE_NAME) as presence,
        ):
            pause_s = PAUSE_S
            started_s = time.monotonic()
            while not run_jobs(name, redis_url, presence, debug=config.debug):
                if time.monotonic() - started_s > PAUSE_S_MAX:
                    pause_s = PAUSE_S
                structlog.get_logger().warning("worker_loop_ended", pause_s=pause_s)
                time.sleep(pause_s)
                pause_s = min(PAUSE_S_MAX, pause_s * 2)
                started_s = time.monotonic()
    finally:
        schedule.stop()


def run_jobs(name: str, redis_url: str, presence: Presence, *, debug: bool) -> bool:
    """Run the jobs of a queue until rq ends, which it does at many a fault of Redis.

    Args:
        presence: what this process shows to the others of its node.

    Returns:
        Whether the end was asked for.
    """
    redis = connect(redis_url)
    try:
        worker = NodeWorker(
            [name],
            name=presence.worker_name(),
            connection=redis,
            serializer=JSONSerializer,
            maintenance_interval=MAINTENANCE_INTERVAL_S,
            log_job_description=False,
        )
        worker.presence = presence
        structlog.get_logger().info("worker_started", queue=name)
        with suppress(StopRequested):  # when the signal comes while rq ends by itself
            worker.work(logging_level="INFO" if debug else "WARNING")
    except RedisError as error:
        structlog.get_logger().warning("redis_lost", error=str(error))
        return False
    finally:
        redis.close()
    if not worker.stop_was_requested:
        exit_at_signals()
    return worker.stop_was_requested


def main() -> int:
    """Run the worker process. Returns its exit status."""
    exit_at_signals()
    try:
        config = load_config()
        configure_logging(config.debug)
        configure_stdlib_logging(config.debug)
        raise_descriptor_limit()
        if config.redis_url is None:
            sys.stderr.write("dfs worker: set REDIS_URL; `make run` does it by itself.\n")
            return 2
        services = open_services(config, hooks=make_hooks(config))
        try:
            run_worker(config, config.redis_url, services)
        finally:
            services.close()
    except DfsError as error:
        sys.stderr.write(f"dfs worker: {error}\n")
        return 1
    return 0


def make_hooks(config: Config) -> Hooks:
    """Return what has the services counted where the web workers' `/metrics` looks."""
    join_metrics(config.run_path / METRICS_NAME, COUNTER_KINDS)
    counters = StoreCounters(registry=CollectorRegistry())

    def count_damage(store: str, kind: DebtKind) -> None:
        counters.observe_damage(store, kind.name.lower())

    return Hooks(on_damage=count_damage)


def exit_at_signals() -> None:
    """Have stop signals end the process at once. rq takes them over while it works."""
    signal.signal(signal.SIGTERM, exit_at_once)
    signal.signal(signal.SIGINT, exit_at_once)


def exit_at_once(signal_number: int, frame: FrameType | None) -> None:
    """End in good order while nothing runs yet: recovery may be broken off at any point."""
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
