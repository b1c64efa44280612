"""Whoever can write to Redis can neither run anything here nor stop what runs."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import signal
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.command import send_shutdown_command
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer
from structlog.testing import capture_logs

import workers.jobs
from dfs.queue import checked
from dfs.queue.checked import CALLS, FIELD_BYTES_MAX, CheckedJob
from dfs.queue.rq_queue import RqQueue
from dfs.services.hints import REPLICATE, SCRUB
from tests.queue.conftest import NoPresence
from tests.redis_server import RedisServer
from workers.abandoned import AbandonedJobs
from workers.run import NodeWorker, StopSignals
from workers.schedule import periodic_jobs

GOOD = f"{__name__}.note_call"
SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
called: list[str] = []


def note_call() -> None:
    """The only job that is allowed to these tests' worker beside those of dfs."""
    called.append("good")


def attack(*_: object, **__: object) -> None:
    """What no job may get called."""
    called.append("attack")


class Trap:
    """Calls `attack` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return attack, ()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A connection of the attacker's."""
    called.clear()
    with Redis.from_url(redis_server.url) as connection:
        yield connection


@pytest.fixture
def worker(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeWorker]:
    """A worker as the process of the node has it, for as long as there are jobs."""
    monkeypatch.setattr(checked, "CALLS", {**CALLS, GOOD: {}})
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    worker = NodeWorker(
        ["test"],
        connection=redis,
        serializer=JSONSerializer,
        job_class=CheckedJob,
        log_job_description=False,
    )
    worker.abandoned = AbandonedJobs(worker.queues[0], NoPresence())  # type: ignore[arg-type]
    worker.stop_signals = StopSignals()
    yield worker
    for number, handler in handlers.items():
        signal.signal(number, handler)


def call(
    name: object, arguments: object = None, *, args: object = (), instance: object = None
) -> bytes:
    """Return the data of a job."""
    return json.dumps([name, instance, args, {} if arguments is None else arguments]).encode()


def plant(redis: Redis, fields: dict[str, Any] | None, job_id: str = "planted") -> None:
    """Put a job into the queue by hand."""
    if fields is not None:
        redis.hset(f"rq:job:{job_id}", mapping={"status": "queued", "origin": "test", **fields})
    redis.rpush("rq:queue:test", job_id)
    redis.sadd("rq:queues", "rq:queue:test")


ATTACK = f"{__name__}.attack"
FINE = call("workers.jobs.compact")
HOSTILE: dict[str, dict[str, Any]] = {
    "another function": {"data": call(ATTACK)},
    "a function of the system": {"data": call("os.system", args=["true"])},
    "a private name": {"data": call("workers.jobs._services.get")},
    "pickle": {"data": pickle.dumps(Trap())},
    "compressed pickle": {"data": zlib.compress(pickle.dumps(Trap()))},
    "pickled meta": {"data": call(ATTACK), "meta": pickle.dumps(Trap())},
    "bomb": {"data": zlib.compress(b"[" + b" " * (64 << 20) + b"]")},
    "bomb around a call": {"data": zlib.compress(FINE[:-1] + b" " * (1 << 20) + b"]")},
    "huge": {"data": b"[" + b" " * (1 << 20) + b"]"},
    "huge field": {"data": FINE, "worker_name": "x" * (1 << 20)},
    "no data": {"description": "x"},
    "empty data": {"data": b""},
    "no list": {"data": b'{"workers.jobs.compact": 1}'},
    "too short": {"data": b'["workers.jobs.compact", null]'},
    "deep": {"data": b"[" * 4000},
    "no text": {"data": b"\xff\xfe"},
    "name of another type": {"data": call(["workers.jobs.compact"])},
    "an instance": {"data": call("workers.jobs.compact", instance="x")},
    "positional arguments": {"data": call("workers.jobs.replicate", args=["primary"])},
    "arguments too many": {"data": call("workers.jobs.compact", {"budget_s": "9"})},
    "arguments missing": {"data": call("workers.jobs.scrub")},
    "argument of another type": {"data": call("workers.jobs.scrub", {"store": 7})},
    "argument nested": {"data": call("workers.jobs.scrub", {"store": {"a": "b"}})},
    "argument a path": {"data": call("workers.jobs.scrub", {"store": "../../etc"})},
    "argument empty": {"data": call("workers.jobs.scrub", {"store": ""})},
    "argument long": {"data": call("workers.jobs.scrub", {"store": "x" * 65})},
    "argument with a line": {"data": call("workers.jobs.scrub", {"store": "primary\n"})},
    "endless": {"data": FINE, "timeout": "-1"},
    "too long": {"data": FINE, "timeout": str(1 << 40)},
    "no number": {"data": FINE, "timeout": "x"},
    "unknown status": {"data": FINE, "status": "happy"},
    "no date": {"data": FINE, "created_at": "yesterday"},
}


CARRIED = {
    "good": (SPAN, SPAN),
    "none": (None, None),
    "empty": ("", None),
    "junk": ("00-junk", None),
    "another version": (f"ff{SPAN[2:]}", None),
    "a line more": (f"{SPAN}\n", None),
    "long": (SPAN * 40, None),
    "number": (7, None),
    "nested": ({"traceparent": SPAN}, None),
}


@pytest.mark.parametrize("what", CARRIED)
def test_job_tells_the_span_that_it_belongs_to_and_junk_is_ignored(
    redis: Redis, worker: NodeWorker, what: str
) -> None:
    """The job runs in any case, and never gets what is carried with it."""
    carried, expected = CARRIED[what]
    plant(redis, {"data": call(GOOD, {"traceparent": carried})})
    job = CheckedJob.fetch("planted", connection=redis, serializer=JSONSerializer)
    assert (job.carried, job.kwargs) == (expected, {})
    worker.work(burst=True)
    assert called == ["good"]


def test_enqueued_job_carries_the_span(redis: Redis, redis_server: RedisServer) -> None:
    """What is given with a job is with it when it is read, and not among its arguments."""
    queue = RqQueue(url=redis_server.url, name="test")
    REPLICATE.enqueue(queue, "primary", carried=SPAN)
    queue.close()
    job = CheckedJob.fetch("test_replicate-primary", connection=redis, serializer=JSONSerializer)
    assert (job.carried, job.kwargs) == (SPAN, {"store": "primary"})


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_job_is_refused_and_the_worker_goes_on(
    redis: Redis, worker: NodeWorker, what: str
) -> None:
    """Nothing is called, the log says so, its id is free again, and the next job runs."""
    plant(redis, HOSTILE[what])
    plant(redis, {"data": call(GOOD)}, "good")
    with capture_logs() as logs:
        worker.work(burst=True)
    assert called == ["good"]
    assert [entry["job"] for entry in logs if entry["event"] == "job_refused"] == ["planted"]
    assert not redis.exists("rq:job:planted")
    queue = RqQueue(url=f"redis://127.0.0.1:{redis.get_connection_kwargs()['port']}/0", name="test")
    assert queue.enqueue(GOOD, job_id="planted")
    queue.close()


def test_hostile_job_does_not_block_its_id(redis: Redis, redis_server: RedisServer) -> None:
    """Whoever asks for the job of that id finds what was planted, and puts his own in its place."""
    queue = RqQueue(url=redis_server.url, name="test")
    for fields in (HOSTILE["another function"], HOSTILE["unknown status"], HOSTILE["bomb"]):
        redis.flushall()
        plant(redis, fields, "test_compact")
        with capture_logs():
            assert queue.enqueue("workers.jobs.compact", job_id="compact")
        assert (
            CheckedJob.fetch("test_compact", redis, JSONSerializer).func_name
            == "workers.jobs.compact"
        )
    redis.flushall()
    redis.set("rq:job:test_compact", "no hash")
    with capture_logs():
        assert queue.enqueue("workers.jobs.compact", job_id="compact")
    queue.close()


def test_calls_and_addresses_beside_the_job_are_not_looked_at(
    redis: Redis, worker: NodeWorker
) -> None:
    """Callbacks, webhooks, repeats, retries, dependencies: dfs uses none of them."""
    fields = {
        "success_callback_name": ATTACK,
        "failure_callback_name": ATTACK,
        "stopped_callback_name": ATTACK,
        "webhooks": json.dumps([{"url": "http://127.0.0.1:1/", "events": ["finished"]}]),
        "meta": pickle.dumps(Trap()),
        "result": pickle.dumps(Trap()),
        "repeats_left": "5",
        "repeat_intervals": "[0]",
        "retries_left": "5",
        "retry_intervals": "[0]",
        "dependency_ids": '["other"]',
        "group_id": "g",
        "rate_limit_key": "k",
        "rate_limit_concurrency": "0",
        "ttl": "x",
        "exc_info": zlib.compress(b" " * (64 << 20)),
    }
    plant(redis, {"data": call(GOOD), **fields})
    (job,) = CheckedJob.fetch_many(["planted"], redis, JSONSerializer)
    assert job is not None
    assert (job.webhooks, job.success_callback, job.failure_callback) == ([], None, None)
    worker.work(burst=True)
    assert called == ["good"]
    assert Queue("test", connection=redis).count == 0


def test_worker_takes_no_commands_from_redis(redis: Redis, worker: NodeWorker) -> None:
    """Nobody listens for them."""
    assert redis.pubsub_numsub(worker.pubsub_channel_name)[0][1] == 0
    worker.bootstrap()
    try:
        assert redis.pubsub_numsub(worker.pubsub_channel_name)[0][1] == 0
        send_shutdown_command(redis, worker.name)
    finally:
        worker.teardown()


def test_ids_without_a_job_are_passed_over(redis: Redis, worker: NodeWorker) -> None:
    """Whatever is in the list, what is behind it runs."""
    for job_id in ("absent", "x" * 5000):
        plant(redis, None, job_id)
    plant(redis, {"data": call(GOOD)}, "good")
    worker.work(burst=True)
    assert called == ["good"]


def test_all_jobs_of_dfs_are_allowed_and_nothing_else() -> None:
    """The table has the functions that are asked for, with their arguments."""
    asked = {job.job: set(job.arguments) for job in periodic_jobs(tmp_age_s=60, stores=["primary"])}
    asked |= {job.name: {"store"} for job in (REPLICATE, SCRUB)}
    assert {name: set(arguments) for name, arguments in CALLS.items()} == asked
    for name, arguments in CALLS.items():
        function = getattr(workers.jobs, name.removeprefix("workers.jobs."))
        assert set(inspect.signature(function).parameters) == set(arguments)
    assert all(re.fullmatch(r"workers\.jobs\.[a-z_]+", name) for name in CALLS)


def test_job_of_the_largest_size_is_read(redis: Redis) -> None:
    """The limit is where it is said to be."""
    data = FINE[:-1] + b" " * (FIELD_BYTES_MAX - len(FINE)) + b"]"
    plant(redis, {"data": data})
    assert CheckedJob.fetch("planted", redis, JSONSerializer).func_name == "workers.jobs.compact"
    redis.hset("rq:job:planted", "data", data[:-1] + b" ]")
    with capture_logs(), pytest.raises(NoSuchJobError):
        CheckedJob.fetch("planted", redis, JSONSerializer)
