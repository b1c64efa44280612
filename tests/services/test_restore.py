"""Restoring the log of a node from its replicas."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dfs.core.errors import (
    DfsError,
    StoreIdentityError,
    StoreUnavailableError,
    WalCorruptError,
    WalError,
    WalGapError,
)
from dfs.services.restore import needs_restoring
from dfs.wal.control import ControlFile, LogPosition
from tests.services.conftest import list_keys, store_bytes
from tests.services.replicated import (
    Facts,
    ReplicatedNode,
    facts,
    fill,
    flip,
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
def filled(cluster: ReplicatedNode) -> tuple[Facts, LogPosition]:
    """What the node holds, and where its log ends; it is replicated, and closed again."""
    node = cluster.open()
    fill(node)
    replicate(node)
    found = facts(node), node.log.position
    cluster.close()
    return found


def check(cluster: ReplicatedNode, filled: tuple[Facts, LogPosition]) -> None:
    """Check that the node opens, is as it was, and goes on."""
    node = cluster.open()
    assert (facts(node), node.log.position) == filled
    new = store_bytes(node, "new", b"new").files[0]
    replicate(node)
    assert list_keys(node) == {**filled[0][1], new.id: new.etag}


def test_node_lost_as_a_whole_is_rebuilt_exactly(cluster, filled):
    """Log, primary and index gone: a start brings back every file, name and deletion."""
    cluster.lose()
    check(cluster, filled)
    node = cluster.open()
    node.replication.work("primary", budget_s=10)
    cluster.lose("replica1/blobs", "replica2/blobs")
    assert filled[0][1].items() <= list_keys(node).items()


def test_node_lost_with_one_replica_is_rebuilt_from_the_other(cluster, filled):
    """Any one copy is enough, whichever it is."""
    cluster.lose()
    cluster.lose("replica1")
    check(cluster, filled)


def test_log_lost_alone_is_restored(cluster, filled):
    """Primary and index are there: they follow the restored log, and nothing is replayed."""
    cluster.lose("wal")
    assert needs_restoring(cluster.wal)
    assert cluster.restore().position == filled[1]
    assert needs_restoring(cluster.wal) is None
    assert cluster.open().recovered.replayed == 0
    check(cluster, filled)


def test_restored_segments_are_those_of_the_replica_byte_for_byte(cluster, filled):
    """Sealed segments are equal; the active one is, up to its end."""
    cluster.lose("wal")
    restored = cluster.restore()
    assert restored.segments == (1, 2, 3, 4)
    paths = [*(cluster.segment(number) for number in (1, 2, 3)), cluster.wal / "wal.active"]
    for number, path in enumerate(paths, start=1):
        assert path.read_bytes() == cluster.segment(number, "replica1").read_bytes()
    assert not (cluster.wal / "restore").exists()


def test_new_node_with_empty_replicas_is_not_restored(cluster):
    """Nothing anywhere: the node is new, and begins its log."""
    assert cluster.restore() is None
    node = cluster.open()
    assert node.log.position.lsn == 0


def test_log_that_is_whole_is_left_alone(cluster, filled):
    """Restoring a sound log changes no file of it."""
    before = {path: path.stat() for path in cluster.wal.rglob("*wal*") if path.is_file()}
    restored = cluster.restore()
    assert (restored.segments, restored.position) == ((), filled[1])
    assert {path: path.stat() for path in before} == before


def remove(path: Path) -> None:
    """Remove a segment."""
    path.unlink()


def truncate(path: Path) -> None:
    """Take half of a segment away."""
    os.truncate(path, path.stat().st_size // 2)


def damage(path: Path) -> None:
    """Flip a byte of a record in the middle of a segment."""
    flip(path, 60_000)


def damage_header(path: Path) -> None:
    """Flip a byte in the header of a segment."""
    flip(path, 30)


HARMS = [remove, truncate, damage, damage_header]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("number", [1, 3])
def test_sealed_segment_that_is_harmed_is_fetched(cluster, filled, harm, number):
    """One sealed segment is missing or damaged: only that one is replaced, the damaged one kept."""
    harm(cluster.segment(number))
    assert cluster.restore().segments == (number,)
    copy = cluster.segment(number, "replica1").read_bytes()
    assert cluster.segment(number).read_bytes()[: len(copy)] == copy
    assert len(list((cluster.wal / "damaged").glob("*"))) == (harm is not remove)
    check(cluster, filled)


@pytest.mark.parametrize("harm", [remove, truncate, damage_header])
def test_harm_that_a_start_can_see_is_mended_by_it(cluster, filled, harm):
    """Names, sizes and headers are looked at by every start, which restores by itself."""
    harm(cluster.segment(2))
    check(cluster, filled)


def test_damage_met_by_a_replay_is_mended_by_the_start(cluster, filled):
    """A flipped byte is met when the index is rebuilt; the start restores and goes on."""
    damage(cluster.segment(2))
    cluster.lose("index")
    assert needs_restoring(cluster.wal) is None
    check(cluster, filled)


def test_several_segments_lost_at_once_are_fetched(cluster, filled):
    """Each end is told by the header behind it, which may have to be asked for, too."""
    for number in (2, 3):
        remove(cluster.segment(number))
    assert cluster.restore().segments == (2, 3)
    check(cluster, filled)


@pytest.mark.parametrize("harm", HARMS)
def test_replica_with_a_harmed_segment_is_passed_over(cluster, filled, harm):
    """What one replica does not have whole comes from the other."""
    harm(cluster.segment(2, "replica1"))
    cluster.lose()
    assert set(cluster.restore().origins) == {"replica1", "replica2"}
    check(cluster, filled)


def test_segment_damaged_differently_in_all_copies_is_put_together(cluster, filled):
    """No copy is whole, but each record is sound in one of them."""
    size = cluster.segment(2, "replica1").stat().st_size
    flip(cluster.segment(2), 200)
    flip(cluster.segment(2, "replica1"), size // 2)
    flip(cluster.segment(2, "replica2"), size - 200)
    restored = cluster.restore()
    assert restored.segments == (2,)
    assert len(restored.origins) > 1
    check(cluster, filled)


def test_segment_damaged_alike_in_all_copies_refuses(cluster, filled):
    """Nobody has it whole: the error names segment, LSN and what each store said."""
    paths = [cluster.segment(2, store) for store in ("wal", "replica1")]
    for path in paths:
        damage(path)
    remove(cluster.segment(2, "replica2"))
    with pytest.raises(WalCorruptError, match=r"Segment 2 .* LSN \d+") as refused:
        cluster.restore()
    for said in ("this node: damaged at", "replica1: damaged at", "replica2: does not hold it"):
        assert said in str(refused.value)
    assert not (cluster.wal / "damaged").exists()
    cluster.lose("index")
    with pytest.raises(WalGapError, match="could not be restored: Segment 2"):
        cluster.open()


def test_segment_missing_everywhere_refuses(cluster, filled):
    """A segment that no store holds is a gap, not damage."""
    for store in ("wal", "replica2"):
        remove(cluster.segment(2, store))
    os.truncate(cluster.segment(2, "replica1"), 5000)
    with pytest.raises(WalGapError, match=r"Segment 2 .*replica1: holds 5000 of .*replica2: does"):
        cluster.restore()


def test_replicas_of_different_lengths_give_the_longest(cluster, filled):
    """The newest segment comes from the replica that has most of it, the other one lagging."""
    node = cluster.open()
    more = store_small(node, 2, prefix="more")
    replicate(node, "replica2")
    last = store_small(node, 1, prefix="last")
    found = list_keys(node)
    del found[last[0]]
    cluster.close()
    cluster.lose()
    again = cluster.open()
    assert list_keys(again) == found
    assert more[0] in found


def test_replica_that_lags_by_segments_gives_what_it_has(cluster, filled):
    """One replica ends in an older segment; it is no hindrance, and helps with the older ones."""
    node = cluster.open()
    store_small(node, 10, prefix="more")
    replicate(node, "replica1")
    expected = facts(node), node.log.position
    cluster.close()
    remove(cluster.segment(1, "replica1"))
    cluster.lose()
    restored = cluster.restore()
    assert restored.position == expected[1]
    check(cluster, expected)


def test_replica_with_a_torn_tail_gives_all_whole_changes(cluster, filled):
    """Bytes of an append that was cut off are left out, wherever it was cut."""
    node = cluster.open()
    before = facts(node), node.log.position
    store_small(node, 1, prefix="torn")
    replicate(node)
    cluster.close()
    for cut, store in ((1, "replica1"), (20_000, "replica2")):
        path = cluster.segment(4, store)
        os.truncate(path, path.stat().st_size - cut)
    cluster.lose()
    assert cluster.restore().position == before[1]
    assert (cluster.wal / "wal.active").stat().st_size == before[1].offset
    check(cluster, before)


def test_damage_before_the_last_commits_of_all_replicas_refuses(cluster, filled):
    """A later commit proves that what is damaged was acknowledged: the log is not cut there."""
    start = filled[1].offset
    node = cluster.open()
    store_small(node, 2, prefix="more")
    replicate(node)
    cluster.close()
    cluster.lose()
    for store in ("replica1", "replica2"):
        flip(cluster.segment(4, store), start + 1000)
    with pytest.raises(WalCorruptError):
        cluster.restore()


def test_damage_in_the_newest_segment_is_bridged_by_the_other_replica(cluster, filled):
    """Damage in one copy of the newest segment is no end while another copy goes on."""
    flip(cluster.segment(4, "replica1"), 2000)
    os.truncate(cluster.segment(4, "replica2"), filled[1].offset - 10)
    cluster.lose()
    restored = cluster.restore()
    assert restored.position == filled[1]
    check(cluster, filled)


@pytest.mark.parametrize("harm", HARMS)
def test_active_segment_that_is_harmed_is_restored(cluster, filled, harm):
    """The newest segment is lost or damaged, the sealed ones are there and stay."""
    harm(cluster.wal / "wal.active")
    restored = cluster.restore()
    assert (restored.segments, restored.position) == ((4,), filled[1])
    check(cluster, filled)


def test_active_segment_damaged_keeps_what_replicas_lack(cluster, filled):
    """Records that were not copied yet survive damage to those that were."""
    node = cluster.open()
    store_small(node, 2, prefix="more")
    expected = facts(node), node.log.position
    cluster.close()
    flip(cluster.wal / "wal.active", 500)
    (cluster.wal / "control").unlink()
    restored = cluster.restore()
    assert set(restored.origins) == {"this node", "replica1"}
    check(cluster, expected)


def test_active_segment_lost_that_no_replica_has_refuses(cluster, filled):
    """The replicas end before the lost segment: nobody knows what was in it."""
    node = cluster.open()
    store_small(node, 5, prefix="more")
    assert node.log.position.segment_id == 5
    cluster.close()
    remove(cluster.wal / "wal.active")
    with pytest.raises(WalGapError, match=r"no store has it .*replica1: segments up to 4"):
        cluster.restore()


def test_log_restored_from_a_lagging_replica_under_a_newer_index_refuses(cluster, filled):
    """The index knows records that no store has: the error says how many, and how to go on."""
    node = cluster.open()
    store_small(node, 1, prefix="late")
    end = node.log.position
    lost = end.lsn - filled[1].lsn
    cluster.close()
    cluster.lose("wal")
    with pytest.raises(WalGapError, match=f"on all stores, but {end.lsn} was"):
        cluster.restore(durable_lsn=end.lsn)
    assert not (cluster.wal / "wal.active").exists()
    with pytest.raises(WalGapError, match=rf": {lost} records are lost.*rebuild-index"):
        cluster.open()
    (cluster.wal / "rebuild-index").touch()
    (cluster.wal / "control").unlink()
    check(cluster, filled)


def test_log_rolled_back_below_a_kept_index_is_brought_forward(cluster, filled):
    """An older copy of the log was put in place: what it lacks comes from the replicas."""
    cluster.close()
    shutil.copytree(cluster.wal, cluster.directory / "old")
    node = cluster.open()
    store_small(node, 6, prefix="more")
    replicate(node)
    expected = facts(node), node.log.position
    assert expected[1].segment_id > 4
    cluster.close()
    cluster.lose("wal")
    (cluster.directory / "old").rename(cluster.wal)
    check(cluster, expected)


def test_log_restored_under_an_older_control_file_goes_by_the_segments(cluster, filled):
    """What the control file knew of the lost segment, a failed sync even, is no longer so."""
    shutil.copytree(cluster.wal, cluster.directory / "old")
    node = cluster.open()
    store_small(node, 10, prefix="more")
    replicate(node)
    expected = facts(node), node.log.position
    cluster.close()
    cluster.lose("wal")
    (cluster.directory / "old").rename(cluster.wal)
    with contextlib.closing(ControlFile(cluster.wal / "control")) as control:
        control.mark_read_only("the disk failed")
    assert cluster.restore(durable_lsn=expected[1].lsn).position == expected[1]
    check(cluster, expected)


def test_replica_that_cannot_be_asked_for_a_lost_log_refuses(cluster, filled):
    """It may hold records that the other one lacks: the operator decides, not dfs."""
    cluster.lose()
    shutil.rmtree(cluster.directory / "replica2" / "segments")
    (cluster.directory / "replica2" / "dfs.json").write_text("rubbish")
    (cluster.directory / "replica2" / "segments").mkdir()
    with pytest.raises(StoreUnavailableError, match=r"replica2: .*malformed"):
        cluster.restore()
    assert cluster.restore(stores=cluster.stores()[:1]).position == filled[1]


def test_replicas_of_two_clusters_refuse(cluster, filled, tmp_path: Path):
    """Stores of another cluster are not mixed in; both clusters are named."""
    other = ReplicatedNode(tmp_path / "other", f"sqlite:///{tmp_path}/other.db", replicas=1)
    node = other.open()
    replicate(node)
    other.close()
    cluster.lose()
    cluster.lose("replica2")
    shutil.move(other.directory / "replica1", cluster.directory / "replica2")
    with pytest.raises(StoreIdentityError, match=r"replica1: \w{32}; replica2: \w{32}"):
        cluster.restore()


@pytest.mark.parametrize(("lost", "new"), [(6, 2), (2, 6), (3, 10), (2, 2)])
def test_replica_of_an_older_life_of_the_log_refuses(cluster, filled, lost, new):
    """A replica that was away when records were lost does not bring them back over newer ones."""
    node = cluster.open()
    store_small(node, lost, prefix="lost")
    replicate(node, "replica2")
    cluster.close()
    cluster.lose()
    (cluster.directory / "replica2").rename(cluster.directory / "away")
    node = cluster.open()
    store_small(node, new, prefix="new")
    replicate(node, "replica1")
    cluster.close()
    cluster.lose()
    shutil.rmtree(cluster.directory / "replica2", ignore_errors=True)
    (cluster.directory / "away").rename(cluster.directory / "replica2")
    with pytest.raises(WalCorruptError, match="two lives"):
        cluster.restore()


def test_commit_that_was_taken_back_gives_way_to_what_came_after(cluster, filled):
    """A replica that vanished in a refused write is longer, and yet the other one is right."""
    node = cluster.open()
    taken_back = store_small(node, 1, prefix="taken-back")
    replicate(node, "replica1")
    cluster.close()
    cluster.lose()
    (cluster.directory / "replica1").rename(cluster.directory / "away")
    node = cluster.open()
    store_bytes(node, "right", b"right")
    replicate(node, "replica2")
    expected = facts(node), node.log.position
    cluster.close()
    cluster.lose()
    shutil.rmtree(cluster.directory / "replica1", ignore_errors=True)
    (cluster.directory / "away").rename(cluster.directory / "replica1")
    check(cluster, expected)
    assert taken_back[0] not in expected[0][1]


def test_restoring_the_active_segment_under_others_refuses(cluster, filled):
    """Processes that still have the lost segment open must stop first."""
    cluster.open()
    remove(cluster.wal / "wal.active")
    with pytest.raises(WalError, match="other processes still use"):
        cluster.restore()


@pytest.mark.parametrize("lost", [["primary"], ["primary", "index"]])
def test_primary_lost_alone_is_owed_every_blob_file(cluster, filled, lost):
    """An empty primary beside a whole log joins again; jobs bring its blob files back."""
    cluster.lose(*lost)
    node = cluster.open()
    assert node.replication.work("primary", budget_s=10).blobs == 1
    cluster.lose("replica1/blobs", "replica2/blobs")
    assert facts(node) == filled[0]


def test_primary_whose_disk_is_not_mounted_refuses(cluster, filled):
    """A primary that was a mount point and is an empty directory now is waited for."""
    node = cluster.open()
    with node.ledger.begin() as index:
        state = index.store_states()["primary"]
        index.put_store_state(replace(state, was_mounted=True))
    cluster.close()
    cluster.lose("primary")
    with pytest.raises(DfsError, match="not mounted"):
        cluster.open()
