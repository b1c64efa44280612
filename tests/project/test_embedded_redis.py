"""The queue's server that `make run` starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from scripts.embedded_redis import bundled_server, find_server, start_redis
from scripts.supervisor import stop_children

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("find", [find_server, bundled_server])
def test_embedded_server_takes_no_command_that_reaches_beyond_it(
    tmp_path: Path, find: Callable[[], Path]
) -> None:
    """Other users of the machine can talk to it, and must not thereby write files or run code."""
    child, url = start_redis(find(), directory=tmp_path)
    try:
        with Redis.from_url(url) as redis:
            for command in ("CONFIG GET dir", "MODULE LIST", "DEBUG HELP", "REPLICAOF NO ONE"):
                with pytest.raises(ResponseError, match="unknown command"):
                    redis.execute_command(*command.split())
            assert redis.ping()
    finally:
        stop_children([child])
