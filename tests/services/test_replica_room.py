"""Copies of blob files and the reserve: a replica may lie on a disk of the node, or on its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dfs.wiring import Services, open_services
from tests.mounts import SmallDisk, small_disk
from tests.services.conftest import Opener, make_config, store_bytes
from tests.services.stores_rig import build_rig

MIB = 1 << 20
BLOB_BYTES = 4 * MIB
ROOM_BYTES = 6 * BLOB_BYTES

pytestmark = pytest.mark.usefixtures("retry_at_once")


@pytest.fixture
def index_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk."""
    with small_disk(tmp_path / "disk", size_bytes=80 * MIB) as disk:
        yield disk


def fill(node: Services) -> None:
    """Store four blob files."""
    for number in range(4):
        store_bytes(node, f"file-{number}", os.urandom(BLOB_BYTES))


def test_copies_on_a_disk_of_the_node_leave_its_reserve_alone(
    disk: SmallDisk, sqlite_url: str
) -> None:
    """What does not fit stays owed, and is copied when there is room."""
    disk.put_ballast(3 * BLOB_BYTES)
    reserve_bytes = disk.free_bytes - ROOM_BYTES
    replicas = (("replica1", str(disk.path / "replica1")),)
    config = make_config(disk.path, sqlite_url, replicas=replicas, reserve_bytes=reserve_bytes)
    with closing(open_services(config)) as node:
        fill(node)
        rig = build_rig(node)
        report = node.replication.work("replica1", budget_s=30)
        assert report.error is not None
        assert "is full" in report.error
        assert disk.free_bytes > reserve_bytes - BLOB_BYTES
        assert rig.owed("replica1")
        disk.drop_ballast()
        rig.replicate()
        assert rig.owed("replica1") == set()


def test_copies_on_a_disk_of_their_own_have_all_of_it(open_node: Opener, disk: SmallDisk) -> None:
    """The reserve is for what the node writes; here all that comes is a copy."""
    node = open_node(replicas=(("replica1", str(disk.path)),), reserve_bytes=100 * MIB)
    fill(node)
    rig = build_rig(node)
    rig.replicate()
    assert rig.owed("replica1") == set()
