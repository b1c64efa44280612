"""The queue's server, shared by all tests of a process and empty for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.redis_server import RedisServer, running_redis


class NoPresence:
    """Stands for no other worker process."""

    def is_gone(self, worker_name: str) -> bool:
        """Return that none has ended."""
        return False


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests of a process."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """The server, empty."""
    with Redis.from_url(redis_process.url) as redis:
        redis.flushall()
    return redis_process
