"""Whoever can write to Redis can hold background work up, but only while he does."""

from __future__ import annotations

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue

from dfs.core.errors import QueueError
from dfs.queue import rq_queue
from dfs.queue.junk import removing_junk
from dfs.queue.rq_queue import RqQueue
from tests.redis_server import RedisServer


@pytest.mark.parametrize("key", ["queue:test", "queues", "finished:test"])
def test_enqueue_where_something_else_is_works_the_next_time(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """What is there is removed."""
    monkeypatch.setattr(rq_queue, "DOWN_PAUSE_S", 0)
    queue = RqQueue(url=redis_server.url, name="test")
    with Redis.from_url(redis_server.url) as redis:
        queue.enqueue("workers.jobs.compact", job_id="a")
        redis.hset("rq:job:test_a", "status", "finished")
        redis.set(f"rq:{key}", "junk")
        with pytest.raises(QueueError):
            [queue.enqueue("workers.jobs.compact", job_id="a") for _ in range(2)]
        assert queue.enqueue("workers.jobs.compact", job_id="b")
        assert Queue("test", connection=redis).job_ids == ["test_b"]
    queue.close()


@pytest.mark.parametrize(
    ("error", "is_emptied"),
    [(ValueError("junk"), True), (RedisConnectionError("gone"), False), (OSError(), False)],
)
def test_queue_is_emptied_for_what_it_holds_alone(
    redis_server: RedisServer, error: Exception, is_emptied: bool
) -> None:
    """Not when Redis goes away; and what other nodes have there stays."""
    with Redis.from_url(redis_server.url) as redis:
        queue = Queue("test", connection=redis)
        for name in ("test", "other"):
            Queue(name, connection=redis).enqueue("math.sqrt", job_id=name)
        with pytest.raises(type(error)), removing_junk(queue):
            raise error
        assert queue.count == (0 if is_emptied else 1)
        assert redis.exists("rq:job:test") == (0 if is_emptied else 1)
        assert Queue("other", connection=redis).count == redis.exists("rq:job:other") == 1
        assert redis.scard("rq:queues") == 2


def test_job_that_comes_while_the_queue_is_emptied_waits_in_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the queue afterwards, or nowhere: not a job that waits without being in any."""
    with Redis.from_url(redis_server.url) as redis, Redis.from_url(redis_server.url) as other:
        queue = Queue("test", connection=redis)
        queue.enqueue("math.sqrt", job_id="old")
        lrange = redis.lrange

        def interfere(*arguments: object) -> object:
            found = lrange(*arguments)  # type: ignore[arg-type]
            if not other.exists("rq:job:new"):
                Queue("test", connection=other).enqueue("math.sqrt", job_id="new")
            return found

        monkeypatch.setattr(redis, "lrange", interfere)
        with pytest.raises(ValueError, match="junk"), removing_junk(queue):
            raise ValueError("junk")
        assert Queue("test", connection=other).job_ids == ["new"]
        assert not other.exists("rq:job:old")
