"""Mending segments of the log while the node runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.core.clock import now_ms
from dfs.core.errors import WalCorruptError, WalError, WalGapError
from dfs.core.model import Debt
from dfs.wiring import Services
from tests.services.conftest import list_keys
from tests.services.replicated import (
    ReplicatedNode,
    facts,
    fill,
    flip,
    mend,
    replicate,
    store_small,
)


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[ReplicatedNode]:
    """A node with two replicas, not opened yet."""
    cluster = ReplicatedNode(tmp_path, sqlite_url)
    yield cluster
    cluster.close()


@pytest.fixture
def node(cluster: ReplicatedNode) -> Services:
    """The node, open, with four segments on all stores."""
    node = cluster.open()
    fill(node)
    replicate(node)
    return node


def test_sealed_segment_damaged_is_replaced_and_read_at_once(cluster, node):
    """The processes that have the damaged file open read the mended one; the old one is kept."""
    other = cluster.open()
    expected = facts(node)
    assert facts(other) == expected
    flip(cluster.segment(2), 60_000)
    assert mend(node, 2)
    assert facts(node) == facts(other) == expected
    copy = cluster.segment(2, "replica1").read_bytes()
    assert cluster.segment(2).read_bytes() == copy
    assert len(list((cluster.wal / "damaged").iterdir())) == 1
    assert not (cluster.wal / "restore").exists()


@pytest.mark.parametrize("number", [1, 3])
def test_sealed_segment_missing_is_put_back(cluster, node, number):
    """A segment whose file is gone is written anew, next to the active one as well."""
    expected = facts(node)
    cluster.segment(number).unlink()
    assert mend(node, number)
    node.log.open_segments.clear()
    assert facts(node) == expected


def test_segment_that_is_whole_is_left_alone(cluster, node):
    """Nothing is done to sealed and active segments that are sound."""
    paths = [cluster.segment(2), cluster.wal / "wal.active"]
    before = [path.stat() for path in paths]
    assert not mend(node, 2)
    assert not mend(node, 4)
    assert [path.stat() for path in paths] == before


@pytest.mark.parametrize("offsets", [[90], [30], [90, 40_000], [10, 61_000]])
def test_active_segment_damaged_is_mended_in_its_place(cluster, node, offsets):
    """Header and records of the segment in use are right again, in the same file."""
    path = cluster.wal / "wal.active"
    expected, data, inode = facts(node), path.read_bytes(), path.stat().st_ino
    for offset in offsets:
        flip(path, offset)
    assert mend(node, 4)
    assert (path.read_bytes(), path.stat().st_ino) == (data, inode)
    assert facts(node) == expected
    assert any((cluster.wal / "damaged").iterdir())


def test_active_segment_is_mended_while_others_write(cluster, node):
    """Uploads go on beside the mending, and lose nothing."""
    other = cluster.open()
    started, stop = threading.Event(), threading.Event()
    stored: list[str] = []

    def write() -> None:
        while not stop.is_set():
            stored.extend(store_small(other, 1, prefix=f"w{len(stored)}-"))
            started.set()
            if len(stored) == 2:
                break

    flip(cluster.wal / "wal.active", 1000)
    writer = threading.Thread(target=write)
    writer.start()
    started.wait(20)
    assert mend(node, 4)
    stop.set()
    writer.join()
    cluster.close()
    cluster.lose("index")
    assert set(stored) <= set(list_keys(cluster.open()))


def test_active_segment_is_mended_only_with_what_was_shipped(cluster, node):
    """Bytes behind the known position of a replica are never believed."""
    end = node.log.position
    store_small(node)
    position = node.log.position
    active = (cluster.wal / "wal.active").read_bytes()[: position.offset]
    for store in ("replica1", "replica2"):
        cluster.segment(4, store).write_bytes(active)
    flip(cluster.wal / "wal.active", end.offset + 100)
    with pytest.raises(WalCorruptError, match=rf"at offset {end.offset}.*{end.offset} bytes"):
        mend(node, 4)


def test_segment_damaged_in_all_copies_refuses(cluster, node):
    """No store has it whole: the error names each, and the file stays."""
    for store in ("wal", "replica1"):
        flip(cluster.segment(2, store), 60_000)
    cluster.segment(2, "replica2").unlink()
    before = cluster.segment(2).read_bytes()
    with pytest.raises(WalCorruptError, match=r"replica1: damaged .*replica2: does not hold"):
        mend(node, 2)
    assert cluster.segment(2).read_bytes() == before


def test_segments_lost_side_by_side_are_mended_the_newer_one_first(cluster, node):
    """The newer one says where the older one ends, so it comes first."""
    expected = facts(node)
    for number in (2, 3):
        cluster.segment(number).unlink()
    with pytest.raises(WalGapError, match="3 of the log has to be mended before segment 2"):
        mend(node, 2)
    assert mend(node, 3)
    assert mend(node, 2)
    node.log.open_segments.clear()
    assert facts(node) == expected


def test_active_segment_sealed_meanwhile_is_mended_by_the_next_try(cluster, node):
    """A rotation between looking and mending is noticed; then the sealed file is mended."""
    flip(cluster.wal / "wal.active", 1000)

    def rotate(step: str) -> None:
        if step == "mend.built":
            store_small(node, 4, prefix="more")

    with pytest.raises(WalError, match="sealed while"):
        mend(node, 4, on_step=rotate)
    replicas = [cluster.segment(4, store) for store in ("replica1", "replica2")]
    end = node.log.segments()[3].end
    whole = cluster.segment(4).read_bytes()[:end]
    flipped = bytes([whole[1000] ^ 0xFF])
    for path in replicas:  # the damaged segment could not be shipped any further
        path.write_bytes(whole[:1000] + flipped + whole[1001:])
    assert mend(node, 4)
    assert len(list_keys(node)) == len(facts(node)[0])


def test_debt_of_a_damaged_segment_is_paid_by_the_primarys_job(cluster, node):
    """A read that meets damage owes a mend, which the job of the primary pays."""
    expected = facts(node)
    flip(cluster.segment(2), 60_000)
    assert node.ledger.owe([Debt.of_segment("primary", 2, 0, now_ms())])
    node.replication.work("primary", budget_s=10)
    assert node.replication._index.summarize_debts() == []
    for store in ("replica1", "replica2"):
        cluster.segment(2, store).unlink()
    assert facts(node) == expected
