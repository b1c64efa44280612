"""A worker process that ends must not keep its job from being done by another."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue
from rq.exceptions import InvalidJobOperation
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now

from dfs.core.signs import is_shown
from dfs.queue import checked
from dfs.queue.rq_queue import RqQueue, name_job, queue_name
from tests.project.chaos_clients import wait_until
from tests.project.endless_worker import CALLS, ENDLESS
from tests.project.nodes import running_program
from tests.redis_server import RedisServer
from workers import abandoned
from workers.abandoned import AbandonedJobs, Presence, look_up, showing_presence

JOB_ID = "replicate-replica1"
WORKER = "tests.project.endless_worker"


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[Queue]:
    """A queue with a job that runs, as far as Redis knows."""
    with Redis.from_url(redis_server.url) as redis:
        queue = Queue("test", connection=redis, serializer=JSONSerializer)
        queue.enqueue_call("math.sqrt", job_id=JOB_ID)
        yield queue


def let_run(queue: Queue, worker_name: str) -> None:
    """Have the job taken by a worker of that name."""
    job = Job.fetch(JOB_ID, connection=queue.connection, serializer=JSONSerializer)
    queue.remove(job)
    with queue.connection.pipeline() as pipeline:
        job.prepare_for_execution(worker_name, pipeline=pipeline)
        pipeline.zadd(queue.started_job_registry.key, {f"{JOB_ID}:1": 4e9})
        pipeline.execute()
    assert job.get_status() is JobStatus.STARTED


def test_presence_ends_with_its_process(tmp_path: Path) -> None:
    """A sign is believed as long as it is held, and one left behind is removed."""
    mine = Presence(directory=tmp_path, name="mine")
    with showing_presence(tmp_path) as other:
        name = other.worker_name()
        assert not mine.is_gone(name)
        (sign,) = tmp_path.iterdir()
    assert not sign.exists()
    assert mine.is_gone(name)
    sign.touch()  # as it stays behind when the process is killed
    assert mine.is_gone(name)
    assert not sign.exists()


def test_presence_is_shown_although_somebody_looks_as_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A health check, say, holds the lock for a moment; nobody would try again later."""
    looks: list[bool] = []

    def flock(fd: int, operation: int) -> None:
        with next(tmp_path.iterdir()).open() as sign:
            fcntl_flock(sign, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as `is_shown` does
            if not looks:
                looks.append(True)
                fcntl_flock(fd, operation)
        monkeypatch.undo()
        fcntl_flock(fd, operation)

    fcntl_flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    with showing_presence(tmp_path):
        (sign,) = tmp_path.iterdir()
        assert is_shown(sign)


def test_abandoned_jobs_are_not_those_that_run(tmp_path: Path, queue: Queue) -> None:
    """A job is dropped when the process of its worker is gone, and not before."""
    jobs = AbandonedJobs(queue, Presence(directory=tmp_path, name="mine"))
    with showing_presence(tmp_path) as other:
        let_run(queue, other.worker_name())
        assert jobs.drop() == []
        assert look_up(queue, JOB_ID) is not None
    assert jobs.drop() == [JOB_ID]
    assert look_up(queue, JOB_ID) is None


def test_abandoned_jobs_are_not_those_that_are_just_being_put_in(
    tmp_path: Path, queue: Queue
) -> None:
    """One that it does not find may be in the queue before it looks on."""
    queue.connection.zadd(queue.started_job_registry.key, {f"{JOB_ID}:1": 4e9})
    queue.connection.delete(Job.key_for(JOB_ID))
    assert AbandonedJobs(queue, Presence(directory=tmp_path, name="mine")).drop() == []
    assert queue.job_ids == [JOB_ID]


def test_abandoned_jobs_are_those_that_were_taken_and_are_not_begun(
    tmp_path: Path, redis_server: RedisServer, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be asked for again at once. However long it had waited: its worker has some time."""
    jobs = AbandonedJobs(queue, Presence(directory=tmp_path, name="mine"))
    adder = RqQueue(url=redis_server.url, name=queue.name)
    queue.empty()
    assert adder.enqueue("workers.jobs.compact", job_id=JOB_ID)
    queue.connection.lmove(queue.key, queue.intermediate_queue.key)
    monkeypatch.setattr(abandoned, "BEGUN_S", 1e-9)
    assert jobs.drop() == []
    assert not adder.enqueue("workers.jobs.compact", job_id=JOB_ID)
    assert wait_until(lambda: jobs.drop() == [name_job(queue.name, JOB_ID)], timeout_s=10)
    assert queue.intermediate_queue.get_job_ids() == []
    assert adder.enqueue("workers.jobs.compact", job_id=JOB_ID)
    adder.close()


def test_abandoned_jobs_are_not_those_that_are_taken_again_and_again(
    tmp_path: Path, redis_server: RedisServer, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks now and then may see the same id each time, but of a job asked for anew."""
    jobs = AbandonedJobs(queue, Presence(directory=tmp_path, name="mine"))
    adder = RqQueue(url=redis_server.url, name=queue.name)
    monkeypatch.setattr(abandoned, "BEGUN_S", 1e-9)
    queue.empty()
    for _ in range(3):
        assert adder.enqueue("workers.jobs.compact", job_id=JOB_ID)
        queue.connection.lmove(queue.key, queue.intermediate_queue.key)
        assert jobs.drop() == []
        key = Job.key_for(name_job(queue.name, JOB_ID))
        queue.connection.delete(queue.intermediate_queue.key, key)
    adder.close()


@pytest.mark.crash
@pytest.mark.integration
def test_job_of_killed_worker_is_done_by_the_next(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed within a job; the next one does the same work within seconds."""
    monkeypatch.setattr(checked, "CALLS", CALLS)
    with running_program(WORKER, tmp_path, REDIS_URL=redis_server.url) as worker:
        worker.read_until("worker_started")
        identity = json.loads((tmp_path / "data/primary/dfs.json").read_text())
        name = queue_name(cluster_id=bytes.fromhex(identity["cluster_id"]), node_id="node-1")
        with Redis.from_url(redis_server.url) as redis:
            queue = Queue(name, connection=redis, serializer=JSONSerializer)
            replace_by_endless(queue, redis_server.url)
            worker.process.kill()
            worker.process.wait()
            with running_program(WORKER, tmp_path, REDIS_URL=redis_server.url) as next_one:
                next_one.read_until("job_abandoned")
                assert wait_until(lambda: is_replicated(queue), timeout_s=60)


@pytest.mark.integration
def test_job_taken_by_a_killed_worker_is_found_within_seconds(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Also by a worker that has looked just before."""
    with running_program("workers.run", tmp_path, REDIS_URL=redis_server.url) as worker:
        worker.read_until("worker_started")
        identity = json.loads((tmp_path / "data/primary/dfs.json").read_text())
        name = queue_name(cluster_id=bytes.fromhex(identity["cluster_id"]), node_id="node-1")
        with Redis.from_url(redis_server.url) as redis, redis.pipeline() as pipeline:
            queue = Queue(name, connection=redis, serializer=JSONSerializer)
            job = queue.create_job("workers.jobs.compact", job_id="taken", status=JobStatus.QUEUED)
            job.enqueued_at = now()
            job.save(pipeline=pipeline)
            pipeline.lpush(queue.intermediate_queue.key, job.id)
            pipeline.execute()
            assert look_up(queue, "taken") is not None
            assert wait_until(lambda: look_up(queue, "taken") is None, timeout_s=30)
            assert "taken" not in queue.intermediate_queue.get_job_ids()


def replace_by_endless(queue: Queue, url: str) -> None:
    """Have the worker run a job under that id which never ends. Returns when it does."""
    adder = RqQueue(url=url, name=queue.name)

    def is_endless() -> bool:
        job = look_up(queue, name_job(queue.name, JOB_ID))
        with suppress(InvalidJobOperation):  # the worker has just done the one of before
            if job is not None and job.func_name == ENDLESS:
                return job.is_started
        # Not once more when it is there: that would be done after it, by the next worker.
        adder.enqueue(ENDLESS, job_id=JOB_ID, timeout_s=3600)
        return False

    assert wait_until(is_endless, timeout_s=60)
    adder.close()


def is_replicated(queue: Queue) -> bool:
    """Tell whether the work of that id was done."""
    job = look_up(queue, name_job(queue.name, JOB_ID))
    return job is not None and job.is_finished and job.func_name == "workers.jobs.replicate"
