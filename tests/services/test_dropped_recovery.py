"""Recovery beside an index that is older than what was dropped from the log."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.core.clock import now_ms
from dfs.core.errors import IndexDamagedError, WalGapError
from dfs.core.model import DebtKind
from dfs.db.repository import IndexRepository
from dfs.services.recovery import roll_forward
from dfs.wal.record import PurgeFile
from dfs.wal.stub import decode_stub
from dfs.wiring import Services
from tests.services.conftest import store_bytes
from tests.services.dropped import Append, compact
from tests.services.replicated import ReplicatedNode, facts, fill, store_small


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[ReplicatedNode]:
    """A node without replicas that holds four segments, and a copy of its index of then."""
    cluster = ReplicatedNode(tmp_path, sqlite_url, replicas=0)
    fill(cluster.open())
    cluster.close()
    shutil.copytree(tmp_path / "index", tmp_path / "old")
    yield cluster
    cluster.close()


def remove_for_good(node: Services, file_id: str) -> None:
    """Remove a file, and drop whatever told of it: its own record and that of its removal."""
    with node.index.begin() as index:
        file = index.file(file_id)
    assert file is not None
    node.files.delete(file_id)
    purge = PurgeFile(id=file_id, purged_at_ms=now_ms(), first_lsn=file.first_lsn)
    node.committer.submit(Append(purge))
    segment_id = node.log.position.segment_id
    store_small(node, 5, prefix="more")
    compact(node, file.base_segment_id, segment_id, tombstones=False)


def put_old_index_back(cluster: ReplicatedNode) -> None:
    """Lose what the index has learnt since."""
    cluster.lose("index")
    shutil.copytree(cluster.directory / "old", cluster.directory / "index")


def test_index_older_than_what_was_dropped_is_rebuilt(cluster):
    """Nothing in the log says any more that the file is gone: the old row must not stay."""
    node = cluster.open()
    file_id = node.files.list(limit=1, name="small3").files[0].id
    remove_for_good(node, file_id)
    expected = facts(node)
    cluster.close()
    put_old_index_back(cluster)
    (cluster.wal / "control").unlink()
    node = cluster.open()
    assert facts(node) == expected
    with node.index.begin() as index:
        assert index.file(file_id) is None


def test_segment_that_was_restored_whole_is_dropped_again(cluster):
    """Where no store had the stub any more, the start brings back all of the segment."""
    node = cluster.open()
    whole = cluster.segment(2).read_bytes()
    compact(node, 2)
    cluster.close()
    cluster.open()
    cluster.close()
    cluster.segment(2).write_bytes(whole)
    node = cluster.open()
    expected = facts(node)
    (debt,) = IndexRepository(node.index).due_debts("primary", now_ms=now_ms(), limit=9)
    assert (debt.kind, debt.segment_id) == (DebtKind.DROP_SEGMENT, 2)
    node.replication.work("primary", budget_s=5)
    assert decode_stub(cluster.segment(2).read_bytes()) is not None
    assert facts(node) == expected


def test_index_older_than_the_log_alone_is_brought_forward(cluster):
    """What an index lacks is replayed as ever, if nothing that was dropped is newer."""
    node = cluster.open()
    compact(node, 2)
    moved = node.log.position.lsn
    cluster.close()
    cluster.lose("old")
    shutil.copytree(cluster.directory / "index", cluster.directory / "old")
    node = cluster.open()
    store_bytes(node, "new", b"new")
    expected = facts(node)
    cluster.close()
    put_old_index_back(cluster)
    node = cluster.open()
    assert node.recovered.replayed == node.log.position.lsn - moved
    assert facts(node) == expected


def test_index_that_falls_behind_while_the_node_runs_is_refused(cluster):
    """A commit does not go on with it: the next start rebuilds it."""
    node = cluster.open()
    compact(node, 2)
    with node.index.begin() as index:
        state = index.node_state
        index.set_node_state(type(state)(state.node_id, state.cluster_id, 5))
        index.commit()
    with node.log.lock(), pytest.raises(IndexDamagedError, match="older than what was dropped"):
        roll_forward(node.log, node.index, node_id=state.node_id)


def test_log_that_ends_before_what_was_moved_is_refused(cluster):
    """Records that stubs say were durable are missing, even if nothing else remembers them."""
    node = cluster.open()
    segment_id = node.log.position.segment_id
    drop = compact(node, 2)[0]
    assert node.log.position.segment_id == segment_id + 1
    cluster.close()
    cluster.lose("index")
    (cluster.wal / "control").unlink()
    (cluster.wal / "wal.active").unlink()
    cluster.segment(segment_id).rename(cluster.wal / "wal.active")
    with pytest.raises(WalGapError, match=f"but {drop.moved_lsn} was acknowledged"):
        cluster.open()
