"""The worker process must run the jobs of its node and end when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer
from structlog.testing import capture_logs

from dfs.core.errors import StoreUnavailableError, WalCorruptError
from dfs.queue.rq_queue import RqQueue, name_job, queue_name
from dfs.wiring import open_services
from scripts.embedded_redis import answers, bundled_server, launch
from scripts.supervisor import stop_children
from tests.project.nodes import RunningProgram, program_environ, running_program
from tests.redis_server import RedisServer, running_redis
from tests.services.conftest import make_config
from workers import jobs
from workers.jobs import jobs_use

pytestmark = pytest.mark.integration

WAITING = ("blmove", "brpoplpush", "blpop")
"""What a client of Redis does that waits for a job."""


def test_worker_sweeps_old_temporaries_and_stops_on_term(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """What nobody writes any more is removed, what is young stays, and SIGTERM ends with 0."""
    with running_program("workers.run", tmp_path, REDIS_URL=redis_server.url) as worker:
        worker.read_until("worker_started")
        sweep_and_stop(tmp_path, redis_server, worker)


def sweep_and_stop(tmp_path: Path, redis_server: RedisServer, worker: RunningProgram) -> None:
    """Make an old and a young file in each store, let the worker sweep, and stop it."""
    stores = [tmp_path / "data" / name for name in ("primary", "replica1", "replica2")]
    deadline_s = time.monotonic() + 30
    while not all((store / "dfs.json").exists() for store in stores):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    for store in stores:
        for name in ("old", "young"):
            (store / "tmp" / name).touch()
        os.utime(store / "tmp" / "old", (time.time() - 90_000,) * 2)
    identity = json.loads((tmp_path / "data/primary/dfs.json").read_text())
    name = queue_name(cluster_id=bytes.fromhex(identity["cluster_id"]), node_id="node-1")
    queue = RqQueue(url=redis_server.url, name=name)
    queue.enqueue("workers.jobs.sweep_temporaries", job_id="from-test")
    queue.close()
    with Redis.from_url(redis_server.url) as redis:
        job = Job(name_job(name, "from-test"), connection=redis, serializer=JSONSerializer)
        result = job.latest_result(timeout=30)
    assert result is not None
    assert result.type == Result.Type.SUCCESSFUL  # or the periodic one was quicker
    left = [[path.name for path in (store / "tmp").iterdir()] for store in stores]
    assert left == [["young"]] * 3
    status, _ = worker.end(signal.SIGTERM)
    assert status == 0


def test_worker_without_queue_says_so(tmp_path: Path) -> None:
    """A worker that was given no queue ends at once and names the setting."""
    with running_program("workers.run", tmp_path) as worker:
        assert "REDIS_URL" in worker.read_until("dfs worker")
        assert worker.process.wait(timeout=30) == 2


def test_worker_waits_for_its_queue_and_can_be_stopped(tmp_path: Path) -> None:
    """A queue that is not up yet is waited for, and the wait can be ended."""
    with running_program("workers.run", tmp_path, REDIS_URL="redis://127.0.0.1:1/0") as worker:
        worker.read_until("redis_awaited")
        status, output = worker.end(signal.SIGTERM)
    assert status == 0
    assert "Traceback" not in output


def test_worker_outlives_its_queue_and_works_on_when_it_returns(tmp_path: Path) -> None:
    """rq ends when Redis breaks off; the worker does not, and needs no restart."""
    with running_redis(tmp_path / "redis") as server:
        port = urlsplit(server.url).port
        assert port is not None
        with running_program("workers.run", tmp_path, REDIS_URL=server.url) as worker:
            worker.read_until("worker_started")
            with Redis.from_url(server.url) as redis:
                blocked_client(redis)
            server.child.process.kill()
            server.child.process.wait()
            # The one if rq was waiting for a job at that moment, the other if it had just got one.
            worker.read_until("could not connect", "redis_awaited")
            again = launch(bundled_server(), tmp_path / "redis", port)
            try:
                assert answers(port, again)
                sweep_and_stop(tmp_path, RedisServer(server.url, again), worker)
            finally:
                stop_children([again])


@pytest.mark.parametrize("wait_before_stop", [False, True])
def test_worker_starts_again_when_rq_ends_by_itself(
    tmp_path: Path, redis_server: RedisServer, wait_before_stop: bool
) -> None:
    """Whatever makes rq end, the worker begins anew, and can be stopped during its pause, too."""
    with running_program("workers.run", tmp_path, REDIS_URL=redis_server.url) as worker:
        worker.read_until("worker_started")
        with Redis.from_url(redis_server.url) as redis:
            with spoiling(redis, known_queue(redis)):
                worker.read_until("worker_loop_ended")
            if not wait_before_stop:
                worker.read_until("worker_started")
                blocked_client(redis)
        status, output = worker.end(signal.SIGTERM)
    assert status == 0
    assert "Traceback" not in output


LOSE_SIGNAL = """
import os, signal, sys, weakref
from workers import run

class Thing: pass

def lose_signal(_):
    os.kill(os.getpid(), signal.SIGTERM)
    print("signalled", flush=True)

def losing(function):
    def lose_and_call(*arguments, **named):
        thing = Thing()
        ref = weakref.ref(thing, lose_signal)
        del thing
        return function(*arguments, **named)
    return lose_and_call

moments = {"connect": (run, "connect"), "birth": (run.NodeWorker, "register_birth")}
owner, name = moments[sys.argv[1]]
setattr(owner, name, losing(getattr(owner, name)))
sys.exit(run.main())
"""


@pytest.mark.parametrize("moment", ["connect", "birth"])
def test_worker_ends_though_the_signal_strikes_where_no_exception_gets_out(
    tmp_path: Path, redis_server: RedisServer, moment: str
) -> None:
    """What a signal raises in a finalizer is lost; that the end was asked for is not."""
    ended = subprocess.run(
        [sys.executable, "-c", LOSE_SIGNAL, moment],
        cwd=tmp_path,
        env=program_environ(tmp_path, {"REDIS_URL": redis_server.url}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Exception ignored" in ended.stderr
    assert ended.returncode == 0, ended.stderr


@contextmanager
def spoiling(redis: Redis, key: str) -> Iterator[None]:
    """Have no list in the place of a queue: rq's next command for it fails.

    Again and again, since the schedule, which puts jobs there, may be the first to find it and
    remove it.
    """
    ended = threading.Event()

    def spoil() -> None:
        while not ended.wait(0.05):
            waiting = [client["id"] for client in redis.client_list() if client["cmd"] in WAITING]
            with redis.pipeline() as at_once:
                at_once.set(key, "no list")
                for client in waiting:
                    at_once.execute_command("CLIENT", "UNBLOCK", client)
                at_once.execute()

    thread = threading.Thread(target=spoil)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        redis.delete(key)


def known_queue(redis: Redis) -> str:
    """Return the key of the only queue, once a job was put into it."""
    while not (keys := list(redis.sscan_iter("rq:queues"))):
        pass
    (key,) = keys
    return str(key, "ascii")


def blocked_client(redis: Redis) -> int:
    """Return the id of the client that waits for a job."""
    while True:
        for client in redis.client_list():
            if client["cmd"] in WAITING:
                return int(client["id"])


def test_sweep_of_a_store_that_fails_does_not_keep_the_others_from_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that is gone is swept when it is back."""
    replicas = tuple((name, str(tmp_path / name)) for name in ("replica1", "replica2"))
    config = make_config(tmp_path, f"sqlite:///{tmp_path / 'dfs.db'}", replicas=replicas)
    services = open_services(config)
    old = tmp_path / "replica2" / "tmp" / "old"
    old.parent.mkdir(parents=True, exist_ok=True)
    old.touch()
    os.utime(old, (time.time() - 90_000,) * 2)

    def fail(**_: object) -> int:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(services.stores.replicas["replica1"], "sweep", fail)
    with jobs_use(services):
        assert jobs.sweep_temporaries() == 1
    services.close()
    assert not old.exists()


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        (jobs.replicate, ("replica1",)),
        (jobs.replicate, ("primary",)),
        (jobs.scrub, ("primary",)),
        (jobs.collect_garbage, ()),
        (jobs.compact, ()),
    ],
)
def test_job_that_meets_a_database_that_is_away_is_put_off(
    tmp_path: Path, job: Callable[..., str], arguments: tuple[str, ...]
) -> None:
    """It has not failed: one line says why it did nothing, and the schedule asks again."""
    replicas = (("replica1", str(tmp_path / "replica1")),)
    services = open_services(
        make_config(tmp_path, f"sqlite:///{tmp_path / 'dfs.db'}", replicas=replicas)
    )
    services.index.close()
    with jobs_use(services), capture_logs() as logs:
        assert job(*arguments) == "put off: index_unavailable"
    services.close()
    assert [(line["event"], line["job"], line["log_level"]) for line in logs] == [
        ("job_put_off", job.__name__, "warning")
    ]


def test_job_that_fails_for_good_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no next try mends is not hushed up."""
    services = open_services(make_config(tmp_path, f"sqlite:///{tmp_path / 'dfs.db'}"))

    def fail(**_: object) -> None:
        raise WalCorruptError("A record is damaged.")

    monkeypatch.setattr(services.compaction, "work", fail)
    with jobs_use(services), pytest.raises(WalCorruptError):
        jobs.compact()
    services.close()
