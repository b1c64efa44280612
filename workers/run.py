"""The worker process of a node: `python -m workers.run`.

It opens the services as a web worker does, recovery included, listens to the one queue of its node
and runs jobs in its own process, one at a time. As long as no scheduler process of the node runs
(`workers.scheduler`), it asks for the periodic jobs itself. SIGTERM lets a running job end; a
second one, more than a second later, does not.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from types import FrameType

import structlog
from prometheus_client import CollectorRegistry
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from structlog.contextvars import bound_contextvars

from dfs.core.allocation import release_freed, share_arena
from dfs.core.config import Config, load_config
from dfs.core.descriptors import raise_descriptor_limit
from dfs.core.errors import DfsError
from dfs.core.logging import configure_logging, configure_stdlib_logging, style_of
from dfs.core.modes import keep_files_private
from dfs.core.signs import WORKERS_NAME
from dfs.core.tracing import NO_SPANS, Spans
from dfs.counting import count_events
from dfs.queue.checked import CALLS, CheckedJob
from dfs.queue.junk import removing_junk
from dfs.queue.rq_queue import queue_name
from dfs.services.hooks import Hooks
from dfs.telemetry.commits import CommitMetrics
from dfs.telemetry.files import METRICS_NAME, join_metrics
from dfs.telemetry.queue import JobCounters
from dfs.telemetry.stores import StoreCounters
from dfs.telemetry.tracing import Tracing, open_tracing
from dfs.wal.control import REMOVED_REASON, ControlFile
from dfs.wiring import Services, open_services
from workers.abandoned import AbandonedJobs, Presence, showing_presence
from workers.jobs import jobs_use
from workers.schedule import Schedule, has_no_scheduler, periodic_jobs

MAINTENANCE_INTERVAL_S = 2
"""Jobs of worker processes that were killed are looked for so often, as often as they are due."""
CLEANING_INTERVAL_S = 60
"""So often the rest is done that rq wants done now and then."""
CONNECT_TIMEOUT_S = 5
PAUSE_S = 1
"""Before the next try without Redis; twice as long each time, up to PAUSE_S_MAX."""
PAUSE_S_MAX = 5
COUNTED_KINDS = ("counter", "histogram")
"""Kinds of the metrics of this process, for the files that processes share."""


class StopSignals:
    """SIGTERM and SIGINT: they end the process at once, unless rq has taken them over.

    An exception that a signal raises is lost where Python lets none out: in a finalizer, say. So it
    is remembered, too, that the end was asked for, and whoever begins something new looks.

    Attributes:
        was_requested: the end was asked for.
    """

    def __init__(self) -> None:
        self.was_requested = False

    def take(self) -> None:
        """Let these signals end the process from now on."""
        signal.signal(signal.SIGTERM, self._exit)
        signal.signal(signal.SIGINT, self._exit)

    def check(self) -> None:
        """End if the end was asked for."""
        if self.was_requested:
            raise SystemExit(0)

    def _exit(self, signal_number: int, frame: FrameType | None) -> None:
        """End in good order while no job runs: recovery may be broken off at any point."""
        self.was_requested = True
        raise SystemExit(0)


class NodeWorker(SimpleWorker):
    """Runs jobs without forking: a fork would carry database connections and locks over."""

    max_connection_wait_time = PAUSE_S_MAX
    abandoned: AbandonedJobs
    stop_signals: StopSignals
    control: ControlFile
    counters: JobCounters
    spans: Spans = NO_SPANS
    _cleaned_s = -math.inf

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job; stop after it if this process has outlived its log.

        Whoever supervises it starts another, which recovers the node.
        """
        with removing_junk(queue):
            super().execute_job(job, queue)
        if self.control.read_only_reason == REMOVED_REASON:
            structlog.get_logger().error("log_outlived", hint="The process ends.")
            self.stop_signals.was_requested = self._stop_requested = True

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Run a job, and count it; what is logged meanwhile has its name."""
        name = _short_name(str(job.func_name))
        started_s = time.monotonic()
        is_done = False
        with bound_contextvars(job=name, job_id=job.id), self._span(job, name):
            try:
                is_done = super().perform_job(job, queue, execution)
            finally:
                duration_s = time.monotonic() - started_s
                self.counters.observe_job(name, duration_s=duration_s, has_failed=not is_done)
            structlog.get_logger().debug(
                "job_ended", is_done=is_done, duration_ms=round(1000 * duration_s, 3)
            )
        return is_done

    def _span(self, job: Job, name: str) -> AbstractContextManager[object]:
        """Return the span of a job, if somebody waits for what it does.

        Most are asked for every second or two and find nothing to do.
        """
        carried = job.carried if isinstance(job, CheckedJob) else None
        if carried is None:
            return nullcontext()
        return self.spans.span(f"job {name}", carried=carried, job_id=job.id)

    def _install_signal_handlers(self) -> None:
        """Take over the signals; one that has come before counts."""
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        self._stop_requested = self._stop_requested or self.stop_signals.was_requested

    def subscribe(self) -> None:
        """Take no commands from Redis: to stop this process is for who has its machine."""

    def check_for_suspension(self, burst: bool) -> None:
        """Take no pauses that Redis asks for either."""

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a job and return it."""
        with removing_junk(self.queues[0]):
            found: tuple[Job, Queue] | None = super().dequeue_job_and_maintain_ttl(
                timeout, max_idle_time
            )
        return found

    def run_maintenance_tasks(self) -> None:
        """Remove the jobs of worker processes that were killed; now and then, clean up after jobs.

        What they have freed goes back to the kernel: it was megabytes, and the next may not come.
        That Redis is gone is left for rq to find where it waits for a job: there it tries again.
        """
        (queue,) = self.queues
        with suppress(RedisConnectionError, RedisTimeoutError), removing_junk(queue):
            self.abandoned.drop()
            if time.monotonic() - self._cleaned_s >= CLEANING_INTERVAL_S:
                release_freed()
                super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
                self._cleaned_s = time.monotonic()
        self.last_cleaned_at = now()  # type: ignore[assignment] # rq has None, at first

    def handle_warm_shutdown_request(self) -> None:
        """Remember that the end was asked for: rq also ends by itself, when Redis is gone."""
        self.stop_signals.was_requested = self._stop_requested = True
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]

    def teardown(self) -> None:
        """Say goodbye if Redis is there to hear it, and leave no thread either way."""
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except RedisError as error:
            structlog.get_logger().warning("worker_not_signed_off", error=str(error))
            if self.pubsub_thread is not None:
                self.pubsub_thread.stop()


def connect(url: str, stop: StopSignals) -> Redis:
    """Return a connection for the worker's loop once Redis answers, however long that takes."""
    redis = Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_keepalive=True)
    pause_s = PAUSE_S
    while True:
        stop.check()
        try:
            redis.ping()
        except RedisError as error:
            structlog.get_logger().warning("redis_awaited", error=str(error), pause_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(PAUSE_S_MAX, pause_s * 2)
        else:
            return redis


def run_worker(
    config: Config, redis_url: str, services: Services, stop: StopSignals, spans: Spans
) -> None:
    """Run jobs until SIGTERM or SIGINT, across any outage of Redis."""
    name = queue_name(cluster_id=services.recovered.cluster_id, node_id=config.node_id)
    jobs = periodic_jobs(
        tmp_age_s=config.tmp_age_s, stores=[store.name for store in services.stores.all()]
    )
    counters = JobCounters(registry=CollectorRegistry(), jobs=map(_short_name, CALLS))
    is_ours = partial(has_no_scheduler, config.run_path)
    schedule = Schedule(queue=services.queue, jobs=jobs, is_ours=is_ours)
    schedule.start()
    try:
        with (
            suppress(StopRequested),
            jobs_use(services),
            showing_presence(config.run_path / WORKERS_NAME) as presence,
        ):
            pause_s = PAUSE_S
            started_s = time.monotonic()
            while True:
                run_jobs(
                    name,
                    redis_url,
                    presence=presence,
                    stop=stop,
                    control=services.log.control,
                    counters=counters,
                    spans=spans,
                    debug=config.debug,
                )
                stop.check()
                if time.monotonic() - started_s > PAUSE_S_MAX:
                    pause_s = PAUSE_S
                structlog.get_logger().warning("worker_loop_ended", pause_s=pause_s)
                time.sleep(pause_s)
                pause_s = min(PAUSE_S_MAX, pause_s * 2)
                started_s = time.monotonic()
    finally:
        schedule.stop()


def run_jobs(
    name: str,
    redis_url: str,
    *,
    presence: Presence,
    stop: StopSignals,
    control: ControlFile,
    counters: JobCounters,
    spans: Spans,
    debug: bool,
) -> None:
    """Run the jobs of a queue until rq ends, which it does at many a fault of Redis.

    Args:
        presence: what this process shows to the others of its node.
        control: of its log.
        counters, spans: told of the jobs.

    Raises:
        StopRequested: the end was asked for while rq ended by itself.
    """
    redis = connect(redis_url, stop)
    try:
        worker = NodeWorker(
            [name],
            name=presence.worker_name(),
            connection=redis,
            serializer=JSONSerializer,
            job_class=CheckedJob,
            maintenance_interval=MAINTENANCE_INTERVAL_S,
            log_job_description=False,
        )
        worker.abandoned = AbandonedJobs(worker.queues[0], presence)
        worker.stop_signals = stop
        worker.control, worker.counters, worker.spans = control, counters, spans
        structlog.get_logger().info("worker_started", queue=name)
        with removing_junk(worker.queues[0]):
            worker.work(logging_level="INFO" if debug else "WARNING")
    except RedisError as error:
        structlog.get_logger().warning("redis_lost", error=str(error))
    finally:
        if not stop.was_requested:
            stop.take()
        redis.close()


def main() -> int:
    """Run the worker process. Returns its exit status."""
    stop = StopSignals()
    stop.take()
    try:
        config = load_config()
        style = style_of(config)
        configure_logging(style)
        configure_stdlib_logging(style)
        share_arena()
        raise_descriptor_limit()
        if config.redis_url is None:
            sys.stderr.write("dfs worker: set REDIS_URL; `make run` does it by itself.\n")
            return 2
        tracing = open_tracing(node_id=config.node_id, database_url=config.database_url)
        try:
            serve(config, config.redis_url, stop, tracing)
        finally:
            tracing.close()
    except DfsError as error:
        sys.stderr.write(f"dfs worker: {error}\n")
        return 1
    return 0


def serve(config: Config, redis_url: str, stop: StopSignals, tracing: Tracing) -> None:
    """Open the node and run its jobs until SIGTERM or SIGINT. Raises as `open_services`."""
    hooks = replace(make_hooks(config), on_store=tracing.watch_store, spans=tracing.spans)
    services = open_services(config, hooks=hooks)
    release_freed()
    try:
        run_worker(config, redis_url, services, stop, tracing.spans)
    finally:
        services.close()


def _short_name(function: str) -> str:
    return function.rpartition(".")[2]


def make_hooks(config: Config) -> Hooks:
    """Return what has the services counted where the web workers' `/metrics` looks."""
    join_metrics(config.run_path / METRICS_NAME, COUNTED_KINDS)
    registry = CollectorRegistry()
    stores = StoreCounters(registry=registry, stores=config.store_names)
    return count_events(CommitMetrics(registry=registry), stores)


if __name__ == "__main__":
    keep_files_private()
    sys.exit(main())
