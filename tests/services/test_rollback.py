"""A primary that was put back as it had been once, beside replicas that know better."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from dfs.core.config import Config
from dfs.services.rollback import find_newer, require_newest
from tests.s3 import REGION, S3Server
from tests.services.conftest import list_keys
from tests.services.replicated import ReplicatedNode, fill, replicate, store_small

NOBODY = "http://127.0.0.1:9"
PARTS = ("wal", "primary", "index")


class BucketNode(ReplicatedNode):
    """A node whose replica is in a bucket."""

    def __init__(self, directory: Path, index_url: str, *, server: S3Server, bucket: str) -> None:
        super().__init__(directory, index_url, replicas=0)
        self._server = server
        self._bucket = bucket

    @property
    def config(self) -> Config:
        """Settings that name the bucket."""
        return replace(
            super().config,
            replicas=(("replica1", f"s3://{self._bucket}/copy"),),
            s3_endpoint=self._server.endpoint,
            s3_region=REGION,
            s3_access_key_id=self._server.access_key_id,
            s3_secret_access_key=self._server.secret_access_key,
        )


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[ReplicatedNode]:
    """A node with two replicas, not opened yet."""
    cluster = ReplicatedNode(tmp_path, sqlite_url)
    yield cluster
    cluster.close()


@pytest.fixture
def bucket_cluster(
    tmp_path: Path, sqlite_url: str, s3_server: S3Server, s3_bucket: str
) -> Iterator[ReplicatedNode]:
    """A node with a replica in a bucket, not opened yet."""
    cluster = BucketNode(tmp_path, sqlite_url, server=s3_server, bucket=s3_bucket)
    yield cluster
    cluster.close()


@pytest.mark.parametrize("later", [2, 14], ids=["same segment", "later segments"])
def test_old_copy_of_the_primary_loses_nothing_that_a_replica_has(
    cluster: ReplicatedNode, later: int
) -> None:
    """The log is brought up to the replicas before anything is written; they stay as they are."""
    go_back(cluster, later)


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.parametrize("later", [2, 14], ids=["same segment", "later segments"])
def test_old_copy_of_the_primary_loses_nothing_that_a_bucket_has(
    bucket_cluster: ReplicatedNode, later: int
) -> None:
    """The same, though whoever opens the node must not talk to the bucket itself."""
    go_back(bucket_cluster, later)


@pytest.mark.integration
def test_bucket_that_does_not_answer_keeps_no_node_from_starting(
    bucket_cluster: ReplicatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs meet the same, and say so."""
    node = bucket_cluster.open()
    store_small(node, 2)
    found = list_keys(node)
    bucket_cluster.close()
    monkeypatch.setattr(BucketNode, "config", replace(bucket_cluster.config, s3_endpoint=NOBODY))
    assert list_keys(bucket_cluster.open()) == found


def go_back(cluster: ReplicatedNode, later: int) -> None:
    """Put an old copy of the primary back, and see that the node has all that its replicas have."""
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
    require_newest(node.log, partial(find_newer, node.stores.replicas.values()))
