"""Restoring the log of a node from a bucket."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dfs.core.errors import StoreUnavailableError
from dfs.services.dropping import drop_copy
from dfs.services.segment_sources import SegmentStore
from dfs.services.shipping import NOWHERE, LogShipper
from dfs.storage.identity import new_identity
from dfs.storage.object_store import ObjectStore
from tests.s3 import REGION, S3Server
from tests.services.dropped import compact
from tests.services.replicated import ReplicatedNode, facts, fill, store_small

pytestmark = pytest.mark.integration


def open_bucket(server: S3Server, bucket: str, directory: Path) -> ObjectStore:
    """Return a replica in a bucket."""
    return ObjectStore(
        url=f"s3://{bucket}/copy",
        name="replica1",
        endpoint=server.endpoint,
        region=REGION,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        spool_path=directory,
    )


def test_log_lost_is_restored_from_a_bucket(
    tmp_path: Path, sqlite_url: str, s3_server: S3Server, s3_bucket: str
):
    """Sealed segments and the growing one come back from objects, byte for byte."""
    cluster = ReplicatedNode(tmp_path, sqlite_url, replicas=0)
    node = cluster.open()
    fill(node)
    expected, position = facts(node), node.log.position
    store: SegmentStore = open_bucket(s3_server, s3_bucket, tmp_path)
    store.prepare()
    store.adopt(new_identity(cluster_id=node.recovered.cluster_id))
    shipped = LogShipper(log=node.log).ship(store, NOWHERE, bytes_max=1 << 30)
    assert shipped.position == position
    cluster.close()
    shutil.rmtree(cluster.wal)
    restored = cluster.restore(stores=[store])
    assert (restored.position, restored.segments) == (position, (1, 2, 3, 4))
    assert facts(cluster.open()) == expected
    cluster.close()


def test_log_lost_is_restored_from_a_bucket_with_stubs(
    tmp_path: Path, sqlite_url: str, s3_server: S3Server, s3_bucket: str
):
    """Stubs take the places of an object, of growing parts, and of what was never there."""
    cluster = ReplicatedNode(tmp_path, sqlite_url, replicas=0)
    node = cluster.open()
    fill(node)
    store: SegmentStore = open_bucket(s3_server, s3_bucket, tmp_path)
    store.prepare()
    store.adopt(new_identity(cluster_id=node.recovered.cluster_id))
    shipper = LogShipper(log=node.log)
    position = shipper.ship(store, NOWHERE, bytes_max=1 << 30).position
    store_small(node, 8, prefix="more")
    compact(node, 2, 4, 5)
    while position != node.log.position:
        position = shipper.ship(store, position, bytes_max=1 << 30).position
    assert drop_copy(node.log, store, 2, position)
    expected = facts(node)
    cluster.close()
    stubs = {number: cluster.segment(number).read_bytes() for number in (2, 4, 5)}
    assert {n: store.read_segment(n, 0, 1 << 20) for n in stubs} == stubs
    shutil.rmtree(cluster.wal)
    restored = cluster.restore(stores=[store])
    assert restored.position == position
    assert {n: cluster.segment(n).read_bytes() for n in stubs} == stubs
    cluster.lose("index")
    assert facts(cluster.open()) == expected
    cluster.close()


def test_bucket_that_does_not_answer_for_a_lost_log_refuses(tmp_path: Path, sqlite_url: str):
    """Without an answer nobody knows what the bucket has."""
    store = ObjectStore(
        url="s3://bucket/copy",
        name="replica1",
        endpoint="http://127.0.0.1:9",
        region=REGION,
        access_key_id="key",
        secret_access_key="secret",
        timeout_s=1,
        spool_path=tmp_path,
    )
    cluster = ReplicatedNode(tmp_path, sqlite_url, replicas=0)
    with pytest.raises(StoreUnavailableError, match="replica1: "):
        cluster.restore(stores=[store])
