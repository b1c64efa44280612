"""RqQueue must never add a job twice, never hold a caller up, and come back by itself."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from dfs.core.errors import QueueError
from dfs.queue import checked, rq_queue
from dfs.queue.rq_queue import RqQueue, name_job, queue_name
from tests.redis_server import RedisServer

JOB = "math.sqrt"
ANSWER_WITHIN_S = 0.5


@pytest.fixture(autouse=True)
def _calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let these tests' jobs be called."""
    anything = re.compile(".*")
    calls = {JOB: {}, "textwrap.dedent": {"text": anything}}
    monkeypatch.setattr(checked, "CALLS", {**checked.CALLS, **calls})


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[RqQueue]:
    """A queue on the server of the tests."""
    made = RqQueue(url=redis_server.url, name="test")
    yield made
    made.close()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A plain connection to that server."""
    with Redis.from_url(redis_server.url) as connection:
        yield connection


def run_all(redis: Redis) -> None:
    """Run every job that waits, in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    SimpleWorker(["test"], connection=redis, serializer=JSONSerializer).work(burst=True)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def job_named(redis: Redis, job_id: str) -> Job:
    """Return a job as Redis has it."""
    return Job.fetch(name_job("test", job_id), connection=redis, serializer=JSONSerializer)


def test_enqueue_waiting_id_is_not_added_twice(queue: RqQueue, redis: Redis) -> None:
    """However often the same piece of work is asked for, one job waits."""
    assert queue.enqueue(JOB, job_id="once")
    assert not queue.enqueue(JOB, job_id="once")
    assert Queue("test", connection=redis).job_ids == ["test_once"]


def test_enqueue_id_of_another_node_is_added(queue: RqQueue, redis_server: RedisServer) -> None:
    """Nodes that share Redis do not hold each other's work back."""
    other = RqQueue(url=redis_server.url, name="other")
    assert queue.enqueue(JOB, job_id="once")
    assert other.enqueue(JOB, job_id="once")
    assert not other.enqueue(JOB, job_id="once")
    other.close()


def test_enqueue_running_id_is_not_added(queue: RqQueue, redis: Redis) -> None:
    """A job that runs now covers what is asked for now."""
    queue.enqueue(JOB, job_id="once")
    redis.delete("rq:queue:test")
    job_named(redis, "once").set_status(JobStatus.STARTED)
    assert not queue.enqueue(JOB, job_id="once")


@pytest.mark.parametrize(
    ("job", "arguments", "status"),
    [("textwrap.dedent", {"text": " x"}, "finished"), (JOB, {}, "failed")],
)
def test_enqueue_ended_id_is_added_again(
    queue: RqQueue, redis: Redis, job: str, arguments: dict[str, str], status: str
) -> None:
    """A job that ended, well or badly, does not keep its work from being asked for again."""
    queue.enqueue(job, arguments, job_id="a")
    run_all(redis)
    assert job_named(redis, "a").get_status() == status
    assert queue.enqueue(JOB, job_id="a")
    assert job_named(redis, "a").get_status() == JobStatus.QUEUED


def test_enqueue_arguments_travel_as_json(queue: RqQueue, redis: Redis) -> None:
    """Nothing in Redis is a pickle: reaching Redis must not mean running code here."""
    queue.enqueue(JOB, {"count": 3, "name": "x"}, job_id="a", timeout_s=17)
    data = zlib.decompress(redis.hget("rq:job:test_a", "data"))
    assert json.loads(data)[0] == JOB
    assert json.loads(data)[3] == {"count": 3, "name": "x"}


def test_enqueue_job_is_not_kept_for_ever(queue: RqQueue, redis: Redis) -> None:
    """Results and failures have an end, so that Redis does not grow."""
    queue.enqueue(JOB, job_id="a", timeout_s=17)
    job = job_named(redis, "a")
    assert (job.timeout, job.result_ttl, job.failure_ttl) == (17, 3600, 86_400)


def test_count_jobs_tells_those_that_wait_run_and_have_failed(
    queue: RqQueue, redis: Redis, redis_server: RedisServer
) -> None:
    """Those of this queue alone; one that failed counts until it is begun anew, or forgotten."""
    other = RqQueue(url=redis_server.url, name="other")
    other.enqueue(JOB, job_id="other")
    other.close()
    queue.enqueue(JOB, job_id="fails")
    run_all(redis)
    for job_id in ("waits", "waits-too"):
        queue.enqueue("textwrap.dedent", {"text": " x"}, job_id=job_id)
    assert queue.count_jobs() == {"queued": 2, "started": 0, "failed": 1}
    redis.zadd("rq:wip:test", {"waits:e": time.time() + 60})
    redis.zadd("rq:failed:test", {"long-ago": 1.0})
    assert queue.count_jobs() == {"queued": 2, "started": 1, "failed": 1}


def test_enqueue_server_absent_fails_quickly() -> None:
    """With no Redis at all the caller gets its error at once."""
    queue = RqQueue(url="redis://127.0.0.1:1/0", name="test")
    started_s = time.monotonic()
    with pytest.raises(QueueError):
        queue.enqueue(JOB, job_id="a")
    assert time.monotonic() - started_s < ANSWER_WITHIN_S


def test_enqueue_server_hangs_fails_quickly_and_recovers(
    queue: RqQueue, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that accepts and then says nothing holds nobody up, and is used again afterwards."""
    queue.check()
    redis_server.child.process.send_signal(signal.SIGSTOP)
    try:
        started_s = time.monotonic()
        with pytest.raises(QueueError):
            queue.enqueue(JOB, job_id="a")
        assert time.monotonic() - started_s < ANSWER_WITHIN_S
        started_s = time.monotonic()
        for _ in range(1000):
            with pytest.raises(QueueError):
                queue.enqueue(JOB, job_id="a")
        assert time.monotonic() - started_s < ANSWER_WITHIN_S
    finally:
        redis_server.child.process.send_signal(signal.SIGCONT)
    monkeypatch.setattr(rq_queue, "DOWN_PAUSE_S", 0)
    later_s = time.monotonic() + 2
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    queue.check()


def test_queue_name_differs_between_clusters_and_nodes() -> None:
    """Nodes that share a Redis never take each other's jobs."""
    names = {
        queue_name(cluster_id=cluster, node_id=node)
        for cluster in (bytes(16), bytes([1] * 16))
        for node in ("node-1", "node-2")
    }
    assert len(names) == 4


@pytest.mark.parametrize(("age_s", "is_added"), [(1, False), (rq_queue.LOST_AFTER_S + 60, True)])
def test_enqueue_id_of_a_job_that_began_long_ago_is_added(
    queue: RqQueue, redis: Redis, age_s: int, is_added: bool
) -> None:
    """A job whose worker is gone does not keep the same work from being done for ever."""
    assert queue.enqueue(JOB, job_id="lost")
    job = job_named(redis, "lost")
    redis.delete(Queue("test", connection=redis).key)
    with redis.pipeline() as pipeline:
        job.prepare_for_execution("worker", pipeline=pipeline)
        pipeline.execute()
    begun_at = datetime.now(UTC) - timedelta(seconds=age_s)
    redis.hset(job.key, "started_at", begun_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    assert queue.enqueue(JOB, job_id="lost") is is_added


def test_enqueue_id_of_a_job_of_which_redis_has_only_a_part_is_added(
    queue: RqQueue, redis: Redis
) -> None:
    """Who ran a job is forgotten earlier than that it ran, be it killed or the machine asleep."""
    assert queue.enqueue(JOB, job_id="lost")
    job = job_named(redis, "lost")
    redis.delete(Queue("test", connection=redis).key)
    with redis.pipeline() as pipeline:
        execution = Execution.create(job, ttl=1000, pipeline=pipeline)
        job.prepare_for_execution("worker", pipeline=pipeline)
        pipeline.execute()
    begun_at = datetime.now(UTC) - timedelta(seconds=rq_queue.LOST_AFTER_S + 60)
    redis.hset(job.key, "started_at", begun_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    redis.delete(execution.key)
    assert queue.enqueue(JOB, job_id="lost")
    assert Queue("test", connection=redis).job_ids == ["test_lost"]


def test_enqueue_where_rq_fails_at_what_is_there_is_a_queue_error(
    queue: RqQueue, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for periodic jobs expects no other: it would end, and all that it asks for."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("junk")

    monkeypatch.setattr(Queue, "enqueue_call", fail)
    with pytest.raises(QueueError):
        queue.enqueue(JOB, job_id="a")


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.DEFERRED, JobStatus.SCHEDULED])
@pytest.mark.parametrize(
    ("age_s", "is_added"),
    [(1, False), (rq_queue.LOST_AFTER_S + 60, True), (-3600, True), (None, True)],
)
def test_enqueue_id_of_a_job_that_will_never_run_is_added(
    queue: RqQueue, redis: Redis, status: JobStatus, age_s: int | None, is_added: bool
) -> None:
    """Whoever can write to Redis cannot keep the same work from being done for ever."""
    assert queue.enqueue(JOB, job_id="lost")
    job = job_named(redis, "lost")
    redis.delete(Queue("test", connection=redis).key)
    job.set_status(status)
    if age_s is None:
        redis.hdel(job.key, "enqueued_at")
    else:
        asked_at = datetime.now(UTC) - timedelta(seconds=age_s)
        redis.hset(job.key, "enqueued_at", asked_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    assert queue.enqueue(JOB, job_id="lost") is is_added
    assert Queue("test", connection=redis).job_ids == (["test_lost"] if is_added else [])


def test_enqueue_from_many_processes_at_once_loses_nothing(
    queue: RqQueue, redis: Redis, redis_server: RedisServer
) -> None:
    """Callers that find the same ended job at once leave one that waits, and none of them fails."""
    queues = [RqQueue(url=redis_server.url, name="test") for _ in range(4)]
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(queues))

    def ask(asker: RqQueue) -> None:
        try:
            barrier.wait()
            asker.enqueue(JOB, job_id="once")
        except BaseException as error:
            errors.append(error)

    for _ in range(100):
        queue.enqueue(JOB, job_id="once")
        redis.delete("rq:queue:test")
        job_named(redis, "once").set_status(JobStatus.FINISHED)
        threads = [threading.Thread(target=ask, args=[asker]) for asker in queues]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert Queue("test", connection=redis).job_ids == ["test_once"]
        assert job_named(redis, "once").get_status() == JobStatus.QUEUED
    for asker in queues:
        asker.close()


def test_enqueue_rest_of_a_job_does_not_block_its_id(queue: RqQueue, redis: Redis) -> None:
    """What a running job writes into an emptied Redis keeps none from being added."""
    redis.hset("rq:job:test_once", "last_heartbeat", "now")
    assert queue.enqueue(JOB, job_id="once")
    assert job_named(redis, "once").get_status() == JobStatus.QUEUED
