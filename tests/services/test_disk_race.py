"""Many uploads at once, in two processes, on a disk that gets full."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dfs.core.errors import NoSpaceError
from dfs.wiring import Services, open_services
from tests.mounts import SmallDisk, small_disk
from tests.services.conftest import list_keys, make_config, store_bytes

MIB = 1 << 20
THREADS = 16
ROOM_BYTES = 40 * MIB
RESERVE_BYTES = 60 * MIB
BOUND_BYTES = 2 * (THREADS + 1) * MIB
MIXED = (200, 60_000, 100_000, 900_000, 8_000_000)
INLINE = (60_000,)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk for all of a node."""
    with small_disk(tmp_path / "disk", size_bytes=ROOM_BYTES + RESERVE_BYTES) as disk:
        yield disk


@dataclass
class Watch:
    """Looks at a disk in a thread of its own, as often as it can; knows the least it has seen."""

    disk: SmallDisk
    least_bytes: int = 1 << 62
    over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        while not self.over.is_set():
            self.least_bytes = min(self.least_bytes, self.disk.free_bytes)


def upload_until_full(node: Services, number: int, sizes: Sequence[int]) -> int:
    """Upload files of changing sizes until there is no room for any; return how many."""
    stored = refused = 0
    while refused < len(sizes):
        size = sizes[(stored + refused + number) % len(sizes)]
        try:
            store_bytes(node, f"{number}-{stored}", os.urandom(size))
        except NoSpaceError:
            refused += 1
        else:
            stored += 1
    return stored


@pytest.mark.parametrize("sizes", [MIXED, INLINE])
def test_uploads_at_once_eat_no_more_of_the_reserve_than_is_said(
    disk: SmallDisk, sqlite_url: str, sizes: Sequence[int]
) -> None:
    """A MiB for each thread, and one for each process; and all that was acknowledged is there."""
    reserve_bytes = disk.free_bytes - ROOM_BYTES
    config = make_config(disk.path, sqlite_url, reserve_bytes=reserve_bytes)
    nodes = [open_services(config) for _ in range(2)]
    watch = Watch(disk)
    try:
        with ThreadPoolExecutor(2 * THREADS + 1) as pool:
            watching = pool.submit(watch.look)
            work = [
                pool.submit(upload_until_full, nodes[number % 2], number, sizes)
                for number in range(2 * THREADS)
            ]
            try:
                stored = sum(future.result() for future in work)
            finally:
                watch.over.set()
            watching.result()
        assert watch.least_bytes >= reserve_bytes - BOUND_BYTES
        assert len(list_keys(nodes[0])) == stored
        assert stored > 2 * THREADS
        assert list((config.storage_path / "tmp").iterdir()) == []
    finally:
        for node in nodes:
            node.close()
