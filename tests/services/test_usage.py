"""How much a node holds, and how much it may hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfs.core.errors import QuotaExceededError
from dfs.core.model import Usage
from dfs.services.changes import Upload
from dfs.wiring import Services
from tests.forked import ForkedProcess
from tests.services import quota_child
from tests.services.conftest import Clock, Opener, store_bytes
from tests.services.quota_child import FILE_BYTES_MAX
from tests.services.recount import check_figures

LARGE_BYTES = 100_000


def test_empty_node_holds_nothing(node: Services) -> None:
    """Before the first file there is but the header of the log."""
    report = node.usage.report()
    assert (report.files, report.blobs, report.buckets) == (Usage(), Usage(), {})
    assert (report.log_bytes, report.dead_bytes, report.deduplicated_bytes) == (80, 0, 0)
    assert (report.copy_bytes, report.removal_bytes) == (0, 0)


def test_usage_follows_a_file_from_upload_to_removal(
    open_node: Opener, tmp_path: Path, clock: Clock
) -> None:
    """Each figure changes with the change that it follows from, and by as much."""
    node = open_node(replicas=(("replica1", str(tmp_path / "replica1")),), delete_grace_s=60)
    large, small = os.urandom(LARGE_BYTES), b"small"
    ids = [store_bytes(node, "a", data).files[0].id for data in (large, large, small, small)]
    both = 2 * LARGE_BYTES + 10
    report = node.usage.report()
    assert report.files == Usage(4, both)
    assert report.blobs == Usage(0, 0, 0, 0, 1, LARGE_BYTES, 0, 0, 1, 5)
    assert report.deduplicated_bytes == LARGE_BYTES + 5
    assert report.copy_bytes == LARGE_BYTES
    assert (report.dead_bytes, report.log_bytes) == (0, node.log.position.offset)
    for file_id in ids:
        node.files.delete(file_id)
    assert node.usage.report().files == Usage(0, 0, 4, both)
    assert node.usage.report().blobs == report.blobs
    clock.advance(seconds=60)
    node.garbage.work(budget_s=60)
    emptied = node.usage.report()
    assert (emptied.files, emptied.blobs, emptied.buckets) == (Usage(), Usage(), {})
    assert emptied.removal_bytes == 2 * LARGE_BYTES
    tombstones = node.index.read_one("SELECT SUM(tombstone_bytes) FROM dfs_segment_use")[0]
    assert emptied.dead_bytes == emptied.log_bytes - 80 - tombstones
    check_figures(node)


def test_usage_is_told_of_each_bucket(node: Services) -> None:
    """Files count in the bucket that they are in, and blobs for the node as a whole."""
    for bucket, size in (("one", 3), ("two", 4), ("two", 5)):
        store_bytes(node, "a", bytes(size), bucket=bucket)
    report = node.usage.report()
    assert report.buckets == {"one": Usage(1, 3), "two": Usage(2, 9)}
    assert report.files == Usage(3, 12)
    check_figures(node)


def test_usage_over_several_segments_is_exact(node: Services, clock: Clock) -> None:
    """Dead bytes are those of the segment in which the record lies that died."""
    ids = [store_bytes(node, f"{n}", os.urandom(60_000)).files[0].id for n in range(40)]
    assert node.log.position.segment_id > 2
    for file_id in ids[::2]:
        node.files.update(file_id, {"key": "renamed"})
        node.files.delete(file_id)
    clock.advance(seconds=node.config.delete_grace_s)
    node.garbage.work(budget_s=60)
    check_figures(node)
    dead = dict(node.index.read_all("SELECT id, dead_bytes FROM dfs_segment_use"))
    assert min(dead[1], dead[2]) > 6 * 60_000


def test_quota_is_reached_exactly_and_not_passed(open_node: Opener) -> None:
    """The last byte fits, one more does not; equal bytes count for each file that has them."""
    node = open_node(quota_bytes=10)
    store_bytes(node, "a", b"12345")
    with pytest.raises(QuotaExceededError):
        store_bytes(node, "b", b"123456")
    store_bytes(node, "b", b"12345")
    store_bytes(node, "empty", b"")
    with pytest.raises(QuotaExceededError):
        store_bytes(node, "c", b"1")
    assert node.usage.report().files == Usage(3, 10)


def test_quota_counts_the_trash_until_it_is_emptied(open_node: Opener, clock: Clock) -> None:
    """What can be restored takes room; what is purged makes room."""
    node = open_node(quota_bytes=10, delete_grace_s=60)
    file = store_bytes(node, "a", b"1234567890").files[0]
    node.files.delete(file.id)
    with pytest.raises(QuotaExceededError):
        store_bytes(node, "b", b"1")
    node.files.restore(file.id)
    node.files.delete(file.id)
    clock.advance(seconds=60)
    node.garbage.work(budget_s=60)
    store_bytes(node, "b", b"1234567890")


def test_quota_refuses_all_files_of_one_change(open_node: Opener) -> None:
    """Several files that fit one by one, but not together, are refused together."""
    node = open_node(quota_bytes=10)
    blobs = [node.files.new_blob() for _ in range(2)]
    for blob in blobs:
        blob.write(b"123456")
    with pytest.raises(QuotaExceededError):
        node.files.store([Upload(blob, "a", "text/plain") for blob in blobs])
    assert node.usage.report().files == Usage()


def test_quota_holds_for_uploads_that_share_a_commit(
    open_node: Opener, tmp_path: Path, index_url: str
) -> None:
    """Threads of two processes store at once: not a byte too much is taken, nor too few refused."""
    quota_bytes = 300_000
    open_node().close()  # so that the schema is there
    children = [ForkedProcess(quota_child.main, tmp_path, index_url, quota_bytes) for _ in "12"]
    acknowledged = 0
    for child in children:
        ended = child.wait(timeout_s=110)
        assert ended.status == 0, ended.stderr.decode()
        acknowledged += sum(map(int, ended.stdout.split()))
    node = open_node(quota_bytes=quota_bytes)
    held = node.usage.report().files.bytes
    assert held == acknowledged
    assert quota_bytes - FILE_BYTES_MAX < held <= quota_bytes
    check_figures(node)
