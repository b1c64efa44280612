"""A real queue server for tests: the one that dfs brings along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.embedded_redis import bundled_server, start_redis
from scripts.supervisor import Child, stop_children


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A server that a test may pause: its address and its process."""

    url: str
    child: Child


@contextmanager
def running_redis(directory: Path) -> Iterator[RedisServer]:
    """Run a server on a free port, with its files in `directory`."""
    child, url = start_redis(bundled_server(), directory=directory)
    try:
        yield RedisServer(url, child)
    finally:
        stop_children([child])
