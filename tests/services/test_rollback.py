"""A primary that was put back as it had been once, beside replicas that know better."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.services.rollback import require_newest
from tests.services.conftest import list_keys
from tests.services.replicated import ReplicatedNode, fill, replicate, store_small

PARTS = ("wal", "primary", "index")


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[ReplicatedNode]:
    """A node with two replicas, not opened yet."""
    cluster = ReplicatedNode(tmp_path, sqlite_url)
    yield cluster
    cluster.close()


@pytest.mark.parametrize("later", [2, 14], ids=["same segment", "later segments"])
def test_old_copy_of_the_primary_loses_nothing_that_a_replica_has(
    cluster: ReplicatedNode, later: int
) -> None:
    """The log is brought up to the replicas before anything is written; they stay as they are."""
    node = cluster.open()
    store_small(node, 2)
    replicate(node)
    cluster.close()
    for part in PARTS:
        shutil.copytree(cluster.directory / part, cluster.directory / "old" / part)
    node = cluster.open()
    store_small(node, later, prefix="later")
    replicate(node)
    found, end = list_keys(node), node.log.position
    cluster.close()
    for part in PARTS:
        shutil.rmtree(cluster.directory / part)
        shutil.copytree(cluster.directory / "old" / part, cluster.directory / part)
    node = cluster.open()
    assert node.log.position == end
    assert list_keys(node) == found
    store_small(node, 1, prefix="new")
    replicate(node)
    assert list_keys(node).items() > found.items()


def test_one_commit_more_on_a_replica_is_a_write_that_was_refused(cluster: ReplicatedNode) -> None:
    """Nobody was told of it: the log need not have it."""
    node = cluster.open()
    fill(node)
    replicate(node)
    end = node.log.position
    store_small(node, 1)
    replicate(node)
    node.log.control.publish(end)
    require_newest(node.log, node.stores.replicas.values())
