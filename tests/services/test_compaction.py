"""Compaction, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from dfs.core.errors import NoSuchFileError, WalError
from dfs.core.model import DebtKind
from dfs.services import compaction
from dfs.services.command import Command
from dfs.services.compaction import Compaction
from dfs.services.garbage import DropBlobs
from dfs.services.moves import DropCompacted, MoveRecords
from dfs.wal.record import DropSegment, Meta, PurgeFile, PutBlob, PutFile, decode_meta
from dfs.wiring import Services
from tests.services.compacting import (
    compact,
    facts,
    metas,
    purge,
    store_many,
    stub_ids,
)
from tests.services.conftest import Opener, lose_index, read_bytes, store_bytes
from tests.services.recount import check_figures
from tests.services.replicated import ReplicatedNode, replicate
from tests.services.test_state import SimulatedCrashError

SEGMENT_BYTES = 100_000
FILES_A_SEGMENT = 30


@pytest.fixture
def open_small(open_node: Opener) -> Opener:
    """Open the node with segments of some thirty small files, compacted as fast as can be."""

    def open_it(**changes: object) -> Services:
        return open_node(
            **{"wal_segment_bytes": SEGMENT_BYTES, "compact_bytes_per_s": 1 << 40, **changes}
        )

    return open_it


def fill_segments(node: Services, count: int) -> list[str]:
    """Store small files until so many segments are sealed; return their ids."""
    ids: list[str] = []
    while node.log.position.segment_id <= count:
        ids += store_many(node, 4, prefix=f"{len(ids)}-")
    return ids


def rebuild(node: Services, open_small: Opener) -> Services:
    """Open the node again without its index; what the log gives must be what was there."""
    before = facts(node)
    lose_index(node)
    rebuilt = open_small()
    assert facts(rebuilt) == before
    return rebuilt


def test_mostly_dead_segment_is_dropped(open_small: Opener) -> None:
    """Its files are all there, from their new place; a stub stands for it; figures are right."""
    node = open_small()
    ids = fill_segments(node, 1)
    kept = ids[::10]
    purge(node, *(file_id for file_id in ids if file_id not in kept))
    before = facts(node)
    compact(node)
    assert 1 in stub_ids(node)
    assert facts(node) == before
    assert set(before[2]) == set(kept)
    check_figures(node)


def test_segment_mostly_alive_is_left_alone(open_small: Opener) -> None:
    """Less than the ratio is dead: moving the rest would cost more than it gains."""
    node = open_small()
    ids = fill_segments(node, 1)
    purge(node, *ids[:5])
    assert compact(node) == 0
    assert stub_ids(node) == []


def test_commit_of_large_snapshots_is_no_larger_than_announced(open_small: Opener) -> None:
    """Of a deletion of a few bytes all metadata of the file is moved: as much at a time as fits."""
    node = open_small()
    ids = store_many(node, 24, size=10)
    for file_id in ids:
        node.files.update(file_id, {"metadata": {"a": "x" * 8000}})
    fill_segments(node, node.log.position.segment_id)
    segment_id = node.log.position.segment_id
    for file_id in ids:
        node.files.delete(file_id)
    purge(node, *fill_segments(node, segment_id))
    expected = facts(node)
    sizes: list[tuple[int, int]] = []
    submit = node.committer.submit

    def measure(command: Command) -> None:
        before = node.log.position
        submit(command)
        after = node.log.position
        if isinstance(command, MoveRecords) and after.segment_id == before.segment_id:
            sizes.append((after.offset - before.offset, command.log_bytes_max))

    node.compaction._committer.submit = measure  # type: ignore[assignment,method-assign]
    compact(node)
    assert segment_id in stub_ids(node)
    assert max(taken for taken, _ in sizes) > 8000
    assert [(taken, limit) for taken, limit in sizes if taken > max(limit, 9000)] == []
    assert facts(node) == expected
    check_figures(node)


def test_rate_zero_compacts_nothing(open_small: Opener) -> None:
    """The setting turns it off."""
    node = open_small(compact_bytes_per_s=0)
    purge(node, *fill_segments(node, 1))
    assert compact(node) == 0


def test_rate_bounds_what_a_slice_reads(
    open_small: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice reads what the time since the last one allows, and the next goes on there."""
    monkeypatch.setattr(compaction, "BATCH_COUNT_MAX", 10)
    node = open_small(compact_bytes_per_s=1000)
    purge(node, *fill_segments(node, 1))
    unused = 'SELECT COUNT(*) FROM dfs_blob WHERE segment_id = 1 AND "references" = 0'
    before = node.index.read_one(unused)[0]
    report = node.compaction.work(budget_s=60)
    assert report.more
    assert report.read_bytes > 1000
    assert 0 < node.index.read_one(unused)[0] < before, "rows go with their records, by and by"
    assert node.compaction.work(budget_s=60).read_bytes == 0


def test_rebuild_after_compaction_gives_the_same(open_small: Opener) -> None:
    """Names, times, metadata, expiry, trash: all that is known of files stands in the moved log."""
    node = open_small()
    ids = fill_segments(node, 2)
    node.files.update(ids[0], {"key": "renamed", "metadata": {"a": "b"}, "content_type": "a/b"})
    node.files.update(ids[1], {"expires_at_ms": 10**14})
    node.files.delete(ids[2])
    node.files.delete(ids[3])
    node.files.restore(ids[3])
    large = store_bytes(node, "large", b"large" * 100_000).files[0]
    purge(node, *ids[4:])
    before = facts(node)
    for _ in range(2):
        compact(node)
        purge(node, *fill_segments(node, node.log.position.segment_id))
    compact(node)
    assert len(stub_ids(node)) > 3
    assert facts(node) == before
    check_figures(node)
    lose_index(node)
    rebuilt = open_small()
    assert facts(rebuilt) == before
    assert read_bytes(rebuilt, large.id) == b"large" * 100_000
    check_figures(rebuilt)


def test_changes_in_later_segments_survive_the_loss_of_the_first_record(
    open_small: Opener,
) -> None:
    """A file is moved as it is now: the records that changed it cannot be applied without it."""
    node = open_small()
    first = fill_segments(node, 1)
    node.files.update(first[0], {"key": "renamed"})
    node.files.delete(first[1])
    purge(node, *first[2:])
    compact(node)
    assert 1 in stub_ids(node)
    lose_index(node)
    rebuilt = open_small()
    assert [file.key for file in rebuilt.files.list(limit=10).files] == ["renamed"]
    assert [file.id for file in rebuilt.files.list(limit=10, deleted=True).files] == [first[1]]


def test_changes_are_moved_though_the_first_record_stays(open_small: Opener) -> None:
    """The segment that is dropped holds only the change; the file's own record lies elsewhere."""
    node = open_small()
    first = fill_segments(node, 1)
    node.files.update(first[0], {"key": "renamed"})
    node.files.delete(first[1])
    node.files.delete(first[2])
    node.files.restore(first[2])
    purge(node, *fill_segments(node, 2))
    compact(node)
    assert 1 not in stub_ids(node)
    assert 2 in stub_ids(node)
    rebuilt = rebuild(node, open_small)
    assert rebuilt.files.find(first[0]).key == "renamed"
    assert [file.id for file in rebuilt.files.list(limit=10, deleted=True).files] == [first[1]]


def test_changes_are_moved_though_later_ones_followed(open_small: Opener) -> None:
    """No change says all of a file: what an earlier one said stays true beside the later ones."""
    node = open_small()
    ids = store_many(node, 4, prefix="first")
    node.files.delete(ids[1])
    fill_segments(node, 1)
    node.files.update(ids[0], {"key": "renamed", "metadata": {"a": "b"}})
    node.files.restore(ids[1])
    node.files.delete(ids[2])
    dead = fill_segments(node, 2)
    node.files.delete(ids[0])
    node.files.restore(ids[0])
    node.files.update(ids[1], {"key": "other"})
    purge(node, *dead)
    compact(node)
    assert 1 not in stub_ids(node)
    assert 2 in stub_ids(node)
    rebuilt = rebuild(node, open_small)
    assert rebuilt.files.find(ids[0]).key == "renamed"
    assert rebuilt.files.find(ids[1]).key == "other"
    check_figures(rebuilt)


def test_record_whose_blob_was_put_anew_is_not_moved(open_small: Opener) -> None:
    """The bytes have another place since then; moving the old ones would only cost room."""
    node = open_small()
    data = b"twice" * 500
    file = store_bytes(node, "first", data).files[0]
    purge(node, file.id)
    with node.ledger.begin() as index:
        index.preload(digests=[file.digest])
        index.remove_blob(file.digest)  # as the pass of a compaction does that is then killed
    again = store_bytes(node, "second", data).files[0]
    purge(node, *fill_segments(node, 1))
    compact(node)
    assert 1 in stub_ids(node)
    puts = [meta for meta in metas(node) if isinstance(meta, PutBlob)]
    assert [meta.digest for meta in puts].count(again.digest) == 1
    assert read_bytes(node, again.id) == data


def test_tombstone_that_was_moved_goes_with_the_segments_it_is_about(open_small: Opener) -> None:
    """What came into the log after the file was purged cannot bring it back."""
    node = open_small()
    old = fill_segments(node, 2)
    purge(node, old[0])
    dead = fill_segments(node, 3)
    fill_segments(node, 5)  # stays alive
    purge(node, *dead)
    compact(node)
    assert 3 in stub_ids(node)
    assert {1, 2, 5}.isdisjoint(stub_ids(node))
    assert [meta.at_lsn > 0 for meta in metas(node) if is_tombstone(meta, old[0])] == [True]
    purge(node, *old[1:])
    purge(node, *fill_segments(node, node.log.position.segment_id))
    compact(node)
    assert 1 in stub_ids(node)
    assert 5 not in stub_ids(node)
    assert not [meta for meta in metas(node) if is_tombstone(meta, old[0])]


def is_tombstone(meta: Meta, file_id: str) -> bool:
    """Tell whether a record purges that file."""
    return isinstance(meta, PurgeFile) and meta.id == file_id


def test_tombstone_stays_while_an_older_segment_holds_the_file(open_small: Opener) -> None:
    """Else a rebuild would bring the file back, from the record that put it."""
    node = open_small()
    old = fill_segments(node, 1)
    purge(node, old[0])
    purge(node, *fill_segments(node, 3))
    compact(node)
    assert stub_ids(node)
    assert 1 not in stub_ids(node)
    lose_index(node)
    rebuilt = open_small()
    with pytest.raises(NoSuchFileError):
        rebuilt.files.find(old[0])
    assert {file.id for file in rebuilt.files.list(limit=1000).files} == set(old[1:])


def test_tombstones_go_when_nothing_older_is_left(open_small: Opener) -> None:
    """A node whose files have all been purged ends with a log of one segment or two."""
    node = open_small()
    ids = fill_segments(node, 6)
    purge(node, *ids)
    compact(node)
    purge(node, *fill_segments(node, node.log.position.segment_id))
    compact(node)
    left = [meta for meta in metas(node) if isinstance(meta, PurgeFile)]
    sizes = [file.size_bytes or 0 for file in node.log.segments() if file.stub is None]
    assert sum(sizes) < 2 * SEGMENT_BYTES
    assert not [meta for meta in metas(node) if isinstance(meta, PutFile) and meta.id in ids]
    assert not {meta.id for meta in left} & set(ids)


def test_same_bytes_uploaded_again_after_their_segment_went(open_small: Opener) -> None:
    """Bytes that nobody referred to went with the segment; sent again they are stored again."""
    node = open_small()
    data = b"again" * 500
    file = store_bytes(node, "first", data).files[0]
    purge(node, file.id, *fill_segments(node, 1))
    compact(node)
    assert 1 in stub_ids(node)
    again = store_bytes(node, "second", data).files[0]
    assert read_bytes(node, again.id) == data
    check_figures(node)


def test_segment_with_anything_alive_is_never_dropped(open_small: Opener) -> None:
    """Whoever asks for it: what is dead is counted once more when the record is made."""
    node = open_small()
    ids = fill_segments(node, 1)
    purge(node, *ids[1:])
    segment = node.wal_inspection._index.find_segment(1)
    command = DropCompacted(segment)
    lsn = node.log.position.lsn
    node.committer.submit(command)
    assert not command.is_dropped
    assert node.log.position.lsn == lsn


def test_same_bytes_uploaded_while_their_segment_goes(open_small: Opener) -> None:
    """Bytes that are wanted again when the pass through their segment has just ended stay."""
    node = open_small()
    data = b"again" * 500
    file = store_bytes(node, "first", data).files[0]
    ids = fill_segments(node, 1)
    purge(node, file.id, *ids)
    drop = node.compaction._drop
    again: list[str] = []

    def want_again(current) -> int:
        again.append(store_bytes(node, "second", data).files[0].id)
        return drop(current)

    node.compaction._drop = want_again  # type: ignore[method-assign]
    node.compaction.work(budget_s=60)
    node.compaction._drop = drop  # type: ignore[method-assign]
    compact(node)
    assert read_bytes(node, again[0]) == data
    check_figures(node)


def test_download_goes_on_while_its_segment_goes(open_small: Opener) -> None:
    """What was looked up before the bytes moved is found where they are now."""
    node = open_small()
    ids = fill_segments(node, 1)
    download = node.files.open(ids[0])
    expected = read_bytes(node, ids[0])
    purge(node, *ids[1:])
    compact(node)
    assert 1 in stub_ids(node)
    node.log.open_segments.clear()
    try:
        assert b"".join(download.read(0, download.file.size)) == expected
    finally:
        download.close()


def test_damaged_segment_is_mended_and_not_compacted(open_small: Opener) -> None:
    """What cannot be read is not taken for dead."""
    node = open_small()
    ids = fill_segments(node, 1)
    purge(node, *ids[:-1])
    path = node.log.segments()[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    node.log.open_segments.clear()
    node.compaction.work(budget_s=60)
    assert stub_ids(node) == []
    assert not [meta for meta in metas_behind(node) if isinstance(meta, DropSegment)]
    debts = node.replication._index.summarize_debts()
    assert [(debt.store, debt.kind) for debt in debts] == [("primary", DebtKind.SEGMENT)]


def metas_behind(node: Services) -> list:
    """Return what the records behind the first segment say."""
    lsn = node.log.segments()[0].last_lsn or 0
    return [decode_meta(frame) for frame in node.log.read(after_lsn=lsn)]


def test_replica_restores_what_compaction_left(tmp_path: Path, index_url: str) -> None:
    """Stubs stand in the replica, too, and it alone is enough: files, trash, deletions."""
    cluster = ReplicatedNode(tmp_path, index_url, replicas=1)
    node = cluster.open()
    ids = fill_segments(node, 2)
    node.files.update(ids[0], {"key": "renamed"})
    node.files.delete(ids[1])
    purge(node, *ids[3:])
    compact(node)
    replicate(node)
    before, dropped = facts(node), stub_ids(node)
    assert dropped
    assert all(cluster.segment(number, "replica1").stat().st_size < 4096 for number in dropped)
    assert node.replication._index.summarize_debts() == []
    lose_index(node)
    cluster.close()
    cluster.lose("wal", "primary")
    again = cluster.open()
    assert facts(again) == before
    assert stub_ids(again) == dropped
    check_figures(again)
    cluster.close()


def test_replica_that_is_behind_keeps_the_segment_until_it_has_what_was_moved(
    tmp_path: Path, index_url: str
) -> None:
    """Else nothing but the primary would have the files: the stub waits for the log."""
    cluster = ReplicatedNode(tmp_path, index_url, replicas=1)
    node = cluster.open()
    ids = fill_segments(node, 2)
    replicate(node)
    purge(node, *ids[2:])
    node.compaction.work(budget_s=60)
    drop = next(meta for meta in metas(node) if isinstance(meta, DropSegment))
    debt = next(
        debt
        for debt in node.replication._index.due_debts("replica1", now_ms=10**14, limit=10)
        if debt.kind is DebtKind.DROP_SEGMENT
    )
    node.replication.work("primary", budget_s=60)
    with pytest.raises(WalError):
        node.replication._dropper.pay(debt)
    assert cluster.segment(drop.segment_id, "replica1").stat().st_size == drop.end
    replicate(node)
    assert cluster.segment(drop.segment_id, "replica1").stat().st_size < 4096
    cluster.close()


def test_tombstones_stay_while_a_replica_has_the_old_segment(
    tmp_path: Path, index_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored from such a replica, the node would bring purged files back."""
    monkeypatch.setattr(compaction, "STUBS_WAIT_S", 0)
    monkeypatch.setattr(Compaction, "_is_ahead", lambda self: False)
    cluster = ReplicatedNode(tmp_path, index_url, replicas=1)
    node = cluster.open()
    ids = [
        file_id
        for file_id in fill_segments(node, 1)
        if node.files.find(file_id).base_segment_id < 2
    ]
    replicate(node)
    purge(node, *ids)
    for _ in range(3):  # the replica is away all the time
        purge(node, *fill_segments(node, node.log.position.segment_id))
        while node.compaction.work(budget_s=60).dropped:
            node.replication.work("primary", budget_s=60)
    assert len(stub_ids(node)) > 2
    kept = {meta.id for meta in metas(node) if isinstance(meta, PurgeFile)}
    assert kept >= set(ids)
    cluster.close()


STEPS = ["commit.locked", "commit.planned", "log.appended", "log.synced", "commit.indexed"]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_compaction_that_dies_at_a_step_loses_nothing(
    open_small: Opener, step: str, count: int
) -> None:
    """Whenever the process is gone, the next one has the same files, and finishes the work."""
    fatal = [0]

    def on_step(name: str) -> None:
        if fatal[0] and name == step:
            fatal[0] -= 1
            if not fatal[0]:
                raise SimulatedCrashError(name)

    node = open_small(on_step=on_step)
    ids = fill_segments(node, 2)
    purge(node, *ids[2:])
    before = facts(node)
    fatal[0] = count
    with pytest.raises(SimulatedCrashError):
        node.compaction.work(budget_s=60)
    fatal[0] = 0
    again = open_small()
    assert facts(again) == before
    check_figures(again)
    compact(again)
    assert stub_ids(again)
    assert facts(again) == before
    check_figures(again)


def test_damaged_small_segment_keeps_all_tombstones(open_small: Opener) -> None:
    """What a small segment holds cannot be told while it is damaged: it may be mended later."""
    node = open_small()
    ids = store_many(node, 2, size=100)
    with node.log.lock():
        node.committer._rotate_if_full(1 << 30)
    purge(node, *ids)
    path = node.log.segments()[0].path
    data = bytearray(path.read_bytes())
    assert len(data) < 4096
    data[100] ^= 1
    path.write_bytes(data)
    node.log.open_segments.clear()
    for _ in range(2):
        purge(node, *fill_segments(node, node.log.position.segment_id))
        compact(node)
    assert stub_ids(node)
    assert {meta.id for meta in metas_behind(node) if isinstance(meta, PurgeFile)} >= set(ids)


def test_damaged_segment_does_not_keep_others_from_being_compacted(open_small: Opener) -> None:
    """One that nobody can mend is put off; the next one gets its turn."""
    node = open_small()
    purge(node, *fill_segments(node, 2))
    path = node.log.segments()[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    node.log.open_segments.clear()
    for _ in range(3):
        node.compaction.work(budget_s=60)
        node.replication.work("primary", budget_s=60)
    assert stub_ids(node) == [2]


def test_pass_through_a_segment_that_another_process_dropped_ends(
    open_small: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that comes back to it finds a stub, and nothing more to do there."""
    monkeypatch.setattr(compaction, "BATCH_COUNT_MAX", 10)
    node = open_small(compact_bytes_per_s=1000)
    purge(node, *fill_segments(node, 1))
    assert node.compaction.work(budget_s=60).more
    other = open_small()
    compact(other)
    assert 1 in stub_ids(node)
    node.compaction._paid_until_s = 0
    node.log.open_segments.clear()
    lsn = node.log.position.lsn
    assert not node.compaction.work(budget_s=60).more
    assert node.log.position.lsn == lsn


def test_moves_wait_for_replicas_that_are_behind(tmp_path: Path, index_url: str) -> None:
    """A synchronous write needs replicas that lack little of the log."""
    cluster = ReplicatedNode(tmp_path, index_url, replicas=1)
    node = cluster.open()
    ids = fill_segments(node, 2)
    purge(node, *ids)
    assert node.compaction.work(budget_s=60).read_bytes == 0
    replicate(node)
    assert node.compaction.work(budget_s=60).read_bytes > 0
    cluster.close()


def test_abandoned_segment_is_compacted(open_small: Opener) -> None:
    """A segment that a failed sync ended has no last record to say so, and yet goes some day."""
    node = open_small()
    ids = store_many(node, 20)
    purge(node, *ids)
    node.log.control.mark_read_only("a test")
    again = open_small()
    assert again.log.position.segment_id == 2
    compact(again)
    assert stub_ids(again) == [1]
    check_figures(again)


def test_rebuild_knows_which_removals_are_still_owed(
    tmp_path: Path, index_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record that dropped a blob stays in the log until every store has removed it."""
    monkeypatch.setattr(compaction, "STUBS_WAIT_S", 0)
    cluster = ReplicatedNode(tmp_path, index_url, replicas=1)
    node = cluster.open()
    large = store_bytes(node, "large", b"large" * 100_000).files[0]
    ids = fill_segments(node, 1)
    replicate(node)
    purge(node, large.id, *ids)
    node.committer.submit(DropBlobs([large.digest]))
    for _ in range(3):
        purge(node, *fill_segments(node, node.log.position.segment_id))
        compact(node)
    assert not [meta for meta in metas(node) if isinstance(meta, PutBlob) and not meta.inline]
    owed = node.replication._index.units_to_remove()
    assert owed == {large.digest}
    cluster.close()
    node = cluster.open()
    lose_index(node)
    cluster.close()
    again = cluster.open()
    assert again.replication._index.units_to_remove() == owed
    cluster.close()


def test_rows_that_a_rebuild_leaves_in_a_dropped_segment_go_with_it(open_small: Opener) -> None:
    """A purge that was moved behind the record of the drop comes too late for it in a replay."""
    node = open_small()
    file_id = fill_segments(node, 1)[0]
    ids = [file.id for file in node.files.list(limit=1000).files]
    digest = node.files.find(file_id).digest
    left = node.replication._index.find_blob(digest)
    assert left is not None
    assert left.segment_id == 1
    purge(node, *ids)
    assert node.compaction.work(budget_s=60).dropped == 1
    with node.ledger.begin() as index:
        assert index.blob(digest) is None
        index.put_blob(replace(left, references=0))
    while node.replication.work("primary", budget_s=60).more:
        pass
    assert stub_ids(node) == [1]
    assert node.replication._index.find_blob(digest) is None
    check_figures(node)


def test_stub_stands_only_for_a_log_that_has_the_record_of_the_drop(open_small: Opener) -> None:
    """Changes of the same commit may have made the last of the segment dead."""
    node = open_small()
    purge(node, *fill_segments(node, 2))
    compact(node)
    said = {
        meta.segment_id: frame.lsn
        for frame in node.log.read(after_lsn=0)
        if isinstance(meta := decode_meta(frame), DropSegment)
        and meta.segment_id != frame.segment_id
    }
    stubs = {file.stub.drop.segment_id: file.stub.drop for file in node.log.segments() if file.stub}
    found = said.keys() & stubs.keys()
    assert found
    assert all(stubs[number].moved_lsn >= said[number] for number in found)
