"""What the loss of the primary leaves: processes that outlived it, files that were not copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.core.errors import BlobMissingError, WalReadOnlyError
from tests.services.conftest import read_bytes, store_bytes
from tests.services.replicated import LARGE_BYTES, ReplicatedNode, replicate, store_small


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[ReplicatedNode]:
    """A node with two replicas, not opened yet."""
    cluster = ReplicatedNode(tmp_path, sqlite_url)
    yield cluster
    cluster.close()


def test_process_that_outlived_its_log_writes_nothing_into_the_next_one(
    cluster: ReplicatedNode,
) -> None:
    """It has the old lock: what it wrote would fall on what the new life has written since."""
    node = cluster.open()
    store_small(node, 2)
    replicate(node)
    cluster.close()
    old = cluster.open()  # has not written yet, so that it would open the active segment now
    cluster.lose()
    node = cluster.open()
    stored = store_bytes(node, "new", b"new").files[0]
    with pytest.raises(WalReadOnlyError, match="removed"):
        store_bytes(old, "old", b"old")
    assert "removed" in old.health.reasons()["log"]
    assert read_bytes(node, stored.id) == b"new"


def test_process_that_outlived_its_log_ships_nothing_to_the_replicas(
    cluster: ReplicatedNode,
) -> None:
    """What it has to ship would be cut out of, or over, what the new life has there."""
    node = cluster.open()
    store_small(node, 2)
    replicate(node)
    store_small(node, 1)
    old = cluster._opened.pop()
    cluster.lose()
    node = cluster.open()
    store_bytes(node, "new", b"new")
    replicate(node)
    copy = cluster.segment(1, "replica1").read_bytes()
    assert "removed" in old.replication.work("replica1", budget_s=0).error
    assert cluster.segment(1, "replica1").read_bytes() == copy
    old.close()


def test_file_whose_bytes_were_not_copied_yet_says_so_until_they_are_uploaded_again(
    cluster: ReplicatedNode,
) -> None:
    """The log is ahead of the blob files. What is lost is not hidden, and never half there."""
    node = cluster.open()
    content = os.urandom(LARGE_BYTES)
    stored = store_bytes(node, "large", content).files[0]
    for store in node.stores.replicas.values():
        assert node.replication._ship(store)
    cluster.close()
    cluster.lose()
    node = cluster.open()
    assert [file.id for file in node.files.list(limit=10).files] == [stored.id]
    with pytest.raises(BlobMissingError):
        read_bytes(node, stored.id)
    store_bytes(node, "again", content)
    assert read_bytes(node, stored.id) == content
    replicate(node)
